"""A run first looks at some of the data: it describes them and computes the best constant predictions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtlkit.data.ranges import Gathered, as_record, suspicions
from mtlkit.data.samples import Samples
from mtlkit.data.summary import look_at, spread, summarise
from mtlkit.task import Task

TRAINING, VALIDATION = 1000, 100  #: the largest number of samples to look at, per split
PIXELS = 20_000_000  #: the largest number of pixels to look at, per split


class FirstLook:
    """Some samples of the training and validation data, evenly spread.

    `split` is the split that the run validates on. Raises `BadSampleError` for a sample that cannot be read or is out
    of range. With `data.on_error: skip` such a sample is left out here, and training and evaluation report it.
    """

    def __init__(self, training: Samples, validation: Samples, split: str) -> None:
        self.training, self.validation, self.split = training, validation, split
        of_training = Gathered(training.dataset.targets, "train")
        of_validation = Gathered(validation.dataset.targets, split)
        self.targets = _targets(training, TRAINING, of_training)
        _targets(validation, VALIDATION, of_validation)
        self.ranges = [*of_training.ranges(), *of_validation.ranges()]

    def record(self) -> dict[str, Any]:
        """Returns a record for the log with `data`, and with `incident` if some numbers are implausible."""
        dataset = self.training.dataset
        data = {
            "notes": list(dataset.notes),
            "licence": dataset.licence,
            "samples": {"train": len(self.training), self.split: len(self.validation)},
            "size": self.training.image_size,
            "channels": self.training.channels,
            "looked_at": len(self.targets),
            "targets": summarise(dataset.targets, self.targets),
            "ranges": as_record(self.ranges),
        }
        doubts = suspicions(dataset.targets, self.ranges)
        return {"data": data} | ({"incident": " ".join(doubts)} if doubts else {})

    def constants(self, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
        """Returns the best constant prediction per task for these training samples.

        A task has none if all its labels are missing or marked as unknown.
        Raises `ValueError` for a target of another kind than the task's own if the task cannot learn its values.
        """
        found = {}
        for name, task in tasks.items():
            kind = self.training.kinds[name]
            known = [targets[name] for targets in self.targets if name in targets and kind.valid(targets[name]).any()]
            own = task.own_kind()
            if own is not None and type(own) is not type(kind):  # else the loader has checked the values
                for value in known:
                    if problem := own.problem(value):
                        raise ValueError(
                            f"task.{name}: a task of {type(task).__name__} learns targets that must {problem}."
                        )
            if known:
                found[name] = task.constant(torch.stack(known))
        return found


def _targets(samples: Samples, most: int, ranges: Gathered) -> list[dict[str, Tensor]]:
    width, height = samples.image_size
    count = max(16, min(most, PIXELS // (width * height)))
    return list(look_at(samples, spread(len(samples), count), [], ranges))
