"""The arguments of a loop's method: the processes must have the same ones, or each would move its model differently."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtlkit import distributed
from mtlkit.agreement import check_agreement
from mtlkit.sample_group import SampleGroup
from mtlkit.task import Task

PLACE = re.compile(r" at 0x[0-9a-f]+")  #: where an object lies in the memory of a process


class Arguments:
    """What a loop passed to `mtlkit.Balanced`, in words."""

    def __init__(
        self,
        tasks: Sequence[str] | Mapping[str, str | Task],
        method: str,
        decoder_gradients: str,
        steps_per_epoch: int | None,
        options: Mapping[str, Any],
    ) -> None:
        kinds = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
        told = {name: type(kind).__name__ if isinstance(kind, Task) else kind for name, kind in kinds.items()}
        self._words = {"method": method, "tasks": told, "decoder_gradients": decoder_gradients, **options}
        self._words["steps_per_epoch"] = steps_per_epoch
        self._checked = False

    def check(self, samples: SampleGroup, device: torch.device, **more: Any) -> None:
        """Compares them, and what `more` says, with those of the other processes, once. All processes call it.

        Raises `ValueError` on all processes if any has others.
        """
        if self._checked or samples.size == 1:
            return
        words = {name: PLACE.sub("", repr(value)) for name, value in {**self._words, **more}.items()}
        found = samples.texts(json.dumps({"rank": distributed.rank()} | words), device)
        each = [json.loads(text) for text in found]
        check_agreement([(facts.pop("rank"), facts) for facts in each], "arguments of mtlkit.Balanced")
        self._checked = True
