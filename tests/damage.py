"""Damages a checkpoint in one of many ways, to see what mtlkit says of it."""

import random
from collections.abc import Callable
from pathlib import Path


def damage(folder: Path, number: int, other: Path | None = None) -> str:
    """Damages one file of a checkpoint, or exchanges two, and says in words what it did.

    A number always does the same to the same folder. Numbers that follow each other go through all files and all ways.
    With `other`, another checkpoint, the last way takes a file from there.
    """
    draw = random.Random(number)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    file, way = files[number % len(files)], WAYS[number // len(files) % len(WAYS)]
    if way is exchange:
        second = other / file.name if other is not None else draw.choice([path for path in files if path != file])
        return f"{file.name}: {exchange(file, second)}"
    data = file.read_bytes()
    changed, words = way(data, draw)
    assert changed != data
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    return f"{file.name}: {words}"


def flip_bit(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    return _with(data, place, bytes([data[place] ^ (1 << bit)])), f"bit {bit} of byte {place} is flipped"


def flip_at_the_start(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Changes what a reader needs first: lengths, names, magic numbers."""
    place = draw.randrange(min(len(data), 64))
    return _with(data, place, bytes([data[place] ^ draw.randrange(1, 256)])), f"byte {place} is another"


def cut(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    length = draw.choice([0, draw.randrange(len(data)), len(data) - 1])
    return data[:length], f"only {length} of {len(data)} bytes"


def lose_a_block(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Overwrites a block with bytes that are each another than before, as a disk does that loses a sector."""
    start = draw.randrange(len(data))
    block = bytes(byte ^ draw.randrange(1, 256) for byte in data[start : start + 512])
    return _with(data, start, block), f"{len(block)} bytes from byte {start} are others"


def extend(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    return data + draw.randbytes(draw.randrange(1, 100)), "bytes behind the end"


def remove(data: bytes, draw: random.Random) -> tuple[None, str]:
    return None, "removed"


def exchange(file: Path, second: Path) -> str:
    one, two = file.read_bytes(), second.read_bytes()
    file.write_bytes(two)
    second.write_bytes(one)
    return f"exchanged with {second.parent.name}/{second.name}"


WAYS: tuple[Callable, ...] = (flip_bit, flip_at_the_start, cut, lose_a_block, extend, exchange, remove)


def _with(data: bytes, start: int, part: bytes) -> bytes:
    return data[:start] + part + data[start + len(part) :]
