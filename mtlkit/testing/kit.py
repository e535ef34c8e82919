"""The contract of a balancer, as checks that authors run on their own balancers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from mtlkit.balancer import BALANCERS
from mtlkit.engine.engine import Engine
from mtlkit.registry import options_of
from mtlkit.testing import processes as testing_processes
from mtlkit.testing.absence import absent_task, comes_and_goes, no_labels, skipped_step
from mtlkit.testing.processes import resume, two_ranks
from mtlkit.testing.promises import chosen, keep
from mtlkit.testing.toys import (
    FAR,
    PARABOLA_STEPS,
    TASKS,
    Method,
    assert_finite,
    assert_same,
    make_batch,
    make_engine,
    make_parabola,
    state_of,
    stationarity,
    train_steps,
)

#: Scales of the tasks' losses with which plain summing harms one of them.
CONFLICTING = (1.0, 10.0, 0.3)
#: The smallest difference between two directions of float64 gradients that counts. It is far above rounding (1e-14) and
#: far below the difference that the slowest method makes in eight steps (7e-4).
DIFFERENT = 1e-7


def check_balancer(name: str, *, only: Sequence[str] = (), device: str = "cpu", **options: Any) -> None:
    """Trains small problems by the balancer and checks the promises of every balancer.

    - `one_task`: it trains a single task.
    - `finite`: model and state stay finite for gradients from 1e-10 to 1e10, also mixed, and for zero.
    - `absent_task`: a task without labels does not move, and neither does the balancer's state under its name.
    - `no_labels`: a batch without any label sends nothing into the encoder and moves nothing at all.
    - `skipped_step`: a step that a loss scaler skips moves nothing.
    - `permutation`: the order of the tasks does not matter.
    - `accumulation`: two equal micro-batches give the same step as one.
    - `comes_and_goes`: an absent task neither moves nor erases the state of the others.
    - `differs_from_uniform`: for three tasks in conflict, the gradient differs from that of plain summing by more than
      a common factor, or it is the same if the balancer says so (`equals_uniform`).
    - `pareto`: two quadratic tasks of one point end where no step helps both (unless `seeks_pareto` is false).
    - `resume`: two steps, and two more in a fresh process with the saved state, equal four steps bit for bit.
    - `two_ranks`: two processes train as one process does on the joined batches, also if one of them lacks labels.

    Without the option `space`, it checks all promises in each of the class's spaces. The tasks are called a, b and c,
    and some checks have fewer of them, so options may name only a. The last two checks load the file that defines the
    class in other processes. Put what must not run there under `if __name__ == "__main__":` (a call of this function
    returns at once there).

    Args:
        only: the promises to check, while you work on one of them (empty: all of them).
        device: `cpu`, or the kind of GPU that Accelerate finds here, such as `cuda`. `two_ranks` runs on CPUs always:
            two processes would need two GPUs.
        options: those of the balancer.

    Raises `AssertionError` with the name of the broken promise, and `LookupError` or `ValueError` for an unknown
    balancer, option or promise.

    >>> check_balancer("gradnorm", alpha=0.5, only=("one_task", "permutation"))
    """
    if testing_processes.in_child:
        return
    promises = chosen(PROMISES, only)
    for method in _methods(name, options, device):
        where = f" in the space {method.options['space']}" if "space" in method.options else ""
        with _one_thread():
            keep(name, promises, method, where)


def one_task(method: Method) -> None:
    engine = make_engine(method, ("a",))
    before = state_of(engine)
    train_steps(engine, 3)
    assert_finite(engine)
    assert any(not torch.equal(before[key], value) for key, value in state_of(engine).items()), "nothing was learned"


def finite(method: Method) -> None:
    for scales in ((1e-10, 1.0, 1e10), (1e-10,) * 3, (1e10,) * 3):
        trains_to_finite(method, scales, "fp32")
    for scales in ((0.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0,) * 3):
        trains_to_finite(method, scales, "fp64")  # float64: the smallest number that keeps a length off zero is enough


def trains_to_finite(method: Method, scales: tuple[float, ...], precision: Literal["fp32", "fp64"]) -> None:
    engine = make_engine(method, scales=scales, precision=precision)
    train_steps(engine, 3)
    assert_finite(engine, f"with the losses' scales {scales}")


def permutation(method: Method) -> None:
    engine, permuted = make_engine(method), make_engine(method, TASKS[::-1])
    permuted.network.load_state_dict(engine.network.state_dict())
    permuted.balancer.load_state_dict(engine.balancer.state_dict())
    for e in (engine, permuted):
        train_steps(e, 3)
    assert_same(state_of(engine), state_of(permuted), "in another order of the tasks", tolerance=1e-9)


def accumulation(method: Method) -> None:
    double = make_engine(method, accumulation=2)
    for _ in range(2):
        double.train_step(make_batch(0))
    single = make_engine(method)  # only now: Accelerate has one number of micro-batches for the whole process
    single.train_step(make_batch(0))
    assert single.step == double.step == 1
    assert_same(state_of(single), state_of(double), "with two equal micro-batches", tolerance=1e-9)


def differs_from_uniform(method: Method) -> None:
    uniform = Method("uniform", device=method.device)
    engine, plain = (make_engine(m, scales=CONFLICTING, steps_per_epoch=2) for m in (method, uniform))
    difference = 0.0
    for number in range(8):  # four epochs, because some methods begin late
        plain.network.load_state_dict(engine.network.state_dict())
        one, two = (_direction(e, make_batch(number)) for e in (engine, plain))
        difference = max(difference, float((one - two).norm()))
    found = f"for three tasks in conflict its encoder gradient differs by {difference:.1e} of its length"
    if engine.balancer.equals_uniform:
        assert difference < DIFFERENT, f"{found} from that of plain summing, although it says `equals_uniform = True`"
    else:
        assert difference > DIFFERENT, (
            f"{found}, up to a common factor, from that of plain summing: it is the same method. Write "
            f"`equals_uniform = True` if it is meant to be"
        )


def _direction(engine: Engine, batch: dict[str, Any]) -> Tensor:
    """Returns the encoder's gradient in a step, scaled to the length 1; zero if there is none."""
    found: dict[str, Tensor] = {}
    parameters = dict(engine.network.encoder.named_parameters())
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: found.update({name: p.grad.clone()}))
        for name, parameter in parameters.items()
    ]
    engine.train_step(batch)
    for hook in hooks:
        hook.remove()
    whole = torch.cat([found.get(name, torch.zeros_like(p)).flatten() for name, p in parameters.items()])
    return whole / whole.norm().clamp_min(torch.finfo(whole.dtype).tiny)


