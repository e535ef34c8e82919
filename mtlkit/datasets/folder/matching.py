"""Finds files by patterns, and matches them by what the wildcards of the patterns stand for."""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtlkit.data.files import natural
from mtlkit.registry import did_you_mean

SHOWN = 3  #: so many names are given as examples


def find_files(root: Path, patterns: Sequence[str], key: str) -> dict[str, str]:
    """Returns the files that match the patterns: stem -> path below the root, in the order of the numbers in the paths.

    Raises `FileNotFoundError` if there is none, and `ValueError` for two files of one stem. `key` is the option that
    has the patterns.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, root_dir=root, recursive=True), key=natural):
            if not (root / path).is_file():
                continue
            path = path.replace(os.sep, "/")
            other = found.setdefault(name := stem(pattern, path), path)
            if other != path:
                raise ValueError(
                    f"{key}: {root / other} and {root / path} both have the stem {name!r}, so nobody knows which one "
                    "belongs to it. Remove one of them, or use a pattern that matches one only."
                )
    if not found:
        raise FileNotFoundError(
            f"{key}: no file in {root} matches {' or '.join(patterns)}. {_what_there_is(root, patterns)}"
        )
    return found


def stem(pattern: str, path: str) -> str:
    """Returns what the wildcards of a pattern stand for in a path that matches it, without the file's ending.

    >>> stem("images/**/*.jpg", "images/kitchen/001.jpg"), stem("*/depth/*_depth.png", "kitchen/depth/001_depth.png")
    ('kitchen/001', 'kitchen/001')
    """
    *folders, name = pattern.replace("***", "**").split("/")
    text = "".join("(?:(.*)/)?" if folder == "**" else f"{_translated(folder)}/" for folder in folders)
    before, dot, ending = name.replace("**", "*").rpartition(".")
    plain = os.path.splitext(path)[0]
    # Wildcards in the ending, as in *.jp*g, are no part of the stem. Without a dot, the last one is the ending, too.
    text += f"{_translated(before)}[.]{''.join(_pieces(ending))}" if dot else _translated(ending)
    matched = re.fullmatch(text, path if dot else plain, re.DOTALL)
    return "/".join(group for group in (matched.groups() if matched else ()) if group) or plain


def _translated(part: str) -> str:
    """Returns a part of a pattern as a regular expression. Its one group is all from the first wildcard to the last."""
    pieces = _pieces(part)
    if len(pieces) == 1:
        return pieces[0]
    return f"{pieces[0]}({''.join(pieces[1:-1])}){pieces[-1]}"


def _pieces(part: str) -> list[str]:
    """Returns text, wildcard, text, ..., text as regular expressions."""
    wild = {"*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*|\?|\[[^]]+\])", part)
    return [
        wild.get(piece, piece.replace("[!", "[^")) if number % 2 else re.escape(piece)
        for number, piece in enumerate(pieces)
    ]


def without_labels(
    images: Mapping[str, str], files: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], Sequence[str]]:
    """Returns the images that are not label files, and sentences on those that are.

    Labels often lie beside their images: images/*.png also matches images/1_mask.png, which is the mask of image 1.
    A file may be the label of itself, as an image that is to be reconstructed.

    >>> without_labels({"1": "a/1.png", "1_mask": "a/1_mask.png"}, {"mask": {"1": "a/1_mask.png"}})[0]
    {'1': 'a/1.png'}
    """
    belongs = {(path, key) for found in files.values() for key, path in found.items()}
    labels = {path for path, _ in belongs}
    kept = {key: path for key, path in images.items() if path not in labels or (path, key) in belongs}
    left = [path for key, path in images.items() if key not in kept]
    notes = [f"{len(left)} files match as images but are labels, and are not used as images: {_first(left)}."]
    return kept, notes if left else []


def matched_in_words(name: str, pattern: str, images: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Returns a sentence on which images have a file, which have none, and which files have no image."""
    without = [path for key, path in images.items() if key not in files]
    alone = [path for key, path in files.items() if key not in images]
    text = f"{name}: {len(files) - len(alone)} of {len(images)} images have a file {pattern}."
    if without:
        text += f" Without one: {_first(without)}."
    if alone:
        text += f" {len(alone)} files have no image and are not used: {_first(alone)}."
    return text


def check_some_match(key: str, pattern: str, images: Mapping[str, str], files: Mapping[str, str], way: str) -> None:
    """Raises `ValueError` if not one file belongs to an image. `way` is the pattern of the images."""
    if images.keys() & files.keys():
        return
    one, other = next(iter(images)), next(iter(files))
    close = next((hint for name in images if (hint := did_you_mean(name, files))), "")
    raise ValueError(
        f"{key}: none of the {len(files)} files {pattern} belongs to one of the {len(images)} images {way}. They are "
        f"matched by what the wildcards * and ** stand for: {one!r} in the first image, {other!r} in the first file. "
        f"{close or 'Write what differs into the patterns, such as *_rgb.png and *_depth.png.'}"
    )


class Names:
    """Finds an image by what a list or a table calls it: its path, its stem or its file name, with or without ending.

    >>> Names({"a/1": "images/a/1.jpg", "b/1": "images/b/1.jpg", "b/2": "images/b/2.jpg"}).find("2.jpg")
    'b/2'
    """

    def __init__(self, images: Mapping[str, str]) -> None:
        self.images = images
        known: dict[str, set[str]] = {}
        for key, path in images.items():
            plain, ending = os.path.splitext(path)
            base = path.rpartition("/")[2]
            for name in {key, key + ending, path, plain, base, os.path.splitext(base)[0]}:
                known.setdefault(name, set()).add(key)
        self._known = {name: next(iter(keys)) for name, keys in known.items() if len(keys) == 1}

    def find(self, name: str) -> str | None:
        """Returns the stem of the image, or None if there is none of that name, or several."""
        name = name.strip().replace("\\", "/").removeprefix("./")
        return name if name in self.images else self._known.get(name)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _what_there_is(root: Path, patterns: Iterable[str]) -> str:
    """Returns what the deepest folder of the first pattern that exists has."""
    folder = root
    for part in next(iter(patterns)).split("/")[:-1]:
        if any(sign in part for sign in "*?["):
            break
        if not (folder / part).is_dir():
            there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
            hint = did_you_mean(part, there) or f"It has {_first(there) or 'no folders'}."
            return f"{folder} has no folder {part!r}. {hint}"
        folder /= part
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"{folder} has {_first(there) or 'nothing in it'}."
