"""Measures how the cost of a step grows with the number of tasks, the features, the images and the encoder.

    python tools/bench_growth.py [--quick] [--markdown FILE] [--plots FOLDER]

A few telling methods train on a residual network whose every size can be chosen (`tools/workload.py`), with one linear
head per task and random inputs. One size changes at a time: K tasks, d channels of the features, the side of the square
images, the blocks of the encoder.

Time and memory are ratios to plain summing (`uniform`) in the same run, as `tools/bench_step.py` measures them: CPU
time, one thread, all methods in turn in each round, the median over rounds; live bytes at the worst moment of a step.

What the balancing adds on 8, 64 and 512 GPUs is worked out on paper by `tools/many_gpus.py`, for two interconnects or
for the one that `--bandwidth` and `--latency` name.
"""

import argparse
import gc
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import bench_step
import growth_plots
import torch
import workload
from count_work import heading
from growth_plots import Panel
from many_gpus import NETS, RESNET50, Net, sums_of

GRADNORM = (
    "the K gradients that enter the last layer, and their products with its inputs, or its K weight gradients where "
    "these are cheaper"
)
PARAMETERS = (
    "K backward passes through the encoder; weight gradients only of layers where they are cheaper than products of "
    "inputs"
)
#: The methods: name, space, and what grows, in words.
METHODS = {
    ("uncertainty", "features"): "a method of losses: a few operations on K numbers",
    ("mgda", "features"): "K gradients of the features are kept, and K (K + 1) / 2 inner products of them",
    ("upgrad", "features"): "the same, and K quadratic programs in K unknowns, which a processor solves",
    ("rotograd", "features"): "a rotation (d x d) per task: K d^2 operations for each position of the map, and K d^2 "
    "numbers of state",
    ("gradnorm", "last_layer"): GRADNORM,
    ("cosreg", "last_layer"): "the same, and a second backward pass through them",
    ("mgda", "parameters"): PARAMETERS,
}
LOOP = "plain loop"
TIME, MEMORY = 1.5, 2.0  #: above these ratios to plain summing, a method is called impractical
GPUS = (8, 64, 512)


@dataclass(frozen=True)
class Point:
    """The sizes of a network and its batch."""

    tasks: int = 8
    channels: int = 256
    size: int = 64
    depth: int = 4

    def setting(self) -> bench_step.Setting:
        return workload.setting(self.tasks, self.channels, width=64, depth=self.depth, size=self.size, batch=8)


#: What changes: the field of `Point`, its name on the page, its values.
AXES = {
    "tasks": ("tasks K", (2, 8, 32, 128)),
    "channels": ("channels d of the features", (64, 256, 1024, 2048)),
    "size": ("side of the images, pixels", (32, 64, 128, 256)),
    "depth": ("blocks of the encoder", (1, 4, 16)),
}
SMALL = Point(tasks=2, channels=32, size=32, depth=1)
QUICK = {axis: (title, (getattr(SMALL, axis), 2 * getattr(SMALL, axis))) for axis, (title, _) in AXES.items()}


@dataclass(frozen=True)
class Cost:
    """The cost of a step as ratios to plain summing."""

    time: float
    memory: float


Costs = dict[str, Cost]  # by method


@dataclass
class Growth:
    """What was measured: the costs at every point. All points are as `base` but for one of the `axes`."""

    base: Point
    axes: Mapping[str, tuple[str, Sequence[int]]]
    found: dict[Point, Costs] = field(default_factory=dict)

    def points(self) -> list[Point]:
        return list(dict.fromkeys(self.at(axis, value) for axis, (_, values) in self.axes.items() for value in values))

    def at(self, axis: str, value: int) -> Point:
        return replace(self.base, **{axis: value})

    @property
    def names(self) -> list[str]:
        return [LOOP, *(f"{name} ({space})" for name, space in METHODS)]

    def line(self, axis: str, name: str) -> dict[int, Cost]:
        """Returns the costs of a method along an axis."""
        return {value: self.found[self.at(axis, value)][name] for value in self.axes[axis][1]}


