"""Augmentation that changes every target the way it changes the image, through albumentations."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks PyPI for the newest version

import albumentations as A
import cv2
import numpy as np
import torch

from mtlkit.data.dataset import Camera, Sample, Target
from mtlkit.registry import suggest

Values = np.ndarray  # one dense target: (H, W) or (C, H, W)


@dataclass(frozen=True)
class Handler:
    """How the values of a dense target change when its pixels move; the moving itself is done for all types alike.

    `flip(values)` gets the mirrored values. `zoom(values, scale, ray)` gets the values enlarged by `scale`; `ray`
    is the viewing ray (t_x, t_y, 1) that becomes the optical axis, None where the camera is not known. A handler that
    uses it says `needs_camera=True`. None leaves the values as they are.
    """

    flip: Callable[[Values], Values] | None = None
    zoom: Callable[[Values, float, np.ndarray | None], Values] | None = None
    needs_camera: bool = False


def flip_normals(normals: Values) -> Values:
    """The mirrored camera sees -x where the camera saw x."""
    return np.stack([-normals[0], normals[1], normals[2]])


def zoom_normals(normals: Values, scale: float, ray: np.ndarray | None) -> Values:
    """The normals after the depth axis was shrunk by `scale` and sheared so that `ray` became the optical axis."""
    assert ray is not None
    x, y, z = normals
    ray = (scale * ray).astype(normals.dtype)
    turned = np.stack([x, y, ray[0] * x + ray[1] * y + ray[2] * z])
    length = np.sqrt(np.einsum("cij,cij->ij", turned, turned))
    length[length == 0] = 1  # (0, 0, 0), invalid, stays
    turned /= length
    return turned


def zoom_depth(depth: Values, scale: float, ray: np.ndarray | None) -> Values:
    """What looks `scale` times larger to the same camera is `scale` times nearer."""
    return depth / depth.dtype.type(scale)


def zoom_disparity(disparity: Values, scale: float, ray: np.ndarray | None) -> Values:
    """The inverse depth of what is `scale` times nearer."""
    return disparity * disparity.dtype.type(scale)


#: What the augmentation knows of each type of target; None marks vectors, which no augmentation here changes.
#: A type of your own: `HANDLERS["edges"] = Handler()` (pixels move, values stay) or `HANDLERS["pose"] = None`.
HANDLERS: dict[str, Handler | None] = {
    "segmentation": Handler(),
    "depth": Handler(zoom=zoom_depth),
    "normals": Handler(flip=flip_normals, zoom=zoom_normals, needs_camera=True),
    "disparity": Handler(zoom=zoom_disparity),
    "reconstruction": Handler(),
    "multilabel": None,
    "classification": None,
    "regression": None,
}

#: How the code behind most published tables zooms, where that is another way.
MTAN_ZOOM: dict[str, Callable[[Values, float, np.ndarray | None], Values] | None] = {
    "normals": None,
    "disparity": zoom_depth,
}


class Augment:
    """Random mirror, zoom and colour, the same for a sample's image and its targets.

    `targets`: the data set's targets by name; only their types count.
    `flip`: the probability of a horizontal mirror. It negates n_x. Labels that tell left from right must not be
    flipped.
    `scale`: the factors s >= 1 to choose from. A crop of (W / s, H / s) at a random place is enlarged to (W, H),
    the image bilinearly, every dense target to its nearest pixel, so that no value arises that was not measured.
    `colour`: strength c of the jitter of brightness, contrast and saturation, each by a factor from [1 - c, 1 + c].
    `compat`: "mtan" zooms as the code behind most published tables does: normals are not turned, and inverse depth is
    divided by s, not multiplied. (There normals are interpolated, too, which shortens them at edges; here they keep
    their length, since every dense target takes its nearest pixel.)

    A call takes the sample's camera (f_x / width, f_y / height, c_x / width, c_y / height), with pixel i's centre at
    i + 1/2; zooming in on normals needs it.

    Geometry: a zoomed sample is what the *same* camera sees of a deformed scene. With r = (t_x, t_y, 1) the ray that
    the zoom moves to the principal point, a point (X, Y, Z) moves to (X - t_x Z, Y - t_y Z, Z / s), the only map that
    gives the zoomed pixels and divides depth by s. The normals become n' = (n_x, n_y, s n.r) / |.|, which is exact for
    every surface. (Leaving n as it is would be right for a camera of focal length s f.) A mirrored sample is what
    the mirrored camera sees, whose c_x is width - c_x.

    Raises `ValueError` for options out of range, for a type that `HANDLERS` lacks and, when called, for a missing
    camera.

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
        handlers = _handlers(targets)
        if compat == "mtan":
            handlers = {n: replace(h, zoom=MTAN_ZOOM.get(targets[n].type, h.zoom)) for n, h in handlers.items()}
        self.dense = tuple(handlers)
        self.scale = list(scale)
        turned = {name for name, handler in handlers.items() if handler.needs_camera and handler.zoom}
        self.turned = turned if max(scale) > 1 else set()
        steps: list[A.BasicTransform] = [_Move(handlers, self.scale, flip)]
        if colour > 0:
            steps.append(A.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=0, p=1))
        self._pipeline = A.Compose(steps, is_check_shapes=False)

    def __call__(self, sample: Sample, seed: int, camera: Camera | None = None) -> Sample:
        """A new sample; the same sample and `seed` (>= 0) give the same one everywhere. The input is not changed."""
        if camera is None and (turned := self.turned.intersection(sample["targets"])):
            raise ValueError(
                f"Zooming (data.augmentation.scale={self.scale}) turns the normals of {turned.pop()!r} by an angle "
                "that depends on the camera, of which the data set says nothing: give its class the attribute camera = "
                "(f_x / width, f_y / height, c_x / width, c_y / height), or set data.augmentation.scale=[1]."
            )
        # One generator for all steps: Compose's own set_random_seed would give each step the same draws.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        present = {_KEY + n: sample["targets"][n].numpy() for n in self.dense if n in sample["targets"]}
        # Contiguous, else every step copies it; OpenCV interleaves three times as fast as torch.
        pixels = cv2.merge(list(sample["image"].numpy()))
        out = self._pipeline(image=pixels, camera=camera, **present)
        image = torch.empty(sample["image"].shape)
        cv2.split(out["image"], list(image.numpy()))
        moved = {n: torch.from_numpy(np.ascontiguousarray(out[_KEY + n])) for n in self.dense if _KEY + n in out}
        return {"image": image, "targets": {**sample["targets"], **moved}}


