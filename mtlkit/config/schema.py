"""The keys that every run's configuration has: their types and their defaults.

The other keys of `data`, `model`, `task.<name>` and `balancer` are options of the class that the section names.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from mtlkit.files import write_whole
from mtlkit.typed import Bound, Count, Natural, NonNegative, Positive, Share


@dataclass(frozen=True)
class Augmentation:
    """What `data.augment` turns on, in training only."""

    flip: Share = 0.5  #: how often an image is mirrored
    scale: tuple[Annotated[float, Bound(1)], ...] = (1.0, 1.2, 1.5)  #: enlarged by one of these and cropped back
    colour: Share = 0.2  #: the jitter's strength of brightness, contrast and saturation
    compat: Literal["mtan"] | None = None  #: mtan: zooms as the code behind most published tables does


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One of several data sets that are trained on together; `options` are its own."""

    name: str  #: of DATASETS
    root: str | None = None
    targets: dict[str, str] | tuple[str, ...] | None = None  #: those to take, or {own name: name here}; null: all
    weight: Positive | None = None  #: its share of every batch, with `data.mixing: weights`
    train_size: Count | None = None  #: at most so many samples, the first ones
    val_size: Count | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set or several, and the batches made of it; `options` are those of the one data set."""

    name: str | None = None  #: of DATASETS
    root: str | None = None  #: where its files are
    train_size: Count | None = None  #: at most so many samples, the first ones
    val_size: Count | None = None
    concat: tuple[SetConfig, ...] = ()  #: several data sets, in place of `name`
    mixing: Literal["proportional", "uniform", "temperature", "weights"] = "proportional"  #: of `concat`, in a batch
    temperature: Annotated[float, Bound(1)] | None = None  #: T of `mixing: temperature`: shares ~ (samples) ** (1 / T)
    size: tuple[Count, Count] | None = None  #: [width, height] in pixels; null: the data set's own
    target_size: tuple[Count, Count] | None = None  #: [width, height] of targets of pixels; null: the images'
    validation: Literal["val", "test"] = "val"  #: the split that selects; test needs `protocol: published`
    on_error: Literal["raise", "skip"] = "raise"  #: what a sample that cannot be read does
    batch_size: Count  #: the total over all processes and micro-batches
    eval_batch_size: Count | None = None  #: null: batch_size
    workers: Natural = 0  #: loading processes, for each training process
    augment: bool = False
    augmentation: Augmentation = Augmentation()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def sets(self) -> tuple[SetConfig, ...]:
        """The data sets, one or several."""
        if self.concat:
            return self.concat
        assert self.name is not None
        one = SetConfig(
            name=self.name, root=self.root, train_size=self.train_size, val_size=self.val_size, options=self.options
        )
        return (one,)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shared encoder; `options` are its own."""

    encoder: str  #: of ENCODERS, or the name of a timm model
    pretrained: bool | str = False  #: true: the published weights; or a file of weights
    batch_norm: Literal["local", "sync", "frozen"] = "local"  #: statistics of a process, of all, or fixed ones
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A task's decoder; `options` are its own."""

    name: str  #: of DECODERS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task; `options` are its own."""

    type: str  #: of TASKS
    decoder: str | dict[str, Any]  #: of DECODERS, or {name: NAME, option: value, ...}; absent: the type's own default
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BalancerConfig:
    """The balancer; `options` are all arguments of its constructor but `tasks`."""

    name: str  #: of BALANCERS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How training goes. A step is one update of the parameters, from one batch of `data.batch_size`."""

    max_steps: Count | None = None  #: the end; at least one of the two is needed, and the earlier one counts
    max_epochs: Count | None = None
    log_every: Count = 10  #: steps
    eval_every: Count | None = None  #: steps; null: as eval_every_epochs says
    eval_every_epochs: Count | None = None  #: null: every epoch
    save_every: Count | None = None  #: steps; null: at every evaluation
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    accumulation: Count = 1  #: micro-batches that make one batch
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 1e-3  #: the decoders' learning rate
    encoder_lr: Positive | None = None  #: null: lr
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.9  #: of sgd
    clip_norm: Positive | None = None  #: the largest norm of all gradients together
    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    warmup_steps: Natural = 0  #: steps in which the learning rate grows linearly from 0
    step_size: Count | None = None  #: of `schedule: step`: steps after which the learning rate is multiplied by gamma
    step_size_epochs: Count | None = None  #: the same in epochs
    gamma: Share = 0.1
    power: Positive = 0.9  #: of `schedule: poly`: lr * (1 - step / steps) ** power
    early_stopping: Count | None = None  #: ends after so many evaluations without improvement
    monitor: str | None = None  #: what `best` means: <task>/<metric>, or */<metric>, the mean over tasks;
    #: null: the mean of loss / untrained loss
    decoder_gradients: Literal["published", "plain", "weighted"] = "published"  #: whether the balancer's weights reach
    #: the decoders: as the paper of each method has it, never, or always
    normalize_losses: Natural = 0  #: divides each loss by its mean over so many first steps
    selection: Literal["best", "last", "last10"] = "best"  #: the results: of `monitor`'s best evaluation, the last, or
    #: the mean of the last ten, as tables on NYUv2 have it


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. `compose` makes one of YAML files and overrides, `load` reads a run's."""

    experiment: str
    output_dir: str
    seed: Natural = 0
    deterministic: bool = False  #: refuses operations without a deterministic implementation on this device
    plugins: tuple[str, ...] = ()  #: modules to import first, which register what the other keys name
    protocol: Literal["strict", "published"] = "strict"  #: published: may select on test data, and says so
    data: DataConfig
    model: ModelConfig
    task: dict[str, Any]  #: TaskConfig by name
    balancer: BalancerConfig
    trainer: TrainerConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as in a run's config.yaml."""
        values = asdict(self)
        sections = (values["data"], *values["data"]["concat"], values["model"], values["balancer"])
        for section in (*sections, *values["task"].values()):
            section |= section.pop("options")
        return cast(dict[str, Any], _plain(values))

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        from omegaconf import OmegaConf  # the parser of the command line reads the keys above, and does without

        write_whole(path, OmegaConf.to_yaml(OmegaConf.create(self.to_dict())).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
