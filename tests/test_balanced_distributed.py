"""`mtlkit.Balanced` in a loop with DDP: two processes equal one process on the joined batch."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from balanced_worker import RUNS
from test_distributed import launch
from tolerances import NETWORK


@pytest.fixture(scope="module")
def results(once):
    worker = str(Path(__file__).parent / "balanced_worker.py")

    def run(folder):
        for world in (1, 2):
            launch(world, worker, str(folder / f"{world}.pt"))

    folder = once("balanced", run)
    return torch.load(folder / "1.pt"), torch.load(folder / "2.pt")


@pytest.mark.parametrize(("name", "case"), RUNS)
def test_two_processes_equal_one(results, name, case):
    one, two = (found[name, case] for found in results)
    assert two["spread"] == 0  # both processes have equal values
    assert two["losses"] == pytest.approx(one["losses"], rel=NETWORK)
    assert one["state"].keys() == two["state"].keys()
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=NETWORK, atol=NETWORK, equal_nan=True, msg=key)


def test_processes_with_different_heads_are_refused_together(results):
    assert "The processes ran different heads in this step" in results[1]["refusal"]
    assert "heads={...}" in results[1]["refusal"]


def test_processes_with_different_arguments_are_refused_together(results):
    start = "All processes must have the same arguments of mtlkit.Balanced, but rank 1 has "
    assert results[1]["disagreements"] == [
        f"{start}seed=1, rank 0 has seed=0.",
        f"{start}alpha=2.0, rank 0 has alpha=1.0.",
        f"{start}method='gradnorm', rank 0 has method='uniform'.",
        f"{start}tasks={{'a': None, 'b': None, 'c': None}}, rank 0 has tasks={{'a': None, 'b': None}}.",
    ]
