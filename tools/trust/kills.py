"""SIGKILL at the n-th event of the file system: what is called again ends as if it had never been killed.

An event is a call that changes the command's folder: a file is opened to be written, written, synced, cut or removed, a
name is given, a folder is made or removed, and a checkpoint's file is half written. Python's audit hooks tell most of
them, so no rights are needed. The events of an undisturbed command are listed first; then kills are spread over them.
"""

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from study_lab import write_lab

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.waits import TIMES
from trust.result import Result

SECONDS = 240  #: a command that takes longer hangs
#: Audit events that change a folder, and which of their arguments are paths.
CHANGES = {
    **{"os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (0, 1),
    "os.symlink": (0, 1)},
    **{"os.chmod": (0,), "os.truncate": (0,), "shutil.rmtree": (0,), "shutil.copyfile": (1,)},
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Scenario:
    """A command, the words that are said after a kill, and what must be the same in the end."""

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...]
    state: Callable[[Path], dict[str, Any]]
    share: int  #: of the kills
    first: str = ""  #: kill it here before, in another command: the event's name
    there: bool = False  #: the command expects its folder


STEPS = ("trainer.max_steps=4", "trainer.eval_every=2", "trainer.log_every=1", "balancer=gradnorm", "data.augment=true")
TRAIN = ("train", "lab.yaml", *STEPS, "output_dir={folder}")
SWEEP = ("train", "lab.yaml", "trainer.max_steps=2", "seed=0,1", "output_dir={folder}/s${{seed}}", "--multirun")
STUDY = (
    "compare",
    "lab.yaml",
    "trainer.max_steps=2",
    "balancer=uniform,cagrad",
    "seed=0",
    "--no-baselines",
    "output_dir={folder}",
)
PREPARE = ("data", "prepare", "lab.yaml", "--out", "{folder}")
EXPORT = (
    "export",
    "run",
    "--encoder",
    "{folder}/encoder.safetensors",
    "--format",
    "pt2",
    "--out",
    "{folder}/model.pt2",
)


def scenarios() -> tuple[Scenario, ...]:
    return (
        Scenario("run", TRAIN, (*TRAIN, "--resume"), runs, 18),
        Scenario(
            "resume of a resume", (*TRAIN, "--resume"), (*TRAIN, "--resume"), runs, 9, first="rename last.tmp last"
        ),
        Scenario("prepared data", PREPARE, PREPARE, prepared, 6),
        Scenario("multirun", SWEEP, SWEEP, runs, 6),
        Scenario("study", STUDY, STUDY, study, 7),
        Scenario("export", EXPORT, EXPORT, exported, 4, there=True),
    )


def run(folder: Path, seed: int, count: int, only: Sequence[str] = ()) -> Result:
    """Kills commands at `count` events in all, those of all scenarios or of the named ones."""
    result = Result()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    import matplotlib.figure  # noqa: F401 (children begin with it)

    with contextlib.chdir(folder):
        write_lab(Path())
        sys.path.insert(0, os.getcwd())
        made = [one for one in scenarios() if not only or one.name in only]
        shares = _shares([one.share for one in made], count)
        assert call([word.format(folder="run") for word in TRAIN], Path("run")).status == 0
        for scenario, share in zip(made, shares, strict=True):
            if share:
                _try(scenario, share, random.Random(f"{seed} {scenario.name}"), result)
    return result


def _shares(wanted: Sequence[int], count: int) -> list[int]:
    """Returns how many of `count` kills each scenario gets: as wanted, but all at least one."""
    found = [max(1, round(count * share / sum(wanted))) for share in wanted]
    found[0] = max(1, found[0] + count - sum(found))
    return found


