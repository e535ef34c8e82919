"""Draws plots as SVG text. Lines and text use the page's text colour, so the plots fit light and dark pages."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlkit.report.history import Series

COLORS = ("#3b82c4", "#e07b39", "#3fa34d", "#c94f5d", "#8f6cc3", "#a0703c", "#cf6bb2", "#3fa9a9")
MAX_LINES = len(COLORS)  #: with more tasks than this, the plot becomes a heat map
POINTS = 300  #: a longer series is divided into this many equal parts, and the plot shows their means
LOG_RANGE = 20  #: if positive values span more than this factor, the axis is logarithmic

_INK = "#010203"  # stands for currentColor, which matplotlib does not support
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mtlkit",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
}


@matplotlib.rc_context(STYLE)
def panel(
    series: Sequence[tuple[Series, dict[str, Any]]],
    levels: Mapping[str, float | None] | None = None,
    mark: int | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draws a small plot of pairs (series, matplotlib's line options). `levels` are horizontal lines, style -> value.

    `mark` is a step at which the last series gets a dot. `limits` are the limits of the vertical axis.
    """
    figure = Figure(figsize=(3.2, 1.8))
    axes = figure.subplots(gridspec_kw={"left": 0.15, "right": 0.97, "bottom": 0.13, "top": 0.96})
    for (steps, values), options in series:
        axes.plot(*_thin(steps, values), **options)
    for style, level in (levels or {}).items():
        if level is not None:
            axes.axhline(level, color=_INK, alpha=0.6, linewidth=0.9, linestyle=style)
    if series and mark is not None:
        (steps, values), options = series[-1]
        axes.plot(steps[steps == mark], values[steps == mark], "o", color=options["color"], markersize=5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if limits:
        axes.set_ylim(*limits)
    if not levels and _spans(values for (_, values), _ in series):
        axes.set_yscale("log")
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def lines(series: Mapping[str, Series], ylabel: str, *, parts: bool = False) -> str:
    """Draws several named series in one wide plot. If there are too many to tell apart, it draws a heat map.

    `parts` says that the values are parts of 1. Their axis is linear, from 0 or the lowest negative value to 1.
    """
    log = not parts and _spans(values for _, values in series.values())
    if len(series) > MAX_LINES:
        return _heat_map(series, ylabel, log)
    figure, axes = _figure(9.6, 2.6)
    for (name, (steps, values)), color in zip(series.items(), COLORS, strict=False):
        axes.plot(*_thin(steps, values), color=color, label=name)
    if log:
        axes.set_yscale("log")
    if parts:
        axes.set_ylim(min(0.0, *(float(np.nanmin(values)) for _, values in series.values())) - 0.05, 1.05)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


@matplotlib.rc_context(STYLE)
def band(series: Mapping[str, Series]) -> str:
    """Draws many cosines over time: the median, the middle 80 % and the full range."""
    steps, values = _matrix(series)
    figure, axes = _figure(9.6, 2.6)
    color = COLORS[0]
    low, tenth, median, ninetieth, high = _quantiles(values, (0, 0.1, 0.5, 0.9, 1))
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0, label="all pairs")
    axes.fill_between(steps, tenth, ninetieth, color=color, alpha=0.3, linewidth=0, label="middle 80 %")
    axes.plot(steps, median, color=color, label="median")
    axes.axhline(0, color=_INK, alpha=0.6, linewidth=0.9)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlabel("step")
    axes.set_ylabel("cosine")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


@matplotlib.rc_context(STYLE | {"axes.grid": False})
def pair_map(tasks: Sequence[str], means: Mapping[tuple[str, str], float]) -> str:
    """Draws the mean cosine of every pair of tasks. Conflicts are red."""
    values = np.full((len(tasks), len(tasks)), np.nan)
    for (first, second), mean in means.items():
        i, j = tasks.index(first), tasks.index(second)
        values[i, j] = values[j, i] = mean
    size = 2.5 + 0.16 * len(tasks)
    figure, axes = _figure(size + 0.7, size)
    image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90, fontsize=7)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=7)
    figure.colorbar(image, ax=axes, label="mean cosine", shrink=0.7)
    return _svg(figure)


def _heat_map(series: Mapping[str, Series], label: str, log: bool) -> str:
    steps, values = _matrix(series)
    figure, axes = _figure(9.6, 1 + 0.16 * len(series))
    extent = (steps[0], max(steps[-1], steps[0] + 1), len(series) - 0.5, -0.5)
    norm = LogNorm() if log else Normalize()
    image = axes.imshow(values, aspect="auto", norm=norm, extent=extent, interpolation="nearest", cmap="viridis")
    axes.grid(visible=False)
    axes.set_yticks(range(len(series)), list(series), fontsize=7)
    axes.set_xlabel("step")
    figure.colorbar(image, ax=axes, label=label)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def _spans(all_values: Iterable[np.ndarray]) -> bool:
    values = np.concatenate([*all_values, []])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > LOG_RANGE * values.min())


def _thin(steps: np.ndarray, values: np.ndarray) -> Series:
    """Reduces a series to at most `POINTS` points: the means of equal parts, without values that are not finite."""
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    return np.array([steps[part].mean() for part in parts]), np.array([_mean(values[part]) for part in parts])


def _matrix(series: Mapping[str, Series]) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps (S,) and values (series, S) with S at most `POINTS`. A missing value is NaN."""
    steps = np.unique(np.concatenate([steps for steps, _ in series.values()]))
    values = np.full((len(series), len(steps)), np.nan)
    for row, (own, numbers) in zip(values, series.values(), strict=True):
        row[np.searchsorted(steps, own)] = numbers
    thinned = [_thin(steps, row) for row in values]
    return thinned[0][0], np.stack([row for _, row in thinned])


def _quantiles(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    columns = [column[np.isfinite(column)] for column in values.T]
    return np.stack([np.quantile(c, levels) if c.size else np.full(len(levels), np.nan) for c in columns], axis=1)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
