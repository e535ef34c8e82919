"""The keys of every configuration, with their types and defaults.

The sections `data`, `model`, `task.<name>` and `balancer` name a class. Their other keys are options of that class.
The docstrings say what the keys mean, and `mtlkit describe` and `mtlkit schema` read it there.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from mtlkit.config.schema_data import Augmentation, DataConfig, SetConfig
from mtlkit.config.schema_trainer import TrainerConfig
from mtlkit.files import write_whole
from mtlkit.typed import Count, Seed, ShareBelowOne

__all__ = [
    "Augmentation",
    "BalancerConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "LoraConfig",
    "ModelConfig",
    "PresetConfig",
    "SetConfig",
    "TaskConfig",
    "TrainedConfig",
    "TrainerConfig",
]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Small adapters that learn in place of the encoder's weights. The package `peft` makes them.

    Args:
        rank: the rank of an adapter's two matrices
        targets: ends of the names of layers, such as attn.qkv
        alpha: the adapter counts alpha / rank times; null: once
        dropout: the share of the adapters' inputs that is set to 0
    """

    rank: Count
    targets: tuple[str, ...] = ("qkv", "proj")
    alpha: Count | None = None
    dropout: ShareBelowOne = 0.0

    @property
    def scale(self) -> float:
        """The factor of the adapters: alpha / rank."""
        return (self.alpha or self.rank) / self.rank


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shared encoder. `options` are the options of this encoder.

    Args:
        encoder: the name of an encoder (`mtlkit list encoders`) or of any timm model
        pretrained: true: the published weights; or the path of a file of weights
        init_from: the folder of a run whose weights this run starts from, as far as they fit
        freeze: true: the whole encoder does not learn; a number N: its stem and first N stages
        lora: trains adapters in the encoder, whose own weights stand still
        batch_norm: statistics of one process, of all processes, or fixed
        checkpointing: the encoder computes its activations again in the backward pass: less memory
        channels_last: uses the layout of maps in memory that is faster on many GPUs in bf16 and fp16
    """

    encoder: str
    pretrained: bool | str = False
    init_from: str | None = None
    freeze: bool | Count = False
    lora: LoraConfig | None = None
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    checkpointing: bool = False
    channels_last: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder of a task. `options` are the options of this decoder.

    Args:
        name: the name of a decoder: `mtlkit list decoders`
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task. `options` are the options of this task.

    Args:
        type: the type of the task: `mtlkit list tasks`
        decoder: its name (`mtlkit list decoders`), or {name: NAME, option: value, ...}; absent: the default of `type`
    """

    type: str
    decoder: str | dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BalancerConfig:
    """The balancer. `options` are all arguments of its constructor except `tasks`.

    Args:
        name: the name of a balancer: `mtlkit list balancers`
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PresetConfig:
    """The preset of this configuration, whose values it contains. In an experiment, `preset: NAME` puts them there.

    Args:
        name: a file of configs/balancer_preset, or the path of a user's own
        method: the balancer that its values are for
    """

    name: str
    method: str


@dataclass(frozen=True, kw_only=True)
class TrainedConfig:
    """The part of a run's configuration that its trained model needs. It knows nothing of the data set.

    Args:
        model: the shared encoder
        task: the tasks by name, each a TaskConfig
        balancer: None: the model works without it
        trainer: the settings of training
    """

    model: ModelConfig
    task: dict[str, Any]
    balancer: BalancerConfig | None = None
    trainer: TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. `compose` makes one from YAML files and overrides. `read_config` reads that of a run.

    Args:
        experiment: the name of the experiment; mtlkit writes it
        output_dir: the folder that the run writes to; default: runs/EXPERIMENT_BALANCER_SEED
        seed: decides the initial weights, the order of the data, the augmentation and the dropout
        deterministic: raises an error for operations that are not deterministic on this device
        plugins: modules to import first; they register the names that other keys use
        protocol: published: selection on test data is allowed
        preset: the name of a published code base, whose values for the balancer are used: `mtlkit list presets`
        data: one or several data sets, and the batches made from them
        model: the shared encoder
        task: the tasks by name, each a TaskConfig
        balancer: how the tasks share the encoder
        trainer: the settings of training
    """

    experiment: str
    output_dir: str
    seed: Seed = 0
    deterministic: bool = False
    plugins: tuple[str, ...] = ()
    protocol: Literal["strict", "published"] = "strict"
    preset: PresetConfig | None = None
    data: DataConfig
    model: ModelConfig
    task: dict[str, Any]
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
