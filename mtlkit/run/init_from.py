"""Starts a new run from the weights of another one: `model.init_from`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mtlkit.config.schema import Config, LoraConfig, TrainerConfig
from mtlkit.config.yaml_files import read_mapping
from mtlkit.engine.lora import merged, with_base_names
from mtlkit.engine.predictor import dtype_of
from mtlkit.run import checkpoint
from mtlkit.run.build import Parts
from mtlkit.run.description import Description
from mtlkit.run_folder import CONFIG, DATA, check_run
from mtlkit.state import Kept
from mtlkit.target import Target

SHOWN = 3  #: the largest number of tensors that a sentence names
#: Keys of `model` that say how a run starts or trains. Features of the same weights do not depend on them.
OF_TRAINING = frozenset({"pretrained", "batch_norm", "init_from", "freeze", "lora"})


@dataclass(frozen=True)
class Weights:
    """The weights to start from: the folder of a checkpoint, and the run that it belongs to, if it belongs to one."""

    folder: Path
    run: Path | None = None
    remark: str = ""  #: what is unusual about this checkpoint or its choice


@dataclass(frozen=True)
class Taken:
    """Which tensors of a part of the model were found in the file.

    `new` are the names of the others of this part, and `left` those that only the file has. Both have a reason behind
    the name if only the shape differs.
    """

    part: str
    taken: list[str]
    new: list[str]
    left: list[str]

    def __str__(self) -> str:
        count = len(self.taken) + len(self.new)
        if not self.taken:
            text = "new, nothing was taken"
        elif self.new:
            text = f"{len(self.taken)} of {count} tensors taken, new are {_some(self.new)}"
        else:
            text = f"taken, all {count} tensors"
        return f"{self.part}: {text}{f'; left there: {_some(self.left)}' if self.left else ''}."


def find_weights(init_from: str, output_dir: str) -> Weights:
    """Returns the checkpoint that `model.init_from` names: that of a run's results, or a folder with weights.

    Raises `FileNotFoundError` if there is neither, and `ValueError` if it lies in the folder of the new run, or if a
    file of it is damaged.
    """
    given = Path(init_from).expanduser()
    own = Path(output_dir).resolve()
    if own == given.resolve() or own in given.resolve().parents:
        raise ValueError(
            f"model.init_from={init_from} lies in this run's own folder. Choose another output_dir, or go on with that "
            "run by --resume."
        )
    if (given / checkpoint.WEIGHTS).is_file():
        run = given.parent.parent
        return _checked(given, run if (run / CONFIG).is_file() else None, "")
    try:
        check_run(given, CONFIG)
        # Only this key: a check of the rest would need all plug-ins of that run.
        selection = (read_mapping(given / CONFIG).get("trainer") or {}).get("selection", "best")
        folder, remark = checkpoint.of_results(given, TrainerConfig(selection=selection))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.init_from={init_from}: {error}") from error
    return _checked(folder, given, remark)


def _checked(folder: Path, run: Path | None, remark: str) -> Weights:
    # The balancer's file may be missing: a folder of weights is enough.
    files = [file for file in (checkpoint.WEIGHTS, checkpoint.BALANCER) if (folder / file).is_file()]
    try:
        unchecked = checkpoint.check(folder, files, checkpoint.INIT)
    except ValueError as error:
        raise ValueError(f"model.init_from: {error}") from error
    return Weights(folder, run, f"{remark} {unchecked}".strip())


def take_weights(parts: Parts, config: Config, weights: Weights, targets: Mapping[str, Target]) -> dict[str, Any]:
    """Copies what fits by name and shape into the parts, and returns a record for the log that says what that was.

    It takes tensors of the encoder, of the decoders and of the balancer's state. The state is taken only from the same
    method. Raises `ValueError` if a file is damaged, or if no parameter of the encoder fits.
    """
    found, about = _read(weights.folder / checkpoint.WEIGHTS)
    there = _settings_of(weights)
    dtype = dtype_of(config.trainer.precision)
    parts.model.to(dtype)  # now, or weights in float64 would lose digits
    parts.balancer.to(dtype)
    tasks = {name.split(".")[1] for name in found if name.startswith("decoders.")}
    own, merges = _inside(found, "encoder."), _other_adapters(there, config)
    if merges is not None:  # so that the features are those of that run
        own = merged(own, merges.scale)
    encoder = _take("Encoder", parts.model.encoder, with_base_names(own, parts.model.encoder.state_dict()))
    if not set(encoder.taken) & {name for name, _ in parts.model.encoder.named_parameters()}:
        its = (there.get("model") or {}).get("encoder")
        raise ValueError(
            f"model.init_from={config.model.init_from}: nothing of its encoder {f'{its!r} ' if its else ''}fits the "
            f"encoder {config.model.encoder!r} by name and shape. Take the same encoder, or another run to start from."
        )
    lines = [str(encoder)]
    if merges is not None:
        lines.append(f"The adapters there (model.lora of rank {merges.rank}) were merged into the encoder's weights.")
    for task, decoder in parts.model.decoders.items():
        lines.append(str(_take(f"Decoder of {task}", decoder, _inside(found, f"decoders.{task}."))))
    if gone := sorted(tasks - parts.tasks.keys()):
        lines.append(f"Left there: the decoders of {', '.join(gone)}.")
    lines.append(_take_state(parts, config, weights, there, tasks))
    lines += [*_differences(config, there), *_other_classes(weights, parts, targets)]
    if config.model.pretrained and not encoder.new:
        lines.append(f"model.pretrained={config.model.pretrained} has no effect: the whole encoder was taken.")
    name, step = weights.folder.name, int(about["step"]) if "step" in about else None
    ema = (there.get("trainer") or {}).get("ema")
    first = (
        f"Starts from {weights.run or weights.folder}, checkpoint {name!r}, step {'unknown' if step is None else step}"
        f"{f' (averaged weights, trainer.ema={ema})' if ema else ''}."
    )
    facts = {"folder": str(weights.run or weights.folder), "checkpoint": name, "step": step}
    return {"init_from": facts, "model": [first, *lines]} | ({"incident": weights.remark} if weights.remark else {})


@torch.no_grad()
def _take(part: str, module: nn.Module, found: Mapping[str, Tensor]) -> Taken:
    """Copies the tensors that the module has under the same names and with the same shapes."""
    own = module.state_dict()
    taken = [name for name, tensor in own.items() if name in found and found[name].shape == tensor.shape]
    for name in taken:
        own[name].copy_(found[name])
    new = [name if name not in found else _shapes(name, found[name], own[name]) for name in own if name not in taken]
    return Taken(part, taken, new, [name for name in found if name not in own])


def _other_adapters(there: Mapping[str, Any], config: Config) -> LoraConfig | None:
    """Returns the adapters of the encoder there, unless this run has the same ones and goes on with them."""
    values = (there.get("model") or {}).get("lora")
    if values is None:
        return None
    its = LoraConfig(**values | {"targets": tuple(values["targets"])})
    return None if its == config.model.lora else its


def _take_state(parts: Parts, config: Config, weights: Weights, there: Mapping[str, Any], tasks: set[str]) -> str:
    """Takes the balancer's state if it is of the same method, and returns a sentence about it."""
    name, path = config.balancer.name, weights.folder / checkpoint.BALANCER
    its = there.get("balancer", {}).get("name", name)
    if its != name:
        return f"Balancer: {name} starts anew; the state there is of {its}."
    if not parts.balancer.state_dict():
        return f"Balancer: {name} keeps no state."
    if not path.is_file():
        return f"Balancer: {name} starts anew; there is no {checkpoint.BALANCER}."
    found = _read(path)[0]
    for key in _of_that_run(parts.balancer, same_tasks=tasks == set(parts.tasks)):
        found.pop(key, None)
    return str(_take(f"Balancer {name}", parts.balancer, found))


