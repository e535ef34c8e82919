"""The optimizers that `trainer.optimizer` can name: torch's and all others of `timm.optim`.

timm takes seconds to import, so the three usual names do without it.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from mtlkit.config.schema import TrainerConfig
from mtlkit.registry import suggest

USUAL = {"adam": False, "adamw": False, "sgd": True}  #: torch's own, and whether they have a momentum
#: timm's `sgd` is torch's with Nesterov's momentum; the plain one is called `momentum` there.
IN_TIMM = {"sgd": "momentum"}
KEYS = {"lr": "trainer.lr", "weight_decay": "trainer.weight_decay", "momentum": "trainer.momentum"}


def optimizer_problems(trainer: TrainerConfig) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with the optimizer: the key, and why.

    It finds an unknown name, an unknown option, text where the optimizer needs true or false, and an optimizer that
    needs a second backward pass. The engine tries the other values (`check_optimizer`).
    """
    name, options = trainer.optimizer, trainer.optimizer_options
    if name in USUAL and not options:
        return
    from timm.optim import list_optimizers

    if name not in (known := {*map(str, list_optimizers()), *USUAL}):
        yield "trainer.optimizer", f"no optimizer of timm.optim is called {name!r}. {suggest(name, known)}"
        return
    if _info(name).second_order:
        yield "trainer.optimizer", f"{name} needs second derivatives, which the one backward pass of a step has not"
    own = _options(name)
    for option, value in options.items():
        if option in KEYS:
            yield f"trainer.optimizer_options.{option}", f"it is the key {KEYS[option]}"
        elif own and option not in own:
            yield f"trainer.optimizer_options.{option}", f"{name} has no such option. {suggest(option, own)}"
        elif isinstance(own.get(option), bool) and not isinstance(value, bool):  # Python takes "no" for true
            yield f"trainer.optimizer_options.{option}", f"expected true or false, found {value!r}"


def has_momentum(name: str) -> bool:
    """Returns whether the optimizer takes `trainer.momentum`."""
    return USUAL[name] if name in USUAL else bool(_info(name).has_momentum)


def optimizer_options(trainer: TrainerConfig) -> dict[str, Any]:
    """Returns the arguments of the constructor besides the rates: those of the user, and what an exact resume needs."""
    if trainer.optimizer in USUAL:
        return dict(trainer.optimizer_options)
    # timm's word for "the same after a resume". Its default is not, because it costs time.
    exact = {"deterministic": True} if "deterministic" in _options(trainer.optimizer) else {}
    return exact | trainer.optimizer_options


def default_options(trainer: TrainerConfig) -> dict[str, Any]:
    """Returns the optimizer's further arguments with their defaults, as far as they are known."""
    return _options(trainer.optimizer)


def _options(name: str) -> dict[str, Any]:
    """Returns an optimizer's further arguments with their defaults. None if it is from a package that may be absent."""
    found = _info(name).opt_class
    if isinstance(found, str):
        return {}
    given = inspect.signature(found).parameters.items()
    return {key: value.default for key, value in given if key not in {"params", *KEYS}}


def _info(name: str) -> Any:
    from timm.optim import get_optimizer_info

    return get_optimizer_info(IN_TIMM.get(name, name))
