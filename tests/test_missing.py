"""Missing files in all data sets of many files: an error before work starts, or samples are skipped and counted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import celeba, chestxray14, cityscapes, nyuv2, sunrgbd

import mtlkit.datasets  # noqa: F401
from mtlkit.data.concat import Concat
from mtlkit.data.dataset import DATASETS, Dataset
from mtlkit.data.samples import Samples


def sun(root: Path) -> None:
    sunrgbd.write_frames(root)
    sunrgbd.write_toolbox(root)


SETS: dict[str, tuple[Callable[[Path], object], str, str, dict]] = {
    "celeba": (celeba.original, "celeba", "", {}),
    "chestxray14": (chestxray14.official, "chestxray14", "", {}),
    "cityscapes": (lambda root: cityscapes.write(root, train=6, test=2), "cityscapes", "depth", {"holdout": 0}),
    "mtan": (nyuv2.mtan, "nyuv2", "label", {"holdout": 0, "convention": "xyz"}),
    "astmt": (nyuv2.astmt, "nyuv2", "segmentation", {"holdout": 0, "convention": "xyz"}),
    "sunrgbd": (sun, "sunrgbd", "", {"holdout": 0, "size": (9, 7)}),
}


def sibling(image: Path, kind: str) -> Path:
    """Returns the file to remove: the image (SUN RGB-D: the frame's folder), or another file of the same frame."""
    if not kind:
        return image
    return next((image.parents[1] / kind).glob(f"{image.stem}.*"))


@pytest.fixture(params=SETS)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Dataset]:
    """Builds a data set whose third training sample lacks a file."""
    write, name, kind, options = SETS[request.param]
    write(tmp_path)

    def build(split: str = "train", **more: object) -> Dataset:
        return DATASETS.build(name, root=tmp_path, split=split, **options, **more)

    file = sibling(Path(build().label(2)), kind)
    file.rename(file.with_name(f".{file.name}"))
    return build


def test_missing_files_are_refused_or_skipped(damaged: Callable[..., Dataset]) -> None:
    data = damaged()
    assert data.missing in data.notes
    with pytest.raises(FileNotFoundError) as error:
        Samples(data)
    assert str(error.value) == f"{data.missing} To go on without these samples: data.on_error=skip."
    samples = Samples(data, skip=True)
    errors = [samples[0, index]["error"] for index in range(5)]
    assert [bool(text) for text in errors] == [False, False, True, False, False]
    assert "missing" in errors[2]


def test_what_is_not_used_may_be_missing(damaged: Callable[..., Dataset]) -> None:
    assert len(Samples(damaged(limit=2))) == 2
    assert not damaged("test").missing
    Samples(damaged("test"))


def test_sets_joined_to_one_miss_what_theirs_miss(damaged: Callable[..., Dataset]) -> None:
    joined = Concat([damaged(limit=2), damaged(limit=3)], ["one", "two"], [None, None])
    assert joined.missing == f"two: {damaged(limit=3).missing}"
    with pytest.raises(FileNotFoundError, match="two: "):
        Samples(joined)
