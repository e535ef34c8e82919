"""Small copies of the forms in which NYUv2 is handed on: rooms whose depth and normals are exact."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

# (f_x, f_y, c_x, c_y) in pixels of the whole frame, the first pixel's centre being at 1/2
WHOLE = (518.85790117450188, 519.46961112127485, 325.58244941119034 - 0.5, 253.73616633400465 - 0.5)
EIGEN = (slice(44, 471), slice(40, 601))
GUPTA = (slice(45, 470), slice(40, 600))
AXES = "xyz"


def camera(crop: tuple[slice, slice] = (slice(0, 480), slice(0, 640))) -> tuple[float, ...]:
    rows, columns = crop
    width, height = columns.stop - columns.start, rows.stop - rows.start
    fx, fy, cx, cy = WHOLE
    return fx / width, fy / height, (cx - columns.start) / width, (cy - rows.start) / height


def room(number: int, size=(640, 480), seen_by: tuple[float, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) and normals (H, W, 3), x right, y down, z forward, of an empty room seen in another way a number."""
    (width, height), (fx, fy, cx, cy) = size, seen_by or camera()
    x = ((np.arange(width) + 0.5) / width - cx) / fx
    y = ((np.arange(height) + 0.5) / height - cy) / fy
    rays = np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)
    yaw, pitch = 0.8 + 0.2 * (number % 5 - 2) + np.pi / 2 * number, -0.35 + 0.1 * (number % 3)  # into the corners
    turn_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    to_room = turn_y @ turn_x
    directions = rays @ to_room.T
    times = np.array([2.2, 1.3, 2.8]) / np.abs(directions)  # until the ray meets the walls at +-2.2, +-1.3, +-2.8
    axis = times.argmin(-1)
    inward = -np.sign(np.take_along_axis(directions, axis[..., None], -1))
    normals = np.where(np.arange(3) == axis[..., None], inward, 0) @ to_room
    return times.min(-1).astype(np.float32), normals.astype(np.float32)


def image(number: int, size=(640, 480)) -> np.ndarray:
    """(H, W, 3) uint8 that tells its frame, row, column and channel."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.stack([(5 * number + x // 3) % 256, (y // 2 + number) % 256, (x + 3 * y) % 256], axis=-1).astype(np.uint8)


def labels(number: int, count: int, size=(640, 480)) -> np.ndarray:
    """(H, W) from 0 to count, with every one of them, if there is room."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return ((x // 4 + 7 * (y // 3) + number) % (count + 1)).astype(np.uint16)


def stored(normals: np.ndarray, convention: str = "xyz") -> np.ndarray:
    """The normals with the channels that the convention names, in order: "z-yx" is z, -y, x."""
    names = convention.replace("-", "")
    signs = [-1 if convention[convention.index(n) - 1 : convention.index(n)] == "-" else 1 for n in names]
    return np.stack([sign * normals[..., AXES.index(n)] for sign, n in zip(signs, names, strict=True)], axis=-1)


def coded(normals: np.ndarray) -> np.ndarray:
    """As bytes, (0, 0, 0) being 127."""
    return np.where(normals.any(-1, keepdims=True), np.rint((normals + 1) * 127.5), 127).astype(np.uint8)


def raw(depth: np.ndarray, number: int) -> np.ndarray:
    """Depth as the sensor gives it: every seventh column is missing, the rest 1 cm off."""
    out = depth + np.float32(0.01)
    out[:, number % 7 :: 7] = 0
    return out


def to_40() -> np.ndarray:
    """The 40-class id of the ids 1 to 894 in `official`'s classMapping40.mat."""
    return (np.arange(894) * 7 % 40 + 1).astype(np.uint8)


