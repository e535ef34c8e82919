"""What all processes of a run must have in common, and who has something else."""

from collections.abc import Callable, Mapping, Sequence
from operator import eq

SHOWN = 3  #: differences in a message

Facts = Mapping[str, object]


def check_agreement(found: Sequence[tuple[int, Facts]], what: str, same: Callable[[object, object], bool] = eq) -> None:
    """Compares what the processes have. All processes call it with the same arguments, so all raise or none does.

    Args:
        found: the number of each process, and what it has, by name. The first process is the one to compare with.
        what: in which the processes must agree, for the message.
        same: whether two values are the same.

    Raises:
        ValueError: they differ. The message names the processes, the names and the values.

    >>> check_agreement([(0, {"seed": 0}), (1, {"seed": 1})], "settings")
    Traceback (most recent call last):
    ValueError: All processes must have the same settings, but rank 1 has seed=1, rank 0 has seed=0.
    """
    (first, wanted), *others = found
    differences = []
    for name in dict.fromkeys(name for _, facts in found for name in facts):
        by_value: dict[str, list[int]] = {}
        for rank, facts in others:
            if (name in facts) != (name in wanted) or not same(facts.get(name), wanted.get(name)):
                by_value.setdefault(_text(facts, name), []).append(rank)
        if by_value:
            words = [f"{_who(ranks)} {value}" for value, ranks in by_value.items()]
            differences.append(", ".join([*words, f"{_who([first])} {_text(wanted, name)}"]))
    if differences:
        more = len(differences) - SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        raise ValueError(f"All processes must have the same {what}, but {'; '.join([*differences[:SHOWN], *rest])}.")


def _who(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} ha{'ve' if len(ranks) > 1 else 's'}"


def _text(facts: Facts, name: str) -> str:
    return f"{name}={facts[name]}" if name in facts else f"no {name}"
