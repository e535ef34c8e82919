"""Registration by name: clear error messages, and plug-ins from other packages."""

import inspect
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pytest

import mtlkit.registry
from mtlkit.registry import ENTRY_POINTS, Registry, check_options, options_of
from mtlkit.task import Task
from mtlkit.typed import Positive


class Base:
    """A base."""


@pytest.fixture
def registry():
    return Registry("thing", Base)


def test_misspelt_name_gets_close_matches(registry):
    registry.register("inverse_norm")(type("A", (Base,), {}))
    with pytest.raises(LookupError, match=r"No thing is called 'inverse_nrm'. Did you mean 'inverse_norm'"):
        registry.build("inverse_nrm")


def test_second_class_under_a_taken_name_is_refused_and_the_same_one_is_not(registry):
    def define(qualname):
        return type("A", (Base,), {"__qualname__": qualname, "__module__": "lab"})

    registry.register("a")(define("First"))
    second = define("First")
    registry.register("a")(second)  # as when a notebook cell runs again
    assert registry.get("a") is second
    with pytest.raises(ValueError, match=r"taken by lab\.First; lab\.Other needs another name"):
        registry.register("a")(define("Other"))


def test_wrong_base_and_bad_name_are_refused(registry):
    with pytest.raises(TypeError, match="must be a subclass of Base"):
        registry.register("a")(int)
    with pytest.raises(ValueError, match="identifier"):
        registry.register("no-name")(type("A", (Base,), {}))


def test_unknown_option_is_refused_with_close_matches(registry):
    class Parent(Base):
        def __init__(self, alpha=1.0):
            self.alpha = alpha

    class Child(Parent):
        def __init__(self, beta=2.0, **options):
            super().__init__(**options)
            self.beta = beta

    class Closed(Parent):
        def __init__(self, beta=2.0):
            super().__init__()

    assert list(options_of(Child)) == ["beta", "alpha"]
    assert list(options_of(Closed)) == ["beta"]
    registry.register("child")(Child)
    assert registry.build("child", alpha=3.0).alpha == 3.0
    with pytest.raises(ValueError, match=r"has no option 'alhpa'. Did you mean 'alpha'"):
        registry.build("child", alhpa=1.0)
    with pytest.raises(ValueError, match="'closed' has no option 'alpha'"):
        check_options("'closed'", Closed, ["alpha"])


def test_options_are_the_constructors_parameters_and_the_fields_of_a_dataclass():
    class Part(Task):
        @dataclass
        class Options:
            needed: Positive
            loss: Literal["l1", "mse"] = "l1"
            lengths: list[float] = field(default_factory=lambda: [1.0])

    class Own(Part):
        def __init__(self, name: str, threshold: float = 1.0, **options: Any) -> None:
            super().__init__(name, **options)

    class Closed(Part):
        def __init__(self, name: str, threshold: float = 1.0) -> None:
            super().__init__(name, needed=1.0)

    own = ["needed", "loss", "lengths"]
    assert list(options_of(Part)) == ["name", "classes", "decoder", *own]
    assert list(options_of(Own)) == ["name", "threshold", "classes", "decoder", *own]
    assert list(options_of(Closed)) == ["name", "threshold"]
    found = options_of(Part)
    assert (found["loss"].default, found["lengths"].default) == ("l1", [1.0])
    assert found["needed"].default is inspect.Parameter.empty
    assert found["needed"].annotation == Positive


def test_a_class_of_options_is_a_dataclass():
    with pytest.raises(ValueError, match=r"Loose\.Options must be a dataclass\. Write @dataclass"):

        class Loose(Task):
            class Options:
                loss: str = "l1"


@pytest.fixture
def plugins(monkeypatch):
    """`plugins(name=module, ...)` installs entry points and returns the list of loaded modules. `gone` cannot load."""
    loaded = []

    def load(point):
        if point.value == "gone":
            raise ModuleNotFoundError(point.value)
        loaded.append(point.value)

    def install(**values):
        points = [EntryPoint(name, value, ENTRY_POINTS) for name, value in values.items()]
        monkeypatch.setattr("mtlkit.registry.entry_points", lambda group: points)
        return loaded

    monkeypatch.setattr("mtlkit.registry._loaded", set())
    monkeypatch.setattr(EntryPoint, "load", load)
    return install


