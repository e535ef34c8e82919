"""Which process of several prints how a command failed, and what those print that only lost another one."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from mtlkit.cli.output import is_main

PATIENCE = 5.0  #: seconds in which the main process can say the same
LOST = re.compile(r"gloo/transport|[Cc]onnection (was )?(closed|reset)|remote process exited|Broken pipe")
ENDED = (
    "Another process of this run has ended or does not answer, so none can go on. Its message says why. If there is "
    "none, it was killed, for example because memory ran out. Start all processes again: `mtlkit train` with --resume "
    "goes on from the last checkpoint."
)


def several() -> bool:
    """Returns whether a launcher started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def lost_process(error: BaseException) -> str | None:
    """Returns what happened and what to do if the error is that another process is gone; None for other errors.

    Torch raises a `RuntimeError`, wherever this process waits for the others. Only its words say what it is.

    >>> lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    True
    """
    return ENDED if several() and isinstance(error, RuntimeError) and LOST.search(str(error)) else None


@contextmanager
def known_to_all() -> Iterator[None]:
    """Is for work before the run: after an error in the block on this process alone, the others must not wait for it.

    They notice the end of a process only when they are connected with it.
    """
    try:
        yield
    except Exception:
        if several():
            from mtlkit import distributed  # only for a failure: it takes seconds

            distributed.start()
        raise


def voice(message: str) -> str:
    """Returns what this process prints about its failure: of those that fail with the same words, only one prints.

    That is the main process, if it fails in this way. Otherwise the failure is not that of all, and the message names
    the process. The others notice a lost process only after the message, for this process lives until then.
    """
    if not several():
        return message
    import torch.distributed as torch_distributed  # only for a failure

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    key = f"mtlkit/{attempt}/{hashlib.sha256(message.encode()).hexdigest()}"
    name = "" if is_main() else f"rank {os.environ['RANK']}: "
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        limit = timedelta(seconds=PATIENCE)
        store = torch_distributed.TCPStore(address, port, is_master=False, timeout=limit, wait_for_workers=False)
        until = time.monotonic() + (0 if is_main() else PATIENCE)
        while time.monotonic() < until and not store.check([key]):
            time.sleep(0.1)
        return f"{name}{message}" if store.add(key, 1) == 1 else ""
    except (RuntimeError, KeyError, ValueError):  # the process that keeps the store has ended
        return f"{name}{message}"
