"""The contract of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mtlkit.contract import check_hooks
from mtlkit.legend import Legend
from mtlkit.log import RESERVED
from mtlkit.network import DECODERS, Decoder, EncoderInfo
from mtlkit.options import NoOptions, check_options_class, make_options
from mtlkit.registry import Registry, options_of
from mtlkit.target import KINDS, Kind

if TYPE_CHECKING:  # importing it takes seconds
    from torchmetrics import MetricCollection


class ErrorMap(NamedTuple):
    """How wrong the pixels of one prediction are: (H, W), 0 or more, NaN where the target is unknown.

    With `binary`, a pixel is right (0) or wrong (1), and otherwise the errors are in the `unit`.
    """

    errors: Tensor
    unit: str = ""
    binary: bool = False


class Chances(NamedTuple):
    """Predicted probabilities (N,) and whether each of these things was so (N,), 0 or 1. `of` says what they are of."""

    of: str
    probability: Tensor
    outcome: Tensor


class Task(ABC):
    """One thing to learn from the shared features: a decoder, a loss, metrics and a picture.

    A subclass implements the abstract methods. The implemented methods that it may override are `indicator` and, for
    the page of a run, `legend`, `errors`, `numbers` and `chances`. Each returns None by default. The options of a task
    are the fields of a dataclass `Options` inside the class; `self.options` is an instance of it:

        @dataclass(frozen=True)
        class Options:
            loss: Literal["l1", "mse"] = "l1"
            threshold: Positive = 0.5  # of mtlkit.typed

    mtlkit checks every value by the annotation of its field. What depends on several options is checked in the
    `__post_init__` of the dataclass, which raises `mtlkit.typed.OptionError`.

    Three words below mean three forms of the same thing. The *output* is what the decoder gives (logits, raw vectors),
    resized to the target. The *prediction* is what a user gets (class numbers, metres, unit normals, probabilities).
    The *target* has the data set's format. A prediction has the target's format, but with probabilities in place of
    labels.
    """

    dense: ClassVar[bool]  #: one value per pixel, or one vector per image
    #: The kind of target that it is made for, a name in `KINDS`. A target of another kind must then have the same
    #: format, which is checked before training. Empty: it takes any kind.
    learns: ClassVar[str] = ""
    #: Which form of the uncertainty-weighted loss fits: a Gaussian likelihood (True) or a Boltzmann likelihood (False).
    regression: ClassVar[bool]
    #: Whether it needs the names of its classes or outputs (True), or must have none (False). None: it takes both.
    named: ClassVar[bool | None] = None
    #: A name in `DECODERS`, or {name: NAME, option: value}. None: `conv` for a dense task, `linear` for another.
    default_decoder: ClassVar[Mapping[str, Any] | str | None] = None
    #: The options that list one number per class. mtlkit checks how many there are; None is fine.
    per_class: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[Any]] = NoOptions
    options: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_hooks(cls, [Task])
        check_options_class(cls)

    def __init__(
        self,
        name: str,
        classes: Sequence[str] = (),
        decoder: Mapping[str, Any] | str | None = None,
        **options: Any,
    ) -> None:
        # Names become keys of torch's containers and first parts of keys of the log.
        if not name.isidentifier() or hasattr(nn.ParameterDict, name) or name in RESERVED:
            raise ValueError(
                f"A task's name must be a Python identifier, no attribute of a module, and none of "
                f"{', '.join(RESERVED)}; got {name!r}."
            )
        self.name = name
        self.classes = tuple(classes)
        self._check_names()
        self.options = make_options(type(self), options, f"task.{name}")
        self._check_per_class()
        self.kind: Kind | None = None  #: of the data set's target that it learns; None outside of a run
        decoder = decoder or own_decoder(type(self))
        self.decoder_config = {"name": decoder} if isinstance(decoder, str) else dict(decoder)

    def _check_names(self) -> None:
        if self.classes and self.named is False:
            raise ValueError(f"The task {self.name!r} has no classes, found {self.classes!r}: leave `classes` out.")
        if not self.classes and self.named:
            raise ValueError(
                f"The task {self.name!r} needs the names of its classes or outputs in `classes`, found none."
            )
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise ValueError(f"The task {self.name!r} has {', '.join(map(repr, twice))} more than once in `classes`.")

    def _check_per_class(self) -> None:
        for option in self.per_class:
            numbers = getattr(self.options, option)
            if numbers is not None and len(numbers) != len(self.classes):
                raise ValueError(
                    f"task.{self.name}.{option}: expected {len(self.classes)} numbers, one for each of "
                    f"{', '.join(self.classes)}, found {list(numbers)}."
                )

    def decoder(self, info: EncoderInfo) -> Decoder:
        """The task's network on features as `info` describes them; raises `ValueError` for one that does not fit."""
        options = dict(self.decoder_config)
        decoder = DECODERS.build(options.pop("name"), info, self.out_channels, **options)
        for part, attribute, meaning in (
            (self, "dense", "it has one value per pixel"),
            (self, "regression", "a Gaussian likelihood fits its loss"),
            (decoder, "dense", "it gives a map"),
        ):
            if not isinstance(getattr(part, attribute, None), bool):
                raise ValueError(
                    f"{type(part).__name__} lacks `{attribute}`. Write `{attribute} = True` in the class if {meaning}, "
                    f"and `{attribute} = False` otherwise."
                )
        if decoder.dense != self.dense:
            kinds = {True: "one value per pixel", False: "one vector per image"}
            raise ValueError(
                f"The task {self.name!r} needs a decoder that gives {kinds[self.dense]}, but "
                f"{self.decoder_config['name']!r} gives {kinds[decoder.dense]}."
            )
        return decoder

    def own_kind(self) -> Kind | None:
        """The kind that it is made for, with its classes; raises `LookupError` where none is called so."""
        return KINDS.build(self.learns, self.classes) if self.learns else None

    @property
    def unit(self) -> str:
        """The unit of the targets, empty where they have none."""
        return "" if self.kind is None else self.kind.unit

    def map_size(self, target: Tensor) -> tuple[int, int] | None:
        """(height, width) of a batch's target that is a map: the output gets its size. None where it is no map.

        Without a kind, the target of a dense task is taken for a map.
        """
        if self.kind is not None:
            return self.kind.map_size(target)
        return (target.shape[-2], target.shape[-1]) if self.dense else None

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """How many channels the decoder must give."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(sum over valid elements, their number), two scalars; (0, 0) where nothing is valid."""

    def indicator(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """How well the task does: (number of valid elements that are right, their number), two scalars.

        The mean is in [0, 1], 1 for a perfect output, and has no gradient; balancers that prioritise by success
        ask for it. None, the default, where no share of right answers is natural: exp(-loss) then stands for it.
        """
        return None

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor:
        """Output -> prediction.

        The prediction of a map is made pixel by pixel, since large maps are predicted in strips of rows.
        """

    @abstractmethod
    def metrics(self) -> "MetricCollection":
        """New metrics, updated with (prediction, target); pooled over a split and over processes.

        Each has `higher_is_better`, and `unit`, a text, unless its figure has none; `compute` returns one scalar
        under the metric's own name, which has no slash. A metric may also have `per_class()`. It returns {name: (C,)}:
        a value per class in the order of `classes`, NaN where a class has none. The log has each of them as
        `<task>/<name>/<class>`. And it may have `confusion()`, the counts (C, C) of targets (rows) by predictions
        (columns), int64, for the page of a run.
        """

    @abstractmethod
    def constant(self, targets: Tensor) -> Tensor:
        """The best constant prediction for these targets (N, ...): one prediction (1, ...) that broadcasts.

        Every table shows its figures beside the model's. A model that is not better has learned nothing from the image.
        """

    @abstractmethod
    def picture(self, value: Tensor) -> np.ndarray:
        """One prediction or target without batch axis -> RGB picture (H, W, 3) uint8, for reports and `mtlkit predict`.

        The colours mean the same in every picture, so that a prediction can be compared with its target.
        """

    def legend(self) -> Legend | None:
        """What the colours of `picture` mean: classes, a scale or a text."""
        return None

    def errors(self, prediction: Tensor, target: Tensor) -> ErrorMap | None:
        """How wrong each pixel of one prediction is. Both have no batch axis. All tasks' errors are drawn alike."""
        return None

    def numbers(self, value: Tensor) -> Tensor | None:
        """One prediction or target without batch axis -> (C,), a number for each of `classes`, NaN unknown.

        The page of a run then shows these numbers and no pictures of the task.
        """
        return None

    def chances(self, prediction: Tensor, target: Tensor) -> Chances | None:
        """The probabilities in a batch of predictions, where its target is known. The page says if they are right."""
        return None


TASKS: Registry[Task] = Registry("task", Task, own="tasks")


def own_decoder(cls: type[Task]) -> Mapping[str, Any] | str:
    """The decoder of a task that names none: the default of its constructor, if it has one, or else of its class."""
    own = options_of(cls).get("decoder")
    if own is not None and own.default is not own.empty and own.default is not None:
        return cast(Mapping[str, Any] | str, own.default)
    return cls.default_decoder or ("conv" if getattr(cls, "dense", False) else "linear")


def no_loss(output: Tensor) -> tuple[Tensor, Tensor]:
    """The loss where nothing is valid: zeros that stay connected to the output."""
    return (output * 0).nan_to_num().sum(), torch.zeros((), device=output.device)
