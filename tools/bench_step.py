"""Measures the step time and the peak memory of every balancer, as ratios to plain summing in the same run.

    python tools/bench_step.py [--setting a] [--balancers gradnorm rotograd] [--markdown FILE]

Settings, all with random inputs, from random weights, with the encoder's deepest level shared. The encoder of a and b
is timm's `resnet18`, that of c and d its `vit_base_patch16_224`:

    a  3 dense tasks on a stride of 8, batches of 4 x 96 x 128 (height x width), heads `conv` of width 64
    b  40 attributes, batches of 32 x 64 x 64, one linear head per attribute
    c  as a, with the ViT
    d  as c, with adapters of rank 8 (`model.lora`): only these learn, and the space `parameters` compares only these

Every balancer runs in each of its spaces, with its defaults, by `Engine.train_step`. It is compared with: `plain loop`,
plain summing in a few lines of PyTorch, which shows what the engine costs; `bound`, the least work in the space
`parameters` (one forward pass, one backward pass through the heads, one per task through the encoder); and the packages
`torchjd` and `rotograd`, if they are installed. `torchjd` runs at the features and, by `mtl_backward`, over all shared
parameters, task by task: its default, all tasks in one `vmap`, takes minutes per step in setting b. A few methods also
run as `loop:NAME`, which is `plain loop` with `mtlkit.Balanced`. A table of their own compares these with the engine.

Time: each contestant has its own network and one step to warm up. Then, in each round, all make one step in turn. Each
round starts with another contestant, so that noise affects all alike. The figure is the median over rounds of the time
divided by that of `uniform` in the same round, with its quartiles. A contestant leaves after `--repeats` rounds or
`--seconds` of work, but not before two rounds. Garbage collection is off; SGD moves the models.

Memory: the bytes of all live tensors at the worst moment of a step, with the network and the balancer's state but
without the inputs. It is counted in the dispatcher during the first step. Tensors that this step leaves behind count as
if they had been there before. The figure is the same on every machine, but it does not include memory inside an
operation, such as a convolution's workspace.

Aims: 1.05 for methods of losses or of the Gram matrix at the features; 1.15 (a) and 1.35 (b) for `rotograd`; in the
space `last_layer` 1.15 for `gradnorm` and 1.60 for `cosreg`. In the space `parameters`, 1.10 of the bound for methods
that need whole gradients, and for those of the Gram matrix 0.75 of the bound and 2.5 of the memory on b. Methods that
need two halves of the batch make twice the passes and have no aim.
"""

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from counting import LiveBytes
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit import BALANCERS, ENCODERS, TASKS, Balanced, GramBalancer
from mtlkit.balancer import Balancer, LossBalancer
from mtlkit.config.schema import LoraConfig, TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.lora import add_lora
from mtlkit.engine.model import MultiTaskModel, build_encoder
from mtlkit.network import Features
from mtlkit.run.build import make_accelerator
from mtlkit.task import Task

RATE = 1e-4
LEAST = 2  # rounds
BOUND = "bound (parameters)"
PACKAGES = ("mtlkit", "torch", "timm", "torchjd", "rotograd")
LOOP = "loop:"
#: The methods that run in a loop, too, and where. One of each kind is enough: both ways run the same code of a method.
IN_LOOPS = {
    "uniform": "",
    "uncertainty": "features",
    "gradnorm": "features",
    "mgda": "features",
    "rotograd": "features",
    "pcgrad": "parameters",
}

