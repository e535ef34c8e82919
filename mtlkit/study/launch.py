"""Where the runs of a study are carried out: in this process, or as jobs of submitit."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from mtlkit.config.checks import check_config
from mtlkit.config.plugins import import_plugins
from mtlkit.console import Console
from mtlkit.data.workers import loading_trouble, own_words
from mtlkit.errors import for_users
from mtlkit.plain_text import plain
from mtlkit.process import FOR_THE_MAIN_ONE, for_main_only
from mtlkit.run.progress import bring_to_end
from mtlkit.study.job import InJob
from mtlkit.study.plan import Job
from mtlkit.typed import Source

LAUNCHERS = ("local", "slurm", "debug")  #: as submitit calls them
LONG = 60 * 24 * 365  #: minutes; without a limit, submitit ends a local job after two minutes
PAUSE = 0.5  #: seconds between two looks at the jobs
GRACE = 20  #: seconds that jobs of this machine get to end
INTERRUPT = FOR_THE_MAIN_ONE & {signal.SIGINT}


class Launcher(Protocol):
    """Carries out runs, `at_a_time` at the same time (None: as many as the cluster allows)."""

    at_a_time: int | None

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Yields every job when it has ended, with the reason of a failure, or ""."""


class Here:
    """One run after the other, in this process."""

    at_a_time: int | None = 1

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        for job in jobs:
            yield job, train(job.config.to_dict(), watch=sys.stdout.isatty())


class Submitit:
    """Jobs of submitit: processes of this machine, jobs of Slurm, or this process (`debug`).

    Args:
        cluster: one of `LAUNCHERS`.
        folder: gets submitit's files, with the output of every job.
        at_a_time: the number of jobs at the same time; None: no limit of ours.
        options: parameters of submitit's executor, such as timeout_min or slurm_partition.

    Raises `ValueError` if submitit is not installed, if the cluster cannot be reached, or for an unknown option.
    """

    def __init__(self, cluster: str, folder: Path, at_a_time: int | None, options: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError(
                "--jobs and --launcher start runs through submitit, which is not installed: pip install "
                "'mtlkit[submitit]'. Without them, the runs are made one after the other."
            ) from None
        self.at_a_time = at_a_time
        self._auto = submitit.AutoExecutor
        self._cluster, self._folder, self._options = cluster, folder, options
        # A job of `debug` is this process, which looks after its signals itself.
        self._work = train if cluster == "debug" else InJob(train, cluster == "local")
        self._gpus = list(range(torch.cuda.device_count())) if cluster == "local" else []
        # submitit makes the folder at once, and a refused word must leave nothing behind.
        with tempfile.TemporaryDirectory() as trial:
            self._executor(Path(trial))

    def _executor(self, folder: Path) -> Any:
        # Slurm has a limit of its own. A run that it ends is resumed when the study is called again.
        limit = {} if self._cluster == "slurm" else {"timeout_min": LONG}
        try:
            executor = self._auto(folder, cluster=self._cluster)
            executor.update_parameters(**{**limit, **self._options})
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            words = " ".join([self._cluster, *(f"{key}={value}" for key, value in self._options.items())])
            said = " ".join(str(error).split())
            raise ValueError(
                f"--launcher {words}: submitit says: {said} (Settings of the runs stand before --launcher.)"
            ) from None
        return executor

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        waiting = deque(jobs)
        running: list[tuple[Job, Any, int | None]] = []
        executor = self._executor(self._folder)
        try:
            while waiting or running:
                while waiting and len(running) < (self.at_a_time or len(jobs)):
                    job = waiting.popleft()
                    used = [one for _, _, one in running]
                    gpu = min(self._gpus, key=used.count, default=None)  # each its own; more jobs than GPUs share them
                    if gpu is not None:
                        executor.update_parameters(gpus_per_node=1, local_visible_gpus=[gpu])
                    with for_main_only(INTERRUPT):  # Ctrl-C is for this process, which ends the jobs below
                        running.append((job, executor.submit(self._work, job.config.to_dict()), gpu))
                ended = [one for one in running if one[1].done()]
                running = [one for one in running if one not in ended]
                for job, handle, _ in ended:
                    yield job, _outcome(handle)
                time.sleep(0 if ended else PAUSE)
        finally:
            self._end([handle for _, handle, _ in running])

    def _end(self, handles: Sequence[Any]) -> None:
        """Ends jobs. Those of this machine get time to save their checkpoints."""
        for handle in handles:
            if self._cluster == "local":
                os.kill(int(handle.job_id), signal.SIGTERM)  # submitit's `cancel` would kill it after one second
            else:
                handle.cancel()
        end = time.monotonic() + GRACE
        while self._cluster == "local" and time.monotonic() < end and not all(handle.done() for handle in handles):
            time.sleep(PAUSE)


def train(values: Mapping[str, Any], watch: bool = False) -> str:
    """Brings the run of a configuration to its end. Returns why it failed, or "". It raises nothing: others must go on.

    With `watch`, it shows the progress on the terminal. The traceback of an error that no user can understand goes to
    standard error.
    """
    try:
        import_plugins(values["plugins"], Source("the study"))  # the study trusts them, and this may be a new process
        config = check_config(values, Source("the study"))
        bring_to_end(config, [Console(config.output_dir)] if watch else [])
    except Exception as error:  # noqa: BLE001 - a run whose plug-in has a fault must not stop the other methods
        if found := loading_trouble(error) or (own_words(error) if for_users(error) else ""):
            return found
        sys.stderr.write(plain(traceback.format_exc()))
        return f"{type(error).__name__}: {own_words(error)}"
    return ""


def _outcome(handle: Any) -> str:
    """Returns the reason of a job's failure, or "". A job that was killed has no result but an exception."""
    error = handle.exception()
    if error is None:
        return str(handle.result())
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"The job ended without a result: {first} Its output: {handle.paths.stderr}"
