"""Counts the work of one training step of every balancer in each of its spaces, for several numbers of tasks.

    python tools/count_work.py [--balancers gradnorm rotograd] [--tasks 2 10] [--markdown FILE]
    python tools/count_work.py --where rotograd --tasks 10 [--space features]
    python tools/count_work.py --where rotograd --tasks 10 40

The counts are the same on every machine with the same version of torch. Counted is the third step, by
`Engine.train_step`, with SGD and without a step for the log. The network is tiny (the page names it), so only counts
mean something, and no times.

- Reads: how often Python waits for numbers of the device (`item`, `tolist`, copies to the CPU), and in brackets, if
  there are any, how often for the size of a result (`nonzero`, an index that is a mask). On a GPU, each one lets the
  queue run empty. They are counted on the device without hardware of `tests/mock_device.py`.
- Operations: all that the dispatcher sees on that device, after autograd, views included; in brackets, those on
  tensors of the CPU alone, which no GPU waits for. The slope is the growth per added task, from 10 tasks to 40.
- Memory: the bytes of all live tensors at the worst moment of the step, on that device.
- Sent: how many collective operations the balancing needs, and their bytes, per process, counted on two real
  processes. DDP's own sums of gradients, which plain data parallelism has too, are not in it; the page names them.

`--where` prints the reads of one step with the innermost line of mtlkit, balancers or tasks that caused each, and the
operations per line, most first. With two numbers of tasks, it prints the operations per added task. An operation of the
backward pass belongs to the line of the forward pass that it differentiates.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS = (2, 10, 40, 128)
CHANNELS = 32
STEPS = 3  # the last of them counts: some methods keep numbers of their first step
#: Options without which a method would be counted in its warm-up, or does not run.
OPTIONS: dict[str, dict[str, Any]] = {"stch": {"warmup_epochs": 0}, "torchjd": {"weighting": "UPGrad"}}
LOOP = "plain loop"
Row = tuple[str, str, int]  # method, space, tasks
PARTS = ("device", "sent")
PROCESSES = 2  # of each part


@dataclass(frozen=True)
class Counts:
    """The counts of one step of a method. `error` says why there are none."""

    name: str
    space: str
    tasks: int
    reads: int = 0
    sizes: int = 0
    device: int = 0
    host: int = 0
    memory: int = 0
    collectives: int = 0
    numbers: int = 0
    sent: int = 0
    sent_by_wrapper: int = 0
    error: str = ""

    @property
    def row(self) -> Row:
        return self.name, self.space, self.tasks


def methods(chosen: Sequence[str], space: str = "") -> list[tuple[str, str]]:
    """Returns the methods with their spaces, the plain loop and `uniform` first. An empty choice means all."""
    from mtlkit import BALANCERS

    names = BALANCERS.names()
    if unknown := set(chosen) - {LOOP, *names}:
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}. `mtlkit list balancers` names them.")
    pairs = [(name, one) for name in names for one in BALANCERS.get(name).spaces if not chosen or name in chosen]
    pairs = [pair for pair in pairs if not space or pair[1] == space]
    first = [(LOOP, "")] if not chosen or LOOP in chosen else []
    return first + sorted(pairs, key=lambda pair: pair[0] != "uniform")


# -- counting: each part runs in processes of its own ---------------------------------------------------------------


def begin(name: str, space: str, count: int, device: str) -> Any:
    """Returns a step of the method, and after each call of it, a new batch. Nothing has run yet."""
    import bench_step
    import workload

    from mtlkit import BALANCERS

    setting = workload.setting(count, CHANNELS)
    batch = setting.inputs()
    if name == LOOP:
        there = {key: value.to(device) for key, value in batch["targets"].items()}
        return bench_step.plain_loop(setting, {"image": batch["image"].to(device), "targets": there})
    options = OPTIONS.get(name, {}) | ({"space": space} if len(BALANCERS.get(name).spaces) > 1 else {})
    return bench_step.in_engine(name, options)(setting, batch)


def count_on_device(name: str, space: str, tasks: int) -> Counts:
    import mock_device
    from counting import LiveBytes, Operations

    gc.collect()
    with LiveBytes() as memory:
        step = begin(name, space, tasks, mock_device.DEVICE)
        for _ in range(STEPS - 1):
            step()
        gc.collect()
        memory.peak = memory.now
        mock_device.COUNTS.clear()
        with Operations(mock_device.DEVICE) as operations:
            step()
    counts = mock_device.COUNTS
    return Counts(name, space, tasks, counts["reads"], counts["sizes"], operations.device, operations.host, memory.peak)


def count_sent(name: str, space: str, tasks: int) -> Counts:
    from counting import Sent

    step = begin(name, space, tasks, "cpu")
    for _ in range(STEPS - 1):
        step()
    with Sent() as sent:
        step()
    own = sent.own
    return Counts(
        name,
        space,
        tasks,
        collectives=own["collectives"],
        numbers=own["numbers"],
        sent=own["bytes"],
        sent_by_wrapper=sent.wrapper["bytes"],
    )


def work(part: str, rows: Sequence[Row], into: Path, rank: int, folder: Path) -> None:
    """Counts all rows in this process, and writes them to the file `into`, one line each."""
    import torch

    torch.set_num_threads(1)
    count = count_on_device
    if part == "device":
        import mock_device

        mock_device.install()
    else:
        count = count_sent
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        meeting = (folder / "meeting").as_uri()
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    gc.collect()
    gc.freeze()
    with into.open("w") as file:
        for name, space, tasks in rows:
            if part == "sent" and name == LOOP:
                continue
            started = time.process_time()
            try:
                found = count(name, space, tasks)
            except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:
                found = Counts(name, space, tasks, error=f"{type(error).__name__}: {error}".splitlines()[0])
            sys.stderr.write(f"{part} {rank}: {name} {space} {tasks} [{time.process_time() - started:.1f} s]\n")
            file.write(json.dumps(asdict(found)) + "\n")
            file.flush()


def measure(rows: Sequence[Row], parts: Sequence[str] = PARTS) -> list[Counts]:
    """Counts all rows in new processes, all at the same time. Of the part `device`, each process has some of the rows.

    The two processes of the part `sent` work together on each row.
    """
    with tempfile.TemporaryDirectory() as folder:
        into = {(part, rank): Path(folder, f"{part}{rank}") for part in parts for rank in range(PROCESSES)}
        shares = {key: rows[key[1] :: PROCESSES] if key[0] == "device" else rows for key in into}
        wait([start(part, shares[part, rank], file, rank, folder) for (part, rank), file in into.items()])
        found = [Counts(**json.loads(line)) for file in into.values() for line in file.read_text().splitlines()]
    by_key = joined(found)
    return [by_key[row] for row in rows]


def joined(found: Sequence[Counts]) -> dict[Row, Counts]:
    """Joins the counts of several parts, by row. What one part did not count is 0 there."""
    rows: dict[Row, dict[str, Any]] = {}
    for one in found:
        row = rows.setdefault(one.row, asdict(one))
        row.update({key: value for key, value in asdict(one).items() if value})
    return {key: Counts(**row) for key, row in rows.items()}


def start(part: str, rows: Sequence[Row], into: Path, rank: int, folder: str) -> subprocess.Popen[bytes]:
    code = "import json, sys, pathlib, count_work as c; a = json.loads(sys.argv[1]); "
    code += "c.work(a[0], a[1], pathlib.Path(a[2]), a[3], pathlib.Path(a[4]))"
    words = json.dumps([part, rows, str(into), rank, folder])
    paths = os.pathsep.join([str(ROOT / "tools"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    more = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": str(part == "sent").lower()}
    return subprocess.Popen([sys.executable, "-c", code, words], env=os.environ | more)


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits for all; ends the others once one fails: they would wait for it for ever."""
    while any(one.poll() is None for one in processes):
        if any(one.poll() for one in processes):
            break
        time.sleep(0.1)
    failed = [one.returncode for one in processes if one.returncode]
    for one in processes:
        one.terminate()
        one.wait()
    if failed:
        raise SystemExit(f"A counting process ended with the status {failed[0]}; its error is above.")