def measure(point: Point, repeats: int, seconds: float) -> Costs:
    """Returns the costs of all methods at a point."""
    setting = point.setting()
    batch = setting.inputs()
    kept = {f"{name} ({space})" for name, space in METHODS} | {"uniform", LOOP}
    ready: dict[str, bench_step.Ready] = {}
    for one in bench_step.contestants([name for name, _ in METHODS]):
        if one.key in kept:
            ready[one.key] = bench_step.begin(one, setting, batch)
    rounds = bench_step.rounds_of(ready, repeats, seconds, bench_step.CLOCKS["cpu"])
    return {
        key: Cost(
            median(times[key] / times["uniform"] for times in rounds if key in times),
            one.memory / ready["uniform"].memory,
        )
        for key, one in ready.items()
        if key != "uniform"
    }


def measure_all(growth: Growth, repeats: int, seconds: float) -> None:
    points = growth.points()
    gc.collect()
    gc.freeze()  # collections then look only at what a point makes
    for number, point in enumerate(points, 1):
        started = time.process_time()
        growth.found[point] = measure(point, repeats, seconds)
        took = time.process_time() - started
        bench_step.progress(f"point {number} of {len(points)}: {point} [{took:.0f} s]")
    gc.unfreeze()


# -- the page -------------------------------------------------------------------------------------------------------


def table(growth: Growth, axis: str) -> str:
    title, values = growth.axes[axis]
    lines = [f"| {title} | " + " | ".join(map(str, values)) + " |", "| --- |" + " --- |" * len(values)]
    for name in growth.names:
        costs = growth.line(axis, name).values()
        lines.append(f"| `{name}` | " + " | ".join(f"{one.time:.2f}, {one.memory:.2f}" for one in costs) + " |")
    return "\n".join(lines) + "\n"


