"""Tries mtlkit on a GPU, in at most eight minutes, and writes a page about it.

    python tools/check_gpu.py --markdown check_gpu.md           # the GPU that Accelerate finds
    python tools/check_gpu.py --toy --markdown check_gpu.md     # tiny sizes, a minute on a CPU: does this program work?

Without a GPU, it takes the tiny sizes by itself. Each part is a process of its own with a time limit. A part that
fails, hangs or dies says so on the page, and the others run. The parts are

    kit          the contract kit of every balancer and every task (`mtlkit.testing`) on the device
    precision    five steps in float32, bfloat16 and float16, beside float64
    compile      a loop with `mtlkit.Balanced` and compiled encoder and heads, beside the same loop without
    distributed  the engine under DDP with NCCL (gloo without a GPU) and SyncBatchNorm, one process, beside none
    fsdp2        the engine on parts that `fully_shard` has split, one process, beside whole ones
    step3        step time and peak memory of every balancer: 3 dense tasks with a ResNet-50 at stride 8
    step40       the same for 40 attributes
    loader       `tools/bench_data.py`

Step times are ratios to `uniform`, whose steps are measured in turn with the balancer's. The batch is doubled until
this doubles the time of a step, so that the device is full. Peak memory is what the device's allocator had at most in a
step, beyond what was there before the network was built; on a CPU it is counted as `tools/bench_step.py` counts it.
"""

import argparse
import datetime
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parent))
import bench_data
import bench_step
from bench_step import Batch, Setting

from mtlkit import BALANCERS, TASKS, Balanced
from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.engine import Engine
from mtlkit.engine.model import MultiTaskModel, set_batch_norm
from mtlkit.run.build import make_accelerator
from mtlkit.testing import check_balancer, check_task
from mtlkit.testing.kit import PROMISES

SOME = ("uniform", "gradnorm", "mgda", "rotograd", "cosreg")  # one of each kind
STEPS = 5
LONGEST = 0.15  # seconds of a step; a larger batch would leave no time for all balancers
OK, FAILED, LEFT_OUT = "ok", "failed", "Left out:"
LATE = "the time was over"


@dataclass
class Part:
    """What a part may use, and where it writes."""

    toy: bool
    balancers: list[str]
    ends: float  # of time.monotonic()
    page: Path

    @property
    def late(self) -> bool:
        return time.monotonic() > self.ends

    def say(self, line: str = "") -> None:
        with self.page.open("a", encoding="utf-8") as file:  # at once, so that it remains if this process is ended
            file.write(f"{line}\n")

    def leave_out(self, what: Sequence[str], why: str) -> None:
        if what:
            self.say(f"\n{LEFT_OUT} {', '.join(what)}: {why}.")

    def row(self, *cells: object) -> None:
        self.say(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")

    def head(self, *cells: str) -> None:
        self.row(*cells)
        self.row(*["---"] * len(cells))


def device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def moved(batch: Batch) -> Batch:
    targets = {name: target.to(device()) for name, target in batch["targets"].items()}
    return {"image": batch["image"].to(device()), "targets": targets}


def in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# -- right numbers ----------------------------------------------------------------------------------------------


def kit(part: Part) -> None:
    """The promises that need other processes come last: each of them starts the device anew."""
    kind, broken, done = device().type, 0, 0
    slow = ("resume", "two_ranks")
    alone = ("one_task", "absent_task") if part.toy else [p.__name__ for p in PROMISES if p.__name__ not in slow]
    checks: list[tuple[str, Callable[[], None]]] = []
    checks += [(f"task {n}", lambda n=n: check_task(n, device=kind)) for n in TASKS.names()]
    checks += [(n, lambda n=n: check_balancer(n, device=kind, only=alone)) for n in part.balancers]
    if not part.toy:
        checks += [
            (f"{n}: resume", lambda n=n: check_balancer(n, device=kind, only=["resume"])) for n in part.balancers
        ]
    left = []
    for name, check in checks:
        if part.late:
            left.append(name)
            continue
        try:
            check()
            done += 1
        except AssertionError as error:
            broken += 1
            part.say(f"- {name}: {in_words(error)}")
    last = "" if part.toy else ", and `resume` at the end"
    part.say(f"\n{done} of {len(checks)} checks passed. Promises of a balancer: {', '.join(alone)}{last}.")
    part.leave_out(left, LATE)
    if broken:
        raise AssertionError(f"{broken} broken promises")


def small(part: Part) -> Setting:
    encoder = {"name": "test_resnet" if part.toy else "resnet18"}
    size, batch = ((32, 48), 2) if part.toy else ((96, 128), 8)
    return Setting("", bench_step.dense_tasks, encoder, size, batch)


def make_engine(
    setting: Setting, name: str, shard: Callable[[MultiTaskModel], None] | None = None, sync: bool = False, **more: Any
) -> Engine:
    model, tasks = setting.model()
    set_batch_norm(model, "sync" if sync else "local")
    balancer = BALANCERS.build(name, tasks=tuple(tasks))
    balancer.setup(tasks, model.encoder_info)
    config = TrainerConfig(max_steps=100, **({"lr": 1e-3, "optimizer": "sgd"} | more))
    accelerator = make_accelerator(config)
    if shard is not None:
        shard(model.to(accelerator.device))
    return Engine(model, list(tasks.values()), balancer, config, accelerator=accelerator, steps_per_epoch=100)


def losses_of(engine: Engine, batch: Batch) -> list[float]:
    return [sum(engine.train_step(batch).raw_losses.values()) for _ in range(STEPS)]


def compare(
    part: Part, what: str, names: Sequence[str], one: Callable[[str], list[float]], other: Any, most: float
) -> None:
    """Writes how far the losses of two ways of training are apart. Raises `AssertionError` if that is above `most`."""
    part.head("balancer", "last loss", what, "largest relative difference")
    worst = 0.0
    for name in names:
        expected, found = one(name), other(name)
        apart = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(expected, found, strict=True))
        worst = max(worst, apart if apart == apart else float("inf"))
        part.row(f"`{name}`", f"{expected[-1]:.5f}", f"{found[-1]:.5f}", f"{apart:.1e}")
    if worst > most:
        raise AssertionError(f"the losses differ by {worst:.1e}, more than {most:g}")


