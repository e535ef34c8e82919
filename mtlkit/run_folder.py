"""The folder of a run: the names of its files, and the check that a folder is one."""

from pathlib import Path

CONFIG, DATA, LOG = "config.yaml", "data.json", "metrics.jsonl"
SHOWN = 10  #: at most so many runs are named


def check_run(folder: Path, *files: str) -> None:
    """Raises `FileNotFoundError` for a folder that has none of the files, of which a run has the first."""
    if not any((folder / file).exists() for file in files):
        raise _no_run(folder, files[0])


def _no_run(folder: Path, lacks: str) -> FileNotFoundError:
    """The error for a folder that is not that of a run, because it `lacks` a file: with the runs in or around it."""
    why = f"it has no {lacks}" if folder.is_dir() else "it is no folder" if folder.exists() else "it does not exist"
    problem = f"{folder} is not the folder of a run: {why}."
    if folder.is_dir() and (inside := _runs_in(folder)):
        return FileNotFoundError(f"{problem} Runs in it: {inside}.")
    around = next((parent for parent in folder.parents if (parent / CONFIG).is_file()), None)
    if around is not None:
        return FileNotFoundError(f"{problem} The run's folder is {around}.")
    beside = _runs_in(folder.parent)
    hint = f" Runs in {folder.parent}: {beside}." if beside else ""
    return FileNotFoundError(f"{problem}{hint} mtlkit train makes one, in its output_dir.")


def _runs_in(folder: Path) -> str:
    runs = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"{', '.join(map(str, runs[:SHOWN]))}{more}"
