"""A second device without hardware: `device_worker.py` runs the checks of `on_device.py` in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from device_worker import NO_INTERFACE


@pytest.mark.parametrize("which", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_on_a_second_device(which):
    worker = str(Path(__file__).with_name("device_worker.py"))
    words = [sys.executable, worker, "-m", which, "--tb=short"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode == NO_INTERFACE:
        pytest.skip(f"no second device: {result.stdout.strip()}")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