def precision(part: Part) -> None:
    setting = small(part)
    batch, bad = setting.inputs(), []
    part.head("balancer", "precision", "last loss", "relative to fp64")
    for name in part.balancers if part.toy else SOME:
        exact = losses_of(make_engine(setting, name, precision="fp64"), batch)[-1]
        for kind, most in (("fp32", 1e-3), ("bf16", 5e-2), ("fp16", 2e-2)):  # rounding, which five steps make larger
            if kind == "fp16" and device().type == "cpu":
                continue
            loss = losses_of(make_engine(setting, name, precision=kind), batch)[-1]
            part.row(f"`{name}`", kind, f"{loss:.5f}", f"{loss / exact:.5f}")
            if not abs(loss / exact - 1) <= most:
                bad.append(f"{name} in {kind}")
    part.leave_out(["fp16"] if device().type == "cpu" else [], "it needs a GPU")
    if bad:
        raise AssertionError(f"further from float64 than rounding explains: {', '.join(bad)}")


def compiled(part: Part) -> None:
    setting, backend = small(part), "aot_eager" if part.toy else "inductor"
    batch = moved(setting.inputs())

    def train(name: str, compile_: bool) -> list[float]:
        model, tasks = setting.model()
        model.to(device())
        encoder, heads = model.encoder, model.decoders
        if compile_:
            torch._dynamo.reset()
            encoder = torch.compile(encoder, backend=backend)
            heads = {key: torch.compile(head, backend=backend) for key, head in heads.items()}
        balanced = Balanced(name, tasks=tasks, encoder=model.encoder).to(device())
        optimizer, found = torch.optim.SGD(model.parameters(), lr=1e-3), []
        balanced.follow(optimizer)
        for _ in range(STEPS):
            shared = balanced(encoder(batch["image"]))
            outputs = {key: head(shared[key]) for key, head in heads.items()}
            losses = {key: resized_loss(tasks[key], outputs[key], batch["targets"][key]) for key in tasks}
            loss = balanced.loss(losses)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss))
        return found

    def resized_loss(task: Any, output: torch.Tensor, target: torch.Tensor) -> Any:
        size = target.shape[-2:]
        return task.loss(torch.nn.functional.interpolate(output, size, mode="bilinear", align_corners=False), target)

    names = [name for name in ("uniform", "mgda", "rotograd") if not part.toy or name in part.balancers]
    compare(part, backend, names, lambda n: train(n, False), lambda n: train(n, True), 1e-3)


@contextmanager
def group() -> Iterator[str]:
    """Joins a group of one process, as a launcher makes it."""
    backend = "nccl" if device().type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
        more = {"device_id": torch.device("cuda", 0)} if backend == "nccl" else {}
        distributed.init_process_group(
            backend, init_method=Path(folder, "meeting").as_uri(), rank=0, world_size=1, **more
        )
        try:
            yield backend
        finally:
            distributed.destroy_process_group()


