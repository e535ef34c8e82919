"""`make trust` runs all parts; TRUST="files kills" runs these. docs/results/trust.md gets a line per part."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

from trust.parts import PARTS, alone
from trust.result import Result

PAGE = Path(__file__).parents[2] / "docs" / "results" / "trust.md"
ROW = re.compile(r"^\| `(\w+)` \|.*$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make trust", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"default: all of {', '.join(PARTS)}"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="another number of cases; the page is not written then")
    parser.add_argument("--keep", type=Path, help="the folder for damaged files; default: a temporary one")
    words = parser.parse_args()
    folder = words.keep or Path(tempfile.mkdtemp(prefix="trust-"))
    failed = 0
    for name in words.parts or PARTS:
        started, count = time.monotonic(), words.count or PARTS[name][1]
        found = alone(name, folder / name, words.seed, count)
        seconds = time.monotonic() - started
        failed += bool(found.faults)
        sys.stdout.write(f"{name} (seed {words.seed}, {count}): {found.in_words()} [{seconds:.0f} s]\n")
        sys.stdout.writelines(f"  FAULT {words}\n" for words in found.faults[:50])
        sys.stdout.flush()
        if not words.count:
            _write(name, count, words.seed, found, seconds)
    sys.stdout.write(
        f"{'FAULTS in ' + str(failed) + ' parts' if failed else 'no faults'}; damaged files of faults: {folder}\n"
    )
    return min(failed, 1)


def _write(name: str, count: int, seed: int, found: Result, seconds: float) -> None:
    """Puts the line of a part into the page."""
    versions = ", ".join(f"{one} {importlib.metadata.version(one)}" for one in ("torch", "hydra-core", "pillow"))
    told = found.in_words() + (f"; **{len(found.faults)} faults**" if found.faults else "; no faults")
    date = datetime.date.today().isoformat()
    versions = f"{date}, Python {platform.python_version()}, {versions}"
    line = f"| `{name}` | {count:,} | {seed} | {told} | {seconds:.0f} s | {versions} |"
    text = PAGE.read_text()
    PAGE.write_text(ROW.sub(lambda row: line if row[1] == name else row[0], text))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