def limits(growth: Growth) -> str:
    """Returns a table of the values at which a method costs more than the limits."""
    head = ["method", *(title for title, _ in growth.axes.values()), "what grows"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for (name, space), words in METHODS.items():
        cells = [f"`{name}` ({space})", *(limit(growth.line(axis, f"{name} ({space})")) for axis in growth.axes)]
        lines.append(f"| {' | '.join([*cells, words])} |")
    return "\n".join(lines) + "\n"


def limit(line: Mapping[int, Cost]) -> str:
    """Returns the sizes on an axis at which a method is impractical, and whether time or memory is the reason.

    >>> limit({2: Cost(1.1, 1.0), 8: Cost(1.6, 1.0), 32: Cost(3.0, 2.5)})
    'from 8 (time)'
    >>> limit({2: Cost(1.6, 2.1), 8: Cost(1.1, 1.2)}), limit({2: Cost(1.0, 1.0)})
    ('up to 2 (time and memory)', 'fine')
    """
    over = {}
    for value, cost in line.items():
        reasons = [word for word, is_over in (("time", cost.time > TIME), ("memory", cost.memory > MEMORY)) if is_over]
        if reasons:
            over[value] = " and ".join(reasons)
    values, places = list(line), list(over)
    if not over:
        return "fine"
    if places == values:
        return f"everywhere ({over[places[0]]})"
    if places == values[-len(places) :]:
        return f"from {places[0]} ({over[places[0]]})"
    if places == values[: len(places)]:
        return f"up to {places[-1]} ({over[places[-1]]})"
    return "at " + ", ".join(map(str, places))


def gpus_table(nets: Sequence[Net]) -> str:
    """Returns what the balancing's sums add to a step, in milliseconds."""
    head = ["method", "sums per step", "bytes"]
    head += [f"{count} GPUs, {net.name.partition(' (')[0]}" for net in nets for count in GPUS]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, space in [("uniform", "features"), *METHODS]:
        sums = sums_of(name, space, RESNET50)
        times = [in_time(sums.seconds(count, net)) for net in nets for count in GPUS]
        cells = [f"`{name}` ({space})", str(len(sums.parts)), in_bytes(sums.bytes), *times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_bytes(size: int) -> str:
    """Returns a number of bytes with a unit.

    >>> in_bytes(640), in_bytes(3_760_000_640)
    ('640 B', '3.76 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def in_time(seconds: float) -> str:
    """Returns seconds with a unit.

    >>> in_time(0.00009), in_time(0.0236), in_time(5.26)
    ('0.09 ms', '24 ms', '5.3 s')
    """
    if seconds >= 1:
        return f"{seconds:.2g} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"


def gpus_panels(nets: Sequence[Net]) -> list[Panel]:
    counts = [2**power for power in range(1, 11)]
    keys = [("uniform", "features"), *METHODS]
    step = RESNET50.seconds
    return [
        Panel(
            f"Share of a step of {1000 * step:.0f} ms: {net.name}",
            "GPUs",
            {
                f"{name} ({space})": {p: sums_of(name, space, RESNET50).seconds(p, net) / step for p in counts}
                for name, space in keys
            },
        )
        for net in nets
    ]


def draw(growth: Growth, nets: Sequence[Net], folder: Path) -> dict[str, Path]:
    """Writes the pictures, and returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {what: folder / f"growth_{what}.svg" for what in ("time", "memory", "gpus")}
    for what in ("time", "memory"):
        panels = []
        for axis, (title, _) in growth.axes.items():
            lines = {name: growth.line(axis, name) for name in growth.names}
            heights = {name: {at: getattr(cost, what) for at, cost in line.items()} for name, line in lines.items()}
            panels.append(Panel(f"{what} / plain summing", title, heights))
        words = f"The {what} of a step over that of plain summing, for each method, against {len(panels)} sizes."
        files[what].write_text(growth_plots.picture(panels, f"{words} The page has the numbers."), encoding="utf-8")
    words = "What the sums of each method add to a step, against the number of GPUs. The page has the numbers."
    files["gpus"].write_text(growth_plots.picture(gpus_panels(nets), words), encoding="utf-8")
    return files


def page(growth: Growth, nets: Sequence[Net], command: str, pictures: Mapping[str, str]) -> str:
    def shown(what: str, words: str) -> str:
        return f"![{words}]({pictures[what]})\n" if what in pictures else ""

    parts = [
        heading("How costs grow", command),
        "`tools/bench_growth.py` says what is measured and how. All ratios are to plain summing (`uniform`) with the "
        f"same network in the same run. Where nothing else is said: {growth.base.setting().text}.\n",
        "## Where a method stops being practical\n",
        f"Here a method counts as impractical where a step takes more than {TIME:g} times the time of plain summing, "
        f"or more than {MEMORY:g} times its memory. The table has the sizes that were measured. A method that is "
        "impractical with few blocks and not with many is so only because the network is small beside it. "
        "The network is small on purpose, so that the balancing shows. With a ResNet-18 and 40 attributes, `mgda` at "
        "the features takes no more time than plain summing ([step_time.md](step_time.md)).\n",
        limits(growth),
        WHY,
        "## Time and memory\n",
        shown("time", "Time of a step over that of plain summing"),
        shown("memory", "Memory of a step over that of plain summing"),
        "Each cell has the ratio of the time and that of the memory.\n",
        *(table(growth, axis) for axis in growth.axes),
        "## Many GPUs, on paper\n",
        on_paper(nets),
        gpus_table(nets),
        shown("gpus", "What the sums of a method add to a step on many GPUs"),
    ]
    return "\n".join(part for part in parts if part)


WHY = """\
Why:

- **Methods of losses** work with K numbers. Nothing that grows with the network is added.
- **Methods at the features** get the K gradients that the heads' backward passes make anyway, K x B x d x H x W
  numbers. They are all there at the same time. `uniform` does the same in mtlkit, so its memory is theirs; a plain
  loop adds the gradients up one by one. From them come K (K + 1) / 2 inner products. The encoder's backward pass runs
  once. So the deeper the encoder, the smaller the share of the balancing. The more tasks, the larger the share of the
  inner products, which grow with K squared.
- **Solvers** work with K x K numbers on a processor. Their time does not depend on the network, so it counts where
  steps are short and tasks are many.
- **RotoGrad** multiplies the features by a matrix (d x d) for each task. That is the work of K more 1x1 convolutions,
  and K d^2 numbers that learn. With d = 2048 and 40 tasks, these are 168 million numbers, seven times a ResNet-50.
- **The last layer** has a gradient of its own for each task. Their inner products come from the K gradients at its
  output and its inputs ([spaces.md](../explanation/spaces.md)), or from the K weight gradients where there are more
  samples and positions than inputs. The layer grows with d. CosReg differentiates this once more.
- **The space `parameters`** asks for the encoder's gradient of each task alone. It is the only place where the
  encoder's backward pass is repeated. With all weight gradients, the cost of a deep encoder is (1 + 2K) / 3 times that
  of plain summing, where a backward pass costs twice a forward pass; where layers have fewer positions than inputs, it
  comes nearer to (2 + K) / 3.
"""


def on_paper(nets: Sequence[Net]) -> str:
    told = "; ".join(net.name for net in nets)
    shared, last = f"{RESNET50.parameters / 1e6:.1f}", f"{RESNET50.fan_in * RESNET50.channels / 1e6:.2f}"
    return f"""\
Every sum over p processes of S bytes, with a bandwidth b per GPU and a latency a, takes the smaller of

- ring: 2 (p - 1) / p S / b + 2 (p - 1) a
- tree: 2 S / b + 2 log2(p) a, with the logarithm rounded up

The bytes are formulas in `tools/many_gpus.py`. A test compares them with those that `tools/count_work.py` counts on two
processes. The model here is a ResNet-50 with {RESNET50.tasks} tasks: {shared} million shared parameters,
d = {RESNET50.channels}, and {last} million weights in the last layer. The interconnects are examples: {told}.
`--bandwidth` and `--latency` take yours.

The table has what the balancing adds, if nothing else runs meanwhile: the encoder's backward pass waits for most of
these sums. The sum of the model's own gradients ({in_bytes(4 * RESNET50.parameters)}), which DDP makes during the
backward pass with every method, is not in it. Not modelled: other traffic on the network, processes that arrive late.

Methods of losses and Gram methods at the features send a few kilobytes. Only latencies count there, so the number of
sums counts more than their bytes, also on 512 GPUs. RotoGrad sends K d^2 numbers, and the last layer K times its
weights: a fast network carries that, a slow one does not. In the space `parameters`, each process has a part of every
task's gradient, so K times the bytes of the model are summed. Such a method needs a fast network, few tasks or a small
shared part, for instance adapters.
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sizes, two rounds: shows that it works")
    parser.add_argument("--repeats", type=int, default=7, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="work per method and size, at least two rounds")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="of your interconnect, per GPU")
    parser.add_argument("--latency", type=float, metavar="µS", help="of your interconnect")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the page to this file, too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="writes the pictures into this folder")
    args = parser.parse_args(argv)
    if (args.bandwidth is None) != (args.latency is None):
        parser.error("an interconnect needs both --bandwidth and --latency")
    nets = NETS
    if args.bandwidth is not None:
        name = f"yours ({args.bandwidth:g} GB/s, {args.latency:g} µs)"
        nets = (Net(name, 1e9 * args.bandwidth, 1e-6 * args.latency),)
    torch.set_num_threads(1)
    growth = Growth(SMALL, QUICK) if args.quick else Growth(Point(), AXES)
    measure_all(growth, 2 if args.quick else args.repeats, args.seconds)
    pictures = {}
    if args.plots is not None:
        start = args.markdown.parent if args.markdown is not None else Path()
        pictures = {what: os.path.relpath(file, start) for what, file in draw(growth, nets, args.plots).items()}
    command = shlex.join(["python", "tools/bench_growth.py", *(sys.argv[1:] if argv is None else argv)])
    text = page(growth, nets, command, pictures)
    if args.markdown is not None:
        args.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
