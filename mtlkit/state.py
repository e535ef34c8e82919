"""The state of a balancer: the values that it keeps for each task or pair of tasks, and how they move."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def per_task(tasks: Sequence[str], value: Tensor, *, learned: bool = False) -> nn.ParameterDict:
    """Returns a state with one tensor per task, which is saved under the task's name.

    With `learned`, the balancer's optimizer moves it. Otherwise the balancer moves it itself, either at once or, if
    every micro-batch of a step should count, by `step.add_change`. Numbers (a `value` of no dimensions) are on the
    host, like `step.losses` and `step.gram`. Larger tensors are on the training device.

    >>> sorted(per_task(("a", "b"), torch.zeros(())).state_dict())
    ['a', 'b']
    """
    # Under names and not as rows of one tensor: a checkpoint stays right when a user lists the tasks in another order,
    # and Adam's momentum of an absent task stays apart from the others'. Also kept states are parameters, as `.grad` is
    # where their changes are gathered.
    parameters = {task: nn.Parameter(value.clone(), requires_grad=learned) for task in tasks}
    return nn.ParameterDict(parameters) if value.dim() else Numbers(parameters)


class Numbers(nn.ParameterDict):
    """One number per task. They stay on the host (the CPU), where `Step` has its values per task."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(lambda tensor: stay(tensor, fn), recurse)


def stay(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the tensor in the type that `fn` gives it, such as `module.to(device, dtype)`, but where it is."""
    return tensor.to(fn(torch.empty(0, dtype=tensor.dtype)).dtype)


class Rows(nn.Module):
    """A state with one tensor per task, as `per_task`, for methods that compute with all of them at once.

    All are rows of one tensor `whole` (K, ...), in the order of the sorted names. A checkpoint contains each row under
    its task's name. So it stays right when a user lists the tasks in another order, and it fits `per_task`.

    >>> state = Rows(("b", "a"), torch.zeros(2))
    >>> _ = state["b"].add_(1)
    >>> state.whole.tolist(), state.of(("b",)).tolist(), sorted(state.state_dict())
    ([[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0]], ['a', 'b'])
    """

    whole: Tensor

    def __init__(self, tasks: Sequence[str], value: Tensor) -> None:
        super().__init__()
        self.names = sorted(tasks)
        self.register_buffer("whole", value.expand(len(tasks), *value.shape).clone(), persistent=False)

    def __getitem__(self, task: str) -> Tensor:
        """Returns the task's row, which shares its memory with `whole`."""
        return self.whole[self.names.index(task)]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self.names, self.whole, strict=True)

    def values(self) -> Iterator[Tensor]:
        return iter(self.whole)

    def of(self, tasks: Sequence[str]) -> Tensor:
        """Returns the rows of the named tasks, in their order. For all names in sorted order, it is `whole` itself."""
        if list(tasks) == self.names:
            return self.whole
        return self.whole[[self.names.index(task) for task in tasks]]

    def put(self, tasks: Sequence[str], rows: Tensor) -> None:
        """Writes the rows of the named tasks. What `of` returned may be `whole`, which has the new values already."""
        if rows is not self.whole:
            self.whole[[self.names.index(task) for task in tasks]] = rows

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + task: row.detach() for task, row in self.items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for task, row in self.items():
            found = state_dict.get(prefix + task)
            if found is None:
                missing_keys.append(prefix + task)
            elif found.shape != row.shape:
                error_msgs.append(
                    f"size mismatch for {prefix}{task}: the checkpoint has {tuple(found.shape)}, here it is "
                    f"{tuple(row.shape)}."
                )
            else:
                row.detach().copy_(found)
        own = {prefix + task for task in self.names}
        unexpected_keys += [key for key in state_dict if strict and key.startswith(prefix) and key not in own]


def task_state(balancer: nn.Module, task: str) -> nn.ModuleList:
    """Returns the state of one task: the entries under its name in dictionaries of parameters and of modules.

    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.bias = per_task(("depth", "bias"), torch.zeros(()))  # a task may be called like the state
    >>> scale = Scale()
    >>> [p is scale.bias["bias"] for p in task_state(scale, "bias").parameters()]
    [True]
    """
    dictionaries = [m for m in balancer.modules() if isinstance(m, nn.ParameterDict | nn.ModuleDict) and task in m]
    found = [module[task] for module in dictionaries]
    return nn.ModuleList(nn.ParameterList([own]) if isinstance(own, nn.Parameter) else own for own in found)


def stack(state: nn.ParameterDict, tasks: Sequence[str]) -> Tensor:
    """Stacks the tensors of the named tasks of such a state."""
    return torch.stack([state[task] for task in tasks])


class Kept(nn.Module):
    """A running average of one number per task, or per pair of tasks.

    A method creates it in its constructor, reads it with `of`, and offers new values in `combine`:

        self.average = Kept(tasks, axes=2, start=torch.nan, rate=0.1)
        ...
        old = self.average.of(step.tasks)
        step.keep(self.average, step.gram)

    After the optimizer step, and only if it was made, each entry moves to (1 - rate) old + rate m. Here m is the mean
    of the values that the step's micro-batches offered. An entry that was NaN (not known yet) becomes m. The entries of
    absent tasks, and those for which only NaN was offered, do not change. The engine does all this. The values are
    float64 in every precision of the model, and a checkpoint contains them. They are in the order of the sorted names,
    so the order in which a user lists the tasks has no effect.

    Args:
        tasks: the names of all tasks.
        axes: 1 for one number per task, 2 for one per pair.
        start: the first value of every entry.
        rate: how fast the average moves, from 0 to 1.

    >>> average = Kept(("b", "a"), axes=1, start=0.0, rate=0.5)
    >>> average.settle([(("b",), torch.tensor([2.0])), (("b",), torch.tensor([4.0]))])  # two micro-batches without a
    >>> average.of(("a", "b")).tolist()
    [0.0, 1.5]
    """

    value: Tensor

    def __init__(self, tasks: Sequence[str], *, axes: int, start: float, rate: float = 1.0) -> None:
        super().__init__()
        self.names = sorted(tasks)
        self.rate = rate
        self.register_buffer("value", torch.full((len(tasks),) * axes, start, dtype=torch.float64))

    def of(self, tasks: Sequence[str]) -> Tensor:
        """Returns the entries of the named tasks, in their order: (k,) or (k, k)."""
        return self.value[self._place(tasks)].clone()

    @torch.no_grad()
    def settle(self, offered: Sequence[tuple[Sequence[str], Tensor]]) -> None:
        """Moves the average by the values that the micro-batches of an optimizer step offered, as (tasks, values)."""
        if not offered:
            return
        # One whole table per micro-batch, with NaN where it has no value. `nanmean` then takes the mean of each entry
        # over only those micro-batches in which both tasks were present.
        table = torch.full((len(offered), *self.value.shape), torch.nan).to(self.value)
        for row, (tasks, values) in zip(table, offered, strict=True):
            row[self._place(tasks)] = values.to(row)
        mean, old = table.nanmean(dim=0), self.value
        # NaN in the old value means "not known yet": then there is nothing to average with.
        moved = torch.where(old.isnan(), mean, (1 - self.rate) * old + self.rate * mean)
        self.value.copy_(torch.where(mean.isnan(), old, moved))

    def _place(self, tasks: Sequence[str]) -> tuple[Tensor, ...]:
        rows = torch.tensor([self.names.index(task) for task in tasks], dtype=torch.int64)
        return (rows,) if self.value.dim() == 1 else (rows[:, None], rows)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Leaves the average as it is: on the host, like the values in a `Step`, and in float64 in every precision."""
        return self
