"""Long runs, long logs and full disks: memory and files do not grow, and nothing is half written."""

import contextlib
import errno
import json
import os
import resource
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import torch
from study_lab import write_lab

from mtlkit.config.composition import compose
from mtlkit.observer import Observer
from mtlkit.report import explain, summary, write_report
from mtlkit.run.experiment import Experiment
from mtlkit.run.progress import progress_of
from mtlkit.run.saving import CHECKPOINT
from trust import kills
from trust.result import Result

MIB = 1 << 20
GROWTH = 1.25  #: what may be more at ten times the lines: pages of memory that the allocator keeps
SLACK = 24 * MIB  #: of the memory of a process, which has other uses for it


@contextlib.contextmanager
def lab(folder: Path) -> Any:
    """Changes into the folder, with the small data set of tests."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        write_lab(Path())
        sys.path.insert(0, os.getcwd())
        try:
            yield
        finally:
            sys.path.remove(os.getcwd())


# A full disk


def full_disk(folder: Path, seed: int, count: int) -> Result:
    """Lets writes of a run fail, from one of `count` places on. It must say so, and go on to the same end with room."""
    result = Result()
    with lab(folder):
        steps = [
            "train",
            "lab.yaml",
            "trainer.max_steps=4",
            "trainer.eval_every=1",
            "trainer.log_every=1",
            "balancer=gradnorm",
        ]
        assert kills.call([*steps, "output_dir=whole"], Path("whole")).status == 0
        expected = kills.runs(Path("whole"))
        writes = _writes(steps)
        for number in range(count):
            at, place = 1 + (seed + number) * max(1, writes // count) % writes, Path(f"full-{number}")
            said = _full(steps, place, at)
            words = [*steps, f"output_dir={place}"]
            wrong = _wrong(said, kills.begin_again(words, [*words, "--resume"], place).status, place, expected)
            if wrong:
                result.fault(f"write {at} of {writes} fails: {wrong}")
            else:
                result.outcomes["said, and went on"] += 1
    return result


def _writes(words: list[str]) -> int:
    return int(_forked([*words, "output_dir=counted"], 0)[1].split()[-1])


def _full(words: list[str], place: Path, at: int) -> str:
    status, said = _forked([*words, f"output_dir={place}"], at)
    return f"{status} {said}"


def _forked(words: list[str], at: int) -> tuple[int, str]:
    """Runs the command in a fork whose writes fail from number `at` on. Returns its status and what it says."""
    from mtlkit.cli.main import main

    read, write = os.pipe()
    child = kills.fork()
    if not child:
        status = 1
        try:
            os.dup2(write, 2)
            sys.stderr = os.fdopen(2, "w")  # tests put another one in its place
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            counted = _fill(at)
            status = main(words)
            if not at:
                sys.stderr.write(f" {counted()}")
        except BaseException:  # noqa: BLE001 (this fork must never go on as its parent)
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def _fill(at: int) -> Any:
    """Makes this process's writes to files fail from number `at` on, as a full disk does. Returns what counts them."""
    seen, own = 0, (os.write, Path.open, torch.save)

    def full() -> None:
        nonlocal seen
        seen += 1
        if at and seen >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(number: int, data: Any) -> int:
        if not os.path.isfile(f"/proc/self/fd/{number}"):
            return own[0](number, data)
        full()
        return own[0](number, data)

    def opened(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" in mode or "a" in mode or "x" in mode:
            full()
        return own[1](path, mode, *rest, **options)

    def saved(*args: Any, **options: Any) -> None:
        full()
        own[2](*args, **options)

    os.write, Path.open, torch.save = write, opened, saved  # type: ignore[assignment, method-assign]
    return lambda: seen


def _wrong(said: str, status: int, place: Path, expected: dict[str, Any]) -> str:
    if "Traceback" in said or "No space left" not in said:
        return f"it says {said[-400:]!r}"
    if status:
        return f"status {status} of --resume: {Path(f'{place}.txt').read_text()[-300:]}"
    found = kills.runs(place)
    other = sorted(key for key in expected.keys() | found.keys() if not kills.same(expected.get(key), found.get(key)))
    return f"other than undisturbed: {', '.join(other[:5])}" if other else ""


# A long run


class Watch(Observer):
    """Notes time, memory and files at every hundredth part of a run.

    It first waits for a checkpoint that is written in the background: its files are opened, renamed and removed
    meanwhile, so a count of them would depend on the moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.process, self.rows = folder, psutil.Process(), []
        self.files: list[tuple[int, int]] = []

    def step(self, record: Any) -> None:
        for thread in threading.enumerate():
            if thread.name == CHECKPOINT:
                thread.join()
        self.rows.append((time.process_time(), self.process.memory_info().rss, self.process.num_fds()))
        self.files.append((sum(1 for _ in self.folder.rglob("*")), self.process.num_threads()))


def long_run(folder: Path, seed: int, count: int) -> Result:
    """Trains `count` steps of a tiny run, and compares the first quarter of them with the last one."""
    result = Result()
    with lab(folder):
        every = max(1, count // 100)
        words = [
            f"trainer.max_steps={count}",
            f"trainer.log_every={every}",
            f"trainer.eval_every={count // 10}",
            f"seed={seed}",
        ]
        config = compose(
            "lab.yaml", [*words, "data.size=[32,32]", "data.batch_size=2", "balancer=gradnorm", "output_dir=long"]
        )
        watch = Watch(Path("long"))
        Experiment(config).run(observers=[watch])
        rows, files = watch.rows[len(watch.rows) // 20 :], watch.files[len(watch.files) // 5 :]
        quarter = len(rows) // 4
        first, last = rows[:quarter], rows[-quarter:]
        memory = [max(row[1] for row in part) / MIB for part in (first, last)]
        pace = [1000 * (part[-1][0] - part[0][0]) / (len(part) - 1) / every for part in (first, last)]
        result.notes.append(
            f"in the first and the last quarter, memory {memory[0]:.0f} and {memory[1]:.0f} MiB, CPU time of a step "
            f"{pace[0]:.2f} and {pace[1]:.2f} ms"
        )
        if memory[1] > memory[0] + SLACK / MIB:
            result.fault(f"memory grew from {memory[0]:.0f} to {memory[1]:.0f} MiB")
        if max(row[2] for row in last) > max(row[2] for row in first):
            result.fault("open files became more")
        if max(count for _, count in files[-quarter:]) > max(count for _, count in files[:quarter]):
            result.fault("threads became more")
        if files[-1][0] > files[0][0] + 4:  # `previous` or `best` may come later
            result.fault(f"files became more: {files[0][0]} and then {files[-1][0]}")
        result.outcomes["steps"] += count
    return result


# A long log


def long_log(folder: Path, seed: int, count: int) -> Result:
    """Reads logs of `count` lines and of a tenth of it: all that reads a log must need the same memory."""
    result, peaks, sizes = Result(), [], []
    for lines in (count // 10, count):
        run = folder / str(lines)
        write_log(run, lines)
        write_report(run)  # once before: what is imported is no matter
        tracemalloc.start()
        write_report(run)
        summary(run)
        explain(run)
        progress_of(run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append((run / "report.html").stat().st_size)
    words = f"{peaks[0] / MIB:.0f} MiB and {peaks[1] / MIB:.0f} MiB"
    result.notes.append(f"{count // 10} and {count} lines need {words}; the pages have {sizes[0]} and {sizes[1]} bytes")
    result.notes.append(f"process: at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if peaks[1] > GROWTH * peaks[0]:
        result.fault(f"memory grows with the log: {words}")
    if sizes[1] > 2 * sizes[0]:
        result.fault(f"the page grows with the log: {sizes}")
    result.outcomes["lines"] += count
    return result


def write_log(run: Path, lines: int) -> None:
    """Writes the folder of a run with two tasks and so many records of training, and an evaluation for 1000 of them."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("experiment: long\nbalancer: {name: cagrad}\nseed: 0\n")
    tasks = ("area", "depth")
    with (run / "metrics.jsonl").open("w") as file:
        file.write(json.dumps({"step": 0, "split": "info", "total_steps": lines, "selection": "last"}) + "\n")
        for i in range(lines):
            wave = 1 + (i * 37 % 101) / 100
            record: dict[str, Any] = {
                "step": i + 1,
                "split": "train",
                "epoch": 0,
                "step_time": 0.01 * wave,
                "cosine/area/depth": wave - 1.5,
            }
            for key in ("loss", "weight", "grad_norm", "lr"):
                record |= {f"{key}/{task}": wave for task in tasks}
            if not i % 9999:
                record["incident"] = "something happened"
            file.write(json.dumps(record) + "\n")
            if not i % max(1, lines // 20):
                file.write(
                    json.dumps({"step": i, "split": "val", "loss/area": wave, "loss/depth": wave, "depth/abs": wave})
                    + "\n"
                )
