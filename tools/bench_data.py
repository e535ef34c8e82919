"""Measures how fast training data is loaded: mtlkit's prepared format and LibMTL's way of reading NYUv2, in one run.

    python tools/bench_data.py                     # rendered rooms of 288 x 384
    python tools/bench_data.py --root NYUV2        # the MTAN/LibMTL arrays themselves

LibMTL's way is one `np.load` per target and frame, of float64 arrays, and a conversion to float32. Its augmentation is
a crop of 1 / s (s is 1, 1.2 or 1.5), resized by torch, and a mirror image with probability 1/2. mtlkit reads the same
frames from the arrays and from the prepared format; its augmentation does the same, by albumentations. `LibMTL,
mtlkit's augmentation` is LibMTL's reading with mtlkit's augmentation, so that only the reading differs.

All ways take turns, `--repeat` times, over the same frames in the same order. Each pass is one epoch through torch's
DataLoader. `hot` reads files that the operating system has in memory. `cold` first asks it to forget the files, so that
the disk is read, and opens everything again, because mapped files are not forgotten. A figure is images/s, the median
over repetitions. Its ratio to LibMTL's figure of the same repetition is given as minimum, median and maximum.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.dataset import DATASETS, Dataset
from mtlkit.data.prepare import prepare_dataset
from mtlkit.data.samples import Samples
from mtlkit.data.transforms import Augment
from mtlkit.datasets.scenes import render_frame

SIZE = (384, 288)
SCALES = (1.0, 1.2, 1.5)
PARTS = ("image", "label", "depth", "normal")
Pass = Callable[[], int]  # loads an epoch and returns the number of images


class LibMTL(TorchDataset[tuple[Tensor, dict[str, Tensor]]]):
    """Frames as LibMTL's loader reads them."""

    def __init__(self, folder: Path, augment: Callable[[list[Tensor]], list[Tensor]] | None) -> None:
        self.folder, self.augment = folder, augment
        self.length = len(list((folder / "image").glob("*.npy")))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        arrays = [np.load(self.folder / part / f"{index}.npy") for part in PARTS]
        image, label, depth, normal = (
            torch.from_numpy(np.moveaxis(a, -1, 0) if a.ndim == 3 else a).float() for a in arrays
        )
        if self.augment is not None:
            image, label, depth, normal = self.augment([image, label[None], depth, normal])
            label = label[0]
        return image, {"segmentation": label.long(), "depth": depth, "normals": normal}


def scale_crop_flip(maps: list[Tensor]) -> list[Tensor]:
    """Makes a random crop, enlarged by torch to the whole, and a random mirror image."""
    image, label, depth, normal = maps
    height, width = image.shape[-2:]
    scale = random.choice(SCALES)
    h, w = int(height / scale), int(width / scale)
    top, left = random.randint(0, height - h), random.randint(0, width - w)

    def zoom(values: Tensor, mode: str) -> Tensor:
        options = {"align_corners": True} if mode == "bilinear" else {}
        crop = values[None, :, top : top + h, left : left + w]
        return F.interpolate(crop, size=(height, width), mode=mode, **options)[0]

    image, label = zoom(image, "bilinear"), zoom(label, "nearest")
    depth, normal = zoom(depth, "nearest") / scale, zoom(normal, "bilinear")
    if random.random() < 0.5:
        image, label, depth, normal = (values.flip(-1) for values in (image, label, depth, normal))
        normal[0] *= -1
    return [image, label, depth, normal]


class WithAugment:
    """mtlkit's augmentation on LibMTL's tensors."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        image, label, depth, normal = maps
        targets = {"segmentation": label[0], "depth": depth, "normals": normal}
        out = self.augment({"image": image, "targets": targets}, random.getrandbits(32))
        found = out["targets"]
        return [out["image"], found["segmentation"][None], found["depth"], found["normals"]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder of MTAN's arrays (default: rendered rooms)")
    parser.add_argument("--frames", type=int, default=64, help="frames per pass (64)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loading processes (0 2)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="also with an empty cache of the operating system")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench_data") as temporary:
        root = Path(temporary) / "nyuv2"
        if arguments.root is None:
            render(root, arguments.frames)
        else:
            copy(arguments.root, root, arguments.frames)
        dataset = DATASETS.build("nyuv2", root=root, holdout=0.0)
        fast = prepare_dataset({"train": dataset}, Path(temporary) / "prepared", {"name": "nyuv2"}, progress=False)
        report(arguments, root, dataset, fast)


def render(root: Path, frames: int) -> None:
    """Renders rooms in the layout, the types and the size of MTAN's arrays."""
    for folder in (root / "train", root / "val"):
        for part in PARTS:
            (folder / part).mkdir(parents=True)
    for i in range(frames):
        frame = render_frame(i, size=SIZE)
        arrays = (frame.image, frame.label, frame.depth[..., None], frame.normals)
        for part, values in zip(PARTS, arrays, strict=True):
            np.save(root / "train" / part / f"{i}.npy", np.asarray(values, np.float64))
            if i == 0:
                np.save(root / "val" / part / "0.npy", np.asarray(values, np.float64))


