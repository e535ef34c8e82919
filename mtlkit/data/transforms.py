"""Augmentation by albumentations that changes every target in the same way as the image."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # without this, the import asks PyPI for the newest version

import albumentations as A
import cv2
import numpy as np
import torch

from mtlkit.data.dataset import Sample
from mtlkit.motion import pack
from mtlkit.target import Camera, DenseKind, Kind, Motion, Target, kinds_of

Values = np.ndarray


class Augment:
    """Random mirror, zoom and colour, the same for a sample's image and its targets.

    `targets`: the data set's targets by name. Their kinds know how their values change (`mtlkit.target.Kind.move`).
    `flip`: the probability of a horizontal mirror. It negates n_x. Labels that tell left from right must not be
    flipped. `scale`: the factors s >= 1 to choose from. A crop of (W / s, H / s) at a random place is enlarged to (W,
    H), the image bilinearly, and every dense target by its nearest pixel, so there is no value that was not measured.
    `colour`: the strength c of random brightness, contrast and saturation, each a factor from [1 - c, 1 + c]. `compat`:
    "mtan" zooms as the code behind most published tables does, number by number: the crop lies between whole pixels,
    and its corners become the corners of the picture. Dense targets take the pixel to the left and above. Normals are
    not turned but interpolated like the image, which makes them shorter at edges. Inverse depth is divided by s, not
    multiplied.

    A call takes the sample's camera (f_x / width, f_y / height, c_x / width, c_y / height), with pixel i's centre at
    i + 1/2; zooming in on normals needs it.

    Geometry: a zoomed sample is what the *same* camera sees of a deformed scene. Let r = (t_x, t_y, 1) be the ray that
    the zoom moves to the principal point. A point (X, Y, Z) moves to (X - t_x Z, Y - t_y Z, Z / s). This is the only
    map that gives the zoomed pixels and divides depth by s. The normals become n' = (n_x, n_y, s n.r) / |.|, which is
    exact for every surface. (Leaving n as it is would be right for a camera of focal length s f.) A mirrored sample is
    what the mirrored camera sees, whose c_x is width - c_x.

    Raises `ValueError` for options out of range and, when called, for a missing camera, and `LookupError` for a kind
    that is not registered.

    >>> augment = Augment({"depth": Target("depth")}, flip=1.0, scale=[2.0])
    >>> sample: Sample = {"image": torch.rand(3, 4, 6), "targets": {"depth": torch.full((1, 4, 6), 3.0)}}
    >>> augment(sample, seed=0)["targets"]["depth"].unique()
    tensor([1.5000])
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        flip: float = 0.0,
        scale: Sequence[float] = (1.0,),
        colour: float = 0.0,
        compat: str | None = None,
    ) -> None:
        _check(flip, scale, colour, compat)
        kinds = {name: kind for name, kind in kinds_of(targets).items() if type(kind).move is not Kind.move}
        self.moved = tuple(kinds)
        self.scale, self.colour, self.compat = list(scale), colour, compat
        self.only_here = [name for name, kind in kinds.items() if not _moves_batches(kind)]
        turned = {name for name, kind in kinds.items() if kind.needs_camera(compat)}
        self.turned = turned if max(scale) > 1 else set()
        self._move = _Move(kinds, self.scale, flip, compat)
        self._jitter = A.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=0, p=1)
        steps: list[A.BasicTransform] = [self._move, self._jitter] if colour > 0 else [self._move]
        self._pipeline = A.Compose(steps, is_check_shapes=False)

    def __call__(self, sample: Sample, seed: int, camera: Camera | None = None) -> Sample:
        """Returns a new sample, always the same for a sample and `seed` (>= 0). The input does not change."""
        self._check(sample, camera)
        # One generator for all steps. Compose's own set_random_seed would give each step the same draws.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        present = {_KEY + n: sample["targets"][n].numpy() for n in self.moved if n in sample["targets"]}
        # Contiguous, because otherwise every step copies it. OpenCV interleaves three times as fast as torch.
        pixels = cv2.merge(list(sample["image"].numpy()))
        out = self._pipeline(image=pixels, camera=camera, **present)
        image = torch.empty(sample["image"].shape)
        cv2.split(out["image"], list(image.numpy()))
        moved = {n: torch.from_numpy(np.ascontiguousarray(out[_KEY + n])) for n in self.moved if _KEY + n in out}
        return {"image": image, "targets": {**sample["targets"], **moved}}

    def draw(self, sample: Sample, seed: int, camera: Camera | None = None) -> tuple[np.ndarray, ...]:
        """Returns what a call with these arguments would do, for `mtlkit.data.finish.Finish` to do it on the device.

        The result is a row of each of its `moves`. Of the sample, only the shape of the image and the names of the
        targets matter.
        """
        self._check(sample, camera)
        draw = random.Random(seed)
        self._pipeline.set_random_state(np.random.default_rng(seed), draw)
        draw.random()  # albumentations draws whether to begin at all
        height, width = sample["image"].shape[1:]
        motion = self._move.draw((width, height), camera)
        colours = np.tile(_SAME, (3, 1))
        if self.colour > 0:
            drawn = self._jitter.get_params()
            f = [drawn["brightness"], drawn["contrast"], drawn["saturation"]]
            changes = [(f[0], 0, 0), (f[1], 1 - f[1], 0), (f[2], 0, 1 - f[2])]
            colours = np.array([changes[i] for i in drawn["order"] if i < len(changes)], np.float32)
        return *pack(motion), colours

    def still(self, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Returns the result of `draw` that leaves an image of `size` (width, height) as it is."""
        motion = Motion(size, 1.0, np.zeros(2), None, mirrored=False, compat=self.compat)
        return *pack(motion), np.tile(_SAME, (3, 1))

    def _check(self, sample: Sample, camera: Camera | None) -> None:
        """Raises `ValueError` if the sample cannot be augmented."""
        if camera is None and (turned := self.turned.intersection(sample["targets"])):
            raise ValueError(
                f"Zooming (data.augmentation.scale={self.scale}) turns the values of {turned.pop()!r} by an angle "
                "that depends on the camera, which the data set does not give: give its class the attribute camera = "
                "(f_x / width, f_y / height, c_x / width, c_y / height), or set data.augmentation.scale=[1]."
            )
        if self.colour > 0 and len(sample["image"]) not in (1, 3):
            raise ValueError(
                f"data.augmentation.colour={self.colour:g} changes pictures of 1 or 3 channels, and these have "
                f"{len(sample['image'])}. Set data.augmentation.colour=0."
            )


_KEY = "target_"  # keeps a target called `mask` or `bboxes` apart from albumentations' own names
_SAME = np.array([1, 0, 0], np.float32)  # a change of colours that changes nothing, for `mtlkit.data.finish.coloured`


class _Move(A.DualTransform):
    """Enlarges a crop, then mirrors: `apply` moves the image's pixels, and every target's kind moves its values."""

    def __init__(self, kinds: Mapping[str, Kind], scales: list[float], flip: float, compat: str | None) -> None:
        self.kinds = kinds  # before the parent's constructor, which asks for `targets`
        super().__init__(p=1)
        self.scales, self.flip, self.compat = scales, flip, compat

    @property
    def targets(self) -> dict[str, Callable[..., Values]]:
        moves = {_KEY + name: partial(self.move, kind) for name, kind in self.kinds.items()}
        return {"image": self.apply, **moves}

    @property
    def targets_as_params(self) -> list[str]:
        return ["camera"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = data["image"].shape[:2]
        return {"motion": self.draw((width, height), data["camera"])}

    def draw(self, size: tuple[int, int], camera: Camera | None) -> Motion:
        """Draws the motion. The crop has 1 / scale of the image's size; its `corner` is (left, top) as shares of it."""
        scale = self.py_random.choice(self.scales)
        width, height = size
        if self.compat == "mtan":
            corner = np.array([self.py_random.randint(0, n - int(n / scale)) / n for n in (width, height)])
        else:
            corner = np.array([self.py_random.uniform(0, 1 - 1 / scale) for _ in range(2)])
        ray = None
        if camera is not None:
            focal, centre = np.array(camera[:2]), np.array(camera[2:])
            ray = np.array([*((corner + centre / scale - centre) / focal), 1.0])
        mirrored = self.py_random.random() < self.flip
        return Motion(size, scale, corner, ray, mirrored, self.compat)

    def apply(self, img: Values, motion: Motion, **params: Any) -> Values:
        scale, corner, (width, height) = motion.scale, motion.corner, motion.size
        if scale == 1:
            return cv2.flip(img, 1) if motion.mirrored else img
        if motion.compat == "mtan":
            enlarged = np.ascontiguousarray(motion.interpolated(img.transpose(2, 0, 1)).transpose(1, 2, 0))
            return cv2.flip(enlarged, 1) if motion.mirrored else enlarged
        # New pixel i, with its centre at i + 1/2, comes from corner + (i + 1/2) / scale, less 1/2 as an index.
        x, y = corner * (width, height) + 0.5 / scale - 0.5
        step = 1 / scale
        if motion.mirrored:  # pixel i then comes from where pixel width - 1 - i would come
            x, step = x + (width - 1) / scale, -step
        back = np.array([[step, 0, x], [0, 1 / scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(img, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def move(self, kind: Kind, values: Values, motion: Motion, **params: Any) -> Values:
        return kind.move(values, motion)


def _moves_batches(kind: Kind) -> bool:
    """Returns whether a kind moves batches in the same way as single values: no class overrides only the latter."""
    pairs = {"move": "move_batch"}
    if isinstance(kind, DenseKind) and type(kind).move is DenseKind.move:
        pairs = {"flip": "change_batch", "zoom": "change_batch"}
    return all(issubclass(_owner(kind, batch), _owner(kind, single)) for single, batch in pairs.items())


def _owner(kind: Kind, method: str) -> type:
    return next(cls for cls in type(kind).__mro__ if method in vars(cls))


def _check(flip: Any, scale: Any, colour: Any, compat: Any) -> None:
    """Raises `ValueError` for options out of range."""
    for option, value, fine, expected in (
        ("flip", flip, _numbers([flip], 0, 1), "a probability in [0, 1]"),
        ("scale", scale, _numbers(scale, 1, 1e3), "a list of factors >= 1 such as [1.0, 1.2, 1.5] (it only zooms in)"),
        ("colour", colour, _numbers([colour], 0, 1), "a strength in [0, 1]"),
        ("compat", compat, compat in (None, "mtan"), "null or 'mtan'"),
    ):
        if not fine:
            raise ValueError(f"The augmentation's {option} must be {expected}, got {value!r}.")


def _numbers(values: Any, low: float, high: float) -> bool:
    """Returns whether `values` is a sequence of at least one number, all from `low` to `high`."""
    if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high for v in values)
