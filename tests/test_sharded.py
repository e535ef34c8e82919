"""Parameters split over processes: FSDP2 by root, by parts and by blocks, HSDP, and FSDP2 with tensor parallelism.

The engine and `mtlkit.Balanced` train next to a plain loop in one process (`plain_loop.py`), in float64.
"""

import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlkit.run import checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from sharded_worker import ADAMW, LAYOUTS, SHORT
from test_distributed import launch
from tolerances import NETWORK

LOG = logging.getLogger(__name__)
WORKER = str(Path(__file__).parent / "sharded_worker.py")


def found(folder):
    for world in (2, 4):
        launch(world, WORKER, str(folder / f"{world}.json"), "short")


@pytest.fixture(scope="module")
def results(once):
    folder = once("sharded", found)
    read = {world: json.loads((folder / f"{world}.json").read_text()) for world in (2, 4)}
    return read | {"folder": folder}


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
        (4, "no mesh", r"The encoder is split along tp, where processes have the same samples.*mesh=mesh\['dp'\]"),
        (4, "tensorwise", r"CAGrad with balancer.space=parameters takes parameters that FSDP2 splits.*tensor parallel"),
    ],
)
def test_what_cannot_work_is_refused_at_set_up(results, world, name, message):
    assert re.search(message, results[world]["refusals"].get(name, "nothing was refused"), re.DOTALL)


def test_a_split_model_goes_on_with_another_number_of_processes(toys, results):
    """With the same number and another split, and in one process with none."""
    for world in (2, 4):
        folder = results["folder"] / f"{world}.json.checkpoints"
        assert len(list((folder / "two" / "optimizer").glob("*.safetensors"))) == world
        engine = toys.make_engine("nash", **ADAMW)
        checkpoint.load_checkpoint(engine, folder / "two")
        for number in (2, 3):
            engine.train_step(toys.make_batch(number))
        other = load_file(folder / "four" / "model.safetensors")
        for name, value in engine.network.state_dict().items():
            torch.testing.assert_close(other[name], value, rtol=NETWORK, atol=NETWORK)


def test_a_damaged_shard_is_named(toys, results, tmp_path):
    folder = tmp_path / "checkpoints" / "last"
    shutil.copytree(results["folder"] / "2.json.checkpoints" / "two", folder)
    shard = next((folder / "optimizer").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"{shard} is damaged: its SHA-256 is")):
        checkpoint.load_checkpoint(toys.make_engine("nash", **ADAMW), folder)
    shard.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{shard} is missing")):
        checkpoint.load_checkpoint(toys.make_engine("nash", **ADAMW), folder)


@pytest.mark.long
@pytest.mark.parametrize(("world", "layout"), [(world, layout) for world in LAYOUTS for layout in LAYOUTS[world]])
def test_every_balancer_in_every_space(tmp_path, world, layout):
    launch(world, WORKER, str(tmp_path / "found.json"), layout, limit=5400)
    cases = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert len(cases) >= 60
    for case in cases.values():
        check(case)
    worst = [max(case.get(name, 0.0) for case in cases.values()) for name in ("engine", "loop")]
    LOG.warning("%d processes, %s: %d cases, engine %.1e, loop %.1e", world, layout, len(cases), *worst)
