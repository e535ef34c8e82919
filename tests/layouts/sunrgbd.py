"""SUN RGB-D in small: SUNRGBD.zip, SUNRGBDtoolbox.zip and the label pictures of ankurhanda/sunrgbd-meta-data."""

from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

SET_SIZES = {  # width, height; all sets of a sensor have the same here
    "kv1": (16, 12),
    "kv2": (20, 14),
    "realsense": (17, 13),
    "xtion": (18, 12),
}
TRAIN = (
    *(f"kv2/kinect2data/0000{65 + i}_2014-05-16_2{i // 3}-14-3{i}_260595134347_rgbf000121-resize" for i in range(6)),
    *(f"kv1/NYUdata/NYU00{i}" for i in range(35, 45)),
    *(f"kv1/b3dodata/img_0{i}" for i in range(145, 149)),
    "xtion/sun3ddata/home_at/home_at_scan1_2013_jan_1/0000012-000000402192",
    "xtion/sun3ddata/home_at/home_at_scan1_2013_jan_1/0000172-000005798268",
    "xtion/sun3ddata/home_amo/floor1v2/0000760-000025673256",
    "xtion/sun3ddata/home_amo/floor2-1/0000164-000005494705",
    "xtion/xtion_align_data/2014_12_18_12_3_40",
    "realsense/sa/2014_10_21-18_44_24-1311000073",
    "realsense/sa/2014_10_21-18_53_16-1311000073",
)
TEST = (
    "kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize",
    "kv2/align_kv2/2014-12-18_11-34-09_260595134347",
    "kv1/NYUdata/NYU0001",
    "realsense/lg/2014_10_24-14_42_53-1311000073",
    "xtion/sun3ddata/brown_bm_1/brown_bm_1/0000001-000000020431",
)
META = (*TRAIN, *TEST)[::-1]  # the order of SUNRGBDMeta and SUNRGBD2Dseg, another than that of the lists
SERVER = "/n/fs/sun3d/data/SUNRGBD"


def size_of(folder: str) -> tuple[int, int]:
    """(width, height)"""
    return SET_SIZES[folder.split("/")[0]]


def grid(folder: str) -> tuple[np.ndarray, np.ndarray, int]:
    """x, y (H, W) and the frame's number."""
    width, height = size_of(folder)
    return *np.meshgrid(np.arange(width), np.arange(height)), META.index(folder)


def label(folder: str) -> np.ndarray:
    """(H, W) uint8 from 0 to 37."""
    x, y, number = grid(folder)
    return ((x + 5 * y + 3 * number) % 38).astype(np.uint8)


def depth(folder: str, kind: str = "depth_bfx") -> np.ndarray:
    """(H, W) uint16, millimetres from 1 m to 9 m; raw depth has holes."""
    x, y, number = grid(folder)
    values = 1001 + 7 * number + 31 * x + 53 * y
    values[:2, :2] = 9001  # beyond the sensor's reach
    if kind == "depth":
        values = np.where((x + y) % 3 == 0, 0, values + 11)
    return values.astype(np.uint16)


def colour(folder: str) -> tuple[int, int, int]:
    """Of the image's left half; the right half is black."""
    number = META.index(folder)
    return 60 + 6 * number, 250 - 6 * number, 40


def intrinsics(folder: str) -> tuple[float, float, float, float]:
    """f_x, f_y, c_x, c_y in pixels."""
    width, height = size_of(folder)
    number = META.index(folder)
    return 1.1 * width + number, 1.5 * height, 0.45 * width, 0.55 * height


def encode(millimetres: np.ndarray, coding: str = "rotated") -> np.ndarray:
    """Millimetres as the values of a depth picture."""
    wide = millimetres.astype(np.uint32)
    values = {"rotated": (wide << 3) | (wide >> 13), "tenths": np.minimum(10 * wide, 65535), "plain": wide}[coding]
    return (values & 0xFFFF).astype(np.uint16)


