"""The order of samples: each step is the same for any number of processes. Also the mixture of several sets."""

import itertools
import math

import pytest

from mtlkit.data.order import Mixed, Order, Shuffled, StepSampler


def take(iterable, count: int) -> list:
    return list(itertools.islice(iterable, count))


ORDERS = {
    "one": Shuffled(37, 16, seed=5),
    "mixed": Mixed([20, 7, 10], [1, 2, 0.5], 16, seed=5),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_ranks_together_hold_the_same_micro_batches(order: Order, world: int, accumulation: int) -> None:
    def micro_batches(world: int) -> list[list[list[tuple[int, int]]]]:
        samplers = [StepSampler(order, rank, world, accumulation) for rank in range(world)]
        steps = zip(*(take(sampler, 7) for sampler in samplers), strict=True)
        each = 16 // world // accumulation
        assert all(len(part) == each * accumulation for s in samplers for part in take(s, 3))
        return [
            [[key for part in parts for key in part[i * each : (i + 1) * each]] for i in range(accumulation)]
            for parts in steps
        ]

    assert micro_batches(world) == micro_batches(1)


def test_every_sample_at_most_once_an_epoch_and_another_order_each_time() -> None:
    order = Shuffled(37, 8, seed=3)
    assert order.steps_per_epoch == 4
    steps = take(StepSampler(order), 5 * 4)
    orders = []
    for epoch in range(5):
        keys = [key for step in steps[4 * epoch : 4 * epoch + 4] for key in step]
        assert {e for e, _ in keys} == {epoch}
        indices = [index for _, index in keys]
        assert len(set(indices)) == 32
        assert set(indices) <= set(range(37))
        orders.append(indices)
    assert len({tuple(indices) for indices in orders}) == 5
    assert set().union(*orders) == set(range(37))  # samples that one epoch drops appear in other epochs
    assert next(Shuffled(37, 8, seed=4).batches()) != steps[0]
    assert next(iter(StepSampler(order))) == steps[0]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11])
def test_starting_later_continues_the_same_run(order: Order, start: int) -> None:
    whole = take(StepSampler(order, rank=1, world=2), 16)
    later = StepSampler(order, rank=1, world=2, start_step=start)
    assert take(later, 16 - start) == whole[start:]


@pytest.mark.parametrize(
    ("batch", "world", "accumulation", "message"),
    [
        (10, 4, 1, r"data.batch_size=10 .* x trainer.accumulation = 4 x 1 = 4. .* sizes: 8 or 12"),
        (10, 2, 2, r"2 x 2 = 4. .* sizes: 8 or 12"),
        (2, 4, 1, r"sizes: 4\."),
    ],
)
def test_batch_sizes_that_do_not_divide(batch: int, world: int, accumulation: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepSampler(Shuffled(99, batch, seed=0), world=world, accumulation=accumulation)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 2)])
def test_what_is_left_over_may_become_a_smaller_batch(world: int, accumulation: int) -> None:
    order = Shuffled(14, 4, seed=3, drop_last=False)
    assert (order.steps_per_epoch, order.smallest) == (4, 2)
    samplers = [StepSampler(order, rank, world, accumulation) for rank in range(world)]
    steps = [
        [key for part in parts for key in part]
        for parts in zip(*(take(sampler, 8) for sampler in samplers), strict=True)
    ]
    assert [len(step) for step in steps] == [4, 4, 4, 2] * 2
    for epoch in (0, 1):
        seen = [key for step in steps[4 * epoch : 4 * epoch + 4] for key in step]
        assert sorted(seen) == [(epoch, index) for index in range(14)]
    later = StepSampler(order, 0, world, accumulation, start_step=3)
    assert take(later, 2) == take(samplers[0], 5)[3:]  # a resumed run also gets the smaller batch
    assert Shuffled(12, 4, seed=3, drop_last=False).smallest == 4


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2)])
def test_a_last_batch_that_does_not_divide(world: int, accumulation: int) -> None:
    message = r"the last batch of an epoch has 3 samples, .* = 2 equal parts\. Take data\.drop_last=true"
    with pytest.raises(ValueError, match=message):
        StepSampler(Shuffled(11, 4, seed=0, drop_last=False), world=world, accumulation=accumulation)
    StepSampler(Shuffled(11, 4, seed=0), world=world, accumulation=accumulation)


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match=r"has 7 samples, fewer than data\.batch_size=8"):
        Shuffled(7, 8, seed=0)
    with pytest.raises(ValueError, match=r"has 7 samples, fewer than data\.batch_size=8"):
        Mixed([3, 4], [1, 1], 8, seed=0)


def sets_of(order: Mixed, keys: list[tuple[int, int]]) -> list[int]:
    ends = list(itertools.accumulate(order.lengths))
    return [next(i for i, end in enumerate(ends) if index < end) for _, index in keys]


@pytest.mark.parametrize("shares", [[1, 1], [3, 1], [1, 2, 4], [0.9, 0.05, 0.05], [1, 1e-3], [math.pi, 1, math.e]])
@pytest.mark.parametrize("batch", [1, 5, 8])
def test_every_stretch_has_the_shares(shares: list[float], batch: int) -> None:
    """In every part of the order, the samples of a set differ from its share by at most the number of sets."""
    order = Mixed([30] * len(shares), shares, batch, seed=1)
    sets = sets_of(order, [key for step in take(order.batches(), 400) for key in step])
    for i, share in enumerate(order.shares):
        taken = [0, *itertools.accumulate(int(s == i) for s in sets)]
        off = [count - share * n for n, count in enumerate(taken)]
        assert max(off) - min(off) <= len(shares)


def test_even_shares_give_every_batch_and_micro_batch_the_same_numbers() -> None:
    order = Mixed([100, 10, 1], [1, 1, 1], 12, seed=0)
    for step in take(StepSampler(order, rank=1, world=2, accumulation=2), 20):
        for part in (step[:3], step[3:]):
            assert sorted(sets_of(order, part)) == [0, 1, 2]


def test_each_set_is_walked_through_in_a_new_order_each_time() -> None:
    order = Mixed([10, 4], [1, 1], 8, seed=3)
    keys = [key for step in take(order.batches(), 20) for key in step]  # 80 samples of each set
    walks = [[key for key, i in zip(keys, sets_of(order, keys), strict=True) if i == s] for s in (0, 1)]
    for walk, first, length in ((walks[0], 0, 10), (walks[1], 10, 4)):
        passes = [walk[n : n + length] for n in range(0, len(walk), length)]
        assert [{number for number, _ in part} for part in passes] == [{n} for n in range(len(passes))]
        assert all(sorted(index for _, index in part) == list(range(first, first + length)) for part in passes)
        assert len({tuple(index for _, index in part) for part in passes}) > len(passes) // 2
    assert len(set(keys)) == len(keys)  # no key appears twice, so each use of a sample has its own augmentation


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 12345])
@pytest.mark.parametrize("shares", [[1, 1], [5, 1, 1], [0.97, 0.01, 0.02], [1, 1e-4]])
def test_how_many_of_each_set_came_before_a_step_is_known_without_counting(count: int, shares: list[float]) -> None:
    order = Mixed([5] * len(shares), shares, 1, seed=0)
    assert order.steps_per_epoch == 5 * len(shares)
    keys = [step[0] for step in take(order.batches(), count)]
    found = sets_of(order, keys)
    assert order._taken(count) == [found.count(i) for i in range(len(shares))]
