"""Holding out validation data: whole groups, or blocks of neighbours with a gap."""

import numpy as np
import pytest

from mtlkit.data.splits import hold_out_blocks, hold_out_groups

SCENES = [f"scene{i}" for i, n in enumerate(np.random.default_rng(0).integers(1, 8, size=200)) for _ in range(n)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.12, 0.5, 0.9])
def test_no_group_is_on_both_sides(share: float) -> None:
    train, val = hold_out_groups(SCENES, share)
    assert sorted([*train, *val]) == list(range(len(SCENES)))
    assert not {SCENES[i] for i in train} & {SCENES[i] for i in val}
    assert share * len(SCENES) <= len(val) < share * len(SCENES) + 8  # at most one group more than asked
    assert (np.diff(train) > 0).all()


def test_the_groups_are_drawn_and_always_the_same() -> None:
    val = hold_out_groups(SCENES, 0.12)[1]
    assert np.array_equal(val, hold_out_groups([hash(scene) for scene in SCENES], 0.12)[1])  # names do not matter
    thirds = np.bincount(val * 3 // len(SCENES), minlength=3)
    assert thirds.min() > 0.1 * len(val)  # groups come from all parts of the list


@pytest.mark.parametrize(("count", "share"), [(795, 0.12), (795, 0.3), (2975, 0.1), (100, 0.1), (30, 0.1), (40, 0.02)])
def test_blocks_keep_their_distance(count: int, share: float) -> None:
    train, val = hold_out_blocks(count, share)
    assert len(val) == round(share * count)
    assert not set(train) & set(val)
    assert np.abs(train[:, None] - val[None]).min() == 6  # at least five samples between them
    starts = val[np.diff(val, prepend=-99) > 1]
    assert len(starts) == max(1, round(len(val) / 20))
    assert len(train) >= count - len(val) - 10 * len(starts)
    assert np.diff([*starts, count]).min() > 0.5 * count / (len(starts) + 1)  # the blocks are evenly spread


def test_nothing_held_out() -> None:
    for train, val in (hold_out_blocks(10, 0.0), hold_out_groups("abcabc", 0.0)):
        assert len(val) == 0
        assert len(train) in (6, 10)


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    for hold_out in (lambda: hold_out_blocks(100, share), lambda: hold_out_groups(SCENES, share)):
        with pytest.raises(ValueError, match=r"holdout must be a share of the training data in \[0, 1\)"):
            hold_out()


def test_too_little_to_split() -> None:
    with pytest.raises(ValueError, match=r"holdout=0.5 leaves nothing .* 2 samples are of 1 groups"):
        hold_out_groups(["a", "a"], 0.5)
    with pytest.raises(ValueError, match=r"holdout=0.5 leaves nothing to train on of 12 samples"):
        hold_out_blocks(12, 0.5)