def pareto(method: Method) -> None:
    engine, batch = make_parabola(method, FAR)
    if not engine.balancer.seeks_pareto:
        return
    start = stationarity(engine, batch)
    for _ in range(PARABOLA_STEPS):
        engine.train_step(batch)
    end = stationarity(engine, batch)
    assert end < 0.1 * start, (
        f"two parabolas end where a step could still help both: the shortest convex combination of their gradients "
        f"has the length {end:.2g}, and {start:.2g} at the start"
    )


PROMISES: tuple[Callable[[Method], None], ...] = (
    one_task,
    finite,
    absent_task,
    no_labels,
    skipped_step,
    permutation,
    accumulation,
    comes_and_goes,
    differs_from_uniform,
    pareto,
    resume,
    two_ranks,
)


def _methods(name: str, options: Mapping[str, Any], device: str) -> list[Method]:
    """Returns the method in each space to check. Raises `LookupError` or `ValueError` for an unknown name or option."""
    BALANCERS.build(name, tasks=TASKS, **options)
    cls = BALANCERS.get(name)
    if "space" in options or "space" not in options_of(cls) or len(cls.spaces) == 1:
        return [Method(name, options, device)]
    return [Method(name, {**options, "space": space}, device) for space in cls.spaces]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sets one thread: only with the same number of threads are sums equal bit for bit in all processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
