"""Takes validation data out of training data without leaks."""

from collections.abc import Hashable, Sequence

import numpy as np

Indices = np.ndarray  # int64, ascending

SEED = 0  #: the seed of the draws below is fixed, because a split belongs to the data and not to a run


def hold_out_groups(groups: Sequence[Hashable], share: float) -> tuple[Indices, Indices]:
    """Returns the indices of (training, validation) samples. No group (a scene, a patient) is in both.

    Whole groups are drawn, in an order that depends only on the groups, until validation has `share` of the samples or
    just more. With a share of 0, validation is empty.

    Raises `ValueError` for a share that is not in [0, 1) or that takes every group.

    >>> train, val = hold_out_groups(["a", "a", "b", "c", "c", "d"], share=0.3)
    >>> len(train) + len(val), len(val)
    (6, 2)
    """
    check_share(share)
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    numbers = np.array([names[group] for group in groups], dtype=np.int64)
    held = np.zeros(len(numbers), dtype=bool)
    wanted = share * len(numbers)
    for number in np.random.Generator(np.random.PCG64(SEED)).permutation(len(names)):
        if held.sum() >= wanted:
            break
        held |= numbers == number
    if held.all():
        raise ValueError(
            f"holdout={share:g} leaves nothing to train on: the {len(numbers)} samples are of {len(names)} groups "
            "(scenes or patients), and no group may be split. Use a smaller share or more samples."
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out_blocks(count: int, share: float, block: int = 20, gap: int = 5) -> tuple[Indices, Indices]:
    """Does the same for samples in the order in which they were taken, if it is not known where a scene ends.

    Blocks of about `block` neighbours are held out, evenly spread. The `gap` samples on both sides of a block may show
    its first or last scene, so they are in neither part.

    >>> [len(part) for part in hold_out_blocks(795, share=0.12)]
    [650, 95]
    """
    check_share(share)
    wanted = round(share * count)
    if wanted == 0:
        return np.arange(count), np.arange(0)
    number = max(1, round(wanted / block))
    if wanted + 2 * gap * number >= count:
        raise ValueError(
            f"holdout={share:g} leaves nothing to train on of {count} samples: beside the {wanted} held out, {gap} "
            f"samples on both sides of each of {number} blocks stay unused. Use a smaller share or more samples."
        )
    sizes = np.diff(np.linspace(0, wanted, number + 1).round().astype(np.int64))
    used = np.zeros(count, dtype=np.int64)  # 0 training, 1 unused, 2 validation
    for k, size in enumerate(sizes):
        middle = round((k + 0.5) * count / number)
        start = min(max(middle - int(size) // 2, gap), count - int(size) - gap)
        used[start - gap : start + size + gap] = np.maximum(used[start - gap : start + size + gap], 1)
        used[start : start + size] = 2
    return np.flatnonzero(used == 0), np.flatnonzero(used == 2)


def check_share(share: float) -> None:
    """Raises `ValueError` unless 0 <= share < 1."""
    if not 0 <= share < 1:
        raise ValueError(f"holdout must be a share of the training data in [0, 1), got {share!r}.")
