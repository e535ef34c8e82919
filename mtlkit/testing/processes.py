"""The promises of a balancer that need fresh processes. Each process loads the balancer's class again."""

import faulthandler
import importlib
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import distributed

from mtlkit.balancer import BALANCERS
from mtlkit.registry import ENTRY_POINTS
from mtlkit.run import checkpoint
from mtlkit.testing.toys import Method, State, assert_same, make_batch, make_engine, state_of, train_steps

TIMEOUT = 120  # a process that hangs ends itself after so many seconds

in_child = False  #: whether this process was started by this module

Call = tuple[Callable[..., None], tuple[Any, ...]]
Caught = list[tuple[str, type[Warning], str, int]]


def resume(method: Method) -> None:
    whole, half = make_engine(method), make_engine(method)
    train_steps(whole, 4)
    train_steps(half, 2)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_checkpoint(half, Path(folder, "half"))
        run(method.name, (_resume, (method, folder)))
        second = torch.load(Path(folder, "state"))
    assert_same(state_of(whole), second, "after a resume in a fresh process")


def _resume(method: Method, folder: str) -> None:
    engine = make_engine(method)
    checkpoint.load_checkpoint(engine, Path(folder, "half"))
    train_steps(engine, 2)
    torch.save(state_of(engine), Path(folder, "state"))


def two_ranks(method: Method) -> None:
    method = replace(method, device="cpu")  # two processes would need two GPUs
    one = _train_share(method)
    with tempfile.TemporaryDirectory() as folder:
        run(method.name, *((_train_rank, (method, folder, rank)) for rank in (0, 1)))
        ranks = [torch.load(Path(folder, str(rank))) for rank in (0, 1)]
    assert_same(ranks[0], ranks[1], "between two processes")
    assert_same(one, ranks[0], "between one process and two", tolerance=1e-9)


def _train_rank(method: Method, folder: str, rank: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"OMP_NUM_THREADS": "1"}
    meeting = Path(folder, "meeting").as_uri()
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    try:
        torch.save(_train_share(method, rank, 2), Path(folder, str(rank)))
    finally:
        distributed.destroy_process_group()


def _train_share(method: Method, rank: int = 0, world: int = 1) -> State:
    """Returns the state after training on this process's part of each batch, with and without micro-batches."""
    found: State = {}
    batches = [
        make_batch(0),
        make_batch(1, absent_late=("b",)),  # the second process has no label of b
        make_batch(2, absent=("a",), absent_late=("c",)),
        make_batch(3),
    ]
    for parts in (1, 2):
        engine = make_engine(method, accumulation=parts)
        if rank > 0:
            torch.manual_seed(rank)  # random numbers must not come from a generator that may differ
        for batch in batches:
            size = 8 // parts // world
            for part in range(parts):
                rows = slice((part * world + rank) * size, (part * world + rank + 1) * size)
                targets = {task: target[rows] for task, target in batch["targets"].items()}
                engine.train_step({"image": batch["image"][rows], "targets": targets})
        found |= {f"accumulation={parts}.{key}": value for key, value in state_of(engine).items()}
    return found


# -- processes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """The place where another process finds the class of a registered balancer.

    Raises `AssertionError` for a class that only this process knows.
    """

    name: str
    module: str
    file: str
    qualname: str

    @classmethod
    def of(cls, name: str) -> "Origin":
        found = BALANCERS.get(name)
        module = sys.modules.get(found.__module__)
        file = getattr(module, "__file__", None)
        if file is None or "<locals>" in found.__qualname__:
            raise AssertionError(
                f"no other process can load {found.__module__}.{found.__qualname__}, as a resumed run must; "
                f"define the class at the top level of a file, not in a function, a notebook or an interactive session"
            )
        return cls(name, found.__module__, str(file), found.__qualname__)

    def load(self) -> None:
        """Registers the class in this process."""
        if self.name not in BALANCERS.names():
            BALANCERS.register(self.name)(attrgetter(self.qualname)(self._module()))

    def _module(self) -> ModuleType:
        if self.module != "__main__":  # there, that is another program
            with suppress(ImportError):  # pytest knows modules by names that cannot be imported
                module = importlib.import_module(self.module)
                if module.__file__ == self.file:
                    return module
        spec = importlib.util.spec_from_file_location(self.module.replace("__main__", "__mp_main__"), self.file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def run(name: str, *calls: Call) -> None:
    """Runs every call in its own fresh process, in which the balancer `name` is registered, all at the same time.

    Raises `AssertionError` with the traceback of a call that fails, hangs or whose process dies. Then it ends the other
    processes. It repeats warnings of the calls in this process, so that this process's filters apply to them.
    """
    origin = Origin.of(name)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(len(calls), mp_context=_context()) as pool:
        outputs = [Path(folder, str(i)) for i in range(len(calls))]
        with _main_hidden():
            starts = zip(outputs, calls, strict=True)
            futures = [pool.submit(_run, origin, str(output), TIMEOUT, *call) for output, call in starts]
        wait(futures)
        if any(future.exception() for future in futures):
            texts = [output.read_text() for output in outputs if output.exists()]
            raise AssertionError("in a fresh process: " + ("\n".join(filter(None, texts)) or "it died silently"))
    for future in futures:
        for text, category, file, line in future.result():
            warnings.warn_explicit(text, category, file, line)


def _context() -> Any:
    """Returns a context that forks processes from a server. It has imported slow modules, but none of the caller's."""
    context = multiprocessing.get_context("forkserver")
    plugins = [point.module for point in entry_points(group=ENTRY_POINTS)]
    context.set_forkserver_preload(["mtlkit.testing", *plugins])
    return context


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Prevents multiprocessing from running the caller's program in the new processes.

    They need it only if it contains the balancer's class. Then `Origin.load` runs it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(origin: Origin, output: str, seconds: int, function: Callable[..., None], args: tuple[Any, ...]) -> Caught:
    global in_child
    in_child, finished = True, False
    torch.set_num_threads(1)
    with open(output, "a") as file, redirect_stdout(file), warnings.catch_warnings(record=True) as caught:
        faulthandler.enable(file)
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        warnings.simplefilter("always")
        try:
            origin.load()
            function(*args)
            finished = True
        finally:
            if not finished:  # nobody should go on waiting for this process
                traceback.print_exc(file=file)
                file.flush()
                os._exit(1)
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()
    return [(str(w.message), _built_in(w.category), w.filename, w.lineno) for w in caught]


def _built_in(category: type[Warning]) -> type[Warning]:
    """Returns the nearest base class that every process knows."""
    return next(parent for parent in category.__mro__ if parent.__module__ == "builtins")
