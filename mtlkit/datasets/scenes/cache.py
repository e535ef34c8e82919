"""Frames on disk: rendered once, in parallel, and stored as arrays that are mapped into memory.

A set of frames is a folder with one .npy file per array and a manifest with the settings and the files' SHA-256. It is
written under a temporary name and renamed, so it is complete or absent. If two processes render the same set at the
same time, the second one deletes its own result. A temporary folder has the mark of the process that writes it. What a
killed process left is removed when the next one renders.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from rich.progress import Progress

from mtlkit.datasets.scenes.attributes import ATTRIBUTES
from mtlkit.datasets.scenes.render import VERSION, Frame, Knobs, render_frame
from mtlkit.process import end_with_parent, for_main_only, read_mark, state_of, this_process
from mtlkit.terminal import Terminal

LOG = logging.getLogger("mtlkit")
FEW = 300_000  # one process renders so many pixels before other processes have started
DTYPES = {"image": "u1", "label": "i1", "depth": "<u2", "normals": "<i2", "attributes": "u1"}  # depth in millimetres
TEMPORARY, OWNER = ".rendering-", "owner.json"  # how temporary folders begin, and the file with the mark
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """All settings that the frames depend on."""

    split: str
    size: tuple[int, int]
    count: int
    dataset_seed: int
    knobs: Knobs
    version: int = VERSION

    @classmethod
    def parse(cls, text: str) -> "Settings":
        values = json.loads(text)
        return cls(**values | {"size": tuple(values["size"]), "knobs": Knobs(**values["knobs"])})

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def name(self) -> str:
        """The name of the folder."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:12]
        return f"{self.split}-{self.size[0]}x{self.size[1]}-{self.count}-{digest}"

    def shape(self, array: str) -> tuple[int, ...]:
        tail = {"image": (3,), "normals": (3,)}.get(array, ())
        return (self.count, len(ATTRIBUTES)) if array == "attributes" else (self.count, *self.size[::-1], *tail)


def cached(root: Path, settings: Settings) -> Path:
    """Returns the folder of these frames. Renders them now if the folder is missing or damaged.

    Raises `ValueError` if the folder cannot be written.
    """
    folder = root / settings.name()
    if (fault := damage(folder, settings)) is None:
        return folder
    if folder.exists():
        LOG.warning("scenes: rendering %s again: %s.", folder, fault)
    temporary = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_left(root)
        temporary = _temporary_in(root)
        _render(temporary, settings)
        _publish(temporary, folder, settings)
    except OSError as error:
        raise ValueError(
            f"scenes: cannot keep rendered frames in {root}: {error.strerror or error}. "
            f"Name a folder that can be written, with enough room, by data.root."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _temporary_in(root: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=root))
    (folder / OWNER).write_text(json.dumps(this_process()))
    return folder


def _remove_left(root: Path) -> None:
    """Removes the temporary folders of dead processes. Those of other machines, whose state is unknown, stay."""
    for folder in root.glob(f"{TEMPORARY}*"):
        try:
            dead = state_of(read_mark(folder / OWNER)) == "dead"
        except (OSError, ValueError):  # another process has just made it, or removes it
            continue
        if dead:
            shutil.rmtree(folder, ignore_errors=True)


def load_arrays(folder: Path) -> Arrays:
    """Returns the arrays of a folder, mapped into memory for reading."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DTYPES}


def damage(folder: Path, settings: Settings) -> str | None:
    """Describes what is wrong with a folder. Returns None if nothing is wrong."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["settings"] != json.loads(settings.text()):
            return "its settings are others"
        for name in DTYPES:
            if _digest(folder / f"{name}.npy") != manifest["sha256"][name]:
                return f"{name}.npy is damaged"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__} {error}"
    return None


