"""The promises of a balancer about labels that are missing, and about steps that are not made."""

from typing import Any, cast

import torch
from torch import Tensor

from mtlkit.testing.toys import (
    SCALES,
    TASKS,
    Method,
    State,
    assert_finite,
    assert_same,
    differing,
    make_batch,
    make_engine,
    of_task,
    state_of,
    train_steps,
)


def absent_task(method: Method) -> None:
    engine = make_engine(method)
    train_steps(engine, 2)
    before = of_task(state_of(engine), "b")
    for number in (2, 3):
        step = engine.train_step(make_batch(number, absent=("b",)))
        assert step.tasks == ("a", "c"), f"the tasks of the step are {step.tasks}"
    assert_same(before, of_task(state_of(engine), "b"), "after steps without labels of its task")
    train_steps(engine, 2)
    assert_finite(engine, "after the task came back")


def no_labels(method: Method) -> None:
    engine = make_engine(method)
    train_steps(engine, 2)
    before = state_of(engine)
    reached: list[Tensor] = []
    for parameter in engine.network.encoder.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: reached.append(p.grad.clone()))
    engine.train_step(make_batch(2, absent=TASKS))
    largest = max((float(g.abs().max()) for g in reached), default=0.0)
    assert largest == 0, f"a gradient of up to {largest:.1e} reached the encoder without labels"
    assert_same(before, state_of(engine), "without labels")


def skipped_step(method: Method) -> None:
    engine = make_engine(method)
    for before_it in (0, 2):  # the first step, and a later one
        train_steps(engine, before_it)
        before, optimizer = state_of(engine), engine.optimizer
        engine.optimizer = cast(Any, _Skipping(optimizer))
        engine.train_step(make_batch(5))
        engine.optimizer = optimizer
        assert_same(
            before, state_of(engine), "in a step that was skipped: only `after_model` and `after_step` may move it"
        )


class _Skipping:
    """An optimizer whose step a loss scaler skips, because a gradient overflowed."""

    step_was_skipped = True

    def __init__(self, optimizer: Any) -> None:
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self) -> None: ...


def comes_and_goes(method: Method) -> None:
    _rows_stay(method)
    erased = _remembered(method) - _remembered(method, absent=("a",))
    assert not erased, f"{', '.join(sorted(erased))}: forgotten in a step without task a"
    _always_away(method)


def _rows_stay(method: Method) -> None:
    """Checks that the names of the tasks have no effect while one is absent, if they have none while all are present.

    This finds state that a method keeps by position: the absent task is the first by name in one run, and the last in
    the other.
    """
    if not differing(*_by_two_names(method), tolerance=1e-9):  # else random numbers or options depend on the names
        one, two = _by_two_names(method, absent=("a",))
        assert_same(one, two, "between runs without the first and without the last task by name", tolerance=1e-9)


def _by_two_names(method: Method, absent: tuple[str, ...] = ()) -> tuple[State, State]:
    """Returns two states of the model and of all that belongs to tasks. The second run has the names in reverse."""
    engine, renamed = make_engine(method), make_engine(method, TASKS[::-1], scales=SCALES[::-1])
    renamed.network.load_state_dict(_with_other_names(engine.network.state_dict()))
    renamed.balancer.load_state_dict(_with_other_names(engine.balancer.state_dict()))
    for number in range(5):
        batch = make_batch(number, absent=absent if number in (2, 3) else ())
        engine.train_step(batch)
        renamed.train_step(batch | {"targets": _with_other_names(batch["targets"])})
    one, two = state_of(engine), _with_other_names(state_of(renamed))
    keys = {key for key in one if key.startswith("model.")}.union(*(of_task(one, task) for task in TASKS))
    return {key: one[key] for key in keys}, {key: two[key] for key in keys}


def _with_other_names(values: State) -> State:
    """Returns the state with every task's name replaced by the name at the mirrored place of `TASKS`."""
    other = dict(zip(TASKS, TASKS[::-1], strict=True))
    return {".".join(other.get(part, part) for part in key.split(".")): value for key, value in values.items()}


def _remembered(method: Method, absent: tuple[str, ...] = ()) -> set[str]:
    """Returns the parts of the balancer's state, except that of `absent`, that depend on batches before the last."""
    states: list[State] = []
    for first in (0, 10):
        engine, start = make_engine(method), make_engine(method)
        for number in (first, first + 1):
            engine.train_step(make_batch(number))
        engine.network.load_state_dict(start.network.state_dict())  # so that only the balancers differ now
        engine.optimizer.load_state_dict(start.optimizer.state_dict())
        engine.train_step(make_batch(2, absent=absent))
        states.append(engine.balancer.state_dict())
    one, two = states
    return {key for key, value in one.items() if not torch.equal(value, two[key])} - of_task(one, "a").keys()


def _always_away(method: Method) -> None:
    """Checks that training with a task that never has labels equals training without it.

    It needs a method whose state belongs to tasks and that draws no random numbers.
    """
    engine, smaller = make_engine(method), make_engine(method, ("a", "b"))
    start, others = engine.balancer.state_dict(), smaller.balancer.state_dict()
    comparable = others.keys() == start.keys() - of_task(start, "c").keys() and "seed" not in others
    if comparable and all(value.shape == start[key].shape for key, value in others.items()):
        smaller.balancer.load_state_dict({key: start[key] for key in others})
        for number in range(3):
            for e in (engine, smaller):
                e.train_step(make_batch(number, absent=("c",)))
        state = state_of(engine)
        expected = {key: value for key, value in state.items() if key not in of_task(state, "c")}
        assert_same(expected, state_of(smaller), "between runs with and without a task without labels", 1e-9)
