"""Draws pictures of the predictions of a model."""

import numpy as np
from torch import Tensor

from mtlkit.data.loader import Samples
from mtlkit.data.summary import spread
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.predictor import Predictor

PICTURES = 4  #: the number of validation samples to draw, evenly spread


def draw(predictor: Predictor, samples: Samples) -> list[list[tuple[str, np.ndarray]]]:
    """Draws the image, the targets and the predictions of a few validation samples."""
    rows = []
    for index in spread(len(samples), PICTURES):
        sample = samples[0, index]
        image, targets = predictor.inputs({"image": sample["image"][None], "targets": _batched(sample["targets"])})
        predictions = predictor.predictions(image, output_sizes(predictor.tasks, targets))
        row: list[tuple[str, np.ndarray]] = [("image", (sample["image"].permute(1, 2, 0) * 255).byte().numpy())]
        for name, task in predictor.tasks.items():
            row.append((f"{name}_target", task.picture(targets[name][0].cpu())))
            row.append((f"{name}_prediction", task.picture(predictions[name][0].cpu())))
        rows.append(row)
    return rows


def _batched(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: target[None] for name, target in targets.items()}
