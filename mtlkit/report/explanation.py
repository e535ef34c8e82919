"""Explains a run: which tasks conflicted, how the balancer changed the direction, and which tasks it favoured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mtlkit.report.gradients import BLOCKS, WINDOW, Directions, Pair, directions, mean, pairs, thirds
from mtlkit.report.history import History
from mtlkit.report.many import EACH, Figures, is_many, stand_out
from mtlkit.run_folder import LOG

MAX_ROWS = 15  #: the largest number of listed pairs; pairs with the most conflicts come first


@dataclass(frozen=True)
class Sheet:
    """A table of text for the console and the page. The first column names the subject of the row.

    `early` and `late` are the figures of the tasks by which the console chooses rows, if there are many tasks.
    """

    title: str
    notes: list[str]
    head: list[str]
    rows: list[list[str]]
    early: Figures = field(default_factory=dict)
    late: Figures = field(default_factory=dict)

    def table(self) -> Table:
        """Returns the table for the console, which must not read its texts as markup (`mtlkit.terminal`)."""
        rows, notes = self.rows, self.notes
        if is_many(list(self.late)):
            chosen = {task for group in stand_out(self.late, self.early, higher=True).values() for task in group}
            rows = [row for row in rows if row[0] in chosen or row[0] not in self.late]
            shown = f"the {EACH} highest and the {EACH} lowest late, and the {EACH} that changed most since early"
            notes = [f"Of {len(self.late)} tasks, {shown}. report.html has all.", *notes]
        table = Table(box=box.SIMPLE_HEAD, title=self.title, title_justify="left", title_style="bold")
        table.pad_edge, table.padding = False, (0, 1, 0, 0)
        table.caption, table.caption_justify, table.caption_style = "\n".join(notes), "left", "dim"
        table.add_column(self.head[0], overflow="fold")
        for heading in self.head[1:]:  # its words below each other: only names are wrapped where it is too wide
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        return table


def explain(run: Path) -> list[RenderableType]:
    """Returns what `mtlkit explain` prints: a headline and tables.

    Raises `FileNotFoundError` for a folder without a log. Raises `ValueError` for a log that cannot be read, or a log
    without gradient norms of at least two tasks.
    """
    history = History(run)
    path = run / LOG
    if not any(record["split"] == "train" for record in history.records):
        raise ValueError(f"{path} has no training steps: there is nothing to explain yet.")
    if len(history.tasks) == 1:
        raise ValueError(f"{run} trains {history.tasks[0]!r} alone: with one task there is nothing to balance.")
    found = directions(history)
    if not found.tasks:
        raise ValueError(
            f"{path} has no gradient norms (grad_norm/<task>), so the task gradients are unknown. Train "
            f"again: every logged training step contains them, for every balancer."
        )
    balancer = history.config.get("balancer")
    name = balancer.get("name") if isinstance(balancer, dict) else balancer
    headline = f"{run}: {name or 'unknown balancer'}, {len(history.tasks)} tasks, {history.last_step} steps"
    return [Text(headline), *(item for sheet in sheets(history, found) for item in ("", sheet.table()))]


def sheets(history: History, found: Directions) -> Iterator[Sheet]:
    """Yields the tables for which the log has enough data."""
    known = pairs(history)
    if known:
        yield conflict_sheet(known)
    yield direction_sheet(history, found)
    if len(found.steps) and found.weighted:
        yield share_sheet(found)


def sentence(known: Sequence[Pair]) -> str:
    """Says how many pairs of tasks conflict, how many agree, and for how many that is unknown."""
    if not known:
        return "The log holds no cosines between the gradients of the tasks."
    sure = [pair for pair in known if pair.interval]
    if not sure:
        steps = max(pair.count for pair in known)
        return f"{steps} logged steps with cosines are too few to say which tasks conflict ({2 * BLOCKS} are needed)."
    hurt = [pair for pair in sure if pair.interval and pair.interval[1] < 0]
    help_ = [pair for pair in sure if pair.interval and pair.interval[0] > 0]
    words = f"On average over the run, {len(hurt)} of {len(sure)} pairs of tasks conflict"
    if hurt:
        words += f" ({_named(sorted(hurt, key=lambda pair: pair.mean))})"
    words += f", {len(help_)} agree"
    if help_:
        words += f" ({_named(sorted(help_, key=lambda pair: -pair.mean))})"
    rest = len(sure) - len(hurt) - len(help_)
    return f"{words}; for {rest} the 95 % interval of the mean cosine holds 0." if rest else f"{words}."


def _named(ordered: Sequence[Pair]) -> str:
    first = ordered[0]
    more = f", and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    return f"{first.first} with {first.second}: {signed(first.mean)}{more}"


def conflict_sheet(known: list[Pair]) -> Sheet:
    """Builds the table of how often each pair of tasks conflicted, and how sure the mean cosine is."""
    ordered = sorted(known, key=lambda pair: (-pair.conflicts, pair.mean))[:MAX_ROWS]
    rows = [
        [
            f"{p.first} · {p.second}",
            percent(p.conflicts),
            signed(p.mean),
            _between(p),
            f"{p.deviation:.3f}",
            str(p.count),
        ]
        for p in ordered
    ]
    notes = [
        sentence(known),
        "Conflict: the cosine is negative. Where the interval holds 0, the sign means little.",
        f"Interval: 95 %, of the mean cosine, from the means of {BLOCKS} parts of the run.",
        f"Deviation: the standard deviation over {WINDOW} consecutive logged steps, averaged over all such windows.",
    ]
    if min(pair.count for pair in known) < WINDOW:
        notes.append(f"Pairs with fewer than {WINDOW} steps have only one window.")
    if len(known) > MAX_ROWS:
        notes.append(f"The {MAX_ROWS} of {len(known)} pairs with most conflicts.")
    return Sheet("Conflicts", notes, ["pair", "conflicts", "mean cosine", "interval", "deviation", "steps"], rows)


def _spread(pair: Pair) -> tuple[str, str]:
    return f"{pair.deviation:.3f}", str(pair.count)


def _between(pair: Pair) -> str:
    return f"{signed(pair.interval[0])} to {signed(pair.interval[1])}" if pair.interval else "–"


def direction_sheet(history: History, found: Directions) -> Sheet:
    """Builds the table that compares the combined gradient with the plain sum and with each task's own gradient."""
    head = ["cosine of the step with", "mean", "lowest", "early", "late", "against"]
    notes, rows = [], []
    ends: dict[str, tuple[float | None, ...]] = {}
    if len(found.steps):
        values = {"the plain sum": found.cosine} | dict(zip(found.tasks, found.alignment.T, strict=True))
        for name, column in values.items():
            there = column[np.isfinite(column)]
            lowest, against = (there.min(), (there < 0).mean()) if there.size else (None, None)
            rows.append([name, signed(mean(column)), signed(lowest), *map(signed, thirds(column)), percent(against)])
        ends = {task: thirds(values[task]) for task in found.tasks}
        whole, (early, late) = number(mean(found.length)), map(number, thirds(found.length))
        notes.append("Early and late: the first and the last third of the logged steps.")
        notes.append("Against: the share of steps with a negative cosine.")
        notes.append(f"Length, the plain sum's being 1: {whole}; early {early}, late {late}.")
        notes.append("Terms that a balancer adds to the loss are not part of these figures.")
    if not found.weighted:
        notes.append("This balancer combines the gradients elementwise: there are no weights, so no task has a share.")
    if found.left_out:
        total = len(found.steps) + found.left_out
        notes.append(f"{found.left_out} of {total} logged steps have values that are missing or not finite: left out.")
    accumulation = (history.config.get("trainer") or {}).get("accumulation") or 1
    if accumulation > 1:
        notes.append(f"From means over {accumulation} micro-batches, so approximate.")
    return Sheet("Direction", notes, head, rows, *_ends(ends))


