"""Parameters split over processes: FSDP2 by root, by parts and by blocks, HSDP, and FSDP2 with tensor parallelism.

The engine and `mtlkit.Balanced` train next to a plain loop in one process (`plain_loop.py`), in float64.
"""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sharded_worker import SHORT
from test_distributed import launch
from tolerances import NETWORK

WORKER = str(Path(__file__).parent / "sharded_worker.py")


def found(folder, *mode):
    for world in (2, 4):
        launch(world, WORKER, str(folder / f"{world}.json"), *mode)


@pytest.fixture(scope="module")
def results(once):
    folder = once("sharded", lambda folder: found(folder, "short"))
    return {world: json.loads((folder / f"{world}.json").read_text()) for world in (2, 4)}


def check(case):
    assert case["moved"] > 1e-3
    assert case["engine"] < NETWORK
    assert case.get("loop", 0.0) < NETWORK


@pytest.mark.parametrize(("world", "case"), [(w, "/".join(map(str, case))) for w in SHORT for case in SHORT[w]])
def test_split_parameters_give_what_one_process_gives(results, world, case):
    check(results[world]["cases"][case])


@pytest.mark.parametrize(
    ("world", "name", "message"),
    [
        (2, "jacobian", r"MoCo with balancer.space=parameters reads the whole gradients.*Take another balancer"),
        (2, "mesh", r"Along tp, processes have the same samples.*Pass mesh\['dp'\]"),
        (2, "heads", r"CosReg differentiates gradients once more.*pass encoder= and heads="),
        (2, "loop", r"MoCo with balancer.space=parameters reads the whole gradients"),
        (2, "ema", r"trainer.ema: FSDP splits the weights"),
        (4, "tensorwise", r"CAGrad with balancer.space=parameters takes parameters that FSDP2 splits.*tensor parallel"),
    ],
)
def test_what_cannot_work_is_refused_at_set_up(results, world, name, message):
    assert re.search(message, results[world]["refusals"].get(name, "nothing was refused"), re.DOTALL)


@pytest.mark.long
def test_every_balancer_in_every_space_and_layout(tmp_path):
    found(tmp_path)
    for world in (2, 4):
        cases = json.loads((tmp_path / f"{world}.json").read_text())["cases"]
        assert len(cases) > 100
        for case in cases.values():
            check(case)
