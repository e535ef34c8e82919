"""Builds the objects that a configuration describes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, set_seed

from mtlkit.balancer import BALANCERS, Balancer
from mtlkit.config.schema import Config, ModelConfig, SetConfig, TaskConfig, TrainerConfig
from mtlkit.data.concat import Concat
from mtlkit.data.dataset import DATASETS, Dataset, Split
from mtlkit.data.order import Mixed, Order, Shuffled
from mtlkit.data.prepared import Prepared, is_prepared
from mtlkit.data.samples import Samples
from mtlkit.engine.checkpointing import checkpoint_activations
from mtlkit.engine.faster import check_compilable, set_channels_last
from mtlkit.engine.freeze import check_space, freeze, frozen_space
from mtlkit.engine.lora import add_lora
from mtlkit.engine.model import MultiTaskModel, build_encoder, set_batch_norm
from mtlkit.registry import options_of, suggest
from mtlkit.run.trackers import check_trackers
from mtlkit.seeding import seed_of
from mtlkit.target import Target, kinds_of
from mtlkit.task import TASKS, Task

CONSTRUCTOR = 2**31  #: no epoch has this number; with it, a balancer's constructor gets its own seed


@dataclass(frozen=True)
class Parts:
    """The objects that a configuration describes. They are the same on every process."""

    tasks: dict[str, Task]
    model: MultiTaskModel
    balancer: Balancer


def make_accelerator(config: TrainerConfig, logging_dir: Path | None = None) -> Accelerator:
    """Returns the accelerator for the available devices and processes. It knows the trackers if it has a `logging_dir`.

    Raises `ValueError` if the devices do not support the configured precision, or if a tracker is not installed.
    """
    trackers = check_trackers(config.trackers) if logging_dir else []
    precision = {"fp32": "no", "fp64": "no"}.get(config.precision, config.precision)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    if precision == "fp16" and not torch.accelerator.is_available():
        raise ValueError("trainer.precision=fp16 needs a GPU; bf16 works on CPUs too.")
    try:
        return Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=precision,
            # All of Accelerate in a process shares its state. Another loop that stopped in the middle of its data would
            # otherwise end our accumulation windows.
            gradient_accumulation_plugin=GradientAccumulationPlugin(config.accumulation, sync_with_dataloader=False),
            step_scheduler_with_optimizer=False,
            log_with=trackers or None,
            project_dir=logging_dir,
        )
    except ValueError as error:
        raise ValueError(f"trainer.precision={config.precision} is not possible here: {error}") from error


def make_deterministic(config: Config) -> None:
    """Allows only deterministic operations if `config.deterministic` is set."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def build_dataset(config: Config, split: Split) -> Dataset:
    """Returns the given split of the configured data sets, limited to the configured number of samples."""
    data = config.data
    sets = [_build_set(part, split, data.size) for part in data.sets]
    if not data.concat:
        return sets[0]
    targets = [part.targets for part in data.sets]
    chosen = [dict(zip(names, names, strict=True)) if isinstance(names, tuple) else names for names in targets]
    return Concat(sets, [part.name for part in data.sets], chosen)


def _build_set(part: SetConfig, split: Split, size: tuple[int, int] | None) -> Dataset:
    limit = {"train": part.train_size, "val": part.val_size}.get(split)
    if part.name != "prepared" and part.root is not None and is_prepared(part.root):
        return Prepared(part.root, split, size, limit, source={"name": part.name, **part.options})
    given: dict[str, Any] = {"split": split, "size": size, "limit": limit}
    if "root" in options_of(DATASETS.get(part.name)):
        given["root"] = part.root
    elif part.root is not None:
        raise ValueError(f"data.root={part.root}: the data set {part.name!r} reads no files, so it has no root.")
    return DATASETS.build(part.name, **given, **part.options)


def build_order(config: Config, dataset: Dataset) -> Order:
    """Returns the order in which training reads the samples."""
    data = config.data
    if not isinstance(dataset, Concat):
        return Shuffled(len(dataset), data.batch_size, config.seed, data.drop_last)
    if data.mixing == "weights":
        shares = [part.weight or 0.0 for part in data.concat]
    else:
        power = {"proportional": 1.0, "uniform": 0.0, "temperature": 1 / (data.temperature or 1.0)}[data.mixing]
        shares = [length**power for length in dataset.lengths]
    return Mixed(dataset.lengths, shares, data.batch_size, config.seed)


def build_samples(config: Config, dataset: Dataset, *, augment: bool = False) -> Samples:
    """Returns the samples of the data set. They are checked, augmented and completed as the configuration says."""
    data, augmentation = config.data, None
    if augment and data.augment:
        from mtlkit.data.transforms import Augment  # importing albumentations takes seconds

        augmentation = Augment(dataset.targets, **vars(data.augmentation))
    return Samples(
        dataset,
        augmentation,
        config.seed,
        augment_on=data.augment_on,
        target_size=data.target_size,
        skip=data.on_error == "skip",
    )