def ddp(part: Part) -> None:
    setting, sync = small(part), device().type == "cuda"
    batch, names = setting.inputs(), part.balancers if part.toy else SOME
    expected = {name: losses_of(make_engine(setting, name), batch) for name in names}
    forget_accelerate()
    with group() as backend:
        kinds = set()

        def train(name: str) -> list[float]:
            engine = make_engine(setting, name, sync=sync)
            kinds.add(type(engine.model).__name__)
            return losses_of(engine, batch)

        compare(part, backend, names, expected.__getitem__, train, 1e-3)
        part.say(f"\nThe model was wrapped in {', '.join(sorted(kinds))}.")
    part.leave_out([] if sync else ["NCCL", "SyncBatchNorm"], "they need a GPU")


def fsdp2(part: Part) -> None:
    setting = small(part)
    batch, names = setting.inputs(), [n for n in (part.balancers if part.toy else SOME) if features_only(n)]
    expected = {name: losses_of(make_engine(setting, name), batch) for name in names}
    forget_accelerate()

    def shard(model: MultiTaskModel) -> None:
        for module in (model.encoder, *model.decoders.values(), model):
            fully_shard(module)

    with group():
        compare(
            part,
            "sharded",
            names,
            expected.__getitem__,
            lambda n: losses_of(make_engine(setting, n, shard), batch),
            1e-3,
        )


def features_only(name: str) -> bool:
    cls = BALANCERS.get(name)
    return cls.spaces[0] == "features" and "create_graph" not in cls.needs


def forget_accelerate() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


# -- speed ------------------------------------------------------------------------------------------------------


def step3(part: Part) -> None:
    encoder = {"name": "test_resnet"} if part.toy else {"name": "resnet50", "output_stride": 8}
    steps(part, Setting("", bench_step.dense_tasks, encoder, (32, 48) if part.toy else (256, 256), 2))


def step40(part: Part) -> None:
    encoder = {"name": "test_resnet" if part.toy else "resnet50"}
    steps(
        part, Setting("", bench_step.attributes, encoder, (32, 32) if part.toy else (128, 128), 2 if part.toy else 16)
    )


def steps(part: Part, setting: Setting) -> None:
    setting, batch = (setting, moved(setting.inputs())) if part.toy else filled(setting)
    height, width = setting.size
    part.say(f"Batches of {setting.batch} x {height} x {width}.\n")
    part.head("balancer", "space", "ms", "time / `uniform`", "peak memory, MB")
    uniform, left, failed = prepared(setting, batch, "uniform", {}), [], []
    part.row(
        "`uniform`", "", f"{1000 * median(timed(uniform[0]) for _ in range(STEPS)):.1f}", "1.00", f"{uniform[1]:.1f}"
    )
    for name in part.balancers:
        if name == "uniform":
            continue
        spaces = BALANCERS.get(name).spaces
        for space in spaces:
            if part.late:
                left.append(f"{name} ({space})")
                continue
            try:
                step, memory = prepared(setting, batch, name, {"space": space} if len(spaces) > 1 else {})
                rounds = [(timed(uniform[0]), timed(step)) for _ in range(2 if part.toy else STEPS)]
                mine = median(two for _, two in rounds)
                ratio = median(two / one for one, two in rounds)
                part.row(f"`{name}`", space, f"{1000 * mine:.1f}", f"{ratio:.2f}", f"{memory:.1f}")
            except (ImportError, ValueError, RuntimeError) as error:  # such as no memory left
                failed.append(f"{name} ({space})")
                part.row(f"`{name}`", space, in_words(error), "", "")
            step = None
    part.leave_out(left, LATE)
    if failed:
        raise RuntimeError(f"{', '.join(failed)} did not run")


def prepared(setting: Setting, batch: Batch, name: str, options: dict[str, Any]) -> tuple[Callable[[], object], float]:
    """Returns a step that has run twice, and its peak memory in MB."""
    make = bench_step.in_engine(name, options)
    if device().type != "cuda":
        ready = bench_step.begin(bench_step.Contestant(name, "", make), setting, batch)
        return ready.step, ready.memory / 1e6
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    step = make(setting, batch)
    step()  # cuDNN tries algorithms in the first one
    torch.cuda.reset_peak_memory_stats()
    step()
    return step, (torch.cuda.max_memory_allocated() - before) / 1e6


def timed(step: Callable[[], object]) -> float:
    wait()
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


def filled(setting: Setting) -> tuple[Setting, Batch]:
    """Returns the setting with a batch that fills the device, and the batch on it."""
    whole, last = torch.cuda.get_device_properties(0).total_memory / 1e6, 0.0
    while True:
        batch = moved(setting.inputs())
        step, memory = prepared(setting, batch, "uniform", {})
        seconds = median(timed(step) for _ in range(3))
        full = last and seconds > 1.8 * last
        if full or 2 * seconds > LONGEST or 2 * memory > 0.4 * whole or setting.batch >= 1024:
            return setting, batch
        last, setting = seconds, replace(setting, batch=2 * setting.batch)


