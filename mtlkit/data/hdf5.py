"""What reads HDF5 files has one way to say that a file is damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtlkit.data.dataset import BadSampleError

#: What h5py raises for a damaged file. It depends on the place of the damage: a wrong B-tree is a `RuntimeError`.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@contextmanager
def reading_hdf5(told: Callable[[Exception], Exception]) -> Iterator[None]:
    """Turns every error that h5py has for a damaged file into the error that `told` returns for it.

    >>> with reading_hdf5(lambda error: ValueError(f"a.mat is damaged: {error}")):
    ...     raise RuntimeError("wrong B-tree signature")
    Traceback (most recent call last):
    ValueError: a.mat is damaged: wrong B-tree signature
    """
    try:
        yield
    except BadSampleError:
        raise
    except DAMAGE as error:
        raise told(error) from error
