"""Fixtures that every test file may use."""

import fcntl
import gc
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mtlkit
from mtlkit.registry import Registry

REGISTRIES: tuple[Registry, ...] = (
    *(mtlkit.BALANCERS, mtlkit.TASKS, mtlkit.DATASETS, mtlkit.KINDS),
    *(mtlkit.ENCODERS, mtlkit.DECODERS, mtlkit.OBSERVERS),
)
TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of a balancer if the optional package that it needs is not installed."""
    if importlib.util.find_spec("torchjd") is None:
        for item in items:
            if "torchjd" in item.name.partition("[")[2]:
                item.add_marker(pytest.mark.skip(reason="TorchJD is not installed (pip install 'mtlkit[dev]')"))


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Lets the garbage collector look at what tests make, and not each time at half a million objects of libraries."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def _deterministic_threads():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder with the real MNIST files. Tests skip if they are absent."""
    if not (SHARED / "data" / "MNIST" / "raw").is_dir():
        pytest.skip(f"the real MNIST is not in {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def once(tmp_path_factory, request) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)` returns a folder that `make(folder)` has filled. Of all test processes, only one fills it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                temporary = shared / f"{name}.tmp"
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                make(temporary)
                temporary.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def toys():
    """The module `toys.py`: a small network, tasks and batches with known gradients."""
    if "toys" not in sys.modules:
        spec = importlib.util.spec_from_file_location("toys", TESTS / "toys.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["toys"] = module
        spec.loader.exec_module(module)
    return sys.modules["toys"]


@pytest.fixture(autouse=True)
def _registries(forgetting: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    with forgetting():
        yield


@pytest.fixture(scope="session")
def forgetting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[None]]:
    """Removes what is registered within the block, such as an example in a docstring or a plug-in of a test.

    It also forgets modules in temporary folders. The next test that imports such a module registers its classes again.
    """

    # Modules that are in no temporary folder, as was seen before: looking at thousands after each test is slow.
    lasting: dict[str, ModuleType] = {}

    @contextmanager
    def forget() -> Iterator[None]:
        for registry in REGISTRIES:
            registry.names()  # loads the installed plug-ins first, so that they stay
        before = [dict(registry._classes) for registry in REGISTRIES]
        yield
        for registry, classes in zip(REGISTRIES, before, strict=True):
            registry._classes.clear()
            registry._classes.update(classes)
        temporary = str(tmp_path_factory.getbasetemp())
        for name, module in list(sys.modules.items()):
            if lasting.get(name) is module:
                continue
            if (getattr(module, "__file__", None) or "").startswith(temporary):
                del sys.modules[name]
            else:
                lasting[name] = module

    return forget


@pytest.fixture
def no_report() -> Iterator[pytest.MonkeyPatch]:
    """Runs write no page at their end, which takes three quarters of a short run. `no_report.undo()` brings it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtlkit.run.showing.write_report", lambda run, ending: None)
        patch.setattr("mtlkit.study.single.write_report", lambda run, single: None)
        yield patch


@pytest.fixture(scope="session")
def left(once) -> Path:
    """A finished run with RotoGrad, of which only the folder is left: no data, no plug-in. Tests do not change it."""
    from leaving import train

    return once("left", train) / "run"