def copy(source: Path, root: Path, frames: int) -> None:
    """Copies the first frames of the user's own arrays."""
    for split, count in (("train", frames), ("val", 1)):
        for part in PARTS:
            (root / split / part).mkdir(parents=True)
            for i in range(count):
                shutil.copy(source / split / part / f"{i}.npy", root / split / part)


def report(arguments: argparse.Namespace, root: Path, dataset: Dataset, fast: Path) -> None:
    console = Console(width=120)
    sizes = [sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in (root / "train", fast)]
    per_frame = [size / len(dataset) / 1e6 for size in sizes]
    console.print(
        f"{len(dataset)} frames of {SIZE[0]} x {SIZE[1]}, batches of {arguments.batch}, one thread per process; "
        f"{per_frame[0]:.2f} MB per frame as arrays, {per_frame[1]:.2f} MB prepared; torch {torch.__version__}."
    )
    for cold in (False, True) if arguments.cold else (False,):
        for workers in arguments.workers:
            for augmented in (False, True):
                make = partial(make_ways, root, dataset, fast, arguments.batch, workers, augmented)
                figures = measure(make, arguments.repeat, [root, fast] if cold else [])
                name = f"{'cold' if cold else 'hot'}, {workers} workers, {'augmented' if augmented else 'plain'}"
                console.print(table(name, figures))


def make_ways(root: Path, dataset: Dataset, fast: Path, batch: int, workers: int, augmented: bool) -> dict[str, Pass]:
    augment = Augment(dataset.targets, flip=0.5, scale=SCALES, compat="mtan") if augmented else None
    prepared = DATASETS.build("prepared", root=fast)

    def one_pass(frames: TorchDataset[Any], keys: Sequence[Any], image: Callable[[Any], Tensor]) -> Pass:
        batches = [keys[i : i + batch] for i in range(0, len(keys), batch)]
        loader = DataLoader(frames, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
        return lambda: sum(len(image(loaded)) for loaded in loader)

    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()

    def libmtl(augmentation: Any) -> Pass:
        return one_pass(LibMTL(root / "train", augmentation), order, lambda loaded: loaded[0])

    def ours(data: Dataset) -> Pass:
        return one_pass(Samples(data, augment), [(0, i) for i in order], lambda loaded: loaded["image"])

    ways = {"LibMTL": libmtl(scale_crop_flip if augmented else None)}
    if augment is not None:
        ways["LibMTL, mtlkit's augmentation"] = libmtl(WithAugment(augment))
    return ways | {"mtlkit, arrays": ours(dataset), "mtlkit, prepared": ours(prepared)}


def measure(make: Callable[[], dict[str, Pass]], repeat: int, forget: Sequence[Path]) -> dict[str, list[float]]:
    """Returns images/s of every way, measured in turns."""
    ways = make()
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat + 1):  # the first round warms up
        for name in figures:
            if forget:
                ways.clear()  # before the new ones are made: files that the old ones mapped would stay in memory
                ways = make()
            for folder in forget:
                forget_files(folder)
            started = time.perf_counter()
            images = ways[name]()
            if number:
                figures[name].append(images / (time.perf_counter() - started))
    return figures


def forget_files(folder: Path) -> None:
    """Asks the operating system to drop the files from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def table(name: str, figures: dict[str, list[float]]) -> Table:
    found = Table(title=name, title_justify="left")
    found.add_column("way")
    for heading in ("images/s", "x LibMTL: min", "median", "max"):
        found.add_column(heading, justify="right")
    base = figures["LibMTL"]
    for way, rates in figures.items():
        ratios = [rate / other for rate, other in zip(rates, base, strict=True)]
        numbers = [f"{median(rates):.0f}", *(f"{r:.2f}" for r in (min(ratios), median(ratios), max(ratios)))]
        found.add_row(way, *numbers)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
