"""What a method's `setup` asks about tasks and encoder, answered from what the loop told. The rest is an error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.network import Encoder, EncoderInfo
from mtlkit.registry import options_of, suggest
from mtlkit.task import Task

KINDS_OF_TASK = ("regression", "classification")


class ToldTask:
    """Stands for a task of which the loop told the kind, or nothing."""

    def __init__(self, method: str, name: str, kind: str | None) -> None:
        self.name = name
        if kind is not None:
            if kind not in KINDS_OF_TASK:
                raise ValueError(f"The kind of task {name!r} is {kind!r}. {suggest(str(kind), KINDS_OF_TASK)}")
            self.regression = kind == "regression"
        self._method = method

    def __getattr__(self, attribute: str) -> Any:  # is called only for what is not there
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        what = (
            f"'{self.name}': 'regression' or 'classification'"
            if attribute == "regression"
            else f"an mtlkit Task that has `{attribute}` for {self.name!r}"
        )
        raise ValueError(
            f"{self._method} asks for the `{attribute}` of task {self.name!r}, which this loop did not tell. Pass "
            f"tasks={{...}} to mtlkit.Balanced, with {what}."
        )


class UntoldError(ValueError):
    """A method asks for the form of the features, which is not known before the first forward pass."""


class UntoldFeatures:
    """Stands for the form of the features as long as nobody told it."""

    def __init__(self, parameters: int) -> None:
        self.parameters = parameters

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        raise UntoldError(attribute)


@dataclass
class LoopEncoder:
    """The encoder of a loop, as far as a step needs it. It is a part of the loop's model and not of `Balanced`."""

    module: nn.Module | None
    layer: nn.Module | None
    late: nn.Module | None = None

    @property
    def last_layer(self) -> nn.Module:
        assert self.layer is not None, "`make_encoder` checked it"
        return self.layer

    def parameters(self) -> Iterator[nn.Parameter]:
        assert self.module is not None, "`make_encoder` checked it"
        return self.module.parameters()


class Told:
    """What a loop told about its tasks and its features.

    Attributes:
        names: the tasks.
        tasks: what `setup` gets for each of them.
        channels: the number of channels of each level, by number or name; None: the loop did not tell it.
    """

    def __init__(
        self,
        method: str,
        tasks: Sequence[str] | Mapping[str, str | Task],
        features: int | Sequence[int] | Mapping[str, int] | None,
        encoder: nn.Module | None,
    ) -> None:
        kinds: Mapping[str, Any] = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
        self.names = tasks if isinstance(tasks, str) else tuple(tasks)  # a balancer refuses a string in its own words
        told = {n: kind if isinstance(kind, Task) else ToldTask(method, n, kind) for n, kind in kinds.items()}
        self.tasks = cast(dict[str, Task], told)
        self.channels = _channels(features, encoder)

    def set_up(self, balancer: Balancer, encoder: "LoopEncoder", levels: Mapping[Any, Tensor] | None = None) -> bool:
        """Calls the method's `setup`. Returns false where it asks for the features and their form is not known yet.

        `levels` are the features of the first forward pass.
        """
        own = () if encoder.module is None else encoder.module.parameters()
        shared = sum(parameter.numel() for parameter in own if parameter.requires_grad)
        info = cast(EncoderInfo, UntoldFeatures(shared))
        if self.channels is None and levels is not None:
            self.channels = {name: level.shape[1] for name, level in levels.items()}
        if self.channels is not None:
            # The stride says only whether there are positions: no method needs more of it.
            vectors = [level.dim() == 2 for level in levels.values()] if levels else [False] * len(self.channels)
            strides = tuple(0 if vector else 1 for vector in vectors)
            info = EncoderInfo(tuple(self.channels.values()), strides, parameters=shared)
        try:
            balancer.setup(self.tasks, info)
        except UntoldError:
            return False
        return True


def check_own_options(method: str, options: Iterable[str], own: type) -> None:
    """Raises `ValueError` for an option that neither the method has nor `own`, the class that takes it."""
    known = {**options_of(BALANCERS.get(method)), **options_of(own)}
    for name in options:
        if name not in known:
            raise ValueError(
                f"Neither {method!r} nor mtlkit.{own.__name__} has an option {name!r}. {suggest(name, known)}"
            )


def make_encoder(method: str, space: str, encoder: nn.Module | None, last_layer: str | nn.Module | None) -> LoopEncoder:
    """Returns the encoder for a step. Raises `ValueError` where the space needs what the loop did not give."""
    if encoder is not None and not isinstance(encoder, nn.Module):
        raise ValueError(f"encoder must be a torch.nn.Module, got {type(encoder).__name__}.")
    if isinstance(encoder, DataParallel):
        raise ValueError("torch.nn.DataParallel runs copies of the model, which mtlkit cannot follow. Use DDP.")
    bare = encoder.module if isinstance(encoder, DistributedDataParallel) else encoder
    if isinstance(bare, Encoder) and bare.late is not None:
        raise ValueError(
            f"{type(bare).__name__} shares a late module behind the features, which only mtlkit's own engine can "
            f"balance. Take another encoder, or train with `mtlkit train`."
        )
    if space != "features" and bare is None:
        raise ValueError(
            f"{method} compares gradients in the space {space!r}, so it must know the encoder. Pass "
            f"encoder=YOUR_ENCODER to mtlkit.Balanced, or space='features' if the method has it."
        )
    if space == "parameters" and bare is not None and not any(p.requires_grad for p in bare.parameters()):
        raise ValueError(f"{method} compares gradients over the encoder's parameters, and none of them is trainable.")
    layer = last_layer
    if space == "last_layer":
        layer = bare.last_layer if layer is None and isinstance(bare, Encoder) else layer
        if isinstance(layer, str):
            assert bare is not None
            known = [name for name, _ in bare.named_modules()]
            if layer not in known:
                raise ValueError(f"The encoder has no module {layer!r}. {suggest(layer, known)}")
            layer = bare.get_submodule(layer)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
            raise ValueError(
                f"{method} compares gradients of the last shared layer's weight. Pass last_layer= to mtlkit.Balanced: "
                f"that module, or its name in the encoder, such as 'layer4.1.conv2'. It needs a trainable `weight`."
            )
    return LoopEncoder(bare, layer if isinstance(layer, nn.Module) else None)


def _channels(features: Any, encoder: nn.Module | None) -> dict[Any, int] | None:
    if features is None and encoder is not None:
        if isinstance(encoder, Encoder):
            features = encoder.info.channels
        elif callable(channels := getattr(getattr(encoder, "feature_info", None), "channels", None)):
            features = channels()  # timm's networks with `features_only`
    if features is None:
        return None
    listed = features if isinstance(features, list | tuple) else [features]
    named: dict[Any, Any] = dict(features) if isinstance(features, Mapping) else dict(enumerate(listed))
    for key, channels in named.items():
        if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
            raise ValueError(
                f"features must be a number of channels, such as 512, or one per level, got {channels!r} for level "
                f"{key!r}."
            )
    return named