Step = Callable[[], object]
Clock = Callable[[], float]  # seconds
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
Batch = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A network, its tasks and a batch. They are the same each time they are made."""

    text: str
    tasks: Callable[[], dict[str, Task]]
    encoder: dict[str, Any]
    size: tuple[int, int]  # height, width
    batch: int
    lora: LoraConfig | None = None

    def model(self) -> tuple[MultiTaskModel, dict[str, Task]]:
        torch.manual_seed(0)
        tasks = self.tasks()
        # The encoders of timm have several levels, others one.
        options = self.encoder if self.encoder["name"] in ENCODERS.names() else {"levels": [-1], **self.encoder}
        encoder = build_encoder(image_size=self.size[::-1], **options)
        model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in tasks.items()})
        if self.lora is not None:
            add_lora(model, self.lora)
        return model, tasks

    def inputs(self) -> Batch:
        generator = torch.Generator().manual_seed(0)
        height, width = self.size
        targets = {}
        for name, task in self.tasks().items():
            value = torch.rand(
                self.batch, *((task.out_channels, height, width) if task.dense else (1,)), generator=generator
            )
            if name == "segmentation":
                targets[name] = (value[:, 0] * task.out_channels).long()
            elif name == "normals":
                targets[name] = F.normalize(value - 0.5, dim=1)
            else:
                targets[name] = value + 0.5 if task.dense else value.round()
        return {"image": torch.rand(self.batch, 3, height, width, generator=generator), "targets": targets}


def dense_tasks() -> dict[str, Task]:
    decoder = {"name": "conv", "width": 64}
    classes = {"segmentation": tuple(map(str, range(13))), "depth": (), "normals": ()}
    return {name: TASKS.build(name, name, names, decoder=decoder) for name, names in classes.items()}


def attributes() -> dict[str, Task]:
    names = [f"attribute{i}" for i in range(40)]
    return {name: TASKS.build("multilabel", name, (name,), decoder="linear") for name in names}


VIT = {"name": "vit_base_patch16_224"}
SETTINGS = {
    "a": Setting(
        "3 dense tasks, resnet18 at stride 8, batches of 4 x 96 x 128",
        dense_tasks,
        {"name": "resnet18", "output_stride": 8},
        (96, 128),
        4,
    ),
    "b": Setting("40 attributes, resnet18, batches of 32 x 64 x 64", attributes, {"name": "resnet18"}, (64, 64), 32),
    "c": Setting("3 dense tasks, vit_base_patch16_224, batches of 4 x 96 x 128", dense_tasks, VIT, (96, 128), 4),
    "d": Setting(
        "as c, with LoRA of rank 8 on qkv and attn.proj",
        dense_tasks,
        VIT,
        (96, 128),
        4,
        LoraConfig(rank=8, targets=("qkv", "attn.proj")),
    ),
}


# -- who takes part ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """A contestant. `make` builds its network and returns its step, or raises `ImportError` for a missing package."""

    name: str
    space: str
    make: Callable[[Setting, Batch], Step]
    aim: str = ""

    @property
    def key(self) -> str:
        return f"{self.name} ({self.space})" if self.space else self.name


def contestants(chosen: Sequence[str]) -> list[Contestant]:
    """Returns `uniform` first, then the other references and the chosen contestants (empty: all of them)."""
    found = []
    for name in sorted(set(BALANCERS.names()) - {"uniform"}):
        cls = BALANCERS.get(name)
        for space in cls.spaces:
            options = {"space": space} if len(cls.spaces) > 1 else {}
            found.append(Contestant(name, space, in_engine(name, options), aim_of(name, cls, space)))
    for name in ("upgrad", "mgda"):
        found.append(Contestant(f"package:torchjd.{name}", "parameters", torchjd(name, at_features=False)))
        found.append(Contestant(f"package:torchjd.{name}", "features", torchjd(name, at_features=True)))
    found.append(Contestant("package:rotograd", "features", rotograd_package))
    found += [Contestant(LOOP + name, space, in_loop(name, space)) for name, space in IN_LOOPS.items()]
    if unknown := set(chosen) - {"uniform", "package", "loop", *(c.name for c in found)}:
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}. `mtlkit list balancers` names them.")
    if chosen:
        taken = {c.key for c in found if {c.name, c.name.partition(":")[0]} & set(chosen)}
        taken |= {key.removeprefix(LOOP) for key in taken}  # a loop is compared with the engine
        found = [c for c in found if c.key in taken]
    references = [Contestant("uniform", "", in_engine("uniform", {})), Contestant("plain loop", "", plain_loop)]
    if any(c.space == "parameters" for c in found):
        references.append(Contestant("bound", "parameters", bound))
    return references + found


AIMS = {
    ("rotograd", "features"): "a: 1.15, b: 1.35",
    ("gradnorm", "last_layer"): "1.15",
    ("cosreg", "last_layer"): "1.60",
}


def aim_of(name: str, cls: type[Balancer], space: str) -> str:
    if (name, space) in AIMS:
        return AIMS[name, space]
    if space == "parameters":
        if "second_batch" in cls.needs:
            return ""
        return "1.10 of the bound" if "jacobian" in cls.needs else "b: 0.75 of the bound, memory 2.5"
    cheap = issubclass(cls, LossBalancer | GramBalancer) or not cls.needs
    return "1.05" if cheap and space == "features" else ""


def in_engine(name: str, options: dict[str, Any]) -> Callable[[Setting, Batch], Step]:
    def make(setting: Setting, batch: Batch) -> Step:
        model, tasks = setting.model()
        balancer = BALANCERS.build(name, tasks=tuple(tasks), **options)
        balancer.setup(tasks, model.encoder_info)
        never = 10**9  # logs nothing, so that each method computes only what it needs
        config = TrainerConfig(max_steps=never, log_every=never, optimizer="sgd", momentum=0.0, lr=RATE)
        engine = Engine(
            model, list(tasks.values()), balancer, config, accelerator=make_accelerator(config), steps_per_epoch=never
        )
        return lambda: engine.train_step(batch)

    return make


class Loop:
    """The common part of the loops without an engine."""

    def __init__(self, setting: Setting, batch: Batch) -> None:
        self.model, self.tasks = setting.model()
        self.model.to(batch["image"].device)
        self.image, self.targets = batch["image"], batch["targets"]
        self.sizes = {name: setting.size for name in self.tasks}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)

    def losses(self, share: Callable[[Features], dict[str, Features]] | None = None) -> list[Tensor]:
        outputs = self.model(self.image, share, self.sizes)
        return self.means([outputs[name] for name in self.tasks])

    def means(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(self.tasks.items(), outputs, strict=True)
        parts = [task.loss(output, self.targets[name]) for (name, task), output in pairs]
        return [total / count for total, count in parts]

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def plain_loop(setting: Setting, batch: Batch) -> Step:
    loop = Loop(setting, batch)

    def step() -> None:
        torch.stack(loop.losses()).sum().backward()
        loop.update()

    return step


def in_loop(name: str, space: str) -> Callable[[Setting, Batch], Step]:
    def make(setting: Setting, batch: Batch) -> Step:
        loop = Loop(setting, batch)
        options: dict[str, Any] = {"space": space} if len(BALANCERS.get(name).spaces) > 1 else {}
        balanced = Balanced(name, tasks=loop.tasks, encoder=loop.model.encoder, **options)
        balanced.follow(loop.optimizer)

        def step() -> None:
            losses = dict(zip(loop.tasks, loop.losses(balanced), strict=True))
            balanced.loss(losses).backward()
            loop.update()

        return step

    return make


def bound(setting: Setting, batch: Batch) -> Step:
    loop = Loop(setting, batch)

    def step() -> None:
        levels: Features = []
        leaves: dict[str, Features] = {}

        def share(features: Features) -> dict[str, Features]:
            levels.extend(features)
            leaves.update({name: [z.detach().requires_grad_() for z in features] for name in loop.tasks})
            return leaves

        torch.stack(loop.losses(share)).sum().backward()
        for k, mine in enumerate(leaves.values(), 1):
            torch.autograd.backward(levels, [leaf.grad for leaf in mine], retain_graph=k < len(leaves))
        loop.update()

    return step


def torchjd(name: str, at_features: bool) -> Callable[[Setting, Batch], Step]:
    def make(setting: Setting, batch: Batch) -> Step:
        from torchjd.aggregation import MGDA, UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        aggregator = {"upgrad": UPGrad, "mgda": MGDA}[name]()
        loop = Loop(setting, batch)
        shared = [p for p in loop.model.encoder.parameters() if p.requires_grad]

        def step() -> None:
            levels: Features = []

            def share(features: Features) -> dict[str, Features]:
                levels.extend(features)
                return dict.fromkeys(loop.tasks, features)

            mtl_backward(loop.losses(share), features=levels, parallel_chunk_size=1)
            jac_to_grad(shared, aggregator)
            loop.update()

        def step_at_features() -> None:
            levels: Features = []
            leaves: Features = []
            copies: Features = []

            def share(features: Features) -> dict[str, Features]:
                levels.extend(features)
                leaves.extend(z.detach().requires_grad_() for z in features)
                copies.extend(leaf.view_as(leaf) for leaf in leaves)
                return dict.fromkeys(loop.tasks, copies)

            mtl_backward(loop.losses(share), features=copies)
            jac_to_grad(leaves, aggregator)
            torch.autograd.backward(levels, [leaf.grad for leaf in leaves])
            loop.update()

        return step_at_features if at_features else step

    return make


class Backbone(nn.Module):
    """Returns the encoder's one level, as a vector if the heads would average the map anyway."""

    def __init__(self, encoder: nn.Module, dense: bool) -> None:
        super().__init__()
        self.encoder, self.dense = encoder, dense

    def forward(self, image: Tensor) -> Tensor:
        (features,) = self.encoder(image)
        return features if self.dense else features.mean(dim=(2, 3))