def fill(folder: Path, settings: Settings, part: int, parts: int) -> None:
    """Renders every `parts`-th frame, from number `part`, into the reserved arrays, and counts them in a file."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in DTYPES}
    with open(folder / f"done-{part}", "ab", buffering=0) as done:
        for index in range(part, settings.count, parts):
            frame = render_frame(index, settings.split, settings.size, settings.dataset_seed, settings.knobs)
            for name, values in quantised(frame).items():
                arrays[name][index] = values
            done.write(b".")


def quantised(frame: Frame) -> Arrays:
    """Returns a frame as it is stored: colours in 1/255, depth in millimetres, normals in 1/32767."""
    return {
        "image": np.rint(frame.image * 255).astype("u1"),
        "label": frame.label.astype("i1"),
        "depth": np.rint(np.clip(frame.depth, 0, 65) * 1000).astype("<u2"),
        "normals": np.rint(frame.normals * 32767).astype("<i2"),
        "attributes": frame.attributes.astype("u1"),
    }


def _render(folder: Path, settings: Settings) -> None:
    for name, dtype in DTYPES.items():
        _reserve(folder / f"{name}.npy", dtype, settings.shape(name))
    pixels = settings.count * settings.size[0] * settings.size[1]
    parts = 1 if pixels < FEW else min(_processors(), settings.count)
    console = Terminal(stderr=True, soft_wrap=True, highlight=False)
    title = f"scenes: rendering {settings.count} {settings.split} frames at {settings.size[0]}x{settings.size[1]}"
    if pixels >= FEW and not console.is_terminal:
        console.print(f"{title} into {folder.parent}")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(title, total=settings.count)
        if parts == 1:
            fill(folder, settings, 0, 1)
        else:
            _fill_in_parallel(folder, settings, parts, lambda done: progress.update(bar, completed=done))
    for used in (folder / OWNER, *folder.glob("done-*")):
        used.unlink()
    manifest = {
        "settings": json.loads(settings.text()),
        "sha256": {name: _digest(folder / f"{name}.npy") for name in DTYPES},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _fill_in_parallel(folder: Path, settings: Settings, parts: int, report: Callable[[int], None]) -> None:
    """Runs this module as a program, one process per part.

    It uses plain programs, not multiprocessing. multiprocessing would import the caller's main module again. That fails
    in scripts without a main guard and in code from standard input, and a data loader's worker does not allow it.
    """
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    command = [sys.executable, "-m", __name__, str(os.getpid()), str(folder), settings.text(), str(parts)]
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(parts)]
        workers = []
        for part in range(parts):
            call = [*command, str(part)]
            with for_main_only():
                workers.append(subprocess.Popen(call, env=environment, stdin=subprocess.DEVNULL, stderr=said[part]))
            stack.callback(workers[-1].wait)
            stack.callback(workers[-1].kill)  # does nothing if the process has ended
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.1)
            report(sum(counter.stat().st_size for counter in folder.glob("done-*")))
        for worker, errors in zip(workers, said, strict=True):
            if worker.returncode != 0:
                errors.seek(0)
                text = errors.read().decode(errors="replace")
                raise RuntimeError(f"scenes: a rendering process ended with status {worker.returncode}:\n{text}")


def _publish(temporary: Path, folder: Path, settings: Settings) -> None:
    if damage(folder, settings) is None:
        return  # another process was faster
    if folder.exists():
        folder.rename(temporary / "damaged")  # is deleted together with the temporary folder
        stay = _temporary_in(folder.parent)
        (temporary / "damaged").rename(stay / "damaged")
        shutil.rmtree(stay)
    try:
        temporary.rename(folder)
    except OSError:
        if damage(folder, settings) is not None:
            raise


def _reserve(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Writes an array of zeros. A full disk then raises an error here, instead of a signal during later writes."""
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        row = bytes(int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
        for _ in range(shape[0]):
            file.write(row)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    _parent, _folder, _settings, _parts, _part = sys.argv[1:]
    end_with_parent(int(_parent))
    fill(Path(_folder), Settings.parse(_settings), int(_part), int(_parts))