def write_frames(root: Path, coding: str = "rotated") -> None:
    """SUNRGBD/ below `root`."""
    for folder in META:
        path = root / "SUNRGBD" / folder
        for name in ("image", "depth", "depth_bfx"):
            (path / name).mkdir(parents=True)
        width, height = size_of(folder)
        image = np.zeros((height, width, 3), np.uint8)
        image[:, : width // 2] = colour(folder)
        Image.fromarray(image).save(path / "image" / f"{_stem(folder)}.jpg", quality=100, subsampling=0)
        for kind in ("depth", "depth_bfx"):
            cv2.imwrite(str(path / kind / f"{_stem(folder)}_abs.png"), encode(depth(folder, kind), coding))
        fx, fy, cx, cy = intrinsics(folder)
        # Some files have the matrix in one line, some in three.
        end = "\n" if META.index(folder) % 2 else " "
        text = end.join([f"{fx:f} 0.000000 {cx:f}", f"0.000000 {fy:f} {cy:f}", "0.000000 0.000000 1.000000"])
        (path / "intrinsics.txt").write_text(text + " \n")
    savemat(path / "seg.mat", {"names": np.array([["bed"]], object), "seglabel": label(folder)})
    (path / "scene.txt").write_text("bedroom")  # as in all of them


def write_toolbox(root: Path) -> Path:
    """SUNRGBDtoolbox/ below `root`."""
    toolbox = root / "SUNRGBDtoolbox"
    for name in ("Metadata", "traintestSUNRGBD"):
        (toolbox / name).mkdir(parents=True)
    write_segmentation(toolbox, [label(folder) for folder in META])
    write_meta(toolbox, META)
    write_split(toolbox, TRAIN, TEST)
    return toolbox


def write_segmentation(toolbox: Path, labels: list[np.ndarray]) -> None:
    """SUNRGBD2Dseg.mat, a struct array of MATLAB 7.3: axes reversed, a reference each."""
    with h5py.File(toolbox / "Metadata" / "SUNRGBD2Dseg.mat", "w", userblock_size=512) as file:
        references = np.empty((len(labels), 1), h5py.ref_dtype)
        for number, values in enumerate(labels):
            references[number, 0] = file.create_dataset(f"#refs#/{number}", data=values.T).ref
        file.create_dataset("SUNRGBD2Dseg/seglabel", data=references, dtype=h5py.ref_dtype)


def write_meta(toolbox: Path, folders: tuple[str, ...]) -> None:
    """SUNRGBDMeta.mat, of which the paths of the images count. Two slashes in a row happen."""
    fields = ("sequenceName", "groundtruth3DBB", "K", "depthpath", "rgbpath", "depthname", "rgbname")
    meta = np.empty((1, len(folders)), [(name, object) for name in fields])
    for number, folder in enumerate(folders):
        path, stem = f"{SERVER}/{folder}/" + "/" * (number % 2), _stem(folder)
        files = f"{path}depth_bfx/{stem}_abs.png", f"{path}image/{stem}.jpg", f"{stem}_abs.png", f"{stem}.jpg"
        meta[0, number] = (f"SUNRGBD/{folder}", np.zeros((0, 0)), np.eye(3), *files)
    savemat(toolbox / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": meta}, do_compression=True)


def write_split(toolbox: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """allsplit.mat."""
    parts = {"alltrain": _cells(train), "alltest": _cells(test)}
    savemat(toolbox / "traintestSUNRGBD" / "allsplit.mat", parts, do_compression=True)


def write_lists(folder: Path) -> None:
    """The lists of images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, folders in (("training", TRAIN), ("testing", TEST)):
        lines = [f"SUNRGBD/{f}/{'/' * (i % 2)}image/{_stem(f)}.jpg\n" for i, f in enumerate(folders)]
        (folder / f"sunrgbd_{name}_images.txt").write_text("".join(lines))


def write_pictures(folder: Path, to_13: tuple[int, ...] | None = None) -> None:
    """Labels of 37 classes, numbered in one row, test frames first; with `to_13` 13 classes, each split from 1."""
    for split, folders in (("test", TEST), ("train", TRAIN)):
        for number, frame in enumerate(folders, 1):
            values = label(frame)
            if to_13 is None:
                row = number + (len(TEST) if split == "train" else 0)
                path = folder / "sunrgbd_train_test_labels" / f"img-{row:06d}.png"
            else:
                values = np.array([0, *to_13], np.uint8)[values]
                path = folder / f"{split}13labels" / f"img13labels-{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


def _stem(folder: str) -> str:
    return folder.split("/")[-1][:8].replace("-", "_")


def _cells(folders: tuple[str, ...]) -> np.ndarray:
    cells = np.empty((1, len(folders)), object)
    cells[0] = [f"{SERVER}/{folder}" + "/" * (number % 2) for number, folder in enumerate(folders)]
    return cells