class Head(nn.Module):
    def __init__(self, decoder: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.decoder, self.size = decoder, size

    def forward(self, features: Tensor) -> Tensor:
        output = self.decoder([features])
        return output if self.size is None else F.interpolate(output, self.size, mode="bilinear", align_corners=False)


def rotograd_package(setting: Setting, batch: Batch) -> Step:
    import rotograd

    loop = Loop(setting, batch)
    dense = all(task.dense for task in loop.tasks.values())
    backbone = Backbone(loop.model.encoder, dense)
    heads = [Head(decoder, setting.size if dense else None) for decoder in loop.model.decoders.values()]
    with torch.no_grad():
        shape = backbone(loop.image[:1]).shape
    network = rotograd.RotoGrad(backbone, heads, shape[1], post_shape=shape[2:])
    leader = torch.optim.Adam(network.parameters(), lr=RATE)

    def step() -> None:
        with rotograd.cached():
            network.backward(loop.means(network(loop.image)))
            leader.step()
            leader.zero_grad()
            loop.update()

    return step


# -- measuring --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A contestant after its first step."""

    contestant: Contestant
    step: Step
    seconds: float
    memory: int  # bytes


def begin(contestant: Contestant, setting: Setting, batch: Batch) -> Ready:
    gc.collect()
    with LiveBytes() as memory:
        step = contestant.make(setting, batch)
        gc.collect()  # garbage of the construction does not belong to the step
        before = memory.peak = memory.now
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
        gc.collect()
        left = memory.now - before
    return Ready(contestant, step, seconds, memory.peak + left)


def rounds_of(ready: dict[str, Ready], repeats: int, seconds: float, clock: Clock) -> list[dict[str, float]]:
    """Returns the seconds of every contestant's step, round by round."""
    names = list(ready)
    rounds = {name: max(LEAST, min(repeats, int(seconds / one.seconds))) for name, one in ready.items()}
    most = rounds["uniform"] = max(rounds.values())
    if BOUND in rounds:
        rounds[BOUND] = max(n for name, n in rounds.items() if ready[name].contestant.space == "parameters")
    found: list[dict[str, float]] = []
    for number in range(most):
        progress(f"round {number + 1} of {most}")
        found.append({})
        gc.collect()
        gc.disable()
        start = number * len(names) // most
        for name in names[start:] + names[:start]:
            if rounds[name] > number:
                started = clock()
                ready[name].step()
                found[-1][name] = clock() - started
        gc.enable()
    return found


@dataclass(frozen=True)
class Row:
    contestant: Contestant
    milliseconds: float
    ratios: list[float]  # to `uniform`, one per round
    to_bound: float | None
    memory: float
    to_engine: list[float]  # the same of a loop to the engine, and the ratio of their memory
    memory_to_engine: float | None


def measure(
    setting: Setting, chosen: Sequence[str], repeats: int, seconds: float, clock: Clock
) -> tuple[list[Row], dict[str, str]]:
    """Returns the table's rows, and the reasons why some contestants are not in it."""
    batch = setting.inputs()
    gc.collect()
    gc.freeze()  # a collection need not look at existing objects
    ready: dict[str, Ready] = {}
    skipped: dict[str, str] = {}
    for contestant in contestants(chosen):
        progress(contestant.key)
        try:
            ready[contestant.key] = begin(contestant, setting, batch)
        except (ImportError, ValueError, RuntimeError) as error:
            skipped[contestant.key] = f"{type(error).__name__}: {error}"
            progress(f"skipped, {skipped[contestant.key]}")
    rounds = rounds_of(ready, repeats, seconds, clock)
    gc.unfreeze()
    rows = []
    for key, one in ready.items():
        mine = [times for times in rounds if key in times]
        bounded = [times[key] / times[BOUND] for times in mine] if one.contestant.space == "parameters" else []
        engine = key.removeprefix(LOOP)
        compared = engine != key and engine in ready
        rows.append(
            Row(
                one.contestant,
                1000 * median(times[key] for times in mine),
                [times[key] / times["uniform"] for times in mine],
                median(bounded) if bounded else None,
                one.memory / ready["uniform"].memory,
                [times[key] / times[engine] for times in mine if engine in times] if compared else [],
                one.memory / ready[engine].memory if compared else None,
            )
        )
    return rows, skipped


def progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# -- the page ---------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| balancer | space | ms | time / `uniform` | quartiles | rounds | time / bound | memory / `uniform` | aim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.memory_to_engine is not None:  # has a table of its own
            continue
        low, middle, high = quantiles(row.ratios, n=4, method="inclusive")
        cells = [
            f"`{row.contestant.name}`",
            row.contestant.space,
            f"{row.milliseconds:.0f}",
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
            str(len(row.ratios)),
            "" if row.to_bound is None else f"{row.to_bound:.2f}",
            f"{row.memory:.2f}",
            row.contestant.aim,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_of_loops(rows: Sequence[Row]) -> str:
    lines = [
        "| balancer | space | ms in a loop | time loop / engine | quartiles | rounds | memory loop / engine |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.memory_to_engine is not None:
            low, middle, high = quantiles(row.to_engine, n=4, method="inclusive")
            name, space = row.contestant.name.removeprefix(LOOP), row.contestant.space
            cells = [f"`{name}`", space, f"{row.milliseconds:.0f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
            lines.append(f"| {' | '.join([*cells, str(len(row.to_engine)), f'{row.memory_to_engine:.4f}'])} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def heading(threads: int, words: Sequence[str]) -> str:
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    command = shlex.join(["python", "tools/bench_step.py", *words])
    return (
        f"# Step time and memory\n\nMade by `{command}`, {datetime.date.today()}, {threads} thread(s) on a CPU; "
        f"{', '.join(versions)}. `tools/bench_step.py` says what is measured and how.\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", nargs="+", default=[*SETTINGS], choices=SETTINGS, help="without it: all")
    parser.add_argument(
        "--balancers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="default: all; `package`: other packages, `loop`: loops",
    )
    parser.add_argument("--repeats", type=int, default=9, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="work per contestant, at least two rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with one thread")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the tables to this file, too")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    page = [heading(args.threads, sys.argv[1:] if argv is None else argv)]
    for name, setting in SETTINGS.items():
        if name in args.setting and setting.lora is not None and importlib.util.find_spec("peft") is None:
            progress(f"setting {name} needs peft: pip install 'mtlkit[lora]'")
        elif name in args.setting:
            rows, skipped = measure(setting, args.balancers, args.repeats, args.seconds, CLOCKS[args.clock])
            notes = [f"Skipped: `{key}`, {reason}\n" for key, reason in skipped.items()]
            tables = [table(rows), *filter(None, [table_of_loops(rows)])]
            page.append("\n".join([f"## Setting {name}: {setting.text}\n", *tables, *notes]))
            if args.markdown is not None:  # after each, as a setting takes minutes
                args.markdown.write_text("\n".join(page), encoding="utf-8")
    sys.stdout.write("\n".join(page))


if __name__ == "__main__":
    main()
