"""Saves the checkpoints of a run while its training goes on."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from mtlkit import distributed
from mtlkit.engine.engine import Engine
from mtlkit.engine.shards import is_split
from mtlkit.process import start_before_forks
from mtlkit.run import checkpoint, checksums
from mtlkit.run.checkpoint_folder import remove, replace
from mtlkit.run.snapshot import Snapshot, snapshot_of

CHECKPOINT = "mtlkit: checkpoint"  #: the name of the thread that writes


class Saver:
    """Saves the checkpoints of a run in the background, one after the other.

    A call copies the state of training to the CPU's memory, and a thread writes it: the same files, in the same order,
    as `save_checkpoint`. Until they are written, weights and optimizer state are in memory a second time. A second call
    waits for the first one. The first checkpoint of a run is waited for: a run that was killed with steps in its log
    and without a checkpoint could not go on.

    In the foreground, as ever, are models that are split over processes (FSDP, tensor parallelism) and DeepSpeed:
    there all processes write or send parts of the state, and their messages would mix with those of training.

    As a context, it ends only when the last checkpoint is on the disk. All processes call it alike; the main process
    writes.

    Raises:
        OSError: a checkpoint could not be written: by the next call, by `wait`, or at the end of the context. If the
            context ends by another error, the log gets the message as an incident.
    """

    def __init__(self, engine: Engine, run: Path) -> None:
        self._engine = engine
        self._run = run
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __call__(self, best: bool) -> None:
        # `best` first: if the process dies in between, the run resumes from the older `last` and comes here again.
        places = [(checkpoint.BEST, "")] * best + [(checkpoint.LAST, checkpoint.PREVIOUS)]
        # The kinds of Accelerate that split what a checkpoint holds over processes.
        sharded = self._engine.accelerator.distributed_type.value in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP")
        if sharded or is_split(self._engine.network):
            for name, keep in places:
                checkpoint.save_checkpoint(self._engine, self._run / "checkpoints" / name, keep=keep)
        else:
            distributed.main_decides(lambda: self._start(places))

    def now(self) -> None:
        """Saves, and returns when the checkpoint is on the disk."""
        self(False)
        self.wait()

    def wait(self) -> None:
        """Returns when all checkpoints are on the disk."""
        distributed.main_decides(self._join)

    def _start(self, places: Sequence[tuple[str, str]]) -> None:
        self._join()
        first = checkpoint.folder_of(self._run, checkpoint.LAST) is None
        snapshot = snapshot_of(self._engine).copy()
        # Not a daemon: should nobody join it, Python waits for it before it ends.
        self._thread = threading.Thread(target=self._write, args=(snapshot, places), name=CHECKPOINT)
        start_before_forks(self._thread)
        if first:
            self._join()

    def _write(self, snapshot: Snapshot, places: Sequence[tuple[str, str]]) -> None:
        try:
            for name, keep in places:
                checkpoint.write_checkpoint(snapshot, self._run / "checkpoints" / name, keep=keep)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
            return
        try:
            self._join()  # of this process alone: the others may be elsewhere
        except OSError as lost:
            self._engine.note({"incident": str(lost)})


def put_in_place(source: Path) -> None:
    """Puts a copy of a checkpoint in the place of the last one, from which a run goes on, unless it is that one."""
    if source.name in checkpoint.PLACES[checkpoint.LAST] and source.name != checkpoint.PREVIOUS:
        return
    temporary = checkpoint.temporary_of(source.with_name(checkpoint.LAST))
    remove(temporary)
    shutil.copytree(source, temporary)
    checksums.sync_all(temporary)
    replace(source.with_name(checkpoint.LAST), temporary)


def drop_previous(run: Path) -> None:
    """Removes the checkpoint before the last one. It is for a run in progress only, as it needs room on the disk."""
    remove(run / "checkpoints" / checkpoint.PREVIOUS)
