"""What the commands print: lines on standard output, by the main process only."""

import os
import select
import sys
from collections.abc import Iterable

from mtlkit.plain_text import plain


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines on standard output, on the main process only."""
    if is_main():
        sys.stdout.writelines(f"{plain(line)}\n" for line in lines)
        sys.stdout.flush()


def is_main() -> bool:
    """Returns whether this process prints. Launchers set RANK before anything is initialised."""
    return os.environ.get("RANK", "0") == "0"


def nobody_reads() -> bool:
    """Returns whether the program that read the standard output has ended, such as `head` after its last line."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        gone = any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or a system without `poll`
        return False
    if gone:  # Python writes the rest at its end, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Returns the rows as lines, with the cells of each column below each other.

    >>> aligned([("class", "iou"), ("sky", "0.5")])
    ['class  iou', 'sky    0.5']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
