"""Combinations of settings that are impossible, each with the key at fault and the reason."""

from mtlkit.config.schema import Config
from mtlkit.config.sections import options
from mtlkit.network import ENCODERS


def impossible_data(config: Config) -> list[tuple[str, str]]:
    """Returns the impossible combinations of values in `data`: the key, and why."""
    data = config.data
    single = [key for key in ("name", "root", "train_size", "val_size") if getattr(data, key) is not None]
    weighted = [part.weight is not None for part in data.concat]
    rules = (
        (
            f"data.{single[0]}" if single else "",
            bool(data.concat and single),
            "belongs to a single data set, but data.concat names several; give it to one of them, or leave out one of "
            "the two (~data.concat or ~data.name)",
        ),
        (
            "data.drop_last",
            bool(data.concat) and not data.drop_last,
            "it belongs to a single data set: with data.concat, a pass through one of the sets may end within a batch, "
            "and nothing is left over. Leave it out",
        ),
        ("data.mixing", data.mixing != "proportional" and not data.concat, "is about data.concat, which is not set"),
        (
            "data.temperature",
            (data.temperature is None) == (data.mixing == "temperature"),
            f"goes with data.mixing=temperature and with nothing else, found data.mixing={data.mixing}, "
            f"data.temperature={data.temperature}",
        ),
        (
            "data.concat",
            any(weighted) if data.mixing != "weights" else not all(weighted),
            "a weight for every data set goes with data.mixing=weights and with nothing else",
        ),
        (
            "data.validation",
            data.validation == "test" and config.protocol != "published",
            "selecting on test data makes every figure on it too good. Published tables do so: protocol=published "
            "allows it, and the results say it",
        ),
    )
    return [(key, why) for key, wrong, why in rules if wrong]


def impossible(config: Config) -> list[tuple[str, str]]:
    """Returns the impossible combinations of values in other sections: the key, and why."""
    trainer, batch, encoder = config.trainer, config.data.batch_size, config.model.encoder
    accumulation = trainer.accumulation
    untrained = encoder in ENCODERS.names() and "pretrained" not in options(ENCODERS, encoder)
    monitored, _, metric = (trainer.monitor or "").partition("/")
    rules = (
        ("task", not config.task, "there is no task to learn"),
        ("output_dir", not config.output_dir, "the name of the run's folder is empty"),
        ("model.pretrained", config.model.pretrained and untrained, f"encoder {encoder!r} takes no pretrained weights"),
        (
            "model.freeze",
            config.model.lora is not None and config.model.freeze is not False,
            "it does not go with model.lora, which freezes the encoder and trains adapters in it",
        ),
        (
            "model.checkpointing",
            config.model.checkpointing and config.model.freeze is True,
            "it saves nothing with model.freeze=true: a frozen encoder keeps no activations",
        ),
        ("model.lora.targets", config.model.lora is not None and not config.model.lora.targets, "it names no layer"),
        (
            "trainer.max_steps",
            trainer.max_steps is None and trainer.max_epochs is None,
            "training has no end; set trainer.max_steps or trainer.max_epochs",
        ),
        (
            "data.batch_size",
            batch % accumulation,
            f"{batch} samples do not divide into trainer.accumulation={accumulation} equal parts",
        ),
        (
            "trainer.warmup_steps",
            trainer.max_steps is not None and trainer.warmup_steps >= trainer.max_steps,
            f"{trainer.warmup_steps} is not less than trainer.max_steps={trainer.max_steps}",
        ),
        (
            "trainer.eval_every_epochs",
            trainer.eval_every is not None and trainer.eval_every_epochs is not None,
            f"it does not go with trainer.eval_every={trainer.eval_every}",
        ),
        (
            "trainer.step_size",
            trainer.schedule == "step" and (trainer.step_size is None) == (trainer.step_size_epochs is None),
            "trainer.schedule=step needs either it or trainer.step_size_epochs",
        ),
        (
            "trainer.clip_encoder",
            trainer.clip_encoder is not None and trainer.clip_norm is not None,
            f"it does not go with trainer.clip_norm={trainer.clip_norm}; set one of the two to null",
        ),
        (
            "trainer.normalize_again",
            trainer.normalize_again is not None and trainer.normalize_again < max(1, trainer.normalize_losses),
            f"{trainer.normalize_again} comes before the end of the first trainer.normalize_losses="
            f"{trainer.normalize_losses} steps",
        ),
        (
            "trainer.normalize_again",
            trainer.normalize_again is not None and not trainer.normalize_losses,
            "it needs trainer.normalize_losses=1 or more: the number of steps whose mean is taken",
        ),
        (
            "trainer.monitor",
            trainer.monitor is not None and (monitored not in (*config.task, "*") or not metric),
            f"expected <task>/<metric> with a task of {', '.join(config.task)}, or */<metric>, found "
            f"{trainer.monitor!r}",
        ),
        (
            "trainer.baseline",
            trainer.baseline is not None and trainer.monitor is not None,
            f"it does not go with trainer.monitor={trainer.monitor}: each of them says which evaluation is the best",
        ),
        (
            "trainer.baseline",
            other := [key for key in trainer.baseline or () if key.partition("/")[0] not in config.task],
            f"expected <task>/<metric> with a task of {', '.join(config.task)}, found {', '.join(map(repr, other))}",
        ),
        (
            "trainer.baseline",
            trainer.baseline == {},
            "it is empty; give the figure of each task's single-task run, or null",
        ),
    )
    return [(key, why) for key, wrong, why in rules if wrong]
