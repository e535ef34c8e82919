"""Damaged and hostile checkpoints: none is loaded as another state."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import toys
from damage import damage
from safetensors.torch import load_file, save_file

from mtlkit.engine.engine import Engine
from mtlkit.run import checkpoint, checksums, training_state
from trust.kills import same
from trust.result import HangsError, Result, guarded, misbehaved


def run(folder: Path, seed: int, count: int) -> Result:
    """Damages `count` checkpoints of a run, and then writes hostile ones, with right checksums."""
    result = Result()
    engine, whole, other = _trained(), folder / "whole" / "last", folder / "whole" / "best"
    checkpoint.save_checkpoint(engine, other)
    engine.train_step(toys.make_batch(2))
    checkpoint.save_checkpoint(engine, whole)
    expected = _state(engine)
    for number in range(seed, seed + count):
        places = [shutil.copytree(path, folder / str(number) / path.name) for path in (whole, other)]
        words = damage(places[0], number, places[1] if number % 2 else None)
        outcome, wrong = _look(engine, places[0], expected)
        if wrong:
            result.fault(f"checkpoint {number}, {words}: {wrong}")
        else:
            result.outcomes[outcome] += 1
        shutil.rmtree(folder / str(number))
    for words, change in HOSTILE.items():
        place = shutil.copytree(whole, folder / "hostile" / "last")
        change(place)
        checksums.seal(place)  # whoever writes such a file can write its checksum
        outcome, wrong = _hostile(place)
        if wrong:
            result.fault(f"hostile checkpoint, {words}: {wrong}")
        else:
            result.outcomes[f"hostile: {outcome}"] += 1
        shutil.rmtree(folder / "hostile")
    return result


def _trained(steps: int = 2) -> Engine:
    """Returns an engine after some steps. GradNorm has an optimizer of its own."""
    engine = toys.make_engine("gradnorm", normalize_losses=3)
    for number in range(steps):
        engine.train_step(toys.make_batch(number))
    return engine


def _state(engine: Engine) -> dict[str, Any]:
    parts = {"network": engine.network, "balancer": engine.balancer}
    found: dict[str, Any] = {
        name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in parts.items()
    }
    state = training_state.state_of(engine)
    del state["seconds"]  # the clock goes on
    return found | {
        "training": torch.utils._pytree.tree_map(
            lambda value: value.clone() if torch.is_tensor(value) else value, state
        )
    }


def _look(engine: Engine, place: Path, expected: dict[str, Any]) -> tuple[str, str]:
    """Loads a damaged checkpoint. It is refused by the name of a file, or it is loaded and is what was saved."""
    try:
        with guarded(), warnings.catch_warnings():
            checkpoint.load_checkpoint(engine, place)
    except HangsError as error:
        return "", str(error)
    except Exception as error:  # noqa: BLE001 (any other error than one for users is the fault that is looked for)
        if f"{place}/" not in str(error):
            return "", f"{str(error)[:300]} names no file"
        return "refused", misbehaved(error)
    return "loaded as saved", "" if same(_state(engine), expected) else "it is loaded as another state"


def _hostile(place: Path) -> tuple[str, str]:
    """Loads a checkpoint that fits by its names, and trains a step with it."""
    engine = _trained(0)
    try:
        with guarded():
            checkpoint.load_checkpoint(engine, place)
    except Exception as error:  # noqa: BLE001
        return "refused", misbehaved(error)
    try:
        with guarded():
            engine.train_step(toys.make_batch(3))
    except Exception as error:  # noqa: BLE001
        return "", f"it is loaded, and the first step fails: {type(error).__name__}: {str(error)[:200]}"
    return "trained on", ""


def _training(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(place: Path) -> None:
        state = torch.load(place / checkpoint.TRAINING, weights_only=True)
        change(state)
        torch.save(state, place / checkpoint.TRAINING)

    return changed


def _moment(name: str, value: Any, optimizer: str = "optimizer") -> Callable[[Path], None]:
    def change(state: dict[str, Any]) -> None:
        first = next(iter(state[optimizer]["state"].values()))
        if value is None:
            del first[name]
        else:
            first[name] = value

    return _training(change)


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(place: Path) -> None:
        values = load_file(place / checkpoint.WEIGHTS)
        change(values)
        save_file(values, place / checkpoint.WEIGHTS, {"step": "3"})

    return changed


def _group(name: str, value: Any) -> Callable[[Path], None]:
    return _training(lambda state: state["optimizer"]["param_groups"][0].__setitem__(name, value))


def _first(values: dict[str, torch.Tensor]) -> str:
    return next(iter(values))


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a moment of another shape": _moment("exp_avg", torch.zeros(3, 3, 3)),
    "a moment of one number": _moment("exp_avg", torch.zeros(())),
    "a moment that is text": _moment("exp_avg_sq", "text"),
    "a moment of whole numbers": _moment("exp_avg", torch.zeros(1, dtype=torch.int64)),
    "no moment": _moment("exp_avg", None),
    "a step that is text": _moment("step", "text"),
    "a step of another shape": _moment("step", torch.zeros(2)),
    "a moment of the balancer of another shape": _moment("exp_avg", torch.zeros(7), "balancer_optimizer"),
    "a learning rate that is text": _group("lr", "text"),
    "betas that are one number": _group("betas", 0.9),
    "no eps": _training(lambda state: state["optimizer"]["param_groups"][0].pop("eps")),
    "no groups": _training(lambda state: state["optimizer"].__setitem__("param_groups", [])),
    "a state that is a list": _training(lambda state: state["optimizer"].__setitem__("state", [])),
    "names that are numbers": _training(lambda state: state["optimizer"].__setitem__("names", [[1, 2]])),
    "another step": _training(lambda state: state.__setitem__("step", 10**9)),
    "a first loss that is text": _training(lambda state: state["first_losses"].__setitem__("depth", "text")),
    "a monitor that is text": _training(lambda state: state["monitor"].__setitem__("initial", {"a": "text"})),
    "a weight of another shape": _weights(lambda values: values.__setitem__(_first(values), torch.zeros(2, 2))),
    "a weight too many": _weights(lambda values: values.__setitem__("more", torch.zeros(2))),
    "a weight too few": _weights(lambda values: values.pop(_first(values))),
}
