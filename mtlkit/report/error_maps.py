"""The colours of error maps, the same for all tasks."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from mtlkit.legend import Classes, Legend, Scale, hexed, stops

COLOURS = "magma"
UNKNOWN = (91, 112, 131)  #: a colour that the scale does not have
NOTE = f"Grey-blue ({hexed(UNKNOWN)}): no label."
PERCENTILE = 95


def error_legend(maps: Sequence[np.ndarray], unit: str = "", *, binary: bool = False) -> Legend:
    """Returns the legend that all error maps of a task share.

    Its scale goes from 0 to the 95th percentile of the errors in the maps, so that a few large errors do not make all
    others look alike. If that is 0, it goes to the largest error, and to 1 if there is none.

    >>> error_legend([np.array([[0.0, 2.0, np.nan]])], "m").high
    1.9
    """
    if binary:
        return Classes([("right", hexed(_colours(0.0))), ("wrong", hexed(_colours(1.0)))], NOTE)
    known = np.concatenate([one[np.isfinite(one)] for one in maps]) if maps else np.zeros(0)
    high = float(np.percentile(known, PERCENTILE)) if known.size else 0.0
    high = high or float(known.max(initial=0)) or 1.0
    note = f"The scale ends at the {PERCENTILE}th percentile of the errors in these samples. {NOTE}"
    return Scale(0, round(high, 6), stops(_colours), unit, note)


def draw_errors(errors: np.ndarray, legend: Legend) -> np.ndarray:
    """Returns the RGB picture (H, W, 3) uint8 of errors (H, W), NaN unknown, in the colours of their legend."""
    high = legend.high if isinstance(legend, Scale) else 1.0
    shares = np.clip(np.nan_to_num(errors, nan=0.0, posinf=high), 0, high) / high
    colours = matplotlib.colormaps[COLOURS](shares, bytes=True)[..., :3]
    picture: np.ndarray = np.where(np.isnan(errors)[..., None], np.array(UNKNOWN, np.uint8), colours)
    return picture


def _colours(share: float) -> tuple[int, int, int]:
    red, green, blue, _ = matplotlib.colormaps[COLOURS](share, bytes=True)
    return int(red), int(green), int(blue)
