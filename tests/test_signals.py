"""What schedulers, Ctrl-C and SIGKILL do to a run and to the processes that it started."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from study_lab import write_lab
from test_distributed import launch

from mtlkit import log
from mtlkit.cli.main import main
from mtlkit.data.children import Loader
from mtlkit.datasets.scenes import Scenes, cache
from mtlkit.errors import RESUME
from mtlkit.process import this_process
from mtlkit.run.progress import progress_of
from mtlkit.waits import TIMES

# Makes a process signal itself once, within an optimizer step. AT=SIGTERM:2:0 says which signal, step and rank.
SIGNALLING = """
import os, signal
from mtlkit import distributed
from mtlkit.engine.engine import Engine

made = Engine.train_step

def train_step(self, batch):
    found = made(self, batch)
    here = os.environ.get("AT", "").split(":")
    if len(here) == 3 and (self.step, distributed.rank()) == (int(here[1]), int(here[2])):
        del os.environ["AT"]
        os.kill(os.getpid(), getattr(signal, here[0]))
    return found

Engine.train_step = train_step
"""
STEPS = ["train", "lab.yaml", "balancer=gradnorm", "data.augment=true", "trainer.max_steps=6", "trainer.eval_every=3"]


@pytest.fixture
def _lab(tmp_path, monkeypatch):
    write_lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def same(first: Path, second: Path) -> bool:
    """Returns whether two runs have the same weights and the same figures in their logs, bit for bit."""
    for name in ("last", "best"):
        for file in ("model.safetensors", "balancer.safetensors"):
            one, other = (load_file(run / "checkpoints" / name / file) for run in (first, second))
            if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
                return False
    return figures(first) == figures(second)


def figures(run: Path) -> list[dict[str, object]]:
    records = [record for record in log.read_log(run / "metrics.jsonl") if record["split"] != "info"]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


@pytest.mark.usefixtures("_lab", "no_report")
@pytest.mark.parametrize(("name", "step"), [("SIGTERM", 2), ("SIGUSR1", 3)])  # an evaluation follows step 3
def test_a_signal_saves_and_the_run_goes_on_as_if_there_had_been_none(name, step, monkeypatch, capsys):
    from mtlkit.engine.engine import Engine

    monkeypatch.setattr(Engine, "train_step", Engine.train_step)  # is put back after the test
    exec(SIGNALLING, {})
    assert main([*STEPS, "output_dir=whole"]) == 0
    monkeypatch.setenv("AT", f"{name}:{step}:0")
    assert main([*STEPS, "output_dir=stopped"]) == RESUME
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"mtlkit: {name}: stopped after step {step}, with a checkpoint. The same command")
    last = log.read_log(Path("stopped/metrics.jsonl"))[-1]
    assert (last["status"], last["step"]) == ("stopped", step)
    assert progress_of(Path("stopped")) == "begun"
    assert figures(Path("stopped"))[-1]["split"] == "train"  # no time for an evaluation
    assert not list(Path("stopped").glob(".*"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    Path("stopped/.report.html.tmp").touch()  # as SIGKILL leaves them
    Path("stopped/checkpoints/best.tmp").mkdir()
    assert main([*STEPS, "output_dir=stopped", "--resume"]) == 0
    assert same(Path("whole"), Path("stopped"))
    assert not [*Path("stopped").glob(".*"), *Path("stopped").glob("*/*.tmp")]


@pytest.mark.usefixtures("_lab")
def test_processes_agree_on_the_step_though_one_of_them_hears_the_signal(tmp_path):
    code = SIGNALLING + (
        "import sys; from mtlkit.cli.main import main\n"
        "import mtlkit.run.experiment as experiment; experiment.write_report = lambda run: None\n"
        "words = sys.argv[1:]\n"
        "assert main([*words, 'output_dir=whole']) == 0\n"
        "os.environ['AT'] = 'SIGUSR1:1:1'\n"
        "assert main([*words, 'output_dir=stopped']) == 75\n"
        "assert main([*words, 'output_dir=stopped', '--resume']) == 0\n"
        "import torch; torch.distributed.destroy_process_group()\n"
    )
    launch(2, "-c", code, *STEPS)
    said = [
        record for record in log.read_log(tmp_path / "stopped" / "metrics.jsonl") if record.get("status") == "stopped"
    ]
    assert len(said) == 1
    assert "SIGUSR1: stopped after step" in said[0]["why"]
    assert said[0]["step"] < 6
    assert same(tmp_path / "whole", tmp_path / "stopped")


@contextmanager
def started(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    env, call = os.environ | {"OMP_NUM_THREADS": "1"}, [sys.executable, "-c", code, *words]
    with subprocess.Popen(call, env=env, stdout=-1, stderr=-1, text=True, process_group=0) as run:
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):  # nobody is left, unless a test fails
                os.killpg(run.pid, signal.SIGKILL)


def wait_until(what) -> None:
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("_lab")
def test_ctrl_c_is_one_line_also_with_workers(tmp_path):
    # A shell that starts the tests in the background makes its children ignore Ctrl-C.
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = f"{listen}from mtlkit.cli.main import main; sys.exit(main())"
    path = tmp_path / "run" / "metrics.jsonl"
    with started(code, "train", "lab.yaml", "data.workers=1", "trainer.max_steps=100000", "output_dir=run") as run:
        wait_until(lambda: path.exists() and '"step": 2,' in path.read_text())
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.communicate()[1] == "mtlkit: Interrupted.\n"
        assert run.returncode == 130
    assert json.loads(path.read_text().splitlines()[-1])["why"] == "Ctrl-C"
    assert not (tmp_path / "run" / ".claim").exists()


class Slow(torch.utils.data.Dataset):
    """Its samples take for ever."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        while True:
            time.sleep(1)


def load_and_render(folder: str) -> None:
    loader = iter(Loader(Slow(), num_workers=1))
    cache.FEW, cache._processors = 0, lambda: 2
    Scenes(folder, size=(24, 20))
    next(loader)


def test_workers_leave_signals_to_the_main_process_and_end_with_it(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_signals import load_and_render as f; f(sys.argv[2])"
    with started(code, str(Path(__file__).parent), str(tmp_path)) as run:
        wait_until(lambda: len(list(tmp_path.glob(".rendering-*/done-*"))) == 2)
        children = psutil.Process(run.pid).children()
        assert len(children) == 3
        for child in children:  # as Ctrl-C and launchers do
            child.send_signal(signal.SIGINT)
            child.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert all(map(alive, children))
        run.kill()
        run.wait()
        wait_until(lambda: not any(map(alive, children)))
    (left,) = tmp_path.glob(".*")
    (other := tmp_path / f"{cache.TEMPORARY}other").mkdir()
    (other / cache.OWNER).write_text(json.dumps(this_process()))
    frames = Scenes(tmp_path, size=(16, 16), limit=1).folder
    assert {path.name for path in tmp_path.iterdir()} == {frames.name, other.name}
    assert not left.exists()
