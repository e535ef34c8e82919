"""Draws pictures of the predictions of a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtlkit.data.samples import Samples
from mtlkit.engine.evaluation import output_sizes
from mtlkit.engine.predictor import Predictor
from mtlkit.legend import Legend
from mtlkit.report.error_maps import draw_errors, error_legend
from mtlkit.report.pictures import ERROR
from mtlkit.report.samples import LARGEST, MOST_NAMES, Numbers
from mtlkit.task import ErrorMap, Task

PICTURES = 4  #: the number of evenly spread samples to draw, and of those in a batch

Row = list[tuple[str, np.ndarray]]  # names and pictures of one sample


class Drawn(NamedTuple):
    """The pictures and the numbers of some samples, and what the colours mean."""

    rows: list[Row]
    numbers: list[dict[str, Numbers]]
    legends: dict[str, Legend]


def draw(predictor: Predictor, samples: Samples, indices: Sequence[int]) -> Drawn:
    """Draws the image, the targets, the predictions and the error maps of some samples.

    A task with `Task.numbers` has numbers in place of pictures. Of an image with other channels than three, the first
    three are its colours, or the first one is its grey.
    """
    rows: list[Row] = []
    numbers: list[dict[str, Numbers]] = []
    maps: list[dict[str, ErrorMap]] = []
    for first in range(0, len(indices), PICTURES):
        chosen = [samples[0, index] for index in indices[first : first + PICTURES]]
        # As one batch, like an evaluation: some networks normalise over the images of a batch.
        batch = {name: torch.stack([one["targets"][name] for one in chosen]) for name in predictor.tasks}
        image, targets = predictor.inputs({"image": torch.stack([one["image"] for one in chosen]), "targets": batch})
        predictions = predictor.predictions(image, output_sizes(predictor.tasks, targets))
        for i, sample in enumerate(chosen):
            row: Row = [("image", _colours(sample["image"]))]
            numbers.append({})
            maps.append({})
            for name, task in predictor.tasks.items():
                prediction, target = predictions[name][i].cpu(), targets[name][i].cpu()
                if (found := _numbers(task, prediction, target)) is not None:
                    numbers[-1][name] = found
                    continue
                row += [(f"{name}_target", task.picture(target)), (f"{name}_prediction", task.picture(prediction))]
                if (wrong := task.errors(prediction, target)) is not None:
                    maps[-1][name] = wrong
            rows.append(row)
    legends = {name: legend for name, task in predictor.tasks.items() if (legend := task.legend()) is not None}
    for name in dict.fromkeys(name for one in maps for name in one):
        drawn = {i: one[name].errors.float().numpy() for i, one in enumerate(maps) if name in one}
        unit, binary = next((one[name].unit, one[name].binary) for one in maps if name in one)
        legend = error_legend(list(drawn.values()), unit, binary=binary)
        legends[f"{name}_{ERROR}"] = legend
        for i, errors in drawn.items():
            rows[i].append((f"{name}_{ERROR}", draw_errors(errors, legend)))
    shown = {name.removesuffix("_prediction") for row in rows for name, _ in row}
    kept = {name: one for name, one in legends.items() if name in shown}
    return Drawn(rows, numbers, kept)


def _numbers(task: Task, prediction: Tensor, target: Tensor) -> Numbers | None:
    values = task.numbers(prediction), task.numbers(target)
    if values[0] is None or values[1] is None:
        return None
    guess, truth = ([_finite(value) for value in one[:MOST_NAMES].tolist()] for one in (values[0], values[1]))
    names = list(task.classes[:MOST_NAMES])
    return Numbers(names, truth, guess, task.unit, len(task.classes) - len(names))


def _finite(value: float) -> float | None:
    return float(value) if abs(value) <= LARGEST else None


def _colours(image: Tensor) -> np.ndarray:
    """Returns a picture (H, W, 3) uint8 of an image (C, H, W) in [0, 1]."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    picture: np.ndarray = (shown.permute(1, 2, 0) * 255).byte().numpy()
    return picture
