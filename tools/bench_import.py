"""Measures how long mtlkit takes to import and to answer `--help`, compared with torch alone.

Every program runs several times, each time in a fresh process and in turn with the others, so that a busy machine slows
down all of them alike. It prints the median wall-clock time of each in seconds, and its ratio to `import torch`.

    python tools/bench_import.py --runs 7
"""

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "import torch": ["-c", "import torch"],
    "import torch, mtlkit; mtlkit.BALANCERS": ["-c", "import torch, mtlkit; mtlkit.BALANCERS"],
    "mtlkit --help": ["-m", "mtlkit", "--help"],
}


def seconds(words: list[str]) -> float:
    """Returns the wall-clock time of a fresh Python process with these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Prints one row per program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes per program (5)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error(f"--runs must be at least 1, got {runs}.")
    for words in PROGRAMS.values():  # once without the clock: files are read and compiled
        seconds(words)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, words in PROGRAMS.items():
            times[name].append(seconds(words))
    medians = {name: statistics.median(values) for name, values in times.items()}
    width = max(map(len, medians))
    for name, median in medians.items():
        sys.stdout.write(f"{name:<{width}}  {median:6.2f} s  {median / medians['import torch']:5.2f}\n")


if __name__ == "__main__":
    main()
