"""Longer proofs, by `make proofs`; docs/proofs.md has their results."""

import logging

import pytest

from mtlkit import Experiment, log


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_five_epochs_on_real_digits_come_close_to_the_papers_uniform_row(mnist, tmp_path, seed):
    words = [f"data.root={mnist}", f"seed={seed}", f"output_dir={tmp_path / 'run'}"]
    run = Experiment.compose("multimnist", words).run()
    last = [record for record in log.read(run / "metrics.jsonl") if record["split"] == "val"][-1]
    names = ("left/accuracy", "right/accuracy", "sum/mse", "product/mse", "density/mse")
    figures = {name: round(last[name], 4) for name in names}
    logging.getLogger("mtlkit").info("seed %d: %s", seed, figures)
    assert figures["left/accuracy"] > 0.85, figures
    assert figures["right/accuracy"] > 0.80, figures
    assert figures["sum/mse"] < 6.5, figures
    assert figures["product/mse"] < 190, figures
