"""The contract kit: every registered balancer keeps the promises, and the kit names a broken promise."""

import faulthandler
import os
import runpy
import textwrap
import time
import warnings
from typing import ClassVar

import pytest
import torch

from mtlkit import BALANCERS, GramBalancer
from mtlkit.balancer import Balancer, LossBalancer
from mtlkit.state import per_task, stack
from mtlkit.testing import kit
from mtlkit.testing import processes as testing_processes
from mtlkit.testing.kit import check_balancer, resume, trains_to_finite
from mtlkit.testing.toys import Method


@pytest.mark.parametrize("name", BALANCERS.names())
def test_every_balancer_keeps_its_promises(name, monkeypatch):
    """`test_distributed.py` compares two processes with one for all balancers at once, which takes less time."""
    if name not in ("cagrad", "famo", "rotograd"):
        monkeypatch.setattr(kit, "PROMISES", [promise for promise in kit.PROMISES if promise.__name__ != "two_ranks"])
    check_balancer(name)


@pytest.mark.parametrize("name", BALANCERS.names())
def test_zero_beside_tiny_and_huge_gradients_in_float32(name):
    """Our own balancers keep more promises than the kit asks for."""
    for scales in ((0.0, 1e-10, 1e10), (0.0, 0.0, 1.0), (0.0,) * 3):
        trains_to_finite(Method(name), scales, "fp32")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosreg", {"space": "features", "alpha": 5.0}),
        ("rotograd", {"dim": 3, "burn_in": 1}),
        ("rotograd", {"scale_only": True}),
        ("fixed", {"weights": {"a": 0.25}}),  # with the weight 0, a and its decoder would learn nothing
    ],
)
def test_options_keep_them_too(name, options):
    check_balancer(name, **options)


def test_what_there_is_not_is_refused_as_by_the_registry():
    with pytest.raises(LookupError, match="Did you mean 'uniform'"):
        check_balancer("unifrom")
    with pytest.raises(ValueError, match="has no option 'alpa'"):
        check_balancer("gradnorm", alpa=1.0)
    with pytest.raises(ValueError, match=r"There is no promise 'resum'\. Did you mean 'resume'"):
        check_balancer("gradnorm", only=("permutation", "resum"))
    with pytest.raises(ValueError, match=r"`only` is a list of promises, such as \('resume',\), got 'resume'"):
        check_balancer("gradnorm", only="resume")


@pytest.fixture
def register():
    return lambda cls: BALANCERS.register("broken")(cls)


class Even(GramBalancer):
    """Gives all gradients one length. It keeps all promises. Each class below breaks one promise."""

    spaces = ("features",)

    def weights(self, gram):
        norms = gram.diagonal().sqrt()
        return torch.where(norms > 0, norms.mean() / norms, 0.0)


class Pairs(Even):
    """Divides by the number of other tasks."""

    def weights(self, gram):
        return super().weights(gram) / (len(gram) - 1)


class Fragile(Even):
    """Divides by lengths that may be zero."""

    def weights(self, gram):
        return 1 / gram.diagonal().sqrt()


class Ageing(Even):
    """Counts the steps of tasks that take no part in them."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.age = per_task(tasks, torch.zeros(()))

    def after_step(self, step):
        for age in self.age.values():
            age.data += 1


class Centred(Even):
    """Keeps a value of the features in the forward pass, with or without labels."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.register_buffer("centre", torch.zeros(()))

    def adapter(self, task, features):
        if task == self.tasks[0]:
            self.centre.copy_(features[0].detach()[0, 0])
        return features


class Pushy(Balancer):
    """Adds to the features' gradient, with or without labels."""

    needs = frozenset({"create_graph"})

    def adapter(self, task, features):
        for level in features:
            if level.requires_grad:
                level.register_hook(lambda gradient: gradient + 1e-3)
        return features


class Partial(Even):
    """Favours the first task in the order of the user."""

    def weights(self, gram):
        return torch.cat([gram.new_full((1,), 2.0), gram.new_ones(len(gram) - 1)])


