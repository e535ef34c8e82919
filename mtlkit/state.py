"""The state of a balancer: what it keeps for each task or pair of tasks, and how that moves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def per_task(tasks: Sequence[str], value: Tensor, *, learned: bool = False) -> nn.ParameterDict:
    """State of one tensor per task, saved under the task's name.

    With `learned`, the balancer's optimizer moves it; otherwise the balancer itself does, at once or, where every
    micro-batch of a step shall count, by `step.add_change`.

    >>> sorted(per_task(("a", "b"), torch.zeros(())).state_dict())
    ['a', 'b']
    """
    return nn.ParameterDict({task: nn.Parameter(value.clone(), requires_grad=learned) for task in tasks})


def task_state(balancer: nn.Module, task: str) -> nn.ModuleList:
    """What a balancer keeps for one task: what is under its name in dictionaries of parameters and of modules.

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
    """The named tasks' tensors of such a state, stacked."""
    return torch.stack([state[task] for task in tasks])


class Kept(nn.Module):
    """A running average of one number per task, or per pair of tasks.

    A method declares it in its constructor, reads it with `of`, and offers new values in `combine`:

        self.average = Kept(tasks, axes=2, start=torch.nan, rate=0.1)
        ...
        old = self.average.of(step.tasks)
        step.keep(self.average, step.gram)

    After the optimizer step, and only if it was made, each entry moves to (1 - rate) old + rate m. Here m is the mean
    of what the step's micro-batches offered. An entry that was NaN, not known yet, becomes m. The entries of absent
    tasks, and those that were offered NaN only, stay. All this is the engine's work. The values are float64 whatever
    the model's precision, and a checkpoint holds them. They stand in the order of the sorted names, so that the
    order in which a user lists the tasks changes nothing.

    Args:
        tasks: the names of all tasks.
        axes: 1 for one number per task, 2 for one per pair.
        start: what every entry is at first.
        rate: how fast it moves, from 0 to 1.

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
        """The entries of the named tasks, in their order: (k,) or (k, k)."""
        return self.value[self._place(tasks)].clone()

    @torch.no_grad()
    def settle(self, offered: Sequence[tuple[Sequence[str], Tensor]]) -> None:
        """Moves by what the micro-batches of an optimizer step offered, as (tasks, values)."""
        if not offered:
            return
        # One whole table per micro-batch, with NaN for what it says nothing of: `nanmean` then takes the mean of each
        # entry over those micro-batches alone in which both tasks were there.
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
        """What moves the module to a device or a type: here to the device only, or single digits would be lost."""
        value = self.value  # `fn` may make float32 of it
        super()._apply(fn, recurse)
        self.value = value.to(self.value.device)
        return self
