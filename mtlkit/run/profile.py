"""A trace of some steps of training, for `trainer.profile`: where the time of a step goes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.profiler import profile

from mtlkit import distributed
from mtlkit.engine.engine import Engine
from mtlkit.files import sync

TRACE = "profile.json"  #: in the folder of a run, a Chrome trace
FIRST = 3  #: so many steps are made before: the first ones compile, choose kernels and ask for memory
STEPS = 3


class Profile:
    """Traces a few steps of a run's main process, and writes `profile.json`.

    It begins after `FIRST` steps, or earlier if the run ends earlier, and ends after `STEPS` steps or before an
    evaluation. `batches` and `stop` are what `Engine.fit` gets in the place of the loop's own. A run that ends before
    it has traced a step says so in its log.
    """

    def __init__(self, engine: Engine, run: Path) -> None:
        self._engine, self._run = engine, run
        self._wanted = engine.config.profile and distributed.rank() == 0
        left = engine.total_steps - engine.step
        self._begins = engine.step + max(0, min(FIRST, left - 1))  # after this step
        self._profiler: profile | None = None
        self._first = 0

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Passes the batches on. The trace begins where one is asked for, which is after an evaluation."""
        source = iter(batches)
        while True:
            if self._wanted and self._profiler is None and self._engine.step >= self._begins:
                self._profiler, self._first = profile(), self._engine.step + 1
                self._profiler.start()
            try:
                batch = next(source)
            except StopIteration:
                return
            yield batch

    def stop(self, stop: Callable[[int, bool], None]) -> Callable[[int, bool], None]:
        """Returns what is called after each step: it ends the trace if it is time, and goes on as `stop` does."""

        def after(step: int, due: bool) -> None:
            if self._profiler is not None and step >= self._first and (due or step - self._first + 1 >= STEPS):
                self._write(step)
            stop(step, due)

        return after

    def _write(self, step: int) -> None:
        assert self._profiler is not None
        profiler, self._profiler, self._wanted = self._profiler, None, False
        profiler.stop()
        temporary = self._run / f".{TRACE}.tmp"
        profiler.export_chrome_trace(str(temporary))
        sync(temporary)
        temporary.replace(self._run / TRACE)
        self._engine.note({"profile": f"{TRACE} has the steps {self._first} to {step}, which took longer for it"})

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.stop()
        if self._wanted:
            self._engine.note({"incident": "trainer.profile: training ended before a step was traced."})
