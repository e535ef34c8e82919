"""DeepSpeed: its configuration follows ours, and ZeRO gives what plain data parallelism gives."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtlkit.config.schema import TrainerConfig
from mtlkit.engine.zero import configure
from mtlkit.run import checkpoint, training_state
from mtlkit.run.launcher import about_the_launcher

sys.path.insert(0, str(Path(__file__).parent))
from test_distributed import launch
from tolerances import SINGLE


def configured(theirs, **ours):
    accelerator = SimpleNamespace(
        distributed_type=SimpleNamespace(value="DEEPSPEED"), deepspeed_plugin=SimpleNamespace(deepspeed_config=theirs)
    )
    configure(accelerator, TrainerConfig(max_steps=1, **ours))
    return theirs["gradient_clipping"], theirs["train_micro_batch_size_per_gpu"]


@pytest.mark.parametrize("theirs", [{}, {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}])
def test_the_longest_gradient_is_ours(theirs):
    """Accelerate and DeepSpeed would clip at 1."""
    assert configured(dict(theirs)) == (0, 1)
    assert configured(dict(theirs), clip_norm=2.5) == (2.5, 1)
    given = {"gradient_clipping": 2.5, "train_micro_batch_size_per_gpu": 4}
    assert configured(given, clip_norm=2.5) == (2.5, 4)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ({"gradient_clipping": 1.0}, {}, r"trainer\.clip_norm=None, but .* gradient_clipping: 1\.0.*clip_norm=1\.0"),
        ({"gradient_clipping": 0}, {"clip_norm": 2.0}, r"trainer\.clip_norm=2\.0, but .*clip_norm=null"),
        ({}, {"clip_encoder": 1.0}, r"trainer\.clip_encoder: DEEPSPEED keeps .*clip_encoder=null, or launch"),
        ({}, {"precision": "bf16"}, r"trainer\.precision=bf16: DEEPSPEED would convert the parameters"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(theirs, ours, message):
    with pytest.raises(ValueError, match=message):
        configured(theirs, **ours)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.long
def test_zero_gives_what_plain_data_parallelism_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    launch(2, "-W", "ignore", str(Path(__file__).parent / "zero_worker.py"), str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 8
    for case in found.values():
        assert case["gap"] < SINGLE
        assert case["rates"]


def test_a_run_without_the_optimizers_state_cannot_go_on(toys, tmp_path, monkeypatch):
    engine = toys.make_engine()
    with monkeypatch.context() as deepspeed:
        deepspeed.setattr(training_state, "is_deepspeed", lambda accelerator: True)
        checkpoint.save_checkpoint(engine, tmp_path / "last")
        with pytest.raises(ValueError, match=r"a run under DeepSpeed cannot go on, .* model\.init_from"):
            checkpoint.load_checkpoint(engine, tmp_path / "last")
    with pytest.raises(ValueError, match="a run under DeepSpeed cannot go on"):
        checkpoint.load_checkpoint(engine, tmp_path / "last")


@pytest.mark.parametrize(
    ("asked", "kind", "processes", "said"),
    [
        ("ACCELERATE_USE_FSDP", "MULTI_CPU", 2, r"asks for FSDP, but .* plain data parallelism \(MULTI_CPU\)"),
        ("ACCELERATE_USE_DEEPSPEED", "NO", 1, "asks for DeepSpeed, but .* one process"),
        ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED", 2, "this run cannot be resumed"),
        ("ACCELERATE_USE_FSDP", "FSDP", 2, None),
    ],
)
def test_what_a_launcher_does_not_do_is_said(monkeypatch, asked, kind, processes, said):
    monkeypatch.setenv(asked, "true")
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=processes)
    lines = about_the_launcher(accelerator)
    assert len(lines) == (said is not None)
    assert not lines or re.search(said, lines[0])
