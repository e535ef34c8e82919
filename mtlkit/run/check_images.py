"""The images on which an exported program is compared with its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlkit.config.composition import read_config
from mtlkit.run.build import build_dataset, build_samples
from mtlkit.run.predicting import named
from mtlkit.run.trained import TrainedModel
from mtlkit.run_folder import CONFIG

NUMBER = 4  #: a batch of one and a batch of three: the graph is made from a batch of two
WHY_SHOWN = 300  #: characters of the reason why the data could not be opened


@dataclass(frozen=True)
class CheckImages:
    """Images (N, C, H, W) in [0, 1] of the model's size, N from 1 to `NUMBER`, and what they are, in words.

    `why_not` says why they are not those of the run's validation data. It is empty if they are, or if nobody asked.
    """

    images: Tensor
    what: str
    why_not: str = ""

    def batches(self, size: tuple[int, int]) -> list[Tensor]:
        """Returns a batch of one and a batch of three of `size` (width, height). Fewer images are there repeatedly."""
        images = self.images[torch.arange(NUMBER) % len(self.images)]
        width, height = size
        if images.shape[-2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False).clamp(0, 1)
        return [images[:1], images[1:]]


def find_check_images(model: TrainedModel, given: Sequence[Path] = ()) -> CheckImages:
    """Returns the first of the `given` images (files and folders). Without any, those of the run's validation data.

    If the data cannot be opened, the images are random, and `why_not` has the reason.

    Raises:
        FileNotFoundError: there is no such file, or a folder has no image.
        ValueError: a given file is no image for this model.
    """
    if given:
        files = [file for file, _ in islice(named(given, Path()), NUMBER)]
        images = torch.cat([model.prepared([model.pixels(file)]) for file in files])
        return CheckImages(images, f"{_counted(len(files))} of --check")
    if model.from_hub:
        why = "it is from the hub, and its config.yaml could name modules to import"
        return CheckImages(_random(model), "random images", why)
    try:
        return _of_validation(model)
    except Exception as error:  # noqa: BLE001 - the data set, and so its errors, may be anybody's; the reason is said
        text = " ".join(str(error).split())
        shown = text if len(text) <= WHY_SHOWN else f"{text[:WHY_SHOWN]}..."
        return CheckImages(_random(model), "random images", f"{type(error).__name__}: {shown}".rstrip(". "))


def _of_validation(model: TrainedModel) -> CheckImages:
    config = read_config(model.run / CONFIG)
    split = config.data.validation
    samples = build_samples(config, build_dataset(config, split))
    found, (width, height) = (samples.channels, *samples.image_size), model.size
    wanted = (model.description.channels, width, height)
    if found != wanted:
        two = [f"{channels} channels of {wide} x {high}" for channels, wide, high in (found, wanted)]
        raise ValueError(f"its images have {two[0]}, and the model takes {two[1]}")
    count = len(samples)
    spread = list(dict.fromkeys(number * count // NUMBER for number in range(NUMBER)))  # the first ones may be alike
    loaded = (samples[0, index] for index in spread)
    images = [sample["image"] for sample in loaded if not sample.get("error")]
    if not images:
        raise ValueError(f"none of the samples {', '.join(map(str, spread))} of the split {split!r} can be read")
    return CheckImages(torch.stack(images), f"{_counted(len(images))} of the run's split {split!r}")


def _random(model: TrainedModel) -> Tensor:
    width, height = model.size
    shape = (NUMBER, model.description.channels, height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _counted(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
