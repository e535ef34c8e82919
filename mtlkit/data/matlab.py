"""MATLAB files, old ones by SciPy and those of v7.3 by h5py, have one way to say that a file is damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtlkit.data.dataset import BadSampleError


@contextmanager
def reading_mat(told: Callable[[Exception], Exception]) -> Iterator[None]:
    """Turns every error of SciPy or h5py for a damaged file into the error that `told` returns for it.

    No list of their errors would be complete: where the damage is decides between `OSError`, `RuntimeError`,
    `zlib.error`, `UnboundLocalError` and others. So the block should only hold what reads the file.

    >>> with reading_mat(lambda error: ValueError(f"a.mat is damaged: {error}")):
    ...     raise RuntimeError("wrong B-tree signature")
    Traceback (most recent call last):
    ValueError: a.mat is damaged: wrong B-tree signature
    """
    try:
        yield
    except BadSampleError:  # says already what is wrong
        raise
    except Exception as error:
        raise told(error) from error
