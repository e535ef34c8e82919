"""The keys of the section `trainer`: the settings of training."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mtlkit.typed import Bound, Count, Natural, Share

#: Single precision, in which most runs compute, knows no number beyond 1e38, and takes those below 1e-38 for 0. An
#: optimizer multiplies a rate by more than that, and divides by it.
Rate = Annotated[float, Bound(1e-30, 1e6)]
Norm = Annotated[float, Bound(1e-30, 1e30)]
#: The trackers of Accelerate.
Tracker = Literal[
    "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The settings of training. A step is one update of the parameters, from one batch of `data.batch_size`.

    Args:
        max_steps: the end of training, in steps; set it or max_epochs; with both, the earlier end counts
        max_epochs: the end of training, in passes over the training data
        log_every: the number of steps between two lines of the log
        eval_every: the number of steps between two evaluations; null: see eval_every_epochs
        eval_every_epochs: the number of epochs between two evaluations; null: every epoch
        save_every: the number of steps between two checkpoints; null: at every evaluation
        precision: the numbers in which the networks compute; bf16 and fp16 are faster on most GPUs
        compile: torch.compile makes faster code of the encoder and the decoders, which takes minutes
        accumulation: the number of micro-batches in one batch
        optimizer: adam, adamw, sgd (torch's), or another one of timm.optim.list_optimizers()
        optimizer_options: further arguments of the optimizer, such as {betas: [0.9, 0.95]}
        lr: the learning rate of the decoders
        encoder_lr: the learning rate of the encoder; null: lr
        layer_decay: each layer of the encoder learns with so many times the rate of the next one, its last layer with
            encoder_lr; null: all with encoder_lr
        weight_decay: the weight decay of the optimizer, for the encoder and the decoders
        momentum: the momentum of sgd, and of the optimizers of timm that have one
        ema: the run evaluates and saves the moving average of the weights with this decay, such as 0.999; null: the
            weights themselves
        clip_norm: the largest allowed norm of all gradients together
        clip_encoder: the largest allowed norm of the encoder's combined gradient alone; not with clip_norm
        schedule: how the learning rate changes: not at all, along half a cosine to 0, by `power`, or in steps by
            `gamma`
        warmup_steps: the number of steps in which the learning rate grows linearly from 0
        step_size: for `schedule: step`: the learning rate times gamma after so many steps
        step_size_epochs: step_size, in epochs
        gamma: for `schedule: step`: the factor of each step
        power: for `schedule: poly`: lr * (1 - step / steps) ** power
        balancer_schedule: whether warmup_steps and schedule are also for the balancer's own learning rate, or for the
            model's alone
        early_stopping: ends the training after this many evaluations without improvement
        monitor: what `best` means: <task>/<metric>, or */<metric>, the mean over tasks; null: the mean of loss /
            untrained loss
        baseline: figures of single-task runs, by <task>/<metric>: with them, `best` is the evaluation with the best
            delta-m, the mean over tasks of the relative gain
        decoder_gradients: whether the balancer's weights reach the decoders: as in the paper of each method, never
            (plain), or always
        normalize_losses: divides each loss by its mean over this many first steps
        normalize_again: from this step on, normalize_losses divides by the mean over so many steps from there; null:
            never
        trackers: programs that also get the log, such as tensorboard or wandb: docs/reference/configuration.md
        observers: names of observers, which plug-ins register
        profile: writes profile.json into the run's folder: where the time of three steps goes
        selection: which evaluation gives the results: the best, the last, or the mean of the last ten, as in tables on
            NYUv2
    """

    max_steps: Count | None = None
    max_epochs: Count | None = None
    log_every: Count = 10
    eval_every: Count | None = None
    eval_every_epochs: Count | None = None
    save_every: Count | None = None
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    compile: bool = False
    accumulation: Count = 1
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr: Rate = 1e-3
    encoder_lr: Rate | None = None
    layer_decay: Annotated[float, Bound(0, 1, open=True)] | None = None
    weight_decay: Annotated[float, Bound(0, 1e6)] = 0.0
    momentum: Share = 0.9
    ema: Annotated[float, Bound(0, 1, open=True, open_high=True)] | None = None
    clip_norm: Norm | None = None
    clip_encoder: Norm | None = None
    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    warmup_steps: Natural = 0
    step_size: Count | None = None
    step_size_epochs: Count | None = None
    gamma: Share = 0.1
    power: Rate = 0.9
    balancer_schedule: Literal["follow", "constant"] = "follow"
    early_stopping: Count | None = None
    monitor: str | None = None
    baseline: dict[str, float] | None = None
    decoder_gradients: Literal["published", "plain", "weighted"] = "published"
    normalize_losses: Natural = 0
    normalize_again: Count | None = None
    trackers: tuple[Tracker, ...] = ()
    observers: tuple[str, ...] = ()
    profile: bool = False
    selection: Literal["best", "last", "last10"] = "best"