def official(folder: Path, train=(2, 3, 5, 6, 8, 9), count: int = 10) -> Path:
    """nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat; frames count from 0, two neighbours a scene."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(file, "w", userblock_size=512) as data:
        depths = [room(i)[0] for i in range(count)]
        packed = {"compression": "gzip", "compression_opts": 1}
        data.create_dataset("images", data=np.stack([image(i).T for i in range(count)]), chunks=(1, 3, 640, 480))
        for name, values in (
            ("depths", [depth.T for depth in depths]),
            ("rawDepths", [raw(depth, i).T for i, depth in enumerate(depths)]),
        ):
            data.create_dataset(name, data=np.stack(values), chunks=(1, 640, 480))
        seeds = np.stack([labels(i, 894).T for i in range(count)])
        data.create_dataset("labels", data=seeds, chunks=(1, 640, 480), **packed)
        _texts(data, "names", ["book", "bottle"])  # in the real one all 894
        _texts(data, "scenes", [f"kitchen_{i // 2:04d}" for i in range(count)])
        _texts(data, "sceneTypes", ["kitchen"] * count)
    test = [i for i in range(count) if i not in train]
    splits = {"trainNdxs": np.array(train)[:, None] + 1, "testNdxs": np.array(test)[:, None] + 1}
    savemat(folder / "splits.mat", {name: values.astype(np.uint16) for name, values in splits.items()})
    savemat(folder / "classMapping40.mat", {"mapClass": to_40()[None]})
    return file


def _texts(data: h5py.File, name: str, texts: list[str]) -> None:
    refs = data.create_dataset(name, (1, len(texts)), dtype=h5py.ref_dtype)
    for i, text in enumerate(texts):
        item = data.create_dataset(f"#refs#/{name}{i}", data=np.array([[ord(c)] for c in text], np.uint16))
        refs[0, i] = item.ref


def hole(number: int) -> tuple[slice, slice]:
    """The rows and columns without normals in `eigen`'s frames, beside those outside of its crop."""
    return slice(100, 140), slice(200 + number, 260)


def eigen(folder: Path, count: int = 10, convention: str = "x-yz") -> None:
    """normals/%04d.png and masks/%04d.png, from 0; outside of the masks are vectors that must not be used."""
    for name in ("normals", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        mask = np.zeros((480, 640), np.uint8)
        mask[EIGEN] = 255
        mask[hole(i)] = 0
        _png(folder / "normals" / f"{i:04d}.png", coded(stored(room(i)[1], convention)))
        _png(folder / "masks" / f"{i:04d}.png", mask)


def ladicky(folder: Path, train=(2, 3, 5, 6, 8, 9), count: int = 10) -> None:
    """train/%05d.png and test/%05d.png, from 1: channels z, y, x, no mask."""
    for i in range(count):
        part = folder / ("train" if i in train else "test")
        part.mkdir(parents=True, exist_ok=True)
        _png(part / f"{i + 1:05d}.png", coded(stored(room(i)[1], "zyx")))


def mtan(root: Path, train: int = 12, test: int = 11, size=(64, 48), types=(np.float64,) * 4, dense=True) -> None:
    """{train,val}/{image,label,depth,normal}/%d.npy; `types` of image, label, depth and normal; not `dense`: (H, W)."""
    for part, count, first in (("train", train, 0), ("val", test, 100)):
        for kind in ("image", "label", "depth", "normal"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            depth, normals = room(first + i, size, camera(EIGEN))
            depth[:2], normals[:, :3] = 0, 0
            frame = image(first + i, size)
            label = labels(first + i, 13, size).astype(np.int64) - 1
            arrays = {
                "image": frame if types[0] is np.uint8 else (frame / 255).astype(types[0]),
                "label": label.astype(types[1]),
                "depth": (depth[..., None] if dense else depth).astype(types[2]),
                "normal": normals.astype(types[3]),
            }
            for kind, values in arrays.items():
                np.save(root / part / kind / f"{i}.npy", values)


FLAVOURS = {  # the suffixes of images, segmentation, normals and depth
    "astmt": (".jpg", ".mat", ".jpg", ".mat"),
    "vandenhende": (".jpg", ".png", ".npy", ".npy"),
    "invpt": (".png", ".png", ".png", ".npy"),
}


def astmt(root: Path, flavour: str = "vandenhende", train: int = 12, test: int = 2, size=(112, 85)) -> None:
    """gt_sets/{train,val}.txt, images, segmentation, normals and depth; frames are img_5001 and so on."""
    suffixes = dict(zip(("images", "segmentation", "normals", "depth"), FLAVOURS[flavour], strict=True))
    for name in (*suffixes, "gt_sets"):
        (root / name).mkdir(parents=True)
    ids = [f"img_{5001 + 3 * i}" for i in range(train + test)]
    (root / "gt_sets" / "train.txt").write_text("\n".join(ids[:train]) + "\n")
    (root / "gt_sets" / "val.txt").write_text("\n".join(ids[train:]))
    for i, name in enumerate(ids):
        depth, normals = room(i, size, camera(GUPTA))
        depth[:2], normals[:, :3] = 0, 0
        label = labels(i, 40, size)
        for kind, suffix in suffixes.items():
            path = root / kind / (name + suffix)
            values = {"images": image(i, size), "segmentation": label, "normals": normals, "depth": depth}[kind]
            if suffix == ".npy":
                np.save(path, values)
            elif suffix == ".mat":
                savemat(path, {kind: values})
            elif kind == "normals":
                Image.fromarray(coded(values)).save(path, quality=95, subsampling=0)
            else:
                Image.fromarray(values.astype(np.uint8)).save(path)


def _png(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path, compress_level=1)
