"""The contract kit: every registered balancer keeps the promises, and a broken one is caught by name."""

import pytest
import torch

from mtlkit import BALANCERS, GramBalancer
from mtlkit.testing import check_balancer


@pytest.mark.parametrize("name", BALANCERS.names())
def test_every_balancer_keeps_its_promises(name):
    check_balancer(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gradnorm", {"space": "last_layer"}),
        ("cosreg", {"space": "features", "alpha": 5.0}),
        ("rotograd", {"dim": 3, "burn_in": 1}),
        ("rotograd", {"scale_only": True}),
        ("fixed", {"weights": {"a": 0.0}}),
    ],
)
def test_options_keep_them_too(name, options):
    check_balancer(name, **options)


@pytest.fixture
def register():
    known = dict(BALANCERS._classes)
    yield lambda name, cls: BALANCERS.register(name)(cls)
    BALANCERS._classes.clear()
    BALANCERS._classes.update(known)


class Forgetful(GramBalancer):
    """Keeps its average in a plain attribute, which no checkpoint sees."""

    average = None

    def weights(self, gram):
        norms = gram.diagonal().sqrt() + 1e-12
        self.average = norms if self.average is None or len(self.average) != len(norms) else (self.average + norms) / 2
        return self.average / norms


class Partial(GramBalancer):
    """Favours the first task, whichever it is."""

    def weights(self, gram):
        return torch.cat([gram.new_full((1,), 2.0), gram.new_ones(len(gram) - 1)])


class Fragile(GramBalancer):
    """Divides by lengths that may be zero."""

    def weights(self, gram):
        return 1 / gram.diagonal().sqrt()


@pytest.mark.parametrize(("cls", "promise"), [(Fragile, "finite"), (Forgetful, "resume"), (Partial, "permutation")])
def test_a_broken_promise_is_named(register, cls, promise):
    register("broken", cls)
    with pytest.raises(AssertionError, match=f"broken breaks the promise '{promise}'"):
        check_balancer("broken")
