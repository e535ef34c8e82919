"""If a process that loads data dies or has no memory, there is one message with advice and no traceback."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from mtlkit.cli.main import main
from mtlkit.data.workers import loading_trouble, own_words
from mtlkit.engine.losses import NonFiniteError

PLUGIN = """
import os, signal
import torch
from mtlkit.data.dataset import DATASETS, Dataset, Target

@DATASETS.register("deadly")
class Deadly(Dataset):
    \"\"\"Eight pictures, one of which ends the process that reads it, if that is not the main one.\"\"\"

    def __init__(self, root=None, split="train", size=None, limit=None, way="kill"):
        self.targets, self.way = {"flags": Target("multilabel", ("p",))}, way

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5 and torch.utils.data.get_worker_info() is not None:
            if self.way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.way == "memory":
                raise MemoryError
            raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")
        return {"image": torch.zeros(3, 8, 8), "targets": {"flags": torch.ones(1)}}
"""
EXPERIMENT = """
plugins: [deadly_plugin]
data: {name: deadly, batch_size: 2, workers: 1}
model: {encoder: test_resnet}
task: {flags: {type: multilabel, decoder: linear}}
trainer: {max_steps: 8}
"""


def write(folder: Path) -> None:
    (folder / "deadly_plugin.py").write_text(PLUGIN)
    (folder / "deadly.yaml").write_text(EXPERIMENT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "deadly.yaml", "output_dir=run"], "A process that loads data has died: DataLoader worker (pid"),
        (["data", "prepare", "deadly.yaml", "--workers", "1", "--out", "fast"], "A process that loads data has died"),
        (
            ["train", "deadly.yaml", "seed=0,1", "output_dir=run", "--multirun"],
            "A process that loads data has died: DataLoader worker (pid",
        ),
    ],
)
def test_a_dead_worker_is_one_message_with_advice(words: list[str], message: str, tmp_path: Path) -> None:
    """Runs in its own process, because torch reports a dead worker by a signal, which might interrupt the next test."""
    write(tmp_path)
    program = "import sys; from mtlkit.cli.main import main; sys.exit(main())"
    found = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 2
    jobs = 2 if "--multirun" in words else 1  # after a failed job, the next one still runs
    check_advice(found.stderr, message, jobs)


@pytest.mark.parametrize(
    ("way", "message"),
    [("memory", "There is too little memory. Take fewer"), ("shared", "too little shared memory for the processes")],
)
def test_a_worker_without_memory_is_one_message_with_advice(
    way: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """No process dies here, so this one may train."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["train", "deadly.yaml", f"data.way={way}", "output_dir=run"]) == 2
    check_advice(capsys.readouterr().err, message, 1)


def check_advice(error: str, message: str, number: int) -> None:
    complaints = [line for line in error.splitlines() if line.startswith("mtlkit: ")]
    assert len(complaints) == number
    assert message in complaints[0]
    assert "data.workers=2" in complaints[0]
    assert "data.batch_size" in complaints[0]
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "memory has run out"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "memory has run out"),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are"), "has died"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), "/dev/shm"),
        (RuntimeError("unable to open shared memory object </torch_4_5> in read-write mode: (28)"), "--shm-size"),
        (RuntimeError("unable to mmap 8 bytes from file <filename not specified>: Cannot allocate"), "/dev/shm"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory: [Errno 12] Cannot allocate memory. Take"),
        (MemoryError(), "There is too little memory. Take fewer"),
    ],
)
def test_what_is_known_of_loading(error: Exception, part: str) -> None:
    found = loading_trouble(error)
    assert found is not None
    assert part in found
    assert "data.workers" in found


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nTraceback:\nRuntimeError: my own"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError("DataLoader worker (pid 7) is killed by signal: Killed"),
        ValueError("Too many open files"),
        NonFiniteError("The loss is nan."),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert loading_trouble(error) is None


def test_the_words_of_an_error_in_a_worker_are_its_own() -> None:
    wrapped = ValueError(
        "Caught ValueError in DataLoader worker process 0.\nTraceback ...\nValueError: a.png is: bad\n"
    )
    assert own_words(wrapped) == "a.png is: bad"
    assert own_words(ValueError("two\nlines: kept")) == "two\nlines: kept"
