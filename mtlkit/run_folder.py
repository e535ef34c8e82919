"""The folder of a run: the names of its files, and the error for a folder that is none."""

from pathlib import Path

CONFIG, DATA, LOG = "config.yaml", "data.json", "metrics.jsonl"
SHOWN = 10  #: at most so many runs are named


def no_run(folder: Path, lacks: str) -> FileNotFoundError:
    """The error for a folder that is not that of a run, because it `lacks` a file: with the runs in or around it."""
    why = f"it has no {lacks}" if folder.is_dir() else "it is no folder" if folder.exists() else "it does not exist"
    problem = f"{folder} is not the folder of a run: {why}."
    inside = sorted(file.parent for file in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    if inside:
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return FileNotFoundError(f"{problem} Runs in it: {', '.join(map(str, inside[:SHOWN]))}{more}.")
    around = next((parent for parent in folder.parents if (parent / CONFIG).is_file()), None)
    if around is not None:
        return FileNotFoundError(f"{problem} The run's folder is {around}.")
    beside = sorted(file.parent for file in folder.parent.glob(f"*/{CONFIG}"))[:SHOWN]
    hint = f" Runs in {folder.parent}: {', '.join(map(str, beside))}." if beside else ""
    return FileNotFoundError(f"{problem}{hint} mtlkit train makes one, in its output_dir.")
