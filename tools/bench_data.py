"""Measures how fast training data is loaded: mtlkit's prepared format and LibMTL's way of reading NYUv2, in one run.

    python tools/bench_data.py                     # rendered rooms of 288 x 384
    python tools/bench_data.py --root NYUV2        # the MTAN/LibMTL arrays themselves
    python tools/bench_data.py --step              # each way also feeds a ResNet-18 with three heads

LibMTL's way is one `np.load` per target and frame, of float64 arrays, and a conversion to float32. Its augmentation is
a crop of 1 / s (s is 1, 1.2 or 1.5), resized by torch, and a mirror image with probability 1/2. mtlkit reads the same
frames from the arrays and from the prepared format; its augmentation does the same (`compat: mtan`).

What mtlkit's loader gives crosses in stored types. `..., finished` also counts what the training process then does with
it: restoring float32 and, with `augment_on=device`, the augmentation. Here the device is the CPU. LibMTL's batches need
nothing more. Rendered rooms have pictures of 8 bits and depth in millimetres, as cameras give them, and float normals;
with `--float` all values are arbitrary.

All ways take turns, `--repeat` times, over the same frames in the same order. Each pass is one epoch through torch's
DataLoader. `hot` reads files that the operating system has in memory. `cold` first asks it to forget the files, so that
the disk is read, and opens everything again, because mapped files are not forgotten. A figure is images/s, the median
over repetitions. Its ratio to LibMTL's figure of the same repetition is given as minimum, median and maximum. CPU is
the processor time of the process and its workers per image, and its ratio counts how many times less than LibMTL's it
is; on a busy machine, it says more than the time on the clock.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlkit.data.crossing import Crossing
from mtlkit.data.dataset import DATASETS, Dataset
from mtlkit.data.prepare import prepare_dataset
from mtlkit.data.samples import Samples
from mtlkit.data.transforms import Augment
from mtlkit.datasets.scenes import render_frame

SIZE = (384, 288)
SCALES = (1.0, 1.2, 1.5)
PARTS = ("image", "label", "depth", "normal")
Batch = tuple[Tensor, dict[str, Tensor]]
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


class Net(nn.Module):
    """A ResNet-18 with a 1 x 1 convolution per task, and its optimizer: a step of it stands for training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model("resnet18", features_only=True, out_indices=[4])
        channels = {"segmentation": 13, "depth": 1, "normals": 3}
        self.heads = nn.ModuleDict({name: nn.Conv2d(512, count, 1) for name, count in channels.items()})
        self.optimizer = torch.optim.SGD(self.parameters(), lr=1e-4)

    def step(self, batch: Batch) -> None:
        image, targets = batch
        (features,) = self.encoder(image)
        size = targets["depth"].shape[-2:]
        out = {name: F.interpolate(head(features), size, mode="bilinear") for name, head in self.heads.items()}
        loss = F.cross_entropy(out["segmentation"], targets["segmentation"], ignore_index=-1)
        for name in ("depth", "normals"):
            loss = loss + (out[name] - targets[name]).abs().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder of MTAN's arrays (default: rendered rooms)")
    parser.add_argument("--frames", type=int, default=64, help="frames per pass (64)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="loading processes (0 2)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--step", action="store_true", help="also the time per step of a ResNet-18")
    parser.add_argument("--float", action="store_true", help="rendered rooms with arbitrary values")
    parser.add_argument("--cold", action="store_true", help="also with an empty cache of the operating system")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench_data") as temporary:
        root = Path(temporary) / "nyuv2"
        if arguments.root is None:
            render(root, arguments.frames, as_cameras_do=not arguments.float)
        else:
            copy(arguments.root, root, arguments.frames)
        dataset = DATASETS.build("nyuv2", root=root, holdout=0.0)
        fast = prepare_dataset({"train": dataset}, Path(temporary) / "prepared", {"name": "nyuv2"}, progress=False)
        report(arguments, root, dataset, fast)


def render(root: Path, frames: int, *, as_cameras_do: bool) -> None:
    """Renders rooms in the layout, the types and the size of MTAN's arrays."""
    for folder in (root / "train", root / "val"):
        for part in PARTS:
            (folder / part).mkdir(parents=True)
    for i in range(frames):
        frame = render_frame(i, size=SIZE)
        image, depth = np.asarray(frame.image, np.float64), np.asarray(frame.depth, np.float64)
        if as_cameras_do:
            image, depth = np.rint(image * 255) / 255, np.rint(depth * 1000) / 1000
        arrays = (image, frame.label, depth[..., None], frame.normals)
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
                for net in (None, Net()) if arguments.step else (None,):
                    make = partial(make_ways, root, dataset, fast, arguments.batch, workers, augmented, net)
                    figures = measure(make, arguments.repeat, [root, fast] if cold else [])
                    name = f"{'cold' if cold else 'hot'}, {workers} workers, {'augmented' if augmented else 'plain'}"
                    console.print(table(f"{name}, ResNet-18" if net else name, figures, arguments.batch if net else 0))


def make_ways(
    root: Path, dataset: Dataset, fast: Path, batch: int, workers: int, augmented: bool, net: Net | None
) -> dict[str, Pass]:
    augment = Augment(dataset.targets, flip=0.5, scale=SCALES, compat="mtan") if augmented else None
    prepared = DATASETS.build("prepared", root=fast)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()

    def loader(frames: TorchDataset[Any], keys: Sequence[Any], **options: Any) -> Iterable[Any]:
        batches = [keys[i : i + batch] for i in range(0, len(keys), batch)]
        return DataLoader(frames, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0, **options)

    def libmtl() -> Pass:
        return partial(one_pass, loader(LibMTL(root / "train", scale_crop_flip if augmented else None), order), tuple)

    def ours(data: Dataset, augment_on: Any, finish: Callable[[Any], Batch | Tensor]) -> Pass:
        crossing = Crossing(Samples(data, augment, augment_on=augment_on))
        return partial(one_pass, loader(crossing, [(0, i) for i in order], collate_fn=crossing.batch), finish)

    def one_pass(batches: Iterable[Any], finish: Callable[[Any], Any]) -> int:
        images = 0
        for loaded in batches:
            found = finish(loaded)
            images += len(found[0])
            if net is not None:
                net.step(found)
        return images

    ways = {"LibMTL": libmtl()}
    for place in ("loader", "device") if augmented else ("device",):
        name = f"prepared, augment_on={place}" if augmented else "prepared"
        if net is None:
            ways[name] = ours(prepared, place, lambda loaded: (loaded["image"],))
        ways[f"{name}, finished"] = ours(prepared, place, finished)
    if net is None:
        ways["arrays"] = ours(dataset, "device", lambda loaded: (loaded["image"],))
    return ways


def finished(batch: dict[str, Any]) -> Batch:
    """Does what the training process does with a batch that has crossed."""
    if "finish" not in batch:
        return batch["image"], batch["targets"]
    found: Batch = batch["finish"](batch["image"], batch["targets"], batch.get("moves"))
    return found


def measure(
    make: Callable[[], dict[str, Pass]], repeat: int, forget: Sequence[Path]
) -> dict[str, list[tuple[float, float]]]:
    """Returns seconds on the clock and of the processors per image for every way, measured in turns."""
    ways = make()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(repeat + 1):  # the first round warms up
        for name in figures:
            if forget:
                ways.clear()  # before the new ones are made: files that the old ones mapped would stay in memory
                ways = make()
            for folder in forget:
                forget_files(folder)
            started, used = time.perf_counter(), processor_seconds()
            images = ways[name]()
            if number:
                figures[name].append(((time.perf_counter() - started) / images, (processor_seconds() - used) / images))
    return figures


def processor_seconds() -> float:
    """Returns the processor time of this process and of its workers so far."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def forget_files(folder: Path) -> None:
    """Asks the operating system to drop the files from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def table(name: str, figures: dict[str, list[tuple[float, float]]], batch: int) -> Table:
    """Returns images/s, or milliseconds per step with batches of `batch` images, and the ratios to LibMTL."""
    found = Table(title=name, title_justify="left")
    found.add_column("way")
    for heading in ("ms/step" if batch else "images/s", "x LibMTL: min", "median", "max", "CPU ms/image", "x LibMTL"):
        found.add_column(heading, justify="right")
    base = figures["LibMTL"]
    for way, seconds in figures.items():
        ratios = [other[0] / own[0] for own, other in zip(seconds, base, strict=True)]
        used = [other[1] / own[1] for own, other in zip(seconds, base, strict=True)]
        wall, cpu = (median(values) for values in zip(*seconds, strict=True))
        numbers = [f"{1000 * batch * wall:.0f}" if batch else f"{1 / wall:.0f}"]
        numbers += [f"{r:.2f}" for r in (min(ratios), median(ratios), max(ratios))]
        found.add_row(way, *numbers, f"{1000 * cpu:.2f}", f"{median(used):.2f}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
