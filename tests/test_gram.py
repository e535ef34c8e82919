"""The order of tasks: permuting them permutes the weights of every Gram method, whatever the Gram matrix is."""

import pytest
import torch
from tolerances import ROUNDING

from mtlkit import BALANCERS, GramBalancer
from mtlkit.gram import any_order, own_order

NAMES = [name for name in BALANCERS.names() if issubclass(BALANCERS.get(name), GramBalancer)]
OPTIONS = {
    "mgda": [{}, {"normalization": "l2"}],
    "nash": [{}, {"max_norm": 1.0}],
    "fairgrad": [{}, {"alpha": 0.5, "max_norm": 1.0}],
    "cagrad": [{}, {"c": 1.5}],
}
METHODS = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


def stationary(k=20, d=10, of=20, seed=0):
    """Returns (k, d) gradients, dependent if k > d. A positive combination of the first `of` is zero."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, d, generator=g, dtype=torch.float64)
    of = min(of, k)
    share = torch.rand(of, generator=g, dtype=torch.float64)
    rows[:of] -= share @ rows[:of] / share.sum()
    if of < k:  # the others agree in a direction in which the first have no part
        rows[:of, -1], rows[of:, -1] = 0, rows[of:, -1].abs() + 0.1
    return rows


def ring(k):
    """Returns gradients at 120 degrees to their two neighbours. All of them look the same."""
    i = torch.arange(k)
    gram = torch.eye(k, dtype=torch.float64)
    gram[i, (i + 1) % k] = gram[(i + 1) % k, i] = -0.5
    return gram


def opposite(gram):
    return torch.cat([torch.cat([gram, -gram], 1), torch.cat([-gram, gram], 1)])


def product(rows):
    return rows @ rows.T


FEW = stationary(4, 10, seed=7)
LENGTHS = 10 ** torch.linspace(-12, 12, 20, dtype=torch.float64)[:, None]
GRAMS = {
    "20 in 10 dimensions": product(stationary()),
    "others beside them": product(stationary(of=8, seed=1)),
    "cone": product(stationary(of=3, seed=2)),
    "summed in float32": product(stationary(seed=3).float()).double(),
    "lengths from 1e-12 to 1e12": product(LENGTHS * stationary(seed=4)),
    "all tiny": product(1e-12 * stationary(seed=5)),
    "all huge": product(1e12 * stationary(seed=5)),
    "duplicates": product(FEW)[[0, 1, 2, 3, 0, 1, 2, 0]][:, [0, 1, 2, 3, 0, 1, 2, 0]],
    "opposite": opposite(product(FEW)),
    "nearly duplicates": product(torch.cat([FEW, FEW * (1 + 1e-15)])),
    "nearly nearly": product(torch.cat([FEW, FEW + 1e-9 * stationary(4, 10, seed=8)])),
    "at right angles": torch.eye(7, dtype=torch.float64),
    "all the same": torch.ones(5, 5, dtype=torch.float64),
    "all zero": torch.zeros(5, 5, dtype=torch.float64),
    "a ring of five": ring(5),
    "a ring of six and two of three": torch.block_diag(ring(6), ring(3), ring(3)),
}


@pytest.mark.parametrize("kind", GRAMS)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_permuting_tasks_permutes_the_weights(name, options, kind):
    gram, names = GRAMS[kind], [f"t{i:02}" for i in range(len(GRAMS[kind]))]
    balancer = BALANCERS.build(name, tasks=names, **options)
    expected = balancer.weights(gram)
    for seed in range(2):
        order = torch.randperm(len(gram), generator=torch.Generator().manual_seed(seed))
        # Some methods know their tasks by name, by random numbers or by a main task. They get the names in that order.
        permuted = BALANCERS.build(name, tasks=[names[i] for i in order], **options)
        permuted.load_state_dict(balancer.state_dict())
        found = permuted.weights(gram[order][:, order])
        # 1e-12 of each weight. Where weights cancel to zero, the rounding of sums of numbers of size one.
        size = gram.diagonal()[order].clamp_min(1e-300).sqrt()
        rounding = 1e-15 if (size == size[0]).all() else 0.0
        torch.testing.assert_close(found, expected[order], rtol=ROUNDING, atol=rounding)


@pytest.mark.parametrize("kind", GRAMS)
def test_the_order_is_that_of_the_numbers(kind):
    gram = GRAMS[kind]
    order, alike = own_order((gram + gram.T) / 2)
    assert order.sort().values.tolist() == list(range(len(gram)))
    shuffled = torch.randperm(len(gram), generator=torch.Generator().manual_seed(0))
    moved = gram[shuffled][:, shuffled]
    other, alike_other = own_order((moved + moved.T) / 2)
    assert torch.equal(alike_other, alike[shuffled])
    if kind != "a ring of six and two of three":  # here a ring of three and a ring of six look the same
        ours, theirs = gram[order][:, order], moved[other][:, other]
        assert torch.equal(ours + ours.T, theirs + theirs.T)


def test_tasks_that_no_number_tells_apart_get_equal_weights():
    class First:
        @any_order
        def weights(self, gram):
            return (torch.arange(len(gram)) == 0).to(gram)

    # Sorted entries of the rows: 0.2 0.2 1 before 0.2 0.9 1 (twice); and 0.2 0.9 1 (twice) before 0.9 0.9 1.
    assert First().weights(torch.tensor([[1.0, 0.2, 0.2], [0.2, 1.0, 0.9], [0.2, 0.9, 1.0]])).tolist() == [1, 0, 0]
    assert First().weights(torch.tensor([[1.0, 0.9, 0.9], [0.9, 1.0, 0.2], [0.9, 0.2, 1.0]])).tolist() == [0, 0.5, 0.5]
    assert First().weights(torch.ones(4, 4)).tolist() == [0.25] * 4
    assert First().weights(torch.ones(4, 4)).dtype == torch.float32


def test_what_is_no_gram_matrix_is_refused_by_methods_that_are_decorated():
    with pytest.raises(ValueError, match=r"\(k, k\), got the shape \(2, 3\)"):
        BALANCERS.build("imtl_g", tasks=("a", "b")).weights(torch.ones(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        BALANCERS.build("config", tasks=("a", "b")).weights(torch.full((2, 2), torch.inf))
