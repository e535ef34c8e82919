"""Compares a published protocol with the public code that it repeats: what all protocols have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from mtlkit.config.composition import compose
from mtlkit.data.dataset import Target
from mtlkit.engine.optim import in_steps, model_optimizer, rate_factor
from mtlkit.run.build import build_parts

from .clones import Clone

EXACT = 1e-9  # float64: sums through a network in another order
GUARD = 1e-5  # the lengths of vectors are divided with a guard against 0 here
SINGLE = 1e-4  # figures that the public code computes in float32
BIN = 2e-3  # degrees: two bins of the histogram of angles, and the rounding of acos near 0 in float32


@dataclass(frozen=True)
class Found:
    """What a comparison found: whether both are the same, and the figures that show it."""

    same: bool
    figures: str


class MismatchError(Exception):
    """Two networks do not have the same layers."""


def close(pairs: Iterable[tuple[Any, Any]], tolerance: float) -> Found:
    """Compares numbers or tensors. The figure is the largest difference, relative to the largest number of a pair."""
    largest = 0.0
    for ours, theirs in pairs:
        a, b = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (ours, theirs))
        if a.shape != b.shape:
            return Found(False, f"shapes {tuple(a.shape)} here, {tuple(b.shape)} there")
        scale = b.abs().max().clamp_min(1e-12)
        largest = max(largest, float(((a - b).abs().max() / scale).nan_to_num(torch.inf)))
    return Found(largest <= tolerance, f"largest relative difference {largest:.1e}" if largest else "no difference")


def equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Found:
    """Compares named values. The figures are the values of both, or those that differ."""
    wrong = [key for key in theirs if ours[key] != theirs[key]]
    if not wrong:
        return Found(True, ", ".join(f"{key} {_short(value)}" for key, value in theirs.items()))
    return Found(False, ", ".join(f"{key} {_short(ours[key])} here, {_short(theirs[key])} there" for key in wrong))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def layers_of(network: nn.Module, image: Tensor, part: Callable[[str], int]) -> list[nn.Module]:
    """Returns the layers with parameters of their own: by part of the network, and in it by their first call.

    `part` gives the number of a layer's part by its name. Layers that are never called come last.
    """
    own = {m: part(name) for name, m in network.named_modules() if list(m.parameters(recurse=False))}
    called: dict[nn.Module, None] = {}
    hooks = [m.register_forward_pre_hook(lambda module, _: called.setdefault(module)) for m in own]
    with torch.no_grad():
        network.eval()(image)
    for hook in hooks:
        hook.remove()
    return sorted([*called, *(m for m in own if m not in called)], key=lambda m: own[m])


def _own_state(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in layer.state_dict().items() if "." not in name}


@torch.no_grad()
def unsettle(layers: Iterable[nn.Module]) -> None:
    """Moves what starts at 0 or 1, so that a forward pass shows where it is used."""
    for layer in layers:
        for name, value in _own_state(layer).items():
            if name == "running_var" or (name == "weight" and value.ndim == 1):
                value.uniform_(0.5, 1.5)
            elif name in ("bias", "running_mean"):
                value.normal_(0, 0.1)


class Protocol(ABC):
    """A published protocol: how to get both sides of each comparison, and the reasons of known differences."""

    experiment: ClassVar[str]
    repository: ClassVar[str]
    commit: ClassVar[str]  #: the commit that the reasons are about
    size: ClassVar[tuple[int, int]] = (96, 64)  #: (width, height) of the images in a forward pass
    samples: ClassVar[int]  #: in the training data
    reasons: ClassVar[Mapping[str, str]] = {}

    def __init__(self, path: Path) -> None:
        self.clone = Clone(path, self.repository)

    def items(self) -> dict[str, Callable[[], Found]]:
        """Returns the comparisons by the name of the item."""
        return {
            "number of parameters": self.parameters,
            "shapes of the parameters": self.shapes,
            "start of the weights": self.start,
            "forward pass, evaluation": self.evaluation,
            "forward pass, training": self.training,
            "options of the optimizer": self.optimizer,
            "learning rates": self.rates,
            "batches and epochs": self.batches,
        }

    @property
    @abstractmethod
    def targets(self) -> dict[str, Target]:
        """The targets of the data set."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Returns the public network. Its outputs are a dictionary by the names of the tasks here."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns the public settings: lr, weight_decay, batch_size, epochs and drop_last."""

    def harness_settings(self, trainer: str) -> dict[str, Any]:
        """Returns the settings of the harness that CAGrad's code began, with the file `trainer` of an experiment."""
        options = self.clone.options("experiments/utils.py", trainer)
        return {
            "lr": options["lr"],
            "weight_decay": self.clone.arguments(trainer, "Adam").get("weight_decay", 0),
            "batch_size": options["batch_size"],
            "epochs": options["n_epochs"],
            "drop_last": self.clone.arguments(trainer, "DataLoader").get("drop_last", False),
        }

    def part(self, name: str) -> int:
        """Returns 0 for a layer of the public network that tasks share, otherwise the number of its task, from 1."""
        return 0

    def as_theirs(self, task: str, output: Tensor) -> Tensor:
        """Returns an output of mtlkit in the form that the public network gives."""
        return output

    def image(self) -> Tensor:
        return torch.rand(2, 3, self.size[1], self.size[0], dtype=torch.float64)

    def theirs_of(self, image: Tensor) -> Tensor:
        """Returns the public network's image for an image in [0, 1]."""
        return image

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns the public scheduler, which moves once per epoch, or None for a constant rate."""
        return None

    # -- both sides

    @cached_property
    def config(self) -> Any:
        return compose(self.experiment)

    @cached_property
    def parts(self) -> Any:
        config = replace(self.config, model=replace(self.config.model, pretrained=False))
        return build_parts(config, self.targets, self.size)

    @cached_property
    def theirs(self) -> nn.Module:
        return self.network().double()

    @cached_property
    def ours(self) -> nn.Module:
        return self.parts.model.double()

    @cached_property
    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers of both networks, in the same order."""
        tasks = list(self.ours.decoders)
        image = self.image()

        def part(name: str) -> int:
            kind, _, rest = name.partition(".")
            return 1 + tasks.index(rest.partition(".")[0]) if kind == "decoders" else 0

        return layers_of(self.ours, image, part), layers_of(self.theirs, self.theirs_of(image), self.part)

    @cached_property
    def deviations(self) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """How many numbers each parameter has, and their standard deviation at the start, on both sides."""
        ours, theirs = (
            [
                (p.numel(), float(p.detach().std(correction=0)))
                for layer in side
                for p in layer.parameters(recurse=False)
            ]
            for side in self.layers
        )
        return ours, theirs

    @cached_property
    def same_weights(self) -> None:
        """Gives mtlkit's network the weights of the public one."""
        _ = self.deviations  # before the weights change
        ours, theirs = self.layers
        unsettle(theirs)
        self.copy(ours, theirs)

    def copy(self, ours: Sequence[nn.Module], theirs: Sequence[nn.Module]) -> None:
        if len(ours) != len(theirs):
            raise MismatchError(f"{len(ours)} layers here, {len(theirs)} there")
        for mine, their in zip(ours, theirs, strict=True):
            shapes = [{name: tuple(v.shape) for name, v in _own_state(layer).items()} for layer in (mine, their)]
            if shapes[0] != shapes[1]:
                raise MismatchError(f"a layer {shapes[0]} here, {shapes[1]} there")
            mine.load_state_dict({**mine.state_dict(), **_own_state(their)})

    # -- items

    def parameters(self) -> Found:
        here, there = (sum(p.numel() for p in side.parameters()) for side in (self.ours, self.theirs))
        return Found(here == there, f"{here:,}" if here == there else f"{here:,} here, {there:,} there")

    def shapes(self) -> Found:
        here, there = (sorted(tuple(p.shape) for p in side.parameters()) for side in (self.ours, self.theirs))
        return Found(here == there, f"{len(here)} tensors here, {len(there)} there")

    def start(self) -> Found:
        ours, theirs = self.deviations
        if [count for count, _ in ours] != [count for count, _ in theirs]:
            raise MismatchError(f"{len(ours)} parameters here, {len(theirs)} there")
        largest, wrong = 1.0, 0
        for (count, a), (_, b) in zip(ours, theirs, strict=True):
            if min(a, b) == 0:
                wrong += max(a, b) > 0
            elif count >= 50:  # the deviations of fewer numbers differ by chance
                ratio = max(a, b) / min(a, b)
                largest = max(largest, ratio)
                wrong += ratio > 1 + 5 / count**0.5  # five times the standard deviation of the ratio
        text = f"standard deviations of {len(ours)} tensors, largest ratio {largest:.2f}"
        return Found(not wrong, f"{text}, {wrong} by more than chance" if wrong else text)

    def weights(self, torchvision: bool) -> Found:
        """Compares pretrained weights by their names. `torchvision`: the public code takes torchvision's."""
        name, _, tag = self.config.model.encoder.partition(".")
        tag = tag or timm.models.get_pretrained_cfg(name).tag
        same = bool(self.config.model.pretrained) and torchvision and tag == "tv_in1k"  # timm's name for these
        return Found(same, f"{name}.{tag} here, {'torchvision' if torchvision else 'other'} weights there")

    def shared(self, theirs: Iterable[nn.Parameter]) -> Found:
        """Compares the number of parameters whose gradients balancers compare, with `balancer.space=parameters`."""
        here, there = self.parts.model.encoder_info.parameters, sum(p.numel() for p in theirs)
        return Found(here == there, f"{here:,}" if here == there else f"{here:,} here, {there:,} there")

    def evaluation(self) -> Found:
        return self._pass(training=False)

    def training(self) -> Found:
        return self._pass(training=True)

    def _pass(self, training: bool) -> Found:
        _ = self.same_weights
        image = self.image()
        outputs = []
        for network, given in ((self.ours, image), (self.theirs, self.theirs_of(image))):
            torch.manual_seed(1)  # of dropout
            with torch.no_grad():
                outputs.append(network.train(training)(given))
        ours, theirs = outputs
        pairs = [(self.as_theirs(name, ours[name]), theirs[name]) for name in theirs]
        if training:
            ours_after, theirs_after = (
                [v for layer in side for name, v in _own_state(layer).items() if name.startswith("running")]
                for side in self.layers
            )
            pairs += zip(ours_after, theirs_after, strict=True)
        return close(pairs, EXACT)

    def _optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        settings = self.settings()
        options = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
        their = torch.optim.Adam([nn.Parameter(torch.zeros(1))], **options)
        return model_optimizer(self.parts.model, self.config.trainer), their

    def optimizer(self) -> Found:
        ours, theirs = self._optimizers()
        keys = ("lr", "betas", "eps", "weight_decay", "amsgrad")
        expected = {"optimizer": "Adam", **{key: theirs.param_groups[0][key] for key in keys}}
        found = [equal({"optimizer": type(ours).__name__, **group}, expected) for group in ours.param_groups]
        return next((one for one in found if not one.same), found[0])

    def rates(self) -> Found:
        settings = self.settings()
        _, optimizer = self._optimizers()
        scheduler, theirs = self.scheduler(optimizer), []
        for _ in range(settings["epochs"]):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        batches, rest = divmod(self.samples, settings["batch_size"])
        steps = batches + (rest > 0 and not settings["drop_last"])
        trainer = in_steps(self.config.trainer, steps)
        total = steps * settings["epochs"]
        first, last = (
            [trainer.lr * rate_factor(trainer, epoch * steps + step, total) for epoch in range(settings["epochs"])]
            for step in (0, steps - 1)
        )
        found = close([(first, theirs), (last, theirs)], EXACT)
        return Found(found.same, f"{settings['epochs']} epochs of {steps} steps, {found.figures}")

    def batches(self) -> Found:
        data, trainer = self.config.data, self.config.trainer
        ours = {"batch_size": data.batch_size, "epochs": trainer.max_epochs, "drop_last": data.drop_last}
        return equal(ours, {key: value for key, value in self.settings().items() if key in ours})


class ByTask(nn.Module):
    """A public network whose outputs are a list, as a network whose outputs have names."""

    def __init__(self, names: Sequence[str], network: nn.Module, heads: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.names, self.network, self.heads = names, network, nn.ModuleList(heads)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.network(image)
        if len(self.heads):
            outputs = [head(outputs) for head in self.heads]
        return dict(zip(self.names, outputs, strict=True))