def share_sheet(found: Directions) -> Sheet:
    """Builds the table of each task's share of the combined gradient, beside its share of the plain sum."""
    columns = (found.norms, found.weights, found.plain_shares, found.shares)
    rows, gains, ends = [], {}, {}
    for task, norms, weights, plain, shares in zip(found.tasks, *(column.T for column in columns), strict=True):
        present = norms > 0
        before, after = mean(plain), mean(shares)
        rows.append(
            [task, number(mean(norms[present])), number(mean(weights[present])), percent(before), percent(after)]
        )
        ends[task] = thirds(shares)
        rows[-1] += map(percent, ends[task])
        if before is not None and after is not None:
            gains[task] = 100 * (after - before)
    notes = ["Share: weight times gradient norm, divided by the sum over all tasks. Plain: with equal weights."]
    if gains and max(map(abs, gains.values())) >= 1:
        most, least = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        notes.append(f"Favoured most: {most} ({gains[most]:+.0f} points); least: {least} ({gains[least]:+.0f} points).")
    head = ["task", "gradient norm", "weight", "plain share", "share", "early", "late"]
    return Sheet("Shares", notes, head, rows, *_ends(ends))


def _ends(thirds: Mapping[str, tuple[float | None, ...]]) -> tuple[Figures, Figures]:
    """Returns the figures of the first and of the last third, by task."""
    return {task: ends[0] for task, ends in thirds.items()}, {task: ends[1] for task, ends in thirds.items()}


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
