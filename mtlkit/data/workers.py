"""Messages for the user when the processes that load data (`data.workers`) cannot continue."""

import errno
import re

RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:: (.*))?$", re.MULTILINE)  #: the end of a traceback; notes may follow it
DIED = re.compile(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", re.DOTALL)
SHARED = re.compile(
    r"[Bb]us error|unable to (open|allocate) shared memory|shared memory file|</torch_|<filename not specified>"
)
FILES = re.compile(r"[Tt]oo many open files|items of ancdata")
FEWER = (
    "Take fewer workers (data.workers=2; 0 loads in the main process), a smaller data.batch_size or a smaller data.size"
)


def own_words(error: BaseException) -> str:
    """Returns the error's own words, without the traceback that torch puts around an error of a loading process."""
    text = str(error)
    if "in DataLoader worker process" not in text:
        return text
    return RAISED.findall(text)[-1]


def loading_trouble(error: BaseException) -> str | None:
    """Returns what happened and what to do, for errors of memory and of dead loading processes; None for other errors.

    Torch raises a `RuntimeError` in the main process, at any place. Only its words say what it is. `data.workers=0`
    shows an error of a data set that ends its process.

    >>> loading_trouble(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    True
    """
    words = " ".join(own_words(error).split()).rstrip(".")
    if isinstance(error, OSError) and error.errno not in (errno.ENOMEM, errno.EMFILE):
        return None
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"There is too little memory{': ' * bool(words)}{words}. {FEWER}."
    if not isinstance(error, RuntimeError | OSError):
        return None
    if FILES.search(words):
        return f"There are too few file handles for the processes that load data: {words}. Raise `ulimit -n`. {FEWER}."
    if SHARED.search(words):
        return (
            "There is too little shared memory for the processes that load data, which pass their batches on through "
            f"it: {words}. `df -h /dev/shm` shows how much there is; a container gets more by --shm-size=8g or "
            f"--ipc=host. {FEWER}."
        )
    if DIED.search(words):
        return (
            f"A process that loads data has died: {words}. When the system kills one, memory has run out: every worker "
            f"holds a data set and several batches. {FEWER}. With data.workers=0 an error of the data set itself shows."
        )
    return None
