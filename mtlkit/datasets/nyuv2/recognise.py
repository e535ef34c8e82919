"""Finds out which form of NYUv2 is at `data.root`."""

import os
from pathlib import Path
from typing import Any

from mtlkit.data.files import root_folder
from mtlkit.datasets.nyuv2.folders import KINDS, Astmt, Mtan
from mtlkit.datasets.nyuv2.form import Crop, Form
from mtlkit.datasets.nyuv2.official import Official
from mtlkit.datasets.nyuv2.sources import FILE, FORMS


def recognise(root: str | Path | None, wanted: str | None) -> tuple[str, Path]:
    """Returns the form, one of `FORMS`, and its folder or file: at `root` or, if there is none, in one of its folders.

    Raises `FileNotFoundError` if there is none, and `ValueError` if there are several or if it is not `wanted`.
    """
    path = None if root is None else Path(root).expanduser()
    if path is not None and path.is_file():
        found = [("official", path)]
    else:
        path = root_folder(root, "nyuv2", " or ".join(FORMS.values()))
        found = _forms(path) or [pair for name in sorted(os.listdir(path)) for pair in _forms(path / name)]
    if not found:
        raise FileNotFoundError(_nothing(path))
    fitting = [pair for pair in found if wanted in (None, pair[0])]
    if not fitting:
        raise ValueError(
            f"data.form={wanted}, but data.root={path} holds the form {' and '.join(sorted({f for f, _ in found}))}. "
            "Published figures depend on the form, as each has its own crop, size and labels. Set data.root to "
            f"a folder with {FORMS[str(wanted)]}; with another data.form figures are not to be compared with those."
        )
    if len(fitting) > 1:
        listed = ", ".join(f"{place} ({form})" for form, place in fitting)
        raise ValueError(f"data.root={path} holds several forms of NYUv2: {listed}. Choose by data.root or data.form.")
    return fitting[0]


def _forms(path: Path) -> list[tuple[str, Path]]:
    """Returns the forms that start in a folder, even if they are incomplete."""
    found = [("official", path / FILE)] if os.path.lexists(path / FILE) else []
    if any(os.path.isdir(path / part / kind) for part in ("train", "val") for kind in ("image", "label")):
        found.append(("mtan", path))
    if os.path.isdir(path / "gt_sets"):
        found.append(("astmt", path))
    return found


def _nothing(path: Path) -> str:
    """Describes what is wrong with a folder that contains no form."""
    whole, names = path.resolve(), sorted(os.listdir(path))
    if whole.name in ("train", "val") and _forms(whole.parent):
        return f"data.root={path} is a part of MTAN's arrays: set data.root={whole.parent}."
    if whole.name in ("gt_sets", *KINDS) and _forms(whole.parent):
        return f"data.root={path} is a part of the folders of ASTMT: set data.root={whole.parent}."
    return (
        f"data.root={path} holds no form of NYUv2: neither {', nor '.join(FORMS.values())}. "
        f"Found: {', '.join(names[:10]) or 'nothing'}{', ...' * (len(names) > 10)}."
    )


def open_form(form: str, path: Path, crop: Crop, depth: str, normals: str | None) -> Form[Any]:
    """Opens the form at a path. The options are those of `Official`."""
    if form == "official":
        return Official(path, crop, depth, normals)
    return Mtan(path) if form == "mtan" else Astmt(path)
