"""Damaged files of every reader: each is read, or refused by an error for users that names the file."""

import contextlib
import gzip
import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import damage
import numpy as np
import torch
from layouts import celeba, chestxray14, cityscapes, mnist, nyuv2, sunrgbd
from PIL import Image
from scipy.io import savemat

from mtlkit.data.dataset import DATASETS
from mtlkit.data.files import read_array, read_image_array, read_label_array
from mtlkit.data.pictures import picture_size, read_exact, read_picture
from mtlkit.data.prepare import prepare_dataset
from mtlkit.data.samples import Samples
from mtlkit.datasets.nyuv2.form import read_mat
from mtlkit.log import read_log, truncate_after
from mtlkit.report import explain, summary, write_report
from mtlkit.report.details import details
from mtlkit.report.samples import look
from mtlkit.run.description import Description
from mtlkit.run.progress import progress_of
from trust.result import HangsError, Result, guarded, misbehaved

SIZE = (16, 12)  #: of the pictures
MOST = 2 << 30  #: bytes of memory that no small file may need
PICTURES = {
    **{"grey.png": "L", "bits.png": "1", "palette.png": "P", "alpha.png": "RGBA", "deep.png": "I;16",
    "two.png": "LA"},
    **{"rgb.jpg": "RGB", "grey.jpg": "L", "cmyk.jpg": "CMYK", "rgb.bmp": "RGB", "rgb.gif": "P", "rgb.webp": "RGB"},
    **{"rgb.tif": "RGB", "deep.tif": "I;16", "float.tif": "F", "packed.tif": "RGB", "rgb.ppm": "RGB",
    "grey.pgm": "L", "rgb.avif": "RGB"},
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Files as they should be, and what reads them. `files` are those that are damaged, as a pattern."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path, Path], object]  #: takes the folder and the damaged file
    files: tuple[str, ...] = ("**/*",)
    named: tuple[str, ...] = field(default=())  #: further names, one of which is enough in a message


def run(folder: Path, seed: int, count: int, only: tuple[str, ...] = ()) -> Result:
    """Damages `count` files, the readers in turn, each in a fresh copy of its folder."""
    result, made = Result(), [one for one in readers() if not only or one.name in only]
    folder.mkdir(parents=True, exist_ok=True)
    wholes = {one.name: _whole(one, folder) for one in made}
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        reader, draw = made[number % len(made)], random.Random(f"{seed} {number}")
        place = folder / "damaged"
        shutil.copytree(wholes[reader.name], place)
        file = draw.choice(sorted({path for pattern in reader.files for path in place.glob(pattern) if path.is_file()}))
        words = f"{number}: {reader.name}, {file.relative_to(place)}, {mutate(file, draw)}"
        outcome, wrong = _look(reader, place, file)
        if (now := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 > top * 1024 + MOST:
            wrong = wrong or f"it needed {(now - top) / 1024 / 1024:.1f} GiB"
            top = now
        if wrong:
            kept = folder / "faults" / str(number)
            shutil.copytree(place, kept)
            result.fault(f"{words} ({kept}): {wrong}")
        else:
            result.outcomes[outcome] += 1
        shutil.rmtree(place)
    result.notes.append(f"readers: {', '.join(one.name for one in made)}")
    return result


def _whole(reader: Reader, folder: Path) -> Path:
    """Makes the files, and looks whether they can be read as they are."""
    place = folder / "whole" / reader.name
    place.mkdir(parents=True)
    reader.make(place)
    copy = folder / "damaged"
    shutil.copytree(place, copy)  # a reader may write
    try:
        for pattern in reader.files:
            for file in copy.glob(pattern):
                if file.is_file():
                    reader.read(copy, file)
                    break
    finally:
        shutil.rmtree(copy)
    return place


def _look(reader: Reader, folder: Path, file: Path) -> tuple[str, str]:
    try:
        with guarded():
            reader.read(folder, file)
    except HangsError as error:
        return "", str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        names = (file.name, file.stem, *reader.named)
        told = "" if any(name in str(error) for name in names) else f"{error!s:.300} does not name {file.name}"
        return "refused", misbehaved(error) or told
    return "read", ""


# Ways to damage


def mutate(file: Path, draw: random.Random) -> str:
    """Damages a file and says how."""
    data = file.read_bytes()
    way = draw.choice(WAYS if data else (replaced,))
    if file.suffix in (".json", ".jsonl") and draw.random() < 0.5:
        way = other_json
    changed, words = way(data, draw)
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    return words


def replaced(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    other = draw.choice(
        [
            b"",
            b"\0" * 100,
            b"<html>404</html>",
            draw.randbytes(300),
            gzip.compress(data),
            b"PK\x03\x04" + data,
            b"\x89PNG\r\n\x1a\n",
            b"\x93NUMPY",
        ]
    )
    return other, f"replaced by {other[:12]!r}"


def many_bits(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    changed = bytearray(data)
    for _ in range(draw.randrange(2, 40)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed), "many bits are flipped"


def other_head(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Sets four bytes near the start, where formats have sizes, to a huge or a small number."""
    at, value = (
        draw.randrange(min(len(data), 200)),
        draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"9999"]),
    )
    return data[:at] + value + data[at + 4 :], f"{value!r} at byte {at}"


def other_number(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Replaces a number or a word of a text."""
    import re

    words = list(re.finditer(rb"[\w.]+", data[:20_000]))
    if not words:
        return many_bits(data, draw)
    found, new = (
        draw.choice(words),
        draw.choice(
            [b"-1", b"1e400", b"NaN", b"999999999999999999999", b"\xff\xfe", b"null", b"[[[[", b"../../x", b"", b"0"]
        ),
    )
    return data[: found.start()] + new + data[found.end() :], f"{found[0][:20]!r} became {new!r}"


def other_json(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Puts another value, of any type, somewhere into JSON, or into one line of several."""
    lines = [data] if data.lstrip()[:2] != b'{"' else data.splitlines()
    at = draw.randrange(len(lines))
    values = json.loads(lines[at])
    places = [(values, key) for key in values]
    for inner, key in places:  # it grows
        below = inner[key]
        if isinstance(below, dict | list):
            places += [(below, one) for one in (below if isinstance(below, dict) else range(len(below)))]
    inner, key = draw.choice(places)
    new = draw.choice(
        [
            None,
            True,
            -1,
            0,
            1e300,
            10**30,
            "",
            "text",
            [],
            {},
            [1, "a"],
            {"a": {"b": None}},
            "x" * 9999,
            "\x1b[2J",
            "../..",
        ]
    )
    inner[key] = new
    lines[at] = json.dumps(values).encode()
    return b"\n".join(lines) + b"\n", f"{key!r} is {new!r:.40}"


def doubled(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    return data + data, "twice"


def nested(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    return draw.choice([b"[" * 100_000, b'{"a":' * 100_000, data[:1] + b"[" * 100_000 + data[1:]]), "100,000 brackets"


WAYS: tuple[Callable[..., tuple[bytes | None, str]], ...] = (
    *(damage.flip_bit, damage.flip_at_the_start, damage.flip_at_the_start, damage.cut, damage.extend),
    *(damage.lose_a_block, damage.remove, replaced, many_bits, other_head, other_head, other_number),
    *(other_number, doubled, nested),
)  # fmt: skip


# Readers


def readers() -> Iterator[Reader]:
    yield Reader("pictures", _pictures, lambda _, file: [read(file) for read in (picture_size, read_picture)])
    yield Reader(
        "pictures of numbers",
        _pictures,
        lambda _, file: read_exact(file, lossy=True),
        ("[dgp][era][el]*.png", "[df]*.tif", "*.pgm"),
    )
    yield Reader("npy", _arrays, lambda _, file: [read(file) for read in (read_array, _image_or_label)])
    yield Reader("mat", _mat, lambda _, file: read_mat(file, "depth"))
    for name, make, options in DATA:
        yield Reader(
            name,
            make,
            lambda folder, _, options=options: _samples(folder, **options),
            named=("lacks", *NAMED.get(name, ())),
        )
    yield Reader("prepared data", _prepared, _read_prepared, named=("prepared",))
    for name, pattern, read in OF_RUN:
        yield Reader(f"{name} of a run", _run, read, (pattern,))
    yield Reader("weights", _weights, _read_weights)
    yield Reader("study", _study, _read_study, named=("=", "scenes", "experiment"))


def _pictures(folder: Path) -> None:
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    colours = Image.fromarray(np.stack([16 * x, 20 * y, 9 * (x + y)], axis=-1).astype(np.uint8))
    for name, mode in PICTURES.items():
        options: dict[str, Any] = {"compression": "tiff_lzw"} if name == "packed.tif" else {}
        if mode in ("I;16", "F"):
            picture = Image.fromarray((1000 * (x + y)).astype(np.uint16 if mode == "I;16" else np.float32))
        else:
            picture = colours.convert(mode)
        with contextlib.suppress(KeyError, OSError):  # Pillow can be without AVIF
            picture.save(folder / name, **options)
    Image.fromarray(np.asarray(colours)).save(
        folder / "turned.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )


def _arrays(folder: Path) -> None:
    values = np.linspace(0, 1, 6 * 8 * 3).reshape(6, 8, 3)
    for name, dtype in (("image", np.float32), ("bytes", np.uint8), ("half", np.float16), ("flags", bool)):
        np.save(folder / f"{name}.npy", values.astype(dtype))
    np.save(folder / "labels.npy", np.arange(48).reshape(6, 8) % 5)


def _image_or_label(file: Path) -> object:
    return read_label_array(file) if file.name == "labels.npy" else read_image_array(file)


def _mat(folder: Path) -> None:
    values = np.linspace(1, 2, 48).reshape(6, 8)
    savemat(folder / "plain.mat", {"depth": values})
    savemat(folder / "packed.mat", {"depth": values, "other": np.array(["text"])}, do_compression=True)
    savemat(folder / "old.mat", {"depth": values}, format="4")


def _folder(root: Path) -> None:
    for name in ("images", "depth", "masks"):
        (root / name).mkdir()
    for i in range(6):
        values = np.full((12, 16, 3), 40 * i, np.uint8)
        Image.fromarray(values).save(root / "images" / f"{i}.png")
        Image.fromarray(values[..., 0].astype(np.uint16) + 1000).save(root / "depth" / f"{i}.png")
        np.save(root / "masks" / f"{i}.npy", (values[..., 0] % 3).astype(np.int64))
    (root / "labels.csv").write_text("file;kitchen;people\n" + "".join(f"{i}.png;{i % 2};{i}.5\n" for i in range(6)))
    (root / "train.txt").write_text("0.png\n1.png\n2.png\n3.png\n")
    (root / "val.txt").write_text("4.png\n5.png\n")


def _astmt(flavour: str) -> Callable[[Path], object]:
    return lambda root: nyuv2.astmt(root, flavour, train=2, test=2, size=(28, 21))


LABELS = {
    "depth": {"type": "depth", "files": "depth/*.png", "scale": 0.001},
    "things": {"type": "segmentation", "files": "masks/*.npy", "classes": 3},
    "kitchen": {"type": "multilabel", "columns": ["kitchen"]},
    "people": {"type": "regression", "columns": ["people"]},
}
FOLDER = {
    "images": "images/*.png",
    "labels": LABELS,
    "table": {"file": "labels.csv"},
    "splits": {"lists": {"train": "train.txt", "val": "val.txt"}},
}
DATA: tuple[tuple[str, Callable[[Path], object], dict[str, Any]], ...] = (
    ("folder", _folder, {"name": "folder", **FOLDER}),
    ("celeba", celeba.original, {"name": "celeba"}),
    ("celeba of Kaggle", celeba.kaggle, {"name": "celeba"}),
    ("chestxray14", chestxray14.chexnet, {"name": "chestxray14"}),
    ("cityscapes", lambda root: cityscapes.write(root, train=3, test=2), {"name": "cityscapes", "holdout": 0}),
    ("multimnist", lambda root: mnist.write(root), {"name": "multimnist"}),
    ("multimnist, zipped", lambda root: mnist.write(root, zipped=True), {"name": "multimnist"}),
    ("nyuv2 of MTAN", lambda root: nyuv2.mtan(root, train=2, test=2, size=(32, 24)), {"name": "nyuv2", "holdout": 0}),
    ("nyuv2 in mat", _astmt("astmt"), {"name": "nyuv2", "holdout": 0}),
    ("nyuv2 in png", _astmt("invpt"), {"name": "nyuv2", "holdout": 0}),
    ("nyuv2 of the authors", lambda root: nyuv2.official(root, (0, 1), 4), {"name": "nyuv2", "holdout": 0}),
    ("sunrgbd", lambda root: (sunrgbd.write_frames(root), sunrgbd.write_toolbox(root)), {"name": "sunrgbd",
    "holdout": 0}),
)  # fmt: skip
NAMED = {
    "multimnist": ("idx",), "multimnist, zipped": ("idx",), "sunrgbd": ("SUNRGBD", "lacks"),
    "nyuv2 of the authors": ("nyu_depth_v2",),
    "nyuv2 in mat": ("missing",), "nyuv2 in png": ("missing",), "folder": ("data.labels", "data.images", "splits"),
}  # fmt: skip


def _samples(folder: Path, name: str, **options: Any) -> None:
    """Reads two samples of the training split, at a small size."""
    size = None if name in ("multimnist", "cityscapes") else SIZE
    dataset = DATASETS.build(name, root=folder, split="train", size=size, **options)
    samples = Samples(dataset)
    for index in range(min(len(samples), 4)):
        samples.checked(index)


def _prepared(folder: Path) -> None:
    source = folder.with_name("source of prepared")
    source.mkdir()
    _folder(source)
    dataset = DATASETS.build("folder", root=source, split="train", size=SIZE, **FOLDER)
    prepare_dataset({"train": dataset}, folder / "prepared", source={"name": "folder"}, block_bytes=1000)


def _read_prepared(folder: Path, _: Path) -> None:
    _samples(folder / "prepared", "prepared")


def _run(folder: Path) -> None:
    """Puts a finished run into the folder; the readers of runs share it."""
    kept = folder.parent / "a run"
    if not kept.exists():
        import sys

        from study_lab import write_lab

        from mtlkit.config.composition import compose
        from mtlkit.run.experiment import Experiment

        lab = folder.parent / "lab"
        lab.mkdir()
        write_lab(lab)
        sys.path.insert(0, str(lab))
        Experiment(
            compose(str(lab / "lab.yaml"), [f"output_dir={kept}", "trainer.max_steps=4", "balancer=cagrad"])
        ).run()
    shutil.copytree(kept, folder / "run")


def _read_log(folder: Path, file: Path) -> None:
    run = folder / "run"
    progress_of(run)
    read_log(file)
    write_report(run)
    summary(run)
    explain(run)
    truncate_after(file, 2)


def _load(folder: Path, _: Path) -> None:
    import mtlkit

    mtlkit.load(folder / "run", device="cpu")(Image.new("RGB", (32, 32)))


def _pages(folder: Path, _: Path) -> None:
    write_report(folder / "run")
    progress_of(folder / "run")


OF_RUN: tuple[tuple[str, str, Callable[[Path, Path], object]], ...] = (
    ("log", "run/metrics.jsonl", _read_log),
    ("description", "run/data.json", lambda folder, _: Description.read(folder / "run")),
    ("description of a model", "run/data.json", _load),
    ("config.yaml", "run/config.yaml", _load),
    ("config.yaml and report", "run/config.yaml", _pages),
    ("pictures", "run/pictures/**/*.png", _pages),
    ("samples", "run/pictures/samples.json", lambda folder, _: [look(folder / "run"), _pages(folder, _)]),
    ("details", "run/details.json", lambda folder, _: [details(folder / "run"), _pages(folder, _)]),
    ("checkpoint", "run/checkpoints/*/*", lambda folder, _: [_load(folder, _), _begin_from(folder)]),
)


def _begin_from(folder: Path) -> None:
    from mtlkit.run.init_from import find_weights

    for name in ("best", "last"):
        find_weights(str(folder / "run" / "checkpoints" / name), str(folder / "new"))


def _weights(folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, folder / "weights.pth")
    torch.save({"state_dict": state}, folder / "wrapped.pth")
    save_file(state, folder / "weights.safetensors")


def _read_weights(_: Path, file: Path) -> None:
    from mtlkit.network import ENCODERS

    ENCODERS.build("timm", architecture="test_resnet", image_size=(32, 32), pretrained=str(file))


STUDY = """\
experiment: scenes
words: [trainer.max_steps=2]
methods: {a: balancer=uniform, b: balancer=cagrad}
seeds: [0, 1]
"""


def _study(folder: Path) -> None:
    (folder / "study.yaml").write_text(STUDY)


def _read_study(folder: Path, _: Path) -> None:
    from mtlkit.study.definition import read_study
    from mtlkit.study.plan import Plan

    study, place = read_study(folder / "study.yaml")
    Plan(study, place).runs(())
