"""Several processes and machines: the lines of README.md, and what happens when a process fails."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from nodes import ROOT, command, ends, free_port, line_of_readme, ranks, start
from study_lab import write_lab
from torch.distributed import TCPStore
from torch.distributed.run import get_args_parser

from mtlkit.cli.voices import ENDED, voice
from mtlkit.waits import TIMES

BAD = '''
class Torn(Pictures):
    """One of its pictures is damaged, on one process only, as on a machine with a bad disk."""
    def __getitem__(self, index):
        if index == 4 and self.split == "train" and os.environ.get("RANK") == "1":
            raise ValueError("pictures/4.png is damaged")
        return super().__getitem__(index)

DATASETS.register("torn")(Torn)
'''


@pytest.fixture
def lab(tmp_path):
    write_lab(tmp_path)
    with (tmp_path / "pictures_lab.py").open("a") as file:
        file.write(BAD)
    return tmp_path


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_line_for_accelerate_starts_as_many_processes_as_it_says(lab):
    line = line_of_readme("accelerate launch")
    (launched,) = ends([start(command(line, "lab.yaml", 2, ["output_dir=run"]), cwd=lab)])
    assert launched[0] == 0, launched[1]
    assert records(lab / "run")[0]["processes"] == 2


def test_what_fails_on_one_process_ends_all_with_its_message(lab):
    words = ["train", "lab.yaml", "data.name=torn", "output_dir=run", "trainer.max_epochs=9", "trainer.max_steps=20"]
    (status, said), (other, told) = ends(ranks([words, words], cwd=lab))
    assert (status, other) == (2, 2)
    assert told.splitlines() == ["mtlkit: rank 1: Sample 4: pictures/4.png is damaged"], told
    assert [line for line in said.splitlines() if line.startswith("mtlkit")] == [f"mtlkit: {ENDED}"], said
    assert "Traceback" not in said


def test_of_those_that_fail_with_the_same_words_one_prints_them(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("mtlkit.cli.voices.PATIENCE", 0.2)

    def said(rank: int, message: str) -> str:
        monkeypatch.setenv("RANK", str(rank))
        return voice(message)

    assert [said(rank, "no such file") for rank in (0, 1, 2)] == ["no such file", "", ""]
    assert [said(rank, "memory is full") for rank in (2, 1)] == ["rank 2: memory is full", ""]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # after a restart, the same is news
    assert said(0, "no such file") == "no such file"


@pytest.mark.long
def test_a_mistake_in_the_words_of_one_process_does_not_let_the_others_wait(lab):
    right = ["train", "lab.yaml", "output_dir=run"]
    (status, said), (other, told) = ends(ranks([right, [*right, "trainer.lrr=1"]], cwd=lab))
    assert (status, other) == (2, 2)
    assert "mtlkit: rank 1: trainer.lrr: unknown key" in told
    assert f"mtlkit: {ENDED}" in said
    assert not (lab / "run").exists()


FAKES = {
    "srun": """[ "$SLURM_NNODES" = 2 ] && echo "$*" >> srun.txt; "$@" """,
    "torchrun": 'for word in "$@"; do echo "$word" >> torchrun.txt; done; mkdir -p runs/a; cp log runs/a/metrics.jsonl',
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" >> requeued.txt; else printf "node7\\nnode8\\n"; fi',
}


@pytest.mark.parametrize("status", ["stopped", "finished"])
def test_the_script_for_slurm_goes_on_until_the_run_is_finished(tmp_path, status):
    """Slurm and torchrun are not here: small scripts note how they are called."""
    (script,) = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "#SBATCH --signal=USR1@120 --requeue" in script
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "log").write_text(json.dumps({"step": 3, "split": "info", "status": status}) + "\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77"}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env | {"SLURM_JOB_NODELIST": "node[7-8]"}, check=True)
    given = get_args_parser().parse_args((tmp_path / "torchrun.txt").read_text().splitlines())
    assert (given.nnodes, given.rdzv_backend, given.rdzv_endpoint) == ("2", "c10d", "node7:29400")
    assert (given.signals_to_handle, given.module) == ("SIGTERM,SIGINT,SIGUSR1", True)
    assert [given.training_script, *given.training_script_args[:2]] == ["mtlkit", "train", "scenes"]
    assert "--multirun" in given.training_script_args
    assert (tmp_path / "requeued.txt").exists() == (status == "stopped")


@pytest.mark.long
def test_a_machine_that_is_lost_and_comes_back_changes_nothing(lab):
    """An agent and its worker are killed in training. The other agent waits for a new one, and the run goes on."""
    # Without the variable, the agents of torch 2.14 wait for each other in vain (pytorch#135712).
    more = {"cwd": lab, "env": {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}}
    length = ["trainer.max_steps=300", "trainer.max_epochs=999", "trainer.eval_every=100", "trainer.save_every=7"]
    line = line_of_readme("torchrun", nodes=True).replace("-m mtlkit", "--max-restarts 3 -m mtlkit")

    def agent(run: str, port: int) -> subprocess.Popen:
        return start(command(line, "lab.yaml", 1, [*length, f"output_dir={run}"], port), **more)

    def training(run: str) -> bool:
        path = lab / run / "metrics.jsonl"
        return path.exists() and path.read_text().count('"train"') > 100

    port = free_port()
    whole = [agent("whole", port), agent("whole", port)]
    assert [status for status, _ in ends(whole)] == [0, 0]

    port = free_port()
    first = agent("killed", port)
    time.sleep(5)  # so that the first one is at the rendezvous's address, which must not be lost
    second = agent("killed", port)
    while not training("killed"):
        assert first.poll() is None
        time.sleep(0.2)
    for worker in children(second.pid):
        os.kill(worker, signal.SIGKILL)
    second.kill()
    second.communicate()
    (status, said), (other, _) = ends([first, agent("killed", port)])
    assert (status, other) == (0, 0), said
    assert said.count(f"mtlkit: killed: {ENDED}") == 1, said
    assert "Traceback" not in said
    assert [r["step"] for r in records(lab / "killed") if r["split"] == "train"] == list(range(1, 301))
    for name in ("model.safetensors", "balancer.safetensors"):
        parts = [lab / run / "checkpoints" / "last" / name for run in ("whole", "killed")]
        assert parts[0].read_bytes() == parts[1].read_bytes()
    whole, killed = ([r for r in records(lab / run) if r["split"] != "info"] for run in ("whole", "killed"))
    assert [r | dict.fromkeys(TIMES) for r in whole] == [r | dict.fromkeys(TIMES) for r in killed]


def children(pid: int) -> list[int]:
    """Returns the processes that a process started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
