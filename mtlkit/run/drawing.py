"""Draws pictures of the predictions of a model."""

import numpy as np
import torch
from torch import Tensor

from mtlkit.data.loader import Samples
from mtlkit.data.summary import spread
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.predictor import Predictor

PICTURES = 4  #: the number of validation samples to draw, evenly spread


def draw(predictor: Predictor, samples: Samples) -> list[list[tuple[str, np.ndarray]]]:
    """Draws the image, the targets and the predictions of a few validation samples.

    Of an image with other channels than three, the first three are its colours, or the first one is its grey.
    """
    chosen = [samples[0, index] for index in spread(len(samples), PICTURES)]
    # As one batch, like an evaluation: some networks normalise over the images of a batch.
    batch = {name: torch.stack([one["targets"][name] for one in chosen]) for name in predictor.tasks}
    image, targets = predictor.inputs({"image": torch.stack([one["image"] for one in chosen]), "targets": batch})
    predictions = predictor.predictions(image, output_sizes(predictor.tasks, targets))
    rows = []
    for i, sample in enumerate(chosen):
        row: list[tuple[str, np.ndarray]] = [("image", _colours(sample["image"]))]
        for name, task in predictor.tasks.items():
            row.append((f"{name}_target", task.picture(targets[name][i].cpu())))
            row.append((f"{name}_prediction", task.picture(predictions[name][i].cpu())))
        rows.append(row)
    return rows


def _colours(image: Tensor) -> np.ndarray:
    """Returns a picture (H, W, 3) uint8 of an image (C, H, W) in [0, 1]."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    picture: np.ndarray = (shown.permute(1, 2, 0) * 255).byte().numpy()
    return picture