_KEY = "target_"  # keeps a target called `mask` or `bboxes` apart from albumentations' own names


class _Move(A.DualTransform):
    """Enlarges a crop, then mirrors: `apply` moves the pixels of the image, `move` those of a dense target."""

    def __init__(self, handlers: Mapping[str, Handler], scales: list[float], flip: float) -> None:
        self.handlers = handlers  # before the parent asks for `targets`
        super().__init__(p=1)
        self.scales, self.flip = scales, flip

    @property
    def targets(self) -> dict[str, Callable[..., Values]]:
        moves = {_KEY + name: partial(self.move, handler) for name, handler in self.handlers.items()}
        return {"image": self.apply, **moves}

    @property
    def targets_as_params(self) -> list[str]:
        return ["camera"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The crop's size is a share 1 / scale of the image's; its `corner` is (left, top) as shares of it."""
        scale = self.py_random.choice(self.scales)
        corner = np.array([self.py_random.uniform(0, 1 - 1 / scale) for _ in range(2)])
        ray = None
        if (camera := data["camera"]) is not None:
            focal, centre = np.array(camera[:2]), np.array(camera[2:])
            ray = np.array([*((corner + centre / scale - centre) / focal), 1.0])
        return {"scale": scale, "corner": corner, "ray": ray, "mirrored": self.py_random.random() < self.flip}

    def apply(self, img: Values, scale: float, corner: np.ndarray, mirrored: bool, **params: Any) -> Values:
        if scale == 1:
            return cv2.flip(img, 1) if mirrored else img
        height, width = img.shape[:2]
        # New pixel i, with its centre at i + 1/2, comes from corner + (i + 1/2) / scale, less 1/2 as an index.
        x, y = corner * (width, height) + 0.5 / scale - 0.5
        step = 1 / scale
        if mirrored:  # from where the pixel width - 1 - i would come
            x, step = x + (width - 1) / scale, -step
        back = np.array([[step, 0, x], [0, 1 / scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(img, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def move(self, handler: Handler, values: Values, **params: Any) -> Values:
        scale, (left, top) = params["scale"], params["corner"]
        if scale != 1:
            rows, columns = (  # the pixels in which the points of `apply` lie
                (start * n + (np.arange(n) + 0.5) / scale).astype(np.intp)
                for start, n in zip((top, left), values.shape[-2:], strict=True)
            )
            values = values.take(rows, axis=-2).take(columns, axis=-1)
            if handler.zoom:
                values = handler.zoom(values, scale, params["ray"])
        if params["mirrored"]:
            values = values[..., ::-1]
            if handler.flip:
                values = handler.flip(values)
        return values


def _handlers(targets: Mapping[str, Target]) -> dict[str, Handler]:
    """The handlers of the dense targets by name."""
    found = {}
    for name, target in targets.items():
        if target.type not in HANDLERS:
            raise ValueError(
                f"The augmentation does not know the type {target.type!r} of the target {name!r}. "
                f"{suggest(target.type, HANDLERS)} For a type of your own, set "
                f"mtlkit.data.transforms.HANDLERS[{target.type!r}] to a Handler (None for vectors), or train with "
                "data.augment=false."
            )
        if (handler := HANDLERS[target.type]) is not None:
            found[name] = handler
    return found


def _check(flip: Any, scale: Any, colour: Any, compat: Any) -> None:
    """Refuses options out of range."""
    for option, value, fine, expected in (
        ("flip", flip, _numbers([flip], 0, 1), "a probability in [0, 1]"),
        ("scale", scale, _numbers(scale, 1, 1e3), "a list of factors >= 1 such as [1.0, 1.2, 1.5] (it only zooms in)"),
        ("colour", colour, _numbers([colour], 0, 1), "a strength in [0, 1]"),
        ("compat", compat, compat in (None, "mtan"), "null or 'mtan'"),
    ):
        if not fine:
            raise ValueError(f"The augmentation's {option} must be {expected}, got {value!r}.")


def _numbers(values: Any, low: float, high: float) -> bool:
    """Whether `values` is a sequence, not empty, of numbers from `low` to `high`."""
    if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high for v in values)
