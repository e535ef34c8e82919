"""The folders of runs and studies: the names of their files, and the check that a folder is a run's."""

from pathlib import Path

CONFIG, DATA, LOG, DETAILS = "config.yaml", "data.json", "metrics.jsonl", "details.json"
CHECKPOINTS = ("last", "previous", "best")  #: the folders in `checkpoints`
STUDY = "study.yaml"  #: in the folder of a study
SHOWN = 10  #: the largest number of runs that a message names


def check_run(folder: Path, *files: str) -> None:
    """Raises `FileNotFoundError` if a folder has none of the files. Every run has the first of them."""
    if not any((folder / file).exists() for file in files):
        raise _no_run(folder, files[0])


def _no_run(folder: Path, lacks: str) -> FileNotFoundError:
    """Returns the error for a folder that `lacks` a file of a run. The message names the runs in or around it."""
    why = f"it has no {lacks}" if folder.is_dir() else "it is not a folder" if folder.exists() else "it does not exist"
    problem = f"{folder} is not the folder of a run: {why}."
    if folder.is_dir() and (inside := runs_in(folder)):
        return FileNotFoundError(f"{problem} Runs in it: {inside}.")
    around = next((parent for parent in folder.parents if (parent / CONFIG).is_file()), None)
    if around is not None:
        return FileNotFoundError(f"{problem} The run's folder is {around}.")
    beside = runs_in(folder.parent)
    hint = f" Runs in {folder.parent}: {beside}." if beside else ""
    return FileNotFoundError(f"{problem}{hint} mtlkit train makes one, in its output_dir.")


def runs_in(folder: Path) -> str:
    """Returns the names of the runs in a folder, for messages; empty if there is none."""
    runs = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return f"{', '.join(map(str, runs[:SHOWN]))}{more}"
