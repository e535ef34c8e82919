"""Surface normals in files: how vectors are coded, and which axis each channel holds."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mtlkit.data.dataset import BadSampleError
from mtlkit.datasets.nyuv2.form import Form, Key
from mtlkit.files import write_whole

AXES = "xyz"
CONVENTIONS = tuple(
    "".join(sign + axis for sign, axis in zip(signs, axes, strict=True))
    for axes in itertools.permutations(AXES)
    for signs in itertools.product(("", "-"), repeat=3)
)
SHORT = 0.5  # a vector that is not longer means "none"
PROBES = 20  # the number of training frames that are used to find the convention
LEAST, MARGIN = 0.7, 0.2  # the mean cosine with normals from depth, and its distance to the second best


def decode(values: np.ndarray) -> np.ndarray:
    """Decodes stored vectors (H, W, 3) to float32 of unit length, and (0, 0, 0) where there is no vector.

    Bytes stand for -1 to 1. Their zero is between the codes 127 and 128, so both mean "none". Some files divide by 127
    instead of 127.5, which turns a vector by at most 0.4 degrees. Floats are vectors, or vectors / 2 + 1/2 as in an
    image in [0, 1]. The lengths decide which of the two fits. Vectors shorter than 1/2 mean "none".

    >>> decode(np.array([[[127, 128, 127], [255, 128, 128]]], np.uint8)).round(2).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]
    >>> decode(np.array([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]])).tolist()
    [[[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]]
    """
    vectors = _vectors(values)
    length = _length(vectors)
    known = np.isfinite(length) & (length > SHORT)
    vectors = vectors / np.where(known, length, 1)[..., None]
    vectors[~known] = 0
    return vectors


def lengths_in_words(frames: Sequence[np.ndarray]) -> str:
    """Returns how many of the vectors in the stored values of frames are not of unit length, in a sentence or three.

    >>> frame = np.array([[[0.0, 0.0, -1.0], [0.0, 0.6, -0.6], [0.0, 0.0, -0.4], [0.0, 0.0, 0.0]]])
    >>> lengths_in_words([frame])[:71]
    '66.7 % of the normals in 1 frame are not of unit length (up to 1 %). He'
    """
    lengths = np.concatenate([_length(_vectors(values)).ravel() for values in frames])
    lengths = lengths[lengths > 0]
    where = "1 frame" if len(frames) == 1 else f"{len(frames)} frames"
    odd, short = (100 * part.sum() / max(len(lengths), 1) for part in (np.abs(lengths - 1) > 0.01, lengths <= SHORT))
    if not odd:
        return f"All normals in {where} are of unit length (up to 1 %)."
    return (
        f"{odd:.3g} % of the normals in {where} are not of unit length (up to 1 %). Here they are scaled to it, and "
        f"those of at most {SHORT} ({short:.3g} %) are left out. MTAN's code uses them as they are, also in its "
        "metrics, where a shorter normal gives a larger angle."
    )


def _vectors(values: np.ndarray) -> np.ndarray:
    """Returns the stored vectors with their own lengths, float32."""
    if values.dtype.kind in "iu":
        return values.astype(np.float32) / np.float32(127.5) - 1
    vectors = values.astype(np.float32)
    return 2 * vectors - 1 if _is_image(vectors) else vectors


def _is_image(vectors: np.ndarray) -> bool:
    """Returns whether vectors / 2 + 1/2 fits the values better: its lengths are closer to 1, or to 0 for none."""

    def misfit(values: np.ndarray) -> float:
        length = _length(values)
        return float(np.minimum(length, np.abs(length - 1)).sum())

    return bool(vectors.min() >= 0) and misfit(2 * vectors - 1) < misfit(vectors)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def parse(convention: str) -> tuple[list[int], list[int]]:
    """Returns the axis (0 to 2) and the sign of each stored channel. Raises `ValueError`.

    >>> parse("-zyx")
    ([2, 1, 0], [-1, 1, 1])
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            "expected 'auto' or the axis that each stored channel holds, with a minus if it points the other way, "
            f"found {convention!r}; xyz is x right, y down, z forward, and zyx, x-y-z, ... are others"
        )
    parts = re.findall("-?[xyz]", convention)
    return [AXES.index(part[-1]) for part in parts], [-1 if part[0] == "-" else 1 for part in parts]


def turn(normals: np.ndarray, convention: str) -> np.ndarray:
    """Turns stored normals (..., 3) into our frame of axes.

    >>> turn(np.array([0.1, 0.2, 0.3]), "-zyx").tolist()
    [0.3, 0.2, -0.1]
    """
    if convention == AXES:
        return normals
    axes, signs = parse(convention)
    turned = np.empty_like(normals)
    turned[..., axes] = normals * np.array(signs, normals.dtype)
    return turned


