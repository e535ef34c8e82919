"""The file `data.json` of a run: what its model was trained on, as far as it matters to whoever uses the model."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from mtlkit.data.limits import check_pixels
from mtlkit.files import write_whole
from mtlkit.run_folder import DATA
from mtlkit.target import Target
from mtlkit.typed import Bound, Count, Source, to_dataclass


@dataclass(frozen=True)
class Description:
    """What a model was trained on: images of `size` (width, height), and targets by name.

    `resizing` says how the pictures got that size (`mtlkit.data.files.resize`). `adapters` says whether the balancer
    changed what the decoders get: then it is a part of the model. `channels` and `bounds` say how files became images
    (`mtlkit.data.bands.read_bands`).
    """

    size: tuple[Count, Count]
    targets: dict[str, Target]
    resizing: Literal["area", "torchvision"] = "area"  # runs up to version 0.2 have only this way, and do not say it
    adapters: bool = True  # these runs do not say it, either. With the balancer, the model is complete in any case
    channels: Annotated[int, Bound(1, 10_000)] = 3
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds: expected the values of black and white, ascending, found {list(self.bounds)}")

    def save(self, run: Path) -> None:
        """Writes the file into the folder of a run."""
        targets = {name: {"type": target.type, "classes": target.classes} for name, target in self.targets.items()}
        values = {
            "size": self.size,
            "channels": self.channels,
            "bounds": self.bounds,
            "resizing": self.resizing,
            "adapters": self.adapters,
            "targets": targets,
        }
        write_whole(run / DATA, json.dumps(values, indent=1).encode())

    def check_outputs(self, run: Path, tasks: Iterable[str]) -> None:
        """Compares the targets of the tasks with those with which the run in a folder began, if there is one.

        Weights have no names of classes: in another order, each class would go on with the weights of another one.
        Raises `ValueError` if they differ, or if the file of the run is damaged.
        """
        path = run / DATA
        if not path.exists():
            return
        try:
            before = Description.read(run).targets
        except ValueError as error:
            raise ValueError(f"{error}. Remove the file: the run writes it again.") from error
        for task in tasks:
            then, now = before.get(task), self.targets[task]
            if then is not None and then != now:
                raise ValueError(
                    f"{path}: the run began with the target {task!r} as {then.type} ({', '.join(then.classes)}), and "
                    f"the data set has it as {now.type} ({', '.join(now.classes)}). A resumed run goes on as it began: "
                    "put the data back as they were, or start a new run from these weights by model.init_from."
                )

    @classmethod
    def read(cls, run: Path) -> "Description":
        """Reads the file of a run. Raises `FileNotFoundError` if it is missing and `ValueError` if it is damaged."""
        path = run / DATA
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing, which says what the run was trained on. `mtlkit train ... --resume` writes it "
                "again."
            )
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError(f"expected an object, found {type(found).__name__}")
            known = {field.name for field in fields(cls)}
            described = to_dataclass(cls, {key: found[key] for key in found if key in known}, "", Source(""))
            check_pixels("size", described.size)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {str(error).rstrip('.')}.") from error
        return described
