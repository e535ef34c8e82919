"""Groups frames of SUN RGB-D by scene, as far as their folders tell, and holds out validation frames by scene."""

import calendar
import re
from collections.abc import Hashable, Sequence

import numpy as np

from mtlkit.data.splits import Indices, hold_out_groups

BLOCK, GAP = 20, 5  # consecutive numbers that count as one scene, and unused numbers beside a held-out block
PAUSE = 600  # in seconds: after a longer pause, frames named by their time belong to another scene
TAKEN = re.compile(r"(20\d\d)[-_](0?[1-9]|1[0-2])[-_](\d\d?)[-_](\d\d?)[-_](\d\d?)[-_](\d\d?)")  # year to second


def hold_out(folders: Sequence[str], share: float) -> tuple[Indices, Indices]:
    """Returns the numbers of the training and the validation frames. No scene is in both.

    If frames have only numbers, a scene may continue outside its block. Therefore frames within `GAP` numbers of a
    validation frame are in neither part. Raises `ValueError` for a share that leaves nothing to train on.
    """
    train, val = hold_out_groups(scenes(folders), share)
    held = [_numbered(folders[i]) for i in val]
    near = {(found[0], found[1] + step) for found in held if found for step in range(-GAP, GAP + 1)}
    kept = [i for i in train if _numbered(folders[i]) not in near]
    if not kept:
        raise ValueError(
            f"holdout={share:g} leaves nothing to train on of {len(folders)} frames: those within {GAP} numbers of a "
            "held-out one are not used. Use a smaller share or more samples."
        )
    return np.array(kept), val


def scenes(folders: Sequence[str]) -> list[Hashable]:
    """Returns the scene of each frame.

    SUN3D's videos: the place (folder) of the video. Frames named by the time at which they were taken: a period without
    a pause of more than ten minutes, of all sensors together. NYUv2 and B3DO, whose frames have only numbers: blocks of
    20 numbers.

    >>> one, other = "realsense/sa/2014_10_21-18_57_24-1311000073", "xtion/xtion_align_data/2014_10_21_19_2_40"
    >>> len(set(scenes([one, other]))), len(set(scenes([one, other.replace("19_2_40", "19_12_40")])))
    (1, 2)
    >>> scenes(["kv1/NYUdata/NYU0045", "xtion/sun3ddata/home_at/home_at_scan1_2013_jan_1/0000012-000000402192"])
    [('NYUdata', 2), 'sun3ddata/home_at']
    """
    times = np.unique([time for folder in folders if (time := _taken(folder)) is not None])
    starts = times[np.diff(times, prepend=-np.inf) > PAUSE]  # the start of each period without a pause
    return [_scene(folder, starts) for folder in folders]


def _scene(folder: str, starts: np.ndarray) -> Hashable:
    if (time := _taken(folder)) is not None:
        return int(np.searchsorted(starts, time, side="right"))
    if (found := _numbered(folder)) is not None:
        return found[0], found[1] // BLOCK
    parts = folder.split("/")
    return "/".join(parts[1:3]) if parts[1] == "sun3ddata" else folder


def _taken(folder: str) -> int | None:
    """Returns the time in a frame's name, in seconds."""
    found = None if "/sun3ddata/" in folder else TAKEN.search(folder.rpartition("/")[2])
    return None if found is None else calendar.timegm((*map(int, found.groups()),))


def _numbered(folder: str) -> tuple[str, int] | None:
    """Returns the set and the number of a frame whose name contains nothing else."""
    parts = folder.split("/")
    if parts[1] == "sun3ddata" or _taken(folder) is not None:
        return None
    number = re.search(r"\d+$", parts[-1])
    return (parts[1], int(number[0])) if number else None