def _of_that_run(balancer: nn.Module, same_tasks: bool) -> Iterator[str]:
    """Yields the names of states that mean something in that run only.

    These are the seeds and counters of no single task. With other tasks, they are also the tables of all tasks: their
    rows have no names, so a row would go to another task.
    """
    for prefix, module in balancer.named_modules():
        table = isinstance(module, Kept)
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if not table and not buffer.is_floating_point():
                yield name
            if table and not same_tasks:
                yield name


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a file by name, and what its header says. A tensor with two names is there under both."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"model.init_from: {path} cannot be read: {error}") from error
    return found | {alias: found[name] for alias, name in about.items() if name in found}, about


def _settings_of(weights: Weights) -> dict[str, Any]:
    return read_mapping(weights.run / CONFIG) if weights.run else {}


def _differences(config: Config, there: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for each setting of the model in which the runs differ: the same weights then give others."""
    here, its = config.to_dict()["model"], there.get("model") or {}
    for key in sorted({*here, *its} - OF_TRAINING if its else ()):
        two = [values.get(key, "its default") for values in (its, here)]
        if two[0] != two[1]:
            yield f"model.{key} differs: {two[0]} there, {two[1]} here."


def _other_classes(weights: Weights, parts: Parts, targets: Mapping[str, Target]) -> Iterator[str]:
    """Yields a sentence for each task whose classes or outputs have other names or another order there."""
    path = weights.run / DATA if weights.run else None
    if path is None or not path.is_file():
        return
    described = Description.read(path.parent).targets
    for task in parts.tasks:
        its = described[task].classes if task in described else None
        if its is not None and list(its) != list(targets[task].classes):
            yield f"The outputs of {task} differ: {', '.join(its)} there, {', '.join(targets[task].classes)} here."


def _inside(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def _shapes(name: str, there: Tensor, here: Tensor) -> str:
    return f"{name} ({'x'.join(map(str, there.shape))} there, {'x'.join(map(str, here.shape))} here)"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
