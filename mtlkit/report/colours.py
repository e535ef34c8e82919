"""Many series as rows of colours, and squares of colours."""

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from mtlkit.page import svg
from mtlkit.report.history import Series
from mtlkit.report.plot import LOG_RANGE, RIGHT, thin


def rows(
    caption: str, series: Mapping[str, Series], *, scaled: bool = False, better: Mapping[str, bool] | None = None
) -> str:
    """Draws many lines as rows of colours, or returns "" if no value is finite.

    `scaled` gives every row its own scale, from its worst to its best value by `better`, or else from its lowest to its
    highest. Otherwise all rows have one scale, logarithmic if the values span more than a factor of 20.
    """
    series = {name: one for name, one in series.items() if np.isfinite(one[1]).any()}
    if not series:
        return ""
    steps, values = matrix(series)
    shown, words = _shown(values, list(series), scaled, better or {})
    names = [svg.middle_out(name, 18) for name in series]
    left, height = 8 + 5.2 * max(map(len, names)), max(9.5, min(13.0, 420 / len(names)))
    bottom = 4 + height * len(names)
    across = svg.Scale(0.0, max(1.0, float(steps[-1])), left, RIGHT, whole=True)
    body = colours(shown, left, 4, RIGHT - left, bottom - 4)
    for place, (name, full) in enumerate(zip(names, series, strict=True)):
        body += svg.text(left - 5, 4 + height * (place + 0.5) + 3.3, name, "tiny end", full)
    for value, text in across.ticks(3):
        body += svg.text(across(value), bottom + 13, text, "tick middle")
    body += svg.text(left, bottom + 26, "step", "tick")
    drawing = svg.picture(bottom + 30, f"{caption}, one row of colours per name over the steps: {words}.", body)
    return f"<figure><figcaption>{escape(caption)}<small> {escape(words)}</small></figcaption>{drawing}</figure>"


def _shown(values: np.ndarray, names: list[str], scaled: bool, better: Mapping[str, bool]) -> tuple[np.ndarray, str]:
    """Returns the values as parts of 1, and what dark and light mean."""
    if scaled:
        flipped = np.array([-1.0 if better.get(name) is False else 1.0 for name in names])[:, None] * values
        lows, highs = np.nanmin(flipped, axis=1, keepdims=True), np.nanmax(flipped, axis=1, keepdims=True)
        shares = (flipped - lows) / np.where(highs > lows, highs - lows, 1)
        return shares, "each row from its worst, dark, to its best, light"
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    words = f"dark {low:.3g}, light {high:.3g}"
    if low > 0 and high > LOG_RANGE * low:
        return np.log(values / low) / np.log(high / low), f"{words}, logarithmic"
    return (values - low) / ((high - low) or 1), words


def colours(shares: np.ndarray, x: float, y: float, width: float, height: float, palette: str = "viridis") -> str:
    """Returns an SVG picture whose pixels are parts of 1 (rows, columns) as colours. NaN is transparent."""
    import matplotlib  # only here: a page without such a picture does not need it

    pixels = (matplotlib.colormaps[palette](np.nan_to_num(shares.clip(0, 1))) * 255).astype(np.uint8)
    pixels[~np.isfinite(shares), 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'class="pixels" href="data:image/png;base64,{data}"/>'
    )


def matrix(series: Mapping[str, Series]) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps (S,) and values (series, S) with S at most `POINTS`. A missing value is NaN."""
    steps = np.unique(np.concatenate([steps for steps, _ in series.values()]))
    values = np.full((len(series), len(steps)), np.nan)
    for row, (own, numbers) in zip(values, series.values(), strict=True):
        row[np.searchsorted(steps, own)] = numbers
    thinned = [thin(steps, row) for row in values]
    return thinned[0][0], np.stack([row for _, row in thinned])
