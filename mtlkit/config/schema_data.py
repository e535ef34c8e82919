"""The keys of the section `data`: one or several data sets, and the batches made from them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mtlkit.typed import Bound, Count, Natural, Positive, Share


@dataclass(frozen=True)
class Augmentation:
    """The augmentation that `data.augment` turns on, in training only.

    Args:
        flip: the probability that an image is mirrored
        scale: an image is enlarged by one of these factors and cropped back to its size
        colour: the strength of the random change of brightness, contrast and saturation
        compat: `mtan` zooms in the same way as the code behind most published tables
    """

    flip: Share = 0.5
    scale: tuple[Annotated[float, Bound(1)], ...] = (1.0, 1.2, 1.5)
    colour: Share = 0.2
    compat: Literal["mtan"] | None = None


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One of several data sets of the same training. `options` are the options of this data set.

    Args:
        name: the name of a data set: `mtlkit list datasets`
        root: the folder of its files
        targets: the targets to use, or {own name: name here}; null: all
        weight: the share of this data set in every batch, with `data.mixing: weights`
        train_size: uses at most this many samples, the first ones
        val_size: uses at most this many validation samples, the first ones
    """

    name: str
    root: str | None = None
    targets: dict[str, str] | tuple[str, ...] | None = None
    weight: Positive | None = None
    train_size: Count | None = None
    val_size: Count | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One or several data sets, and the batches made from them. `options` are the options of a single data set.

    Args:
        name: the name of a data set: `mtlkit list datasets`
        root: the folder of its files
        train_size: uses at most this many samples, the first ones
        val_size: uses at most this many validation samples, the first ones
        concat: several data sets, instead of `name`
        mixing: how the data sets of `concat` share a batch: by their numbers of samples, equally, by `temperature`, or
            by each one's `weight`
        temperature: T of `mixing: temperature`: shares ~ (samples) ** (1 / T)
        size: [width, height] in pixels; null: the size of the data set
        target_size: [width, height] of targets per pixel; null: the image size
        validation: the split for selection; test needs `protocol: published`
        on_error: what to do with a sample that cannot be read
        batch_size: the total over all processes and micro-batches
        drop_last: whether the samples left over at the end of an epoch are left out; false: they become a smaller batch
        eval_batch_size: the batch of an evaluation; null: batch_size
        workers: the number of loading processes per training process
        augment: changes the training images at random, as `augmentation` says
        augmentation: how `augment` changes them
        augment_on: where they are changed: whole batches on the device that trains, or one by one in the loading
            processes; the same changes, up to interpolation
    """

    name: str | None = None
    root: str | None = None
    train_size: Count | None = None
    val_size: Count | None = None
    concat: tuple[SetConfig, ...] = ()
    mixing: Literal["proportional", "uniform", "temperature", "weights"] = "proportional"
    temperature: Annotated[float, Bound(1)] | None = None
    size: tuple[Count, Count] | None = None
    target_size: tuple[Count, Count] | None = None
    validation: Literal["val", "test"] = "val"
    on_error: Literal["raise", "skip"] = "raise"
    batch_size: Count
    drop_last: bool = True
    eval_batch_size: Count | None = None
    workers: Natural = 0
    augment: bool = False
    augmentation: Augmentation = Augmentation()
    augment_on: Literal["device", "loader"] = "device"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def sets(self) -> tuple[SetConfig, ...]:
        """The data sets of this configuration, one or several."""
        if self.concat:
            return self.concat
        assert self.name is not None
        one = SetConfig(
            name=self.name, root=self.root, train_size=self.train_size, val_size=self.val_size, options=self.options
        )
        return (one,)
