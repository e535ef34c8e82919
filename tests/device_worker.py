"""Trains loops on a second device that is no hardware, and compares them with loops on the CPU.

python tests/device_worker.py METHOD ...
"""

import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
import mock_device

warnings.simplefilter("ignore")
mock_device.install()  # replaces functions of torch, so this runs in a process of its own

import toys  # noqa: E402
from loops import Loop  # noqa: E402
from tolerances import SINGLE, SINGLE_SUM  # noqa: E402

torch.set_num_threads(1)
for method in sys.argv[1:]:
    engine = toys.make_engine(method, precision="fp32")
    here, there = Loop(engine, method), Loop(engine, method)
    there.net.encoder.to("mock")  # `balanced` itself is not moved: it follows the features
    there.net.heads.to("mock")
    for number in range(3):
        batch = toys.make_batch(number)
        here.step(batch)
        there.step(
            {"image": batch["image"].to("mock"), "targets": {k: v.to("mock") for k, v in batch["targets"].items()}}
        )
    for key, value in here.state().items():
        found = there.state()[key]
        assert found.device.type == "mock", key
        torch.testing.assert_close(found.cpu(), value, rtol=SINGLE_SUM, atol=SINGLE, equal_nan=True, msg=key)
    sys.stdout.write(f"{method}\n")