class Hasty(LossBalancer):
    """Moves its state with every micro-batch."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.count = per_task(tasks, torch.ones(()))

    def weights(self, losses, tasks=None):
        return stack(self.count, tasks or self.tasks) / losses.clamp_min(1e-30)

    def combine(self, step):
        for task, loss in zip(step.tasks, step.losses, strict=True):
            self.count[task] += loss / (1 + loss)
        return super().combine(step)


class Rows(Even):
    """Averages lengths in rows. `row` says which row belongs to which task."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.register_buffer("rows", torch.zeros(len(tasks)))

    def row(self, step):
        return [sorted(self.tasks).index(task) for task in step.tasks]

    def combine(self, step):
        return 1 / (1 + self.rows[self.row(step)].double())

    def after_step(self, step):
        self.rows[self.row(step)] = (self.rows[self.row(step)] + step.norms.to(self.rows.dtype)) / 2


class Early(GramBalancer):
    """Moves its state in `combine`, when nobody knows yet whether the step is made."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.register_buffer("total", torch.zeros(()))

    def weights(self, gram):
        self.total += gram.trace()
        return 1 / (1 + gram.diagonal())


class Shifted(Rows):
    """Counts the present tasks only."""

    def row(self, step):
        return [sorted(step.tasks).index(task) for task in step.tasks]


class Reset(Rows):
    """Starts again each time the number of tasks changes."""

    def after_step(self, step):
        if len(step.tasks) != len(self.tasks):
            self.rows.zero_()
        super().after_step(step)


class Crowded(LossBalancer):
    """Shares a fixed sum among all tasks, also the absent ones."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.count = per_task(tasks, torch.ones(()))

    def weights(self, losses, tasks=None):
        return losses.sigmoid() * 3 / stack(self.count, self.tasks).sum()


class Plain(GramBalancer):
    """Plain summing with another name, as from a solver that fails silently."""

    def weights(self, gram):
        return gram.new_full((len(gram),), 1 / len(gram))


class Mean(Plain):
    """A plain mean, a third of plain summing, that declares this."""

    equals_uniform = True


class Nearest(Even):
    """Takes only the gradient nearest to the others, as Krum does. With two tasks, it takes half of each."""

    def weights(self, gram):
        squares = gram.diagonal()
        distances = (squares + squares[:, None] - 2 * gram).sum(dim=0)
        chosen = distances <= distances.min()  # ties share the weight
        return chosen.to(gram) / chosen.sum() if len(gram) > 2 else torch.full_like(squares, 1 / len(gram))


class Denying(Even):
    """Declares that it is plain summing, but is not."""

    equals_uniform = True


class Levelling(LossBalancer):
    """Makes the losses equal, even by negative weights."""

    def weights(self, losses, tasks=None):
        return 0.01 + (losses - losses.mean()) / losses.sum().clamp_min(1e-30)


class Forgetful(Even):
    """Keeps its average in a plain attribute, which no checkpoint sees."""

    average = None

    def weights(self, gram):
        norms = gram.diagonal().sqrt() + 1e-12
        self.average = norms if self.average is None or len(self.average) != len(norms) else (self.average + norms) / 2
        return self.average / norms


class Common(Even):
    """Keeps the first total of all losses in the class itself, which only the same process remembers."""

    first: ClassVar[list[float]] = []

    def weights(self, gram):
        if not self.first:
            self.first.append(float(gram.trace().sqrt()))
        return 1 / (gram.diagonal().sqrt() + self.first[0])


class Local(Even):
    """Compares the lengths on its own process only."""

    def combine(self, step):
        norms = torch.stack(
            [sum(g.square().sum() for g in row if g is not None).sqrt() for row in step.local_gradients]
        )
        return torch.where(norms > 0, norms.mean() / norms, 0.0)


class Failing(Even):
    """Fails in a child process while another process waits for it."""

    def combine(self, step):
        if os.environ.get("RANK") == "1":
            raise KeyError("only in a child")
        return super().combine(step)


class Dying(Even):
    """Ends a whole process while the other one waits for it."""

    def combine(self, step):
        if os.environ.get("RANK") == "1":
            faulthandler._sigsegv()
        return super().combine(step)


class Hanging(Even):
    """Never returns."""

    def combine(self, step):
        if testing_processes.in_child:
            time.sleep(1000)
        return super().combine(step)


