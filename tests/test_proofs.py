"""Longer proofs, which `make proofs` runs. docs/results/proofs.md has their results."""

import logging
from statistics import fmean

import pytest

from mtlkit import Experiment, log

FIGURES = ("left/accuracy", "right/accuracy", "sum/mse", "product/mse", "density/mse")


@pytest.mark.long
def test_five_epochs_on_real_digits_come_close_to_the_papers_uniform_row(mnist, tmp_path):
    """A run reaches bounds from an earlier trial (90 %, 85 %, 5.6, 165), with a margin for the spread over seeds."""
    found = []
    for seed in (0, 1, 2):
        words = [f"data.root={mnist}", f"seed={seed}", f"output_dir={tmp_path / str(seed)}"]
        run = Experiment.compose("multimnist", words).run()
        last = [record for record in log.read_log(run / "metrics.jsonl") if record["split"] == "val"][-1]
        found.append([last[name] for name in FIGURES])
        logging.getLogger("mtlkit").warning("seed %d: %s", seed, dict(zip(FIGURES, found[-1], strict=True)))
    left, right, total, product, density = (fmean(values) for values in zip(*found, strict=True))
    assert left > 0.87
    assert right > 0.83
    assert total < 6.5
    assert product < 185
    assert density < 4