# -- where ----------------------------------------------------------------------------------------------------------


class Watched(Counter[str]):
    """The counts of the device, which also notes the line of code of every wait."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def __setitem__(self, key: str, value: int) -> None:
        from counting import place

        if key in ("reads", "sizes") and value > self[key]:
            self.lines.append((key.removesuffix("s"), place()))
        super().__setitem__(key, value)


def where(name: str, space: str, tasks: Sequence[int]) -> str:
    """Returns the reads and the operations of one step by their lines of code. It installs the device.

    With two numbers of tasks, the operations are those per added task.
    """
    import mock_device
    import torch
    from counting import Operations

    mock_device.install()
    lines, found = [], []
    for count in tasks[:2]:
        step = begin(name, space, count, mock_device.DEVICE)
        for _ in range(STEPS - 1):
            step()
        watched = mock_device.COUNTS = Watched()
        noted = torch.autograd.set_detect_anomaly(True, check_nan=False)  # autograd keeps the lines of the forward pass
        with noted, Operations(mock_device.DEVICE, places=True) as operations:
            step()
        found.append(operations)
        lines.append(f"{name} {space}, {count} tasks: {watched['reads']} reads, {watched['sizes']} sizes")
        lines += [f"  {kind}  {line}" for kind, line in watched.lines]
        lines.append(f"{operations.device} operations of the device, and {operations.host} of the host")
    if len(found) == 1:
        lines += [f"{count:7d}  {line}" for line, count in found[0].where.most_common()]
    else:
        added = tasks[1] - tasks[0]
        slopes = {line: (count - found[0].where[line]) / added for line, count in found[1].where.items()}
        lines.append("operations per added task:")
        lines += [f"{slope:7.2f}  {line}" for line, slope in sorted(slopes.items(), key=lambda row: -row[1]) if slope]
    return "\n".join(lines) + "\n"


# -- the page -------------------------------------------------------------------------------------------------------


def table(found: Sequence[Counts], tasks: Sequence[int]) -> str:
    """Returns one line per method and space."""
    marks = " / ".join(map(str, tasks))
    slope = {10, 40} <= set(tasks)
    head = ["balancer", "space", f"reads at K = {marks}", "operations"]
    head += [*(["per added task"] if slope else []), "memory, KB", "collectives", "bytes sent"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for group in groups(found):
        by = {one.tasks: one for one in group}
        mine = [by[count] for count in tasks if count in by]
        cells = [f"`{mine[0].name}`", mine[0].space]
        cells.append(" / ".join(with_rest(one, one.reads, one.sizes) for one in mine))
        cells.append(" / ".join(with_rest(one, one.device, one.host) for one in mine))
        if slope:
            few, many = by[10], by[40]
            cells.append("" if few.error or many.error else f"{(many.device - few.device) / 30:.1f}")
        cells.append(" / ".join("" if one.error else f"{one.memory / 1024:.0f}" for one in mine))
        alone = mine[0].name == LOOP
        cells.append("" if alone else " / ".join("" if one.error else str(one.collectives) for one in mine))
        cells.append("" if alone else " / ".join("" if one.error else str(one.sent) for one in mine))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_rest(one: Counts, count: int, rest: int) -> str:
    if one.error:
        return "-"
    return f"{count} ({rest})" if rest else str(count)


def groups(found: Sequence[Counts]) -> Iterator[list[Counts]]:
    rows: dict[tuple[str, str], list[Counts]] = {}
    for one in found:
        rows.setdefault((one.name, one.space), []).append(one)
    yield from rows.values()


def heading(title: str, command: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mtlkit", "torch", "accelerate"))
    return (
        f"# {title}\n\nMade by `{command}`, {datetime.date.today()}; Python {platform.python_version()}, {versions}.\n"
    )


def page(found: Sequence[Counts], tasks: Sequence[int], command: str) -> str:
    import workload

    setting = workload.setting(max(tasks), CHANNELS)
    wrapper = sorted({(one.tasks, one.sent_by_wrapper) for one in found if one.name == "uniform"})
    parts = [
        heading("The work of a step", command),
        f"`tools/count_work.py` says what is counted and how. The network: {setting.text}, with fewer tasks alike.\n",
        table(found, tasks),
    ]
    if wrapper:
        told = ", ".join(f"{sent} with {count} tasks" for count, sent in wrapper)
        parts.append(f"DDP's own bytes per step and process, not in the table: {told}.\n")
    errors = sorted({f"- `{one.name}` ({one.space}), {one.tasks} tasks: {one.error}" for one in found if one.error})
    if errors:
        parts.append("Not counted:\n\n" + "\n".join(errors) + "\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--balancers", nargs="+", default=[], metavar="NAME", help=f"default: all, and `{LOOP}`")
    parser.add_argument("--space", default="", help="default: all spaces of a method")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(TASKS), metavar="K")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="`device` is the quicker half")
    parser.add_argument("--where", metavar="NAME", help="prints where this method's reads and operations come from")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the page to this file, too")
    args = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else list(argv)
    sys.path.append(str(ROOT / "tests"))  # for `mock_device`
    if args.where:
        chosen = methods([args.where], args.space)
        if not chosen:
            raise SystemExit(f"{args.where} has no space {args.space!r}.")
        sys.stdout.write(where(*chosen[0], args.tasks))
        return
    rows = [(*pair, count) for pair in methods(args.balancers, args.space) for count in args.tasks]
    text = page(measure(rows, args.parts), args.tasks, shlex.join(["python", "tools/count_work.py", *words]))
    if args.markdown is not None:
        args.markdown.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
