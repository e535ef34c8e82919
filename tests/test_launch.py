"""Runs of a study as jobs of submitit: in processes of their own, and where no cluster is."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from study_lab import write_lab
from test_signals import alive, wait_until

from mtlkit.cli.main import main
from mtlkit.log import read_log
from mtlkit.report.history import History
from mtlkit.run.progress import progress_of
from mtlkit.study.launch import Submitit

WORDS = ["compare", "lab.yaml", "balancer=uniform,falls", "seed=0", "--no-baselines"]


@pytest.fixture(autouse=True)
def _lab(tmp_path, monkeypatch):
    write_lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def _submitit():
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'mtlkit[submitit]'")


def figures(folder):
    return {key: value for key, value in History(Path(folder)).trained.items() if "/" in key}


@pytest.mark.usefixtures("_submitit")
def test_jobs_are_processes_and_give_the_same_figures(capsys):
    words = ["compare", "lab.yaml", "balancer=uniform,killed,falls", "seed=0", "--no-baselines"]
    assert main([*words, "output_dir=a", "--jobs", "2"]) == 2  # two of the three fail
    said = capsys.readouterr().out
    assert "falls, seed 0: FAILED: the problem has no solution" in said
    assert "killed, seed 0: FAILED: The job ended without a result" in said
    assert "with up to 2 runs at a time" in Path("a/table.md").read_text()
    assert main(["train", "lab.yaml", "seed=0", "output_dir=b"]) == 0
    assert figures("a/runs/uniform,seed=0") == figures("b")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its files open there
@pytest.mark.usefixtures("_submitit")
def test_the_debug_launcher_runs_here(capsys):
    assert main(["compare", "lab.yaml", "seed=0", "--no-baselines", "--launcher", "debug", "timeout_min=9"]) == 0
    assert "[1/1] uniform, seed 0: finished" in capsys.readouterr().out


@pytest.mark.usefixtures("_submitit")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--launcher", "slurm"], "--launcher slurm: submitit says: .*srun"),
        (["--launcher", "local", "slurm_partitio=a"], "slurm_partitio=a: submitit says"),
        (
            ["--launcher", "local", "seed=0,1"],
            r"seed=0,1: .*Settings of the runs stand before --launcher",
        ),
        (["--launcher", "local", "fast"], r"expected key=value, found 'fast'\. --launcher comes last"),
        (["--launcher", "pbs"], "expected one of local, slurm, debug, found 'pbs'"),
        (["--jobs", "0"], "--jobs: expected 1 or more, found 0"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_any_run(options, message, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm
    assert main([*WORDS, "output_dir=c", *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("c").exists()


class FakeExecutor:
    """Notes the GPU of each job. A job ends when it is looked at for the second time."""

    given, now = [], None

    def __init__(self, folder, cluster):
        pass

    def update_parameters(self, *, local_visible_gpus=None, **options):
        FakeExecutor.now = local_visible_gpus

    def submit(self, work, values):
        FakeExecutor.given.append(FakeExecutor.now)
        looks = iter([False, True])
        return SimpleNamespace(
            done=lambda: next(looks), exception=lambda: None, result=lambda: "", cancel=lambda: None, paths=None
        )


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"), [(2, 2, [[0], [1], [0]]), (3, 2, [[0], [1], [0]]), (2, 0, [None] * 3)]
)
def test_each_job_has_a_gpu_of_its_own(jobs, gpus, expected, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=FakeExecutor))
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("mtlkit.study.launch.PAUSE", 0)
    FakeExecutor.given = []
    config = SimpleNamespace(to_dict=dict)
    list(Submitit("local", tmp_path, jobs, {}).run([SimpleNamespace(config=config) for _ in range(3)]))
    assert FakeExecutor.given == expected


def test_without_submitit_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main([*WORDS, "output_dir=c", "--jobs", "2"]) == 2
    assert "pip install 'mtlkit[submitit]'" in capsys.readouterr().err


@pytest.mark.usefixtures("_submitit")
def test_jobs_save_and_end_with_the_command_and_the_cluster_may_start_them_again(tmp_path):
    """Also after SIGKILL of the command. A signal of the cluster, here of this test, starts a job again."""
    code = "import sys; from mtlkit.cli.main import main; sys.exit(main())"
    words = [
        "compare",
        "lab.yaml",
        "seed=0",
        "--no-baselines",
        "trainer.max_steps=100000",
        "output_dir=a",
        "--jobs",
        "1",
    ]
    command = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    run = tmp_path / "a" / "runs" / "uniform,seed=0"

    def records():
        return read_log(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []

    def job():
        return json.loads((run / ".claim").read_text())["pid"]

    try:
        wait_until(lambda: len(records()) > 9)
        os.kill(job(), signal.SIGUSR2)
        wait_until(lambda: sum("started" in record for record in records()) == 2 and "loss/area" in records()[-1])
        (stopped,) = (record for record in records() if "why" in record)
        assert stopped["why"].startswith("SIGUSR2: stopped after step")
        jobs = psutil.Process(command.pid).children(recursive=True)
    finally:
        command.kill()
        command.wait()
    wait_until(lambda: not any(map(alive, jobs)))
    assert records()[-1]["why"].startswith("SIGTERM: stopped after step")
    assert progress_of(run) == "begun"
    assert not (run / ".claim").exists()