def test_a_registry_loads_its_own_package_of_mtlkit_and_all_others_once(plugins):
    loaded = plugins(things="mtlkit.things", others="mtlkit.others", lab="my_lab")
    things, others = Registry("thing", Base, own="things"), Registry("other", Base, own="others")
    assert things.names() == []
    assert loaded == ["mtlkit.things", "my_lab"]
    things.names()
    others.names()
    assert loaded == ["mtlkit.things", "my_lab", "mtlkit.others"]


def test_a_failed_load_is_tried_again(registry, plugins):
    loaded = plugins(lab="my_lab", broken="gone")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="gone"):
            registry.names()
    assert loaded == ["my_lab"]


def test_a_registry_looks_for_plugins_once(plugins, monkeypatch):
    plugins(lab="my_lab")
    scans = []
    found = mtlkit.registry.entry_points
    monkeypatch.setattr("mtlkit.registry.entry_points", lambda group: scans.append(group) or found(group))
    things = Registry("thing", Base)
    for _ in range(3):
        things.names()
    assert scans == [ENTRY_POINTS]


PLUGIN = """
import torch
from mtlkit import BALANCERS, GramBalancer


@BALANCERS.register("inverse_norm")
class InverseNorm(GramBalancer):
    '''Gives every task the same gradient length.'''

    def weights(self, gram):
        norms = gram.diagonal().sqrt()
        return norms.mean() / norms.clamp_min(torch.finfo(gram.dtype).tiny)
"""

TASK = """
import torch
from mtlkit import TASKS, Task
from torchmetrics import MeanSquaredError, MetricCollection


@TASKS.register("inverse_depth")
class InverseDepth(Task):
    '''Disparity in 1/m, by a squared error.'''

    dense = True
    regression = True
    out_channels = 1

    def loss(self, output, target):
        valid = target > 0
        return ((output - 1 / target.clamp_min(0.1))[valid] ** 2).sum(), valid.sum()

    def predict(self, output):
        return output

    def metrics(self):
        return MetricCollection({"mse": MeanSquaredError()})

    def constant(self, targets):
        return torch.zeros(1, 1, 1, 1)

    def picture(self, value):
        return (value[0, :, :, None].clamp(0, 1) * 255).byte().expand(-1, -1, 3).numpy()
"""


@pytest.fixture
def foreign(tmp_path):
    """A folder for the path. It holds an installed distribution with a balancer and a task."""
    site = tmp_path / "site"
    (site / "my_lab").mkdir(parents=True)
    (site / "my_lab" / "__init__.py").write_text("from my_lab import balancer, task\n")
    (site / "my_lab" / "balancer.py").write_text(PLUGIN)
    (site / "my_lab" / "task.py").write_text(TASK)
    info = site / "my_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mtlkit.plugins]\nmy_lab = my_lab\n")
    return site


def python(site, code, *words):
    import os

    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_a_foreign_distribution_trains_with_its_own_task_and_balancer(foreign, tmp_path):
    words = [
        "train",
        "scenes",
        "balancer=inverse_norm",
        "task=[depth,normals]",
        "task.depth.type=inverse_depth",
        "model.encoder=test_resnet",
        "model.levels=null",
        "data.size=[32,32]",
        "data.train_size=8",
        "data.val_size=4",
        "data.batch_size=4",
        f"data.root={tmp_path / 'cache'}",
        "trainer.max_epochs=null",
        "trainer.max_steps=2",
        f"output_dir={tmp_path / 'run'}",
    ]
    done = python(foreign, "import sys; from mtlkit.cli.main import main; sys.exit(main(sys.argv[1:]))", *words)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"depth/mse"' in log
    assert '"weight/depth"' in log


def test_an_import_error_of_a_plugin_is_never_swallowed(foreign):
    (foreign / "my_lab" / "task.py").write_text("import a_module_that_is_not_there\n")
    done = python(foreign, "import mtlkit; mtlkit.BALANCERS.names()")
    assert done.returncode != 0
    assert "a_module_that_is_not_there" in done.stderr
