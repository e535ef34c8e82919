"""The common part of methods on a K x K Gram matrix: its check, the order of its rows, and the limit of a length."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from mtlkit.option_checks import check_number

Owner = TypeVar("Owner")  # the class of the decorated method
P = ParamSpec("P")


def any_order(
    weigh: Callable[Concatenate[Owner, Tensor, P], Tensor],
) -> Callable[Concatenate[Owner, Tensor, P], Tensor]:
    """Decorates a method `weights(self, gram)` that treats all tasks alike: permuted tasks get permuted weights.

    In exact arithmetic this is true anyway. With the decorator it is true to the last few bits, also where gradients
    depend on each other and rounding decides the rest. The method sees the tasks in an order that the numbers of the
    Gram matrix decide (`own_order`), in float64 on the CPU. Tasks that no number distinguishes get equal weights.
    Do not use it for a method that knows its tasks by name. Such a method sorts the tasks by name.

    Raises:
        ValueError: the matrix is not square, or not finite.

    >>> class Dearest:
    ...     @any_order
    ...     def weights(self, gram):  # gives all to the first of the longest gradients
    ...         return (torch.arange(len(gram)) == gram.diagonal().argmax()).double()
    >>> gram = torch.diag(torch.tensor([4.0, 1.0, 4.0]))
    >>> Dearest().weights(gram).tolist()
    [0.5, 0.0, 0.5]
    """

    @wraps(weigh)
    def weights(self: Owner, gram: Tensor, *args: P.args, **options: P.kwargs) -> Tensor:
        # On the CPU: the matrices are tiny, their solvers take hundreds of small steps, and a GPU would start a kernel
        # for each of them. All processes compute the same numbers there, so that they need not exchange the result.
        m = checked_gram(gram.cpu())
        m = (m + m.T) / 2  # rounding of a sum over processes may have made it unsymmetric
        order, alike = own_order(m)
        found = torch.empty_like(m[0])
        found[order] = weigh(self, m[order][:, order], *args, **options).double()
        # A solver may break a tie between tasks that are alike by their order. Their mean is the only fair answer.
        same = (alike[:, None] == alike).double()
        return (same @ found / same.sum(dim=1)).to(gram)

    return weights


def halves_known(gram: Tensor, cross_gram: Tensor) -> Tensor:
    """Returns whether each half of a batch has a gradient of every task that moves, a scalar of bool.

    A half without a label of a task has none. The inner products with it are 0 then, which says nothing about the task.

    >>> gram = torch.eye(2)
    >>> bool(halves_known(gram, torch.eye(2))), bool(halves_known(gram, torch.tensor([[1.0, 0.0], [0.5, 0.0]])))
    (True, False)
    """
    empty = (cross_gram == 0).all(dim=0) | (cross_gram == 0).all(dim=1)
    return ~((gram.diagonal() > 0) & empty).any()


def own_order(m: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an order (k,) of the rows of a symmetric matrix that its numbers decide, and the group (k,) of each row.

    The groups come from colour refinement. Rows start in groups of equal diagonal entries. Two rows are separated if
    their entries for some group differ. Rows that stay together are alike: exchanging them changes no number. One of
    them then goes first, and so on. (Only patterns like regular graphs, exact to the last bit, have rows that are
    different but that refinement does not separate. These keep the given order.)

    >>> order, alike = own_order(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 2.0]]))
    >>> order.tolist(), alike.tolist()
    ([1, 0, 2], [1, 0, 1])
    """
    # `alike` is the result before any tie is broken: afterwards every row is a group of its own.
    groups = alike = _refined(m, m.diagonal().unique(return_inverse=True)[1])
    while (crowded := torch.bincount(groups) > 1).any():
        # Breaks one tie. The others are refined again first, so that the choice reaches the rows that are bound to it.
        first = (groups == crowded.nonzero()[0]).nonzero()[0]
        groups = 2 * groups + 1
        groups[first] -= 1
        groups = _refined(m, groups.unique(return_inverse=True)[1])
    return groups.argsort(), alike


def _refined(m: Tensor, groups: Tensor) -> Tensor:
    # Numbers are compared exactly. With a tolerance, being alike would not be transitive, and the order
    # of the tasks would decide again where a group ends.
    while (number := int(groups.max()) + 1) < len(m):
        by_value = m.sort(dim=1)
        by_group = groups[by_value.indices].sort(dim=1, stable=True)  # stable: inside a group by value
        entries = by_value.values.gather(1, by_group.indices)
        groups = torch.cat([groups[:, None].to(m), entries], dim=1).unique(dim=0, return_inverse=True)[1]
        if int(groups.max()) + 1 == number:
            break
    return groups


def check_max_norm(max_norm: float | None) -> None:
    """Raises `ValueError` for an option `max_norm` that is neither a positive number nor None."""
    if max_norm is not None:
        check_number("balancer.max_norm", max_norm, "(0, inf)")


def limited(weights: Tensor, gram: Tensor, max_norm: float | None) -> Tensor:
    """Returns the weights (k,), scaled so that the combined gradient is at most `max_norm` long (None: not scaled).

    >>> limited(torch.tensor([3.0, 4.0]), torch.eye(2), max_norm=1.0).tolist()  # the combined gradient is 5 long
    [0.6000000238418579, 0.800000011920929]
    """
    if max_norm is None:
        return weights
    length = (weights @ gram @ weights).clamp_min(0).sqrt()
    return weights * (max_norm / length).clamp_max(1)


def check_gram_shape(gram: Tensor, tasks: Sequence[str]) -> None:
    """Raises `ValueError` unless the matrix has one row and one column per task."""
    if gram.shape != (len(tasks), len(tasks)):
        raise ValueError(f"Expected the Gram matrix of {', '.join(tasks)}, got the shape {tuple(gram.shape)}.")


def checked_gram(gram: Tensor) -> Tensor:
    """Returns the matrix in float64, without its graph. Raises `ValueError` if it is not square or not finite."""
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise ValueError(f"Expected a Gram matrix (k, k), got the shape {tuple(gram.shape)}.")
    m = gram.detach().double()
    if not torch.isfinite(m).all():
        raise ValueError("The Gram matrix is not finite: a task's gradient overflows or is NaN. Look at its loss.")
    return m
