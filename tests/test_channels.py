"""Matrices on the channels of one level. The tests compute them position by position."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mtlkit import EncoderInfo
from mtlkit.channels import Arrived, columns, transform, transform_all, unit_gradients, width
from mtlkit.sample_group import SampleGroup

INFO = EncoderInfo(channels=(8, 32), strides=(4, 8))


@pytest.mark.parametrize(
    ("level", "dim", "expected"), [(-2, None, 8), (-1, None, 32), (0, None, 8), (1, None, 32), (0, 2, 2), (0, 8, 8)]
)
def test_the_width_of_a_level(level, dim, expected):
    assert width(INFO, level, dim) == expected


@pytest.mark.parametrize(
    ("level", "dim", "message"),
    [
        (-3, None, r"balancer\.level is -3, but the encoder shares 2 levels"),
        (2, None, r"balancer\.level is 2, but"),
        (0, 1, r"balancer\.dim must be from 2 to 8, .*got 1"),
        (0, 9, r"balancer\.dim must be from 2 to 8, .*got 9"),
    ],
)
def test_a_level_or_width_that_there_is_not_is_named(level, dim, message):
    with pytest.raises(ValueError, match=message):
        width(INFO, level, dim)


def test_a_flattened_map_is_as_wide_as_all_its_numbers():
    info = replace(INFO, image=(33, 20))  # 9 x 5 positions with 8 channels, 5 x 3 with 32
    assert [info.numbers(level) for level in (0, 1)] == [360, 480]
    assert width(info, 1, 480, flatten=True) == 480
    with pytest.raises(ValueError, match=r"balancer\.dim must be from 2 to 360, the numbers of a sample .*got 361"):
        width(info, 0, 361, flatten=True)
    with pytest.raises(ValueError, match=r"balancer\.flatten needs balancer\.dim: .* such as 1024"):
        width(info, 0, None, flatten=True)
    assert width(EncoderInfo((8,), (0,)), 0, None, flatten=True) == 8  # a vector is already flat


def numbers(*shape):
    """Returns small whole numbers, so that every result below is exact."""
    return torch.arange(torch.Size(shape).numel()).remainder(7).float().view(shape) - 3


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("positions", [(), (3, 2)], ids=str)
@pytest.mark.parametrize("offset", [None, numbers(3).double() * 2], ids=("linear", "affine"))
def test_the_first_channels_are_mapped_at_every_position(channels, positions, offset):
    features, matrix = [numbers(2, 4), numbers(2, channels, *positions)], numbers(3, 3).double()
    found = transform(features, 1, matrix, offset)
    expected = features[1].clone()
    for sample in range(2):
        for position in torch.cartesian_prod(*map(torch.arange, positions)).tolist() if positions else [()]:
            at = (sample, slice(0, 3), *position)
            moved = [sum(matrix[i, j] * features[1][at][j] for j in range(3)) for i in range(3)]
            expected[at] = torch.stack(moved) + (0 if offset is None else offset)
    assert torch.equal(found[1], expected)
    assert found[1].dtype == torch.float32  # the dtype of the features, not that of the matrix
    assert found[0] is features[0]
    assert torch.equal(features[1], numbers(2, channels, *positions))  # the input does not change


def test_columns_have_one_sample_and_position_each():
    level = numbers(2, 5, 3, 4)
    expected = [[level[n, c, y, x].item() for n in range(2) for y in range(3) for x in range(4)] for c in range(2)]
    assert columns(level, 2).tolist() == expected
    assert columns(level[:, :, 0, 0], 2).tolist() == level[:, :2, 0, 0].T.tolist()
    assert columns(level, 7, flatten=True).tolist() == level.flatten(1)[:, :7].T.tolist()


@pytest.mark.parametrize("d", [3, 12])
def test_the_first_numbers_of_a_flattened_sample_are_mapped(d):
    features, matrix = [numbers(2, 2, 3, 2)], numbers(d, d)
    (found,) = transform(features, 0, matrix, flatten=True)
    flat = [[features[0][n, c, y, x] for c in range(2) for y in range(3) for x in range(2)] for n in range(2)]
    expected = [[sum(matrix[i, j] * row[j] for j in range(d)) for i in range(d)] + row[d:] for row in flat]
    assert torch.equal(found, torch.tensor(expected).view(2, 2, 3, 2))


ALL = [(3, (), False), (5, (), False), (3, (3, 2), False), (5, (3, 2), False), (7, (3, 2), True), (30, (3, 2), True)]


@pytest.mark.parametrize(("d", "positions", "flatten"), ALL)
@pytest.mark.parametrize("averaging", [False, True])
def test_all_tasks_at_once_are_each_task_alone(d, positions, flatten, averaging):
    """Values and gradients. `b` has an offset of its own, and `c` is not used."""
    matrices, offsets = numbers(3, d, d).double() + torch.arange(3.0).view(3, 1, 1), numbers(3, d).double()
    deeper, z = numbers(2, 4).double(), numbers(2, 5, *positions).double()
    aliases = {name: z.clone().requires_grad_() for name in ("b", "a", "c")}
    arrived = []
    found = transform_all(
        {name: [deeper, alias] for name, alias in aliases.items()},
        1,
        matrices,
        offsets if not flatten else None,
        flatten=flatten,
        receive=arrived.append,
    )
    assert list(found) == ["b", "a", "c"]
    loss, expected, alone = 0.0, {}, {}
    for k, name in enumerate("abc"):
        alone[name] = z.clone().requires_grad_()
        offset = None if flatten else offsets[k]
        if flatten or not positions:
            (_, one) = transform([deeper, alone[name]], 1, matrices[k], offset, flatten=flatten)
        else:
            (_, one) = transform([deeper, alone[name]], 1, matrices[k], offset)
        assert torch.equal(found[name][1], one)
        assert found[name][0] is deeper
        expected[name] = one
    for outputs in (expected, {name: own[1] for name, own in found.items()}):
        for weight, name in ((2.0, "a"), (3.0, "b")):
            output = outputs[name]
            if averaging and positions:
                output = output.flatten(2).sum(2) / 6
            loss = loss + (weight * output * numbers(*output.shape)).sum()
    loss.backward()
    for name in "ab":
        torch.testing.assert_close(aliases[name].grad, alone[name].grad)
    assert aliases["c"].grad is None
    ((own, copies),) = [(got.columns, got.copies) for got in arrived]
    assert copies == (6 if averaging and positions and not flatten else 1)
    for k, name in enumerate("ab"):
        torch.testing.assert_close(own[k].repeat_interleave(copies, 1), columns(alone[name].grad, d, flatten))
    assert not own[2].any()


def test_unit_gradients_are_divided_by_the_whole_length_and_zero_for_absent_tasks():
    norms = torch.tensor([4.0, 0.0], dtype=torch.float64)  # of c and a, over all levels
    step = SimpleNamespace(tasks=("c", "a"), norms=norms, seed=torch.tensor(8.0), samples=SampleGroup())
    found, count = unit_gradients(step, Arrived(numbers(3, 2, 5), copies=4), ("a", "b", "c"))
    assert (found.dtype, count) == (torch.float32, 5)
    # Each column stands for four, so it counts twice: their sum of squares is that of one column twice as long.
    assert torch.equal(found, torch.stack([torch.zeros(2, 5), torch.zeros(2, 5), numbers(3, 2, 5)[2] * 2 / 4 / 8]))
