"""The table of all balancers, as `docs/reference/balancers.md` shows it."""

import inspect
import json
import re
from collections.abc import Iterable

from mtlkit.balancer import BALANCERS, Balancer, has_adapters
from mtlkit.network import EncoderInfo
from mtlkit.registry import options_of

TASKS = ("first_task", "second_task")  # task names to build a balancer with, to see its state
ENCODER = EncoderInfo(channels=(4,), strides=(8,), parameters=10)

COSTS = {
    "features": "inner products of the gradients",
    "last_layer": "K backward passes through that layer",
    "parameters": "K encoder backward passes",
}  #: the cost of the gradients per space, in addition to a step of the plain sum
WHERE = {"features": "at the features", "last_layer": "of the last layer", "parameters": "over the parameters"}
FURTHER_COSTS = {"second_forward": "one more forward pass", "indicators": "one indicator per task"}  #: of `needs`

INTRODUCTION = """\
# Balancers

`mtlkit list balancers --markdown` makes this page from the classes and their docstrings. Do not edit the page.

K is the number of tasks, and P is the number of the encoder's trainable parameters. The columns are:

- *needs*: what the method needs from the engine (`mtlkit/balancer.py`).
- *spaces*: where the method can compare the task gradients: at the shared features, the encoder's last layer or all its
  parameters. The default comes first.
- *decoders*: what each decoder gets in the paper or, if the paper does not say it, in the authors' code. `plain` is the
  gradient of its own loss. `weighted` is this gradient times the weight of the task.
  `trainer.decoder_gradients: published` follows this column.
- *options*: the options with their defaults.
- *cost*: what a step costs in addition to a step of the plain sum. K encoder backward passes replace its single one.
- *state*: what a checkpoint stores. It is learned by the balancer's own Adam, or kept by the method itself.

`python -m pydoc mtlkit.balancers.NAME` shows the whole rule of a method and explains its options.
"""


def markdown(names: Iterable[str]) -> str:
    """Returns the page: the introduction and a table with one row per named balancer."""
    head = ("name", "what it does", "needs", "spaces", "decoders", "options", "cost", "state", "memory", "paper")
    lines = [head, ["---"] * len(head), *(row(name) for name in names)]
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(name: str) -> list[str]:
    """Returns the cells of a balancer's row.

    >>> row("uniform")[:4]
    ['`uniform`', 'Minimises the plain sum of the losses (equal weighting, linear scalarisation).', 'losses', '–']
    """
    cls = BALANCERS.get(name)
    cells = [
        f"`{name}`",
        BALANCERS.describe(name),
        needs_in_words(cls),
        spaces_in_words(cls),
        decoders_in_words(cls),
        options_in_words(cls),
        cost(cls),
        state(cls),
        memory(cls),
        paper(cls),
    ]
    return [cell.replace("|", "\\|") for cell in cells]


def needs_in_words(cls: type[Balancer]) -> str:
    """Returns what the engine must provide. It always provides the losses."""
    if not cls.needs:
        return "gradients" if _uses_gradients(cls) else "losses"
    return ", ".join(f"`{need}`" for need in sorted(cls.needs))


def spaces_in_words(cls: type[Balancer]) -> str:
    """Returns the spaces, the default first, or a dash for a method that uses no gradient."""
    return ", ".join(f"`{space}`" for space in _spaces(cls)) or "–"


def decoders_in_words(cls: type[Balancer]) -> str:
    """Returns what the method gives the decoders with its default options."""
    try:
        return cls(TASKS).decoders
    except (TypeError, ValueError):  # as in `state`
        return cls.decoders


def options_in_words(cls: type[Balancer]) -> str:
    """Returns the method's own options and defaults, as on the command line, or a dash if there are none."""
    own = {key: option.default for key, option in options_of(cls).items() if key not in ("tasks", "space")}
    if cls.__init__ is Balancer.__init__:  # its learning rates have no effect: there is no state to learn
        own = {}
    return (
        ", ".join(f"`{key}={value if isinstance(value, str) else json.dumps(value)}`" for key, value in own.items())
        or "–"
    )


def cost(cls: type[Balancer]) -> str:
    """Describes what a step costs in addition to a step of the plain sum."""
    found = {space: _gradient_cost(cls, space) for space in _spaces(cls)}
    parts = list(found.values()) if len(found) == 1 else [f"`{space}`: {words}" for space, words in found.items()]
    if has_adapters(cls):
        parts.append("one map of the features per task")
    parts += [words for need, words in FURTHER_COSTS.items() if need in cls.needs]
    return "; ".join(parts) or "none"


def state(cls: type[Balancer]) -> str:
    """Describes what a checkpoint stores, by role and without the names of tasks."""
    try:
        balancer = cls(TASKS)
        balancer.setup({}, ENCODER)
    except (TypeError, ValueError) as error:  # an option without a default, or a package that is not installed
        return f"not known here: {error}"
    learned = {name for name, parameter in balancer.named_parameters() if parameter.requires_grad}
    roles: dict[str, dict[str, None]] = {"learned": {}, "kept": {}}
    for key in balancer.state_dict():
        role = ".".join(part for part in key.split(".") if part not in TASKS)
        roles["learned" if key in learned else "kept"][f"`{role}`"] = None
    return "; ".join(f"{kind}: {', '.join(found)}" for kind, found in roles.items() if found) or "none"


def memory(cls: type[Balancer]) -> str:
    """Returns the docstring's `Memory:` paragraph. Without one, the method stores at most a few numbers per task."""
    return paragraph(cls, "Memory").rstrip(".") or ("none" if state(cls) == "none" else "a few numbers per task")


def paper(cls: type[Balancer]) -> str:
    """Returns the docstring's `Source:` up to its arXiv number, which becomes a link, or otherwise up to the year."""
    text = paragraph(cls, "Source")
    if found := re.match(r"(.*?)(?: \([^()]*)?,? arXiv (\d{4}\.\d{4,5})", text):
        return f"{found[1]}, [arXiv {found[2]}](https://arxiv.org/abs/{found[2]})"
    found = re.match(r".*?\b(19|20)\d\d\b", text)
    return found[0] if found else "–"


def paragraph(cls: type, title: str) -> str:
    """Returns the paragraph of the docstring that starts with `title:`, on one line and without the title."""
    found = re.search(rf"^{title}:\s+(.*?)(?:\n\s*\n|\Z)", inspect.getdoc(cls) or "", re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _uses_gradients(cls: type[Balancer]) -> bool:
    return cls.combine is not Balancer.combine or bool(cls.needs & {"gram", "create_graph", "second_batch"})


def _spaces(cls: type[Balancer]) -> list[str]:
    """Returns the spaces in which the method uses gradients, the default first."""
    if not _uses_gradients(cls):
        return []
    option = options_of(cls).get("space")
    default = cls.spaces[0] if option is None or option.default not in cls.spaces else option.default
    return sorted(cls.spaces, key=lambda space: space != default)


def _gradient_cost(cls: type[Balancer], space: str) -> str:
    if "create_graph" in cls.needs:
        return f"a double backward pass over the gradients {WHERE[space]}"
    if "second_batch" in cls.needs:
        return "2 K encoder backward passes"
    if space == "features" and "gram" not in cls.needs:
        return "elementwise work on the gradients"
    return COSTS[space]