class Talkative(Even):
    """Warns in a child process."""

    def combine(self, step):
        if testing_processes.in_child:
            warnings.warn("only in a child", UserWarning, stacklevel=1)
        return super().combine(step)


@pytest.mark.parametrize(
    ("cls", "promise", "reason"),
    [
        (Pairs, "one_task", "NonFiniteError"),
        (Fragile, "finite", "NonFiniteError"),
        (Ageing, "absent_task", r"balancer\.age\.b differs by up to 2\.0e\+00 after steps without labels of its task"),
        (Centred, "no_labels", r"balancer\.centre differs by up to \S+ without labels"),
        (Pushy, "no_labels", r"a gradient of up to \S+ reached the encoder"),
        (Early, "skipped_step", r"balancer\.total differs by up to \S+ in a step that was skipped"),
        (Partial, "permutation", r"differs by up to \S+ in another order"),
        (Hasty, "accumulation", r"differs by up to \S+ with two equal micro-batches"),
        (Shifted, "comes_and_goes", r"differs by up to \S+ between runs without the first and"),
        (Reset, "comes_and_goes", "rows: forgotten in a step"),
        (Crowded, "comes_and_goes", r"differs by up to \S+ between runs with and without a task"),
        (Plain, "differs_from_uniform", r"differs by \S+e-1\d of its length, up to a common factor.*the same method"),
        (Denying, "differs_from_uniform", r"differs by \S+e[-+]0[01] of its length.*although it says `equals_uniform"),
        (Levelling, "pareto", "a step could still help both"),
        (Forgetful, "resume", r"differs by up to \S+ after a resume in a fresh process"),
        (Common, "resume", r"differs by up to \S+ after a resume in a fresh process"),
        (Local, "two_ranks", r"differs by up to \S+ between one process and two"),
        (Failing, "two_ranks", "KeyError: 'only in a child'"),
        (Dying, "two_ranks", "Segmentation fault"),
    ],
)
def test_a_broken_promise_is_named(register, cls, promise, reason):
    register(cls)
    with pytest.raises(AssertionError, match=rf"(?s)broken breaks the promise '{promise}'.*: .*{reason}"):
        check_balancer("broken", only=(promise,))


def test_only_the_promises_that_are_asked_for(register):
    register(Pairs)
    check_balancer("broken", only=("permutation", "accumulation"))
    with pytest.raises(AssertionError, match="'one_task'"):
        check_balancer("broken", only=("accumulation", "one_task"))


@pytest.mark.parametrize("cls", [Even, Rows, Mean, Nearest])
def test_what_the_broken_ones_are_made_of_keeps_all_promises(register, cls):
    register(cls)
    check_balancer("broken")


def test_a_process_that_hangs_is_ended(register, monkeypatch):
    register(Hanging)
    monkeypatch.setattr(testing_processes, "TIMEOUT", 3)
    with pytest.raises(AssertionError, match=r"(?s)Timeout.*in combine"):
        resume(Method("broken"))


def test_warnings_in_other_processes_come_back(register):
    register(Talkative)
    with pytest.warns(UserWarning, match="only in a child"):
        resume(Method("broken"))
    with pytest.raises(AssertionError, match="'resume': UserWarning: only in a child"):
        check_balancer("broken")


def test_a_class_that_no_other_process_can_load_is_explained(register):
    class Inner(Even):
        """A class inside a function."""

    register(Inner)
    with pytest.raises(AssertionError, match=r"'resume': no other process .*Inner.* at the top level"):
        check_balancer("broken")


def test_a_script_of_a_stranger(register, tmp_path, capsys):
    """The program has no `__name__` guard, so child processes that need its class run its main part too."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from mtlkit import BALANCERS, GramBalancer
        from mtlkit.testing import check_balancer

        @BALANCERS.register("inverse_square")
        class InverseSquare(GramBalancer):
            def weights(self, gram):
                return 1 / (gram.diagonal() + gram.trace() + 1e-300)

        check_balancer("inverse_square", space="features")
        print("checked in", __name__)
        """)
    )
    runpy.run_path(script, run_name="__main__")
    assert capsys.readouterr().out == "checked in __main__\n"