def loader(part: Part) -> None:
    words = ["--frames", "2", "--workers", "0", "--repeat", "1", "--batch", "2"]
    if not part.toy:
        words = ["--frames", "32", "--workers", "0", str(min(8, os.cpu_count() or 1)), "--repeat", "3"]
    part.say("```text")
    with part.page.open("a", encoding="utf-8") as file, redirect_stdout(file):
        bench_data.main(words)
    part.say("```")


# -- the page ---------------------------------------------------------------------------------------------------

#: The parts, with their headings and time limits in seconds on a GPU: together less than eight minutes.
PARTS: dict[str, tuple[Callable[[Part], None], str, int]] = {
    "kit": (kit, "The contract kit", 120),
    "precision": (precision, "Precision", 40),
    "compile": (compiled, "torch.compile", 60),
    "distributed": (ddp, "DDP and SyncBatchNorm", 30),
    "fsdp2": (fsdp2, "FSDP2", 30),
    "step3": (step3, "Step time: 3 dense tasks", 70),
    "step40": (step40, "Step time: 40 attributes", 70),
    "loader": (loader, "Loading data", 40),
}


def run_part(name: str, words: Sequence[str], limit: int, page: Path) -> tuple[str, str]:
    """Runs a part in its own process. Returns what became of it, and the reason."""
    command = [sys.executable, __file__, *words, "--part", name, "--into", str(page)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also the processes that it started
        process.communicate()
        return FAILED, f"not done after {limit} s; what it found until then is below"
    lines = [line for line in errors.splitlines() if line.strip()]
    if process.returncode == 0:
        return OK, ""
    reason = lines[-1] if lines else f"it died with the status {process.returncode}"
    return FAILED, reason


def heading(words: Sequence[str], toy: bool) -> str:
    kind, driver = device(), "none"
    card = platform.processor() or platform.machine()
    if kind.type == "cuda":
        card = torch.cuda.get_device_name(0)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            driver = f"unknown ({in_words(error)})"
    command = shlex.join(["python", "tools/check_gpu.py", *words])
    lines = [
        "# mtlkit on a device\n",
        f"Made by `{command}`, {datetime.date.today()}. `tools/check_gpu.py` says what is measured and how.\n",
        f"- device: {kind.type}, {card}",
        f"- driver: {driver}; CUDA of torch: {torch.version.cuda or 'none'}",
        f"- torch {torch.__version__}, Python {platform.python_version()}",
    ]
    if toy:
        lines.append("- toy sizes: they show that this program works. The figures say nothing about a device.")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the page to this file, too")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--balancers", nargs="+", default=[], metavar="NAME", help="default: all; with --toy a few")
    parser.add_argument("--toy", action="store_true", help="tiny sizes")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    toy = args.toy or device().type == "cpu"
    names = args.balancers or (["uniform", "gradnorm", "rotograd"] if toy else BALANCERS.names())
    if unknown := set(names) - set(BALANCERS.names()):
        raise SystemExit(f"There is no balancer {', '.join(sorted(unknown))}. `mtlkit list balancers` names them.")
    if args.part:
        work, _, limit = PARTS[args.part]
        if toy:
            torch.set_num_threads(1)  # tiny operations on several threads wait for each other
        work(Part(toy, list(names), time.monotonic() + 0.8 * limit, args.into))
        return
    page = [heading(sys.argv[1:] if argv is None else argv, toy)]
    words = [*(["--toy"] if toy else []), "--balancers", *names]
    for name in args.parts:
        _, title, limit = PARTS[name]
        limit *= 4 if toy else 1  # a busy machine should not look like a fault
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="check_gpu") as folder:
            into = Path(folder, "part.md")
            result, reason = run_part(name, words, limit, into)
            text = into.read_text(encoding="utf-8") if into.exists() else ""
        if result == OK and LEFT_OUT in text:
            result = "ok, but some is left out"
        outcome = f"**{result}**, {time.monotonic() - started:.0f} s" + (f": {reason}" if reason else "")
        sys.stderr.write(f"{name}: {outcome}\n")
        page.append(f"## {title}\n\n{outcome}\n\n{text}")
        if args.markdown is not None:  # after each, as the next one may end all
            args.markdown.write_text("\n".join(page), encoding="utf-8")
    sys.stdout.write("\n".join(page))


if __name__ == "__main__":
    main()
