"""The keys of every configuration, with their types and defaults.

The sections `data`, `model`, `task.<name>` and `balancer` name a class. Their other keys are options of that class.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from mtlkit.files import write_whole
from mtlkit.typed import Bound, Count, Natural, Positive, Share, ShareBelowOne

#: Single precision, in which most runs compute, knows no number beyond 1e38, and takes those below 1e-38 for 0. An
#: optimizer multiplies a rate by more than that, and divides by it.
Rate = Annotated[float, Bound(1e-30, 1e6)]
Norm = Annotated[float, Bound(1e-30, 1e30)]
#: The trackers of Accelerate.
Tracker = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """The augmentation that `data.augment` turns on, in training only."""

    flip: Share = 0.5  #: the probability that an image is mirrored
    scale: tuple[Annotated[float, Bound(1)], ...] = (1.0, 1.2, 1.5)  #: enlarged by a factor and cropped back
    colour: Share = 0.2  #: the strength of the random change of brightness, contrast and saturation
    compat: Literal["mtan"] | None = None  #: mtan: zooms in the same way as the code behind most published tables


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One of several data sets of the same training. `options` are the options of this data set."""

    name: str  #: a name in DATASETS
    root: str | None = None
    targets: dict[str, str] | tuple[str, ...] | None = None  #: the targets to use, or {own name: name here}; null: all
    weight: Positive | None = None  #: its share of every batch, with `data.mixing: weights`
    train_size: Count | None = None  #: uses at most this many samples, the first ones
    val_size: Count | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One or several data sets, and the batches made from them. `options` are the options of a single data set."""

    name: str | None = None  #: a name in DATASETS
    root: str | None = None  #: the folder of its files
    train_size: Count | None = None  #: uses at most this many samples, the first ones
    val_size: Count | None = None
    concat: tuple[SetConfig, ...] = ()  #: several data sets, instead of `name`
    mixing: Literal["proportional", "uniform", "temperature", "weights"] = "proportional"  #: of `concat`
    temperature: Annotated[float, Bound(1)] | None = None  #: T of `mixing: temperature`: shares ~ (samples) ** (1 / T)
    size: tuple[Count, Count] | None = None  #: [width, height] in pixels; null: the size of the data set
    target_size: tuple[Count, Count] | None = None  #: [width, height] of targets per pixel; null: the image size
    validation: Literal["val", "test"] = "val"  #: the split for selection; test needs `protocol: published`
    on_error: Literal["raise", "skip"] = "raise"  #: what to do with a sample that cannot be read
    batch_size: Count  #: the total over all processes and micro-batches
    drop_last: bool = True  #: false: the samples left over at the end of an epoch become a smaller batch
    eval_batch_size: Count | None = None  #: null: batch_size
    workers: Natural = 0  #: the number of loading processes per training process
    augment: bool = False
    augmentation: Augmentation = Augmentation()
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


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Small adapters that learn in place of the encoder's weights. The package `peft` makes them."""

    rank: Count  #: the rank of an adapter's two matrices
    targets: tuple[str, ...] = ("qkv", "proj")  #: ends of the names of layers, such as attn.qkv
    alpha: Count | None = None  #: the adapter counts alpha / rank times; null: once
    dropout: ShareBelowOne = 0.0  #: of the adapters' inputs

    @property
    def scale(self) -> float:
        """The factor of the adapters: alpha / rank."""
        return (self.alpha or self.rank) / self.rank


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shared encoder. `options` are the options of this encoder."""

    encoder: str  #: a name in ENCODERS, or the name of a timm model
    pretrained: bool | str = False  #: true: the published weights; or the path of a file of weights
    init_from: str | None = None  #: the folder of a run whose weights this run starts from, as far as they fit
    freeze: bool | Count = False  #: true: the whole encoder does not learn; a number N: its stem and first N stages
    lora: LoraConfig | None = None  #: trains adapters in the encoder, whose own weights stand still
    batch_norm: Literal["local", "sync", "frozen"] = "local"  #: statistics of one process, of all processes, or fixed
    checkpointing: bool = False  #: the encoder computes its activations again in the backward pass: less memory
    channels_last: bool = False  #: the layout of maps in memory that is faster on many GPUs in bf16 and fp16
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder of a task. `options` are the options of this decoder."""

    name: str  #: a name in DECODERS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task. `options` are the options of this task."""

    type: str  #: a name in TASKS
    decoder: str | dict[str, Any]  #: of DECODERS, or {name: NAME, option: value, ...}; absent: the default of `type`
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BalancerConfig:
    """The balancer. `options` are all arguments of its constructor except `tasks`."""

    name: str  #: a name in BALANCERS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PresetConfig:
    """The preset of this configuration, whose values it contains. In an experiment, `preset: NAME` puts them there."""

    name: str  #: a file of configs/balancer_preset, or the path of a user's own
    method: str  #: the balancer that its values are for


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The settings of training. A step is one update of the parameters, from one batch of `data.batch_size`."""

    max_steps: Count | None = None  #: the end of training; set at least one of the two; the earlier end counts
    max_epochs: Count | None = None
    log_every: Count = 10  #: in steps
    eval_every: Count | None = None  #: in steps; null: see eval_every_epochs
    eval_every_epochs: Count | None = None  #: in epochs; null: every epoch
    save_every: Count | None = None  #: in steps; null: at every evaluation
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    compile: bool = False  #: torch.compile makes faster code of the encoder and the decoders, which takes minutes
    accumulation: Count = 1  #: the number of micro-batches in one batch
    optimizer: str = "adam"  #: adam, adamw, sgd (torch's), or another one of timm.optim.list_optimizers()
    optimizer_options: dict[str, Any] = field(
        default_factory=dict
    )  #: its further arguments, such as {betas: [0.9, 0.95]}
    lr: Rate = 1e-3  #: the learning rate of the decoders
    encoder_lr: Rate | None = None  #: the learning rate of the encoder; null: lr
    layer_decay: Annotated[float, Bound(0, 1, open=True)] | None = None  #: each layer of the encoder learns with so
    #: many times the rate of the next one, its last layer with encoder_lr; null: all with encoder_lr
    weight_decay: Annotated[float, Bound(0, 1e6)] = 0.0
    momentum: Share = 0.9  #: for sgd, and those of timm that have one
    ema: Annotated[float, Bound(0, 1, open=True, open_high=True)] | None = None  #: evaluates and saves the moving
    #: average of the weights with this decay, such as 0.999; null: the weights themselves
    clip_norm: Norm | None = None  #: the largest allowed norm of all gradients together
    clip_encoder: Norm | None = None  #: the same for the encoder's combined gradient alone; not with clip_norm
    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    warmup_steps: Natural = 0  #: the number of steps in which the learning rate grows linearly from 0
    step_size: Count | None = None  #: for `schedule: step`: the learning rate times gamma after so many steps
    step_size_epochs: Count | None = None  #: the same, in epochs
    gamma: Share = 0.1
    power: Rate = 0.9  #: for `schedule: poly`: lr * (1 - step / steps) ** power
    balancer_schedule: Literal["follow", "constant"] = "follow"  #: whether warmup_steps and schedule are also for the
    #: balancer's own learning rate, or for the model's alone
    early_stopping: Count | None = None  #: ends the training after this many evaluations without improvement
    monitor: str | None = None  #: what `best` means: <task>/<metric>, or */<metric>, the mean over tasks;
    #: null: the mean of loss / untrained loss
    baseline: dict[str, float] | None = None  #: figures of single-task runs, by <task>/<metric>: with them, `best` is
    #: the evaluation with the best delta-m, the mean over tasks of the relative gain
    decoder_gradients: Literal["published", "plain", "weighted"] = "published"  #: whether the balancer's weights reach
    #: the decoders: as in the paper of each method, never, or always
    normalize_losses: Natural = 0  #: divides each loss by its mean over this many first steps
    normalize_again: Count | None = None  #: from this step on by its mean over so many steps from there; null: never
    trackers: tuple[Tracker, ...] = ()  #: also get the log: docs/reference/configuration.md
    observers: tuple[str, ...] = ()  #: names in OBSERVERS, which plug-ins register
    selection: Literal["best", "last", "last10"] = "best"  #: the results: of the best evaluation, of the
    #: last one, or the mean of the last ten, as in tables on NYUv2


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """The part of a run's configuration that its trained model needs. It knows nothing of the data set."""

    model: ModelConfig
    task: dict[str, Any]  #: the tasks by name, each a TaskConfig
    balancer: BalancerConfig | None = None  #: None: the model works without it
    trainer: TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. `compose` makes one from YAML files and overrides. `read_config` reads that of a run."""

    experiment: str
    output_dir: str
    seed: Natural = 0
    deterministic: bool = False  #: raises an error for operations that are not deterministic on this device
    plugins: tuple[str, ...] = ()  #: modules to import first; they register the names that other keys use
    protocol: Literal["strict", "published"] = "strict"  #: published: selection on test data is allowed
    preset: PresetConfig | None = None  #: what a published code base does with the balancer; docs/reference/presets.md
    data: DataConfig
    model: ModelConfig
    task: dict[str, Any]  #: the tasks by name, each a TaskConfig
    balancer: BalancerConfig
    trainer: TrainerConfig

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists, as in a run's config.yaml."""
        values = asdict(self)
        sections = (values["data"], *values["data"]["concat"], values["model"], values["balancer"])
        for section in (*sections, *values["task"].values()):
            section |= section.pop("options")
        return cast(dict[str, Any], _plain(values))

    def save(self, path: Path) -> None:
        """Writes the configuration to a file. The file is complete or is not written at all."""
        from omegaconf import OmegaConf  # the parser of the command line reads the keys above, and does without

        write_whole(path, OmegaConf.to_yaml(OmegaConf.create(self.to_dict())).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
