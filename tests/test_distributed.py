"""Two processes give the same results as one process on the joined batches."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import mtlkit
from mtlkit.waits import TIMES

sys.path.insert(0, str(Path(__file__).parent))
from distributed_worker import RUNS
from nodes import command, ends, free_port, line_of_readme, start
from tolerances import NETWORK


def launch(world: int, *command: str, limit: float = 600) -> None:
    """Starts the command in `world` processes, which gloo connects. None of them is left after `limit` seconds."""
    port = free_port()
    processes = []
    for rank in range(world):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        processes.append(subprocess.Popen([sys.executable, *command], env=env, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=limit)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-4000:]


@pytest.fixture(scope="module")
def results(once):
    worker = str(Path(__file__).parent / "distributed_worker.py")

    def run(folder: Path) -> None:
        for world in (1, 2):
            launch(world, worker, str(folder / f"{world}.pt"))

    folder = once("distributed", run)
    return torch.load(folder / "1.pt"), torch.load(folder / "2.pt")


@pytest.mark.parametrize(("name", "case", "precision"), RUNS)
def test_two_processes_equal_one(results, name, case, precision):
    one, two = (found[name, case, precision] for found in results)
    tolerance = 1e-9 if precision == "fp64" else 1e-5
    assert two["spread"] == 0  # both processes have equal values
    for kind in ("losses", "weights"):
        for a, b in zip(one[kind], two[kind], strict=True):
            assert a.keys() == b.keys()
            for task in a:
                assert b[task] == pytest.approx(a[task], rel=tolerance, abs=tolerance), (kind, task)
    assert one["state"].keys() == two["state"].keys()
    for key, value in one["state"].items():
        torch.testing.assert_close(
            two["state"][key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


SETS = """
- {name: scenes, targets: [segmentation, depth], root: ROOT, train_size: 7, val_size: 3}
- {name: scenes, targets: [normals, attributes], root: ROOT, train_size: 5, val_size: 2, dataset_seed: 1}
"""


def test_a_whole_run_on_two_processes_is_that_on_one(tmp_path, no_report):
    """Every part is equal: rendering, loading, mixing two sets, augmentation, training, evaluation and log.

    The lines of README.md start the processes: that for one machine, and that for several.
    """
    experiment = tmp_path / "experiment.yaml"
    sets = f"concat: {SETS}mixing: uniform\n".replace("ROOT", str(tmp_path / "cache"))
    experiment.write_text(
        "defaults: [/model: resnet18, /task: [segmentation, depth, normals, attributes], _self_]\n"
        f"data:\n{textwrap.indent(sets, '  ')}"
    )
    words = [
        "data.size=[32,32]",
        "data.batch_size=4",
        "data.eval_batch_size=2",  # the processes get 3 and 2 samples
        "task.depth.compat=mtan",  # means of batch values need the same batches
        "data.augment=true",
        "model.encoder=test_resnet",
        "model.batch_norm=frozen",
        "balancer=rotograd",
        "trainer.precision=fp64",
        "trainer.accumulation=2",
        "trainer.max_steps=4",
        "trainer.log_every=1",
        "trainer.eval_every=2",
    ]
    mtlkit.Experiment.compose(str(experiment), [*words, f"output_dir={tmp_path / 'alone'}"]).run()
    for name, several, processes in (("agent", False, 2), ("agents", True, 1)):
        line = line_of_readme("torchrun", nodes=several)
        given = (line, str(experiment), processes, [*words, f"output_dir={tmp_path / name}"])
        port = [free_port()] * several
        agents = [start(command(*given, *port)) for _ in range(2 // processes)]
        for status, said in ends(agents):
            assert status == 0, said
    one, *others = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "agent", "agents")
    )
    first = next(record for record in one if record["split"] == "train")
    assert {"loss/depth", "loss/normals"} <= first.keys()  # both sets are in it
    for two in others:
        assert [r["processes"] for r in (one[0], two[0])] == [1, 2]
        assert len(one) == len(two) > 8
        for a, b in zip(one[1:], two[1:], strict=True):
            assert a.keys() == b.keys()
            for key in a.keys() - {*TIMES, "peak_memory", "seconds"}:
                exact = a[key] is None or isinstance(a[key], str | dict)  # None: a class that does not occur
                same = a[key] if exact else pytest.approx(a[key], rel=NETWORK, abs=NETWORK)
                assert b[key] == same, (a["step"], key)


def test_cases_are_what_they_say(results):
    """Some tasks are absent and some weights differ from 1. Otherwise the comparison would prove little."""
    one = results[0]
    tasks = [set(found) for found in one["uniform", "missing_everywhere", "fp64"]["losses"]]
    assert tasks[0] == tasks[4] == {"segmentation", "attributes"}
    assert tasks[5] == set()
    assert len(one["uniform", "accumulation", "fp64"]["losses"]) == 2 * len(tasks)
    at_once = [set(found) for found in one["cagrad in parameters", "all_at_once", "fp64"]["losses"]]
    assert at_once[::2] == at_once[1::2] == tasks
    for name in ("gradnorm_features", "gradnorm_last_layer", "rotograd", "uncertainty"):
        weights = one[name, "plain", "fp64"]["weights"][-1]
        assert len({round(value, 3) for value in weights.values()}) > 1, name


def test_processes_with_another_run_are_refused_together_and_named(results):
    seed, resume, code, content, length = results[1]["disagreements"]  # equal data and data.root have no message
    start = "All processes must have the same settings and code, but rank 1 has"
    assert seed == f"{start} seed=1, rank 0 has seed=0."
    assert resume == f"{start} resume=True, rank 0 has resume=False."
    assert re.fullmatch(rf"{start} code of pictures_lab=(\w+), rank 0 has code of pictures_lab=(?!\1)\w+\.", code)
    start = "All processes must have the same data, but rank 1 has"
    assert re.match(rf"{start} mean of image in training sample 0=[\d.]+, rank 0 has mean of image in", content)
    assert re.search(r"; and \d+ more\.$", content)
    assert length.startswith(
        f"{start} training samples=13, rank 0 has training samples=12; rank 1 has validation samples"
    )


def test_buffers_become_their_mean_and_equal_ones_stay_as_they_are():
    """Three processes keep equal numbers, although 3 x / 3 differs from x for one number in six."""
    code = (
        "import torch; from torch import nn; from mtlkit import distributed\n"
        "from mtlkit.sample_group import SampleGroup\n"
        "distributed.start()\n"
        "module, rank = nn.Module(), distributed.rank()\n"
        "equal = torch.rand(1000, generator=torch.Generator().manual_seed(0))\n"
        "module.register_buffer('equal', torch.cat([equal, torch.tensor([-torch.inf])]))\n"
        "module.register_buffer('own', torch.tensor([float(rank), 5.0, 3.0 * rank]))\n"
        "before = module.equal.clone()\n"
        "SampleGroup().average_buffers(module)\n"
        "assert torch.equal(module.equal, before)\n"
        "assert module.own.tolist() == [1.0, 5.0, 3.0]\n"
        "torch.distributed.destroy_process_group()\n"
    )
    launch(3, "-c", code)