def build_balancer(config: Config) -> Balancer:
    """Returns the balancer.

    Raises `ValueError` for an option that it does not allow, and if it cannot work with a frozen encoder.

    It sets the seed of all random numbers. Only `config.seed` decides what the constructor draws.
    """
    set_seed(seed_of(config.seed, CONSTRUCTOR) % 2**32)
    balancer = BALANCERS.build(config.balancer.name, tasks=tuple(config.task), **config.balancer.options)
    if config.model.freeze is True and balancer.space != "features":
        raise frozen_space(balancer, config.balancer.name)
    if config.trainer.compile:
        check_compilable(balancer)
    return balancer


def build_parts(
    config: Config,
    targets: Mapping[str, Target],
    size: tuple[int, int],
    notes: Sequence[str] = (),
    channels: int = 3,
) -> Parts:
    """Builds the tasks, the model and the balancer for the targets of a data set.

    Its images have `size` (width, height) and `channels`. Only the seed decides the model's initial weights. Random
    numbers that the data set or the balancer's constructor drew before do not change them. `notes` come from the data
    set and may explain why a target is missing.
    Raises `ValueError` if the parts do not fit together, such as a task and a target of another format, and
    `LookupError` for an unknown kind of target.
    """
    check_targets(config, targets, notes)
    tasks = build_tasks(config.task, targets, size)
    balancer = build_balancer(config)
    set_seed(config.seed)
    model = build_model(config.model, tasks, size, channels, pretrained=config.model.pretrained)
    set_batch_norm(model, config.model.batch_norm)
    freeze(model, config.model.freeze)
    if config.model.lora is not None:
        add_lora(model, config.model.lora)
    if config.model.checkpointing:
        checkpoint_activations(model)
    check_space(model, balancer, config.balancer.name)
    balancer.setup(tasks, replace(model.encoder_info, image=size))
    return Parts(tasks, model, balancer)


def check_targets(config: Config, targets: Mapping[str, Target], notes: Sequence[str] = ()) -> None:
    """Raises `ValueError` if the data set has no target for a task. `notes` of the data set may explain why."""
    for name in config.task:
        if name not in targets:
            sets = ", ".join(repr(part.name) for part in config.data.sets)
            why = [note for note in notes if f"no {name}" in note.lower()]
            words = [f"task.{name}: the data set {sets} has no such target.", *why, suggest(name, targets)]
            raise ValueError(" ".join(words))


def build_tasks(
    configs: Mapping[str, TaskConfig], targets: Mapping[str, Target], size: tuple[int, int]
) -> dict[str, Task]:
    """Returns the tasks for the targets of the same names. Raises `ValueError` and `LookupError` as `build_parts`."""
    kinds = kinds_of(targets)
    tasks: dict[str, Task] = {}
    for name, config in configs.items():
        target = targets[name]
        tasks[name] = TASKS.build(config.type, name, target.classes, decoder=config.decoder, **config.options)
        tasks[name].kind = kinds[name]
        _check_format(tasks[name], config.type, target.type, size)
    return tasks


def build_model(
    config: ModelConfig, tasks: Mapping[str, Task], size: tuple[int, int], channels: int, *, pretrained: bool | str
) -> MultiTaskModel:
    """Returns the model for the tasks and images of `size` with `channels`.

    Torch's random numbers decide its initial weights.
    """
    encoder = build_encoder(
        config.encoder, image_size=size, in_channels=channels, pretrained=pretrained, **config.options
    )
    model = MultiTaskModel(encoder, {name: task.decoder(encoder.info) for name, task in tasks.items()})
    if config.channels_last:
        set_channels_last(model)
    return model


def _check_format(task: Task, type_: str, target: str, size: tuple[int, int]) -> None:
    """Raises `ValueError` where a task is made for a kind of target that has another shape or type than the target."""
    own, given = task.own_kind(), task.kind
    if own is None or given is None:
        return
    (width, height) = size
    wanted, found = (f"{str(k.dtype).removeprefix('torch.')} {k.shape(height, width)}" for k in (own, given))
    if wanted != found:
        fitting = sorted(name for name in TASKS.names() if TASKS.get(name).learns == target)
        advice = f"For this target write type: {' or '.join(fitting)}." if fitting else ""
        raise ValueError(
            f"task.{task.name}.type={type_}: it learns targets of the kind {task.learns!r}, {wanted} here, but "
            f"the target {task.name!r} is of the kind {target!r}, {found}. {advice}".strip()
        )
