"""The file `training.pt` of a checkpoint: what only training needs, such as optimizers and counters."""

from pathlib import Path
from typing import Any

import torch

from mtlkit.engine.engine import Engine
from mtlkit.engine.optimizer_state import NAMES, load_named_state, named_state
from mtlkit.engine.shards import is_split
from mtlkit.engine.zero import is_deepspeed
from mtlkit.run import optimizer_shards

#: What a state holds, with the types of the values.
FORM: dict[str, tuple[type, ...]] = {
    "optimizer": (dict,),
    "balancer_optimizer": (dict, type(None)),
    "scaler": (dict, type(None)),
    "first_losses": (dict,),
    "step": (int,),
    "monitor": (dict,),
}
MONITOR: dict[str, tuple[type, ...]] = {
    "best": (float, int, type(None)),
    "without_gain": (int,),
    "initial": (dict, type(None)),
}


def state_of(engine: Engine) -> dict[str, Any]:
    """Returns the state of everything but the weights that are evaluated and the balancer."""
    # No random state: all random numbers are functions of the seed and the step (`mtlkit.seeding`), so a run may also
    # resume on another number of workers.
    scaler, own = engine.accelerator.scaler, engine.balancer_optimizer
    averaged = engine.averaged.model is not engine.network
    return {
        "weights": engine.network.state_dict() if averaged else None,  # else they are those of `model.safetensors`
        "optimizer": {} if is_deepspeed(engine.accelerator) else named_state(engine.optimizer, engine.network),
        "balancer_optimizer": None if own is None else named_state(own, engine.balancer),
        "scaler": None if scaler is None else scaler.state_dict(),
        "first_losses": engine.first_losses.sums,
        "step": engine.step,
        "seconds": engine.clock.seconds,
        "evaluation_due": engine.evaluation_due,
        "monitor": {name: getattr(engine.monitor, name) for name in MONITOR},
    }


def restore(engine: Engine, path: Path, step: int | None) -> str:
    """Restores the state in a file. Returns a remark if the state has no names, and otherwise nothing.

    `step` is that of the weights beside it, if they say it.

    Raises:
        ValueError: the file is damaged, belongs to another run, or holds what mtlkit did not write.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many, some with the advice to load the file in a way that runs its code
        raise _foreign(path, type(error).__name__) from error
    _check_form(path, state, FORM)
    _check_form(path, state["monitor"], MONITOR)
    if step is not None and state["step"] != step:
        raise ValueError(f"{path} is of step {state['step']}, and the weights beside it are of step {step}.")
    try:
        _put(engine, state, path.parent)
    except Exception as error:  # a foreign value may cause any error
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} does not fit the run's config.yaml, or is damaged: {reason.rstrip('.')}.") from error
    if NAMES in state["optimizer"]:
        return ""
    return (
        f"{path} has no names of parameters (earlier versions of mtlkit wrote none) and goes by "
        "their order, so the tasks must stand in config.yaml in the order of then."
    )


def _check_form(path: Path, values: object, form: dict[str, tuple[type, ...]]) -> None:
    if not isinstance(values, dict):
        raise _foreign(path, f"a {type(values).__name__} in the place of entries")
    for name, types in form.items():
        if name not in values:
            raise _foreign(path, f"no entry {name!r}")
        value = values[name]
        if type(value) not in types or (isinstance(value, int) and value < 0):
            raise _foreign(path, f"{name!r} cannot be {value!r:.40}")


def _foreign(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged, or holds what mtlkit did not write ({reason}).")


def _optimizer_state(engine: Engine, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the state split as the model is now, which need not be as it was when the state was written."""
    if optimizer_shards.FORMS in state:
        return optimizer_shards.put_together(state, engine.network, folder / optimizer_shards.SHARDS)
    return optimizer_shards.split_like(state, engine.network) if is_split(engine.network) else state


def _put(engine: Engine, state: dict[str, Any], folder: Path) -> None:
    if is_deepspeed(engine.accelerator) or not state["optimizer"]:
        # Each process has a part of its optimizer's state, in a form of its own.
        raise ValueError(
            "a run under DeepSpeed cannot go on, as its checkpoints have no state of the optimizer. Begin a new run "
            "from its weights, with model.init_from"
        )
    if state.get("weights") is not None:
        engine.network.load_state_dict(state["weights"])
    load_named_state(engine.optimizer, engine.network, _optimizer_state(engine, state["optimizer"], folder))
    if (engine.balancer_optimizer is None) != (state["balancer_optimizer"] is None):
        raise ValueError("it is of a balancer with another kind of state")
    if engine.balancer_optimizer is not None:
        load_named_state(engine.balancer_optimizer, engine.balancer, state["balancer_optimizer"])
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(state["scaler"])
    # Without these, the losses would be divided by those of a trained model.
    sums = state["first_losses"].items()
    engine.first_losses.sums = {name: [float(total), int(count)] for name, (total, count) in sums}
    engine.step = state["step"]
    engine.clock.before = float(state.get("seconds", 0.0))  # earlier releases did not count them
    engine.evaluation_due = bool(state.get("evaluation_due", False))  # earlier releases saved only where none was due
    for name in MONITOR:
        setattr(engine.monitor, name, state["monitor"][name])
    if engine.monitor.initial is not None:
        engine.monitor.initial = {name: float(value) for name, value in engine.monitor.initial.items()}
