"""Checks that all processes of a run make the same run: the same words, the same code, the same data."""

import hashlib
import importlib.metadata
import importlib.util
import math
import platform
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from mtlkit import distributed
from mtlkit.agreement import Facts, check_agreement
from mtlkit.config.schema import Config
from mtlkit.data.dataset import BadSampleError, Dataset, read_sample
from mtlkit.data.samples import Samples
from mtlkit.registry import ENTRY_POINTS
from mtlkit.run.facts import PACKAGES
from mtlkit.run.resume import flat

#: What each machine may have for itself: where its data are, and how it reads them. What it reads is compared.
OF_A_MACHINE = ("data.root", "data.concat.*.root", "data.workers")
COMPARED = 8  #: samples of a split that are compared


def check_same_run(config: Config, resume: bool | str) -> None:
    """Compares settings, versions and code before any work. All processes call it, and all raise or none does.

    Nothing else would notice: processes with two seeds train one model, of which nobody knows what it is.

    Raises `ValueError`, which names the process and what it has.
    """
    if distributed.world_size() > 1:
        facts = {key: value for key, value in flat(config.to_dict()) if not _of_a_machine(key)}
        _check(facts | {"resume": resume} | dict(_code(config.plugins)), "settings and code")


def check_same_data(training: Samples, validation: Samples) -> None:
    """Compares the data sets: length, form, and a few samples. All processes call it, and all raise or none does.

    Raises `ValueError`, which names the process and what it has.
    """
    if distributed.world_size() > 1:
        both = {"training": training, "validation": validation}
        # First the form: of two data sets of different lengths, other samples would be compared.
        _check({f"{name} {key}": value for name, one in both.items() for key, value in _form(one)}, "data")
        _check({key: value for name, one in both.items() for key, value in _content(one.dataset, name)}, "data")


def _check(facts: Facts, what: str) -> None:
    check_agreement(list(enumerate(distributed.gather(facts))), what, _same)  # type: ignore[arg-type]


def _same(a: object, b: object) -> bool:
    # Two processors may round differently when they resize a picture.
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6))


def _of_a_machine(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in OF_A_MACHINE)


def _code(plugins: Iterable[str]) -> Iterator[tuple[str, object]]:
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, importlib.metadata.version(package)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.dist is not None:
            yield point.dist.name, point.dist.version
    # A version says little where people work on the code.
    for module in ("mtlkit", "mtlkit.balancers", "mtlkit.tasks", *plugins):
        yield f"code of {module}", _digest(module)


def _digest(module: str) -> str:
    """Returns a digest of a module's file. With a package, it is that of all its files."""
    found = importlib.util.find_spec(module)
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    files = [(str(path.relative_to(folder)), path) for folder in folders for path in folder.rglob("*.py")]
    if not folders and found and found.origin:
        files = [("", Path(found.origin))]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _form(samples: Samples) -> Iterator[tuple[str, object]]:
    yield "samples", len(samples)
    yield "images", (samples.channels, *samples.image_size)
    yield "targets", {name: (target.type, target.classes) for name, target in samples.dataset.targets.items()}


def _content(dataset: Dataset, split: str) -> Iterator[tuple[str, object]]:
    last = len(dataset) - 1
    for index in sorted({round(last * part / (COMPARED - 1)) for part in range(COMPARED)}):
        try:
            sample = read_sample(dataset, index)
        except BadSampleError:
            yield f"{split} sample {index}", "damaged"
            continue
        tensors = {"image": sample["image"], **sample["targets"]}
        for name, values in tensors.items():
            if values is not None:
                yield f"mean of {name} in {split} sample {index}", _mean(values)


def _mean(values: Tensor) -> float | None:
    mean = float(values.double().nanmean()) if values.numel() else math.nan
    return None if math.isnan(mean) else float(f"{mean:.6g}")