def _try(scenario: Scenario, share: int, draw: random.Random, result: Result) -> None:
    name = scenario.name.replace(" ", "_")
    whole = Path(f"{name}-whole")
    done = _begin(scenario, whole)
    if not done or (last := call(_words(scenario.words, whole), whole)).status:
        result.fault(f"{scenario.name}: the undisturbed command fails: {Path(f'{whole}.txt').read_text()[-500:]}")
        return
    expected = scenario.state(whole)
    chosen = spread(last.events, share, draw)
    for number in chosen:
        place = Path(f"{name}-{number}")
        what = f"{scenario.name}, killed at event {number} of {len(last.events)}, {last.events[number - 1]}"
        _begin(scenario, place)
        killed = call(_words(scenario.words, place), place, number)
        if killed.status != -signal.SIGKILL:
            told = f"status {killed.status} after {len(killed.events)} events"
            result.fault(f"{what}: it was not killed there, but {told}: {Path(f'{place}.txt').read_text()[-400:]}")
            continue
        after = begin_again(_words(scenario.words, place), _words(scenario.again, place), place)
        if after.status:
            result.fault(f"{what}: status {after.status} then: {Path(f'{place}.txt').read_text()[-400:]}")
            continue
        found = scenario.state(place)
        if other := sorted(
            key for key in expected.keys() | found.keys() if not same(expected.get(key), found.get(key))
        ):
            result.fault(f"{what}: other than undisturbed: {', '.join(other[:5])}")
            continue
        result.outcomes[scenario.name] += 1
        shutil.rmtree(place)
    result.notes.append(f"{scenario.name}: {len(last.events)} events, of {len({kind(e) for e in last.events})} kinds")


def _begin(scenario: Scenario, folder: Path) -> bool:
    """Does what was killed before the scenario's own command, and returns whether it was killed there."""
    if scenario.there:
        folder.mkdir()
    if not scenario.first:
        return True
    words = [word for word in _words(scenario.words, folder) if word != "--resume"]
    return call(words, folder, name=scenario.first).status == -signal.SIGKILL


def begin_again(words: Sequence[str], again: Sequence[str], folder: Path) -> "Ended":
    """Says the words that go on and, where the command says that there is nothing to go on with, the first ones."""
    after = call(again, folder)
    if after.status == 2 and f"There is no run in {folder} to resume" in Path(f"{folder}.txt").read_text():
        return call([word for word in words if word != "--resume"], folder)
    if after.status == 2 and "exists already. Remove it" in Path(f"{folder}.txt").read_text():  # as an export says
        shutil.rmtree(folder)
        folder.mkdir()
        return call(words, folder)
    return after


def _words(words: Sequence[str], folder: Path) -> list[str]:
    return [word.format(folder=folder) for word in words]


def spread(events: Sequence[str], count: int, draw: random.Random) -> list[int]:
    """Returns numbers of events, from 1: of all kinds before a second one of any kind."""
    numbers = [*range(1, len(events) + 1)]
    draw.shuffle(numbers)
    seen: dict[str, int] = {}
    rounds = []
    for number in numbers:
        name = kind(events[number - 1])
        seen[name] = seen.get(name, 0) + 1
        rounds.append((seen[name], number))
    return [number for _, number in sorted(rounds, key=lambda pair: pair[0])[:count]]


def kind(event: str) -> str:
    """Returns the kind of an event: its name without numbers."""
    return re.sub(r"[0-9a-f]{6,}|\d+", "N", event)


# One command, in a process of its own


def fork() -> int:
    """Forks this process, as `os.fork`. The fork may then compute with torch.

    After a fork, torch renews its pool of threads at the first call that needs it. If the main thread and autograd's
    are both there by then, one of them may find no pool, and the process aborts ("Invalid thread pool!"). So the pool
    is renewed here, while the fork has one thread only.
    """
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
    return child


@dataclass(frozen=True)
class Ended:
    """The status of a command, negative for a signal, and its events as far as it came."""

    status: int
    events: list[str]


def call(words: Sequence[str], folder: Path, number: int = 0, name: str = "") -> Ended:
    """Runs the command in a fork of this process. It is killed at the event of a number, or at the second of a name."""
    told = Path(f"{folder}.events")
    child = fork()
    if not child:
        _child(words, folder, number, name, told)
    until = time.monotonic() + SECONDS
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(124, [])
        time.sleep(0.01)
    events = told.read_text().splitlines()
    told.unlink()
    return Ended(os.waitstatus_to_exitcode(found[1]), events)