def find_convention(form: Form[Key]) -> tuple[str, str]:
    """Returns the convention in which a form's normals are most similar to normals from its depth, and a note on it.

    Raises `ValueError` if none is clearly the best. The answer is stored in the user's cache folder ($XDG_CACHE_HOME or
    ~/.cache) if it is writable. It is used until the first file of normals changes.
    """
    frames = form.train or form.test  # an axis is no label, so test frames are allowed here if there are no others
    probes = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, PROBES).round().astype(int))]
    file = form.normals_file(probes[0])
    assert file is not None
    cache = _cache_file(file)
    ranking = _cached(cache)
    if ranking is None:
        ranking = _search(form, probes, file.parent)
        _keep(cache, ranking)
    (best, convention), (second, _) = ranking[:2]
    return convention, (
        f"The channels of the normals hold {convention} (x right, y down, z forward): a mean cosine of {best:.2f} with "
        f"normals from depth, {second:.2f} for the next convention."
    )


Ranking = list[tuple[float, str]]


def _search(form: Form[Key], probes: Sequence[Key], folder: Path) -> Ranking:
    """Ranks the conventions. The first is clearly the best."""
    problems: list[str] = []
    ranking = rank(_pairs(form, probes, problems))
    compared = len(probes) - len(problems)
    if not compared:
        raise ValueError(
            f"Which axes the normals in {folder} have cannot be found: of {len(probes)} frames none could be compared "
            f"with normals from its depth. The first: {problems[0].rstrip('.')}. Get the files again, or set "
            "data.convention."
        )
    (best, convention), (second, other) = ranking[:2]
    if not _is_clear(ranking):
        raise ValueError(
            f"The normals in {folder} do not fit the depth: over {compared} frames the mean cosine with normals from "
            f"depth is {best:.2f} for the best convention, {convention}, and {second:.2f} for the second, {other}; "
            f"expected at least {LEAST} and a distance of {MARGIN}. Are these the normals of these frames? If so, set "
            f"data.convention to the axes that the stored channels hold, such as {convention}."
        )
    return ranking


def rank(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Ranking:
    """Ranks the 48 conventions by the mean cosine of stored normals and reference normals, the best first."""
    products, count = np.zeros((3, 3)), 0
    for stored, reference in pairs:
        both = stored.any(-1) & reference.any(-1)
        products += stored[both].T.astype(np.float64) @ reference[both]
        count += int(both.sum())
    cosines = []
    for convention in CONVENTIONS:
        axes, signs = parse(convention)
        cosines.append((float(products[range(3), axes] @ signs) / max(count, 1), convention))
    return sorted(cosines, reverse=True)


def _is_clear(ranking: Ranking) -> bool:
    (best, _), (second, _) = ranking[:2]
    return best >= LEAST and best - second >= MARGIN


def _pairs(form: Form[Key], probes: Iterable[Key], problems: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields stored and reference normals. `problems` receives the problem of each frame that cannot be compared."""
    for key in probes:
        try:
            stored, reference = form.normals(key), form.reference(key)
        except BadSampleError as error:  # raised again when that sample is read
            problems.append(str(error))
            continue
        if stored.shape != reference.shape:
            problems.append(f"{form.label(key)} has normals of {stored.shape} and depth of {reference.shape[:2]}.")
        elif not (stored.any(-1) & reference.any(-1)).any():
            problems.append(f"{form.label(key)} has no pixel with both a normal and depth around it.")
        else:
            yield stored, reference


def _cache_file(file: Path) -> Path | None:
    try:
        state = file.stat()
        key = f"1 {file.resolve()} {state.st_size} {state.st_mtime_ns}"
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except (OSError, RuntimeError):  # a link to itself, or there is no home folder
        return None
    return base / "mtlkit" / "nyuv2" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _cached(cache: Path | None) -> Ranking | None:
    try:
        best = [(float(cosine), str(name)) for cosine, name in json.loads(cache.read_text())] if cache else []
    except (OSError, ValueError, TypeError):
        return None
    fine = len(best) == 2 and all(name in CONVENTIONS for _, name in best)
    return best if fine and _is_clear(best) else None


def _keep(cache: Path | None, ranking: Ranking) -> None:
    if cache is None:
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, json.dumps(ranking[:2]).encode())
    except OSError:
        pass  # the next run finds the convention again