def _child(words: Sequence[str], folder: Path, number: int, name: str, told: Path) -> None:
    status = 1
    try:
        out = os.open(f"{folder}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # tests put others in their place
        Watch(folder, number, name, told).begin()
        status = main(list(words))
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 (this fork must never go on as its parent)
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


class Watch:
    """Writes every event below `folder` into the file `told`, and kills this process at the chosen one."""

    def __init__(self, folder: Path, number: int, name: str, told: Path) -> None:
        self.top, self.number, self.name = os.path.abspath(folder), number, name
        self.lines = open(told, "w", buffering=1)  # noqa: SIM115 (as long as the process)
        self.seen = self.same_name = 0
        self.lock = threading.RLock()  # checkpoints are written by a thread, and an event may be within another one

    def tick(self, what: str, paths: Sequence[object], last: Callable[[], object] = lambda: None) -> None:
        """Counts an event. `last` is what is still done before the process is killed there."""
        texts = [os.path.abspath(os.fsdecode(path)) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        if not any(text == self.top or text.startswith(f"{self.top}{os.sep}") for text in texts):
            return
        event = " ".join([what, *(os.path.relpath(text, self.top) for text in texts)]).replace("\n", " ")
        with self.lock:
            self.seen += 1
            self.same_name += event.replace("checkpoints/", "") == self.name
            self.lines.write(f"{event}\n")
            if self.seen == self.number or self.same_name == 2:
                last()
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """What Python calls at its audit events."""
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING:
            self.tick("open", args[:1])
        elif event in CHANGES:
            self.tick(event.rpartition(".")[2], [args[i] for i in CHANGES[event]])

    def of_number(self, own: Callable[..., Any], what: str, number: int, *rest: Any) -> Any:
        """Stands for a function of `os` that takes an open file, for which there is no audit event."""
        half = partial(own, number, bytes(rest[0])[: len(rest[0]) // 2]) if what == "write" else (lambda: None)
        self.tick(what, [os.readlink(f"/proc/self/fd/{number}")], half)
        return own(number, *rest)

    def saved(self, own: Callable[..., Any], value: Any, path: Any, *rest: Any, **options: Any) -> Any:
        """Stands for a function that writes a whole file, which can be killed when half of it is there."""
        found = own(value, path, *rest, **options)
        if isinstance(path, str | os.PathLike):
            self.tick("half written", [path], lambda: os.truncate(path, os.path.getsize(path) // 2))
        return found

    def begin(self) -> None:
        """Watches from here on."""
        from mtlkit.run import snapshot

        for what in ("write", "fsync", "ftruncate"):
            setattr(os, what, partial(self.of_number, getattr(os, what), what))
        for module, function in ((torch, "save"), (snapshot, "save_model"), (snapshot, "save_file")):
            setattr(module, function, partial(self.saved, getattr(module, function)))
        sys.addaudithook(self.hook)


# What must be the same


def runs(folder: Path) -> dict[str, Any]:
    """Returns the names of all files, and of every run in the folder its figures, weights and state of training."""
    found: dict[str, Any] = {"files": names(folder)}
    for path in folder.rglob("metrics.jsonl"):
        records = [record for record in log.read_log(path) if record["split"] != "info"]
        found[str(path.relative_to(folder))] = [_without(record, *TIMES) for record in records]
    for path in folder.rglob("*.safetensors"):
        found[str(path.relative_to(folder))] = safetensors.torch.load_file(path)
    for path in folder.rglob("training.pt"):
        found[str(path.relative_to(folder))] = _without(torch.load(path, weights_only=True), "seconds")
    for path in folder.rglob("config.yaml"):
        found[str(path.relative_to(folder))] = path.read_text().replace(str(folder), "FOLDER")
    return found


def prepared(folder: Path) -> dict[str, Any]:
    """Returns the content of all blocks, and the manifest without its date."""
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
    manifest = json.loads((folder / "manifest.json").read_text())
    return found | {"files": names(folder), "manifest": _without(manifest, "date")}


def study(folder: Path) -> dict[str, Any]:
    """Returns what its runs are, and the rows of its results without the cost."""
    with (folder / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not re.search("time|memory|second|cost", " ".join(row.values()))]
    rows = [{key: value.replace(str(folder), "FOLDER") for key, value in row.items()} for row in rows]
    return runs(folder) | {"results": rows}


def exported(folder: Path) -> dict[str, Any]:
    """Returns the encoder's weights and what the exported model makes of an image."""
    found: dict[str, Any] = {"files": names(folder)}
    found["encoder"] = safetensors.torch.load_file(folder / "encoder.safetensors")
    model = torch.export.load(str(folder / "model.pt2")).module()
    found["outputs"] = model(torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
    return found


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in keys}


def same(one: Any, other: Any) -> bool:
    """Returns whether two values of tensors, numbers and containers are the same bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
