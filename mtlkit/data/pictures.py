"""Reads pictures. Only here do files become pixels, for every data set, for predictions and for reports."""

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from mtlkit.data.dataset import BadSampleError, ChannelsError
from mtlkit.data.files import unreadable
from mtlkit.data.limits import check_pixels, pixel_limit, too_large

#: What Pillow raises for a file, or for EXIF data, that it cannot read. It depends on the format.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError),
    struct.error,
)
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the latter where warnings are errors
#: The endings of picture files, by which a folder is searched. A file that is named itself may have any ending.
ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
LOSSY = ("JPEG", "MPO", "WEBP", "GIF", "AVIF")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
BITS, PHOTOMETRIC = 258, 262  # tags of a TIFF
#: How to turn pixels upright, by EXIF's number for the orientation.
UPRIGHT: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


def read_picture(path: Path, bounds: tuple[float, float] | None = None, *, data: bytes | None = None) -> np.ndarray:
    """Reads a picture in any of PIL's formats as (H, W, 3), upright: uint8, or float32 in [0, 1] if it has more bits.

    | mode                 | what becomes of it                                                                    |
    |----------------------|---------------------------------------------------------------------------------------|
    | 1, L                 | grey: the same value in all three channels                                            |
    | P                    | the colours of its palette                                                            |
    | RGB, RGBX            | as it is; Pillow keeps the upper 8 bits of a channel of 16                            |
    | LA, PA, RGBA         | laid on white, as on a page; what colour hides under transparent pixels is not read   |
    | 1, L, P, RGB, I;16   | with one colour or palette entries that are transparent: laid on white, too           |
    | CMYK, YCbCr          | converted to RGB by Pillow's formulas, without a colour profile                       |
    | I;16, I;16B, I;16L/N | grey: value / 65535; a TIFF of 12 bits: value / 4095                                  |
    | I of a PNG or PGM    | grey: value / 65535, to which Pillow scales a PGM's own maximum                       |
    | any other I, and F   | an error without `bounds`, as nothing in the file says which values are black and white |
    | any other            | an error                                                                              |

    A grey TIFF in which 0 is white is inverted. If there are several frames, the first is read. All eight orientations
    of EXIF are turned upright. EXIF data that cannot be parsed have no effect, as in every viewer.

    Args:
        bounds: the values of black and white in a picture of the modes I;16, I and F. Other modes have fixed values.
        data: the content of the file, if it is not on the disk. `path` is then its name in messages.

    Raises `BadSampleError`, which names the file, if it is missing, empty, damaged, of an unknown range or out of
    `bounds`, or if it has more pixels than the limit. The limit is Pillow's, 178,956,970, or the number in the
    environment variable MTLKIT_MAX_PIXELS.
    """
    file, orientation = _open(path, data)
    return np.ascontiguousarray(_upright(_colours(file, path, bounds), orientation))


def picture_pixels(picture: Image.Image) -> np.ndarray:
    """Returns the pixels of a picture that Pillow has opened or made, by the rules of `read_picture`.

    Raises `BadSampleError` as `read_picture` does. The message calls it "The picture".
    """
    name = Path(getattr(picture, "filename", "") or "The picture")
    check_pixels(name, picture.size)
    try:
        picture.load()
    except UNREADABLE as error:
        raise unreadable(name, error) from error
    if 0 in picture.size:
        raise BadSampleError(f"{name} has {picture.width} x {picture.height} pixels.")
    return np.ascontiguousarray(_upright(_colours(picture, name, None), _orientation(picture)))


def read_exact(path: Path, channels: int = 1, *, lossy: bool = False, data: bytes | None = None) -> np.ndarray:
    """Reads a picture of numbers, not colours: (H, W) or, with several channels, (H, W, C), in the file's own depth.

    It converts nothing: for a palette, it returns the indices. A label map with an orientation is turned upright like
    an image. A label map without one counts as drawn on the upright image, as annotation tools show it.

    Args:
        channels: 1 for labels and depth, 3 for vectors, such as normals.
        lossy: accept JPEG and similar formats, whose values differ from those that were saved.
        data: as in `read_picture`.

    Raises `BadSampleError` as `read_picture` does, and also for a lossy file of any name, for another number of
    channels, and for vectors in a picture with an orientation, because the direction of their axes is then not known.
    """
    file, orientation = _open(path, data)
    compression = file.info.get("compression") if file.format == "TIFF" else None
    if not lossy and (file.format in LOSSY or compression in LOSSY_TIFF):
        raise BadSampleError(
            f"{path} is a {file.format} file, whatever its name says. Its compression is lossy: the values in it are "
            "not those that were saved. Save them from their source again, as PNG, TIFF or .npy. Converting this file "
            "does not bring them back."
        )
    values = np.asarray(file)
    if channels == 3 and orientation != 1:
        raise BadSampleError(
            f"{path} holds vectors and an EXIF orientation ({orientation}): whether the vectors are to be turned with "
            "the picture is not known. Save it upright and without that tag."
        )
    if (values.ndim == 3 and values.shape[2] == channels) or (values.ndim == 2 and channels == 1):
        values = values.astype(values.dtype.newbyteorder("="), copy=False)  # torch has only one byte order
        return np.ascontiguousarray(_upright(values, orientation))
    raise ChannelsError(f"{path} holds {values.shape} values, expected {channels} per pixel.")


def read_tiff(path: Path, channels: int) -> np.ndarray:
    """Reads a TIFF with any number of channels, which Pillow cannot: (H, W, C), in the file's own depth.

    Raises `BadSampleError` for a file that cannot be read, and `ValueError` if the package tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ValueError(
            f"{path}: a TIFF of {channels} channels needs the package tifffile. Install it: pip install 'mtlkit[tiff]'."
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            check_pixels(path, file.series[0].shape)
            values = np.asarray(file.asarray())
    except BadSampleError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if values.ndim == 3 and values.shape[2] != channels and values.shape[0] == channels:
        values = np.moveaxis(values, 0, 2)  # one band after the other
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def picture_size(path: Path) -> tuple[int, int]:
    """Returns (width, height) of the upright picture, from its header. Raises `BadSampleError`."""
    file, orientation = _open(path, pixels=False)
    width, height = file.size
    return (height, width) if orientation >= 5 else (width, height)


def _open(path: Path, data: bytes | None = None, *, pixels: bool = True) -> tuple[Image.Image, int]:
    """Opens the picture, with its pixels or only its header. Returns it and its orientation. Errors name the file."""
    if pixel_limit() is not None:
        Image.MAX_IMAGE_PIXELS = None  # the user has set another limit: the one below
    try:
        with Image.open(path if data is None else BytesIO(data)) as file:
            check_pixels(path, file.size)
            if file.format == "EPS":  # only Ghostscript could draw it, by running the program in it
                raise ValueError("an EPS file is a program and holds no pixels. Save it as PNG")
            if pixels or file.format == "TIFF":  # Pillow turns its size together with the pixels
                file.load()
            orientation = _orientation(file)  # some PNGs have it after the pixels; 1 if Pillow has turned them
    except TOO_LARGE as error:
        raise too_large(path, str(error).rstrip(".")) from error
    except BadSampleError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if 0 in file.size:
        raise BadSampleError(f"{path} is a picture of {file.width} x {file.height} pixels.")
    return file, orientation


def _orientation(file: Image.Image) -> int:
    """Returns EXIF's number, 1 to 8, or 1 (upright) if there is none."""
    try:
        found = file.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return found if found in UPRIGHT else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return UPRIGHT[orientation](pixels) if orientation != 1 else pixels


def _colours(file: Image.Image, path: Path, bounds: tuple[float, float] | None) -> np.ndarray:
    """Returns (H, W, 3), not yet upright."""
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        return _grey(file, path, bounds)
    if file.mode not in COLOURS:
        raise BadSampleError(
            f"{path} is a {file.format or 'PIL'} picture of mode {file.mode}, which has no known colours. "
            "Save it as RGB."
        )
    if file.has_transparency_data:
        return _on_white(np.asarray(file.convert("RGBA")))
    return np.array(file if file.mode == "RGB" else file.convert("RGB"))


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Turns (H, W, 4) into (H, W, 3): mixes the colours with white by their opacity, rounded to the nearest."""
    colours, opacity = pixels[..., :3], pixels[..., 3:].astype(np.uint16)
    if opacity.min() == 255:
        return colours
    return ((colours * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)  # at most 255 * 255 + 127


def _grey(file: Image.Image, path: Path, bounds: tuple[float, float] | None) -> np.ndarray:
    """Returns (H, W, 3) float32 in [0, 1] for a picture with more than 8 bits."""
    black, white = _range(file, path) if bounds is None else bounds
    if not black < white:
        raise ValueError(f"The bounds of a picture are its values of black and white, ascending; got {bounds}.")
    values = np.asarray(file)
    low, high = values.min(), values.max()
    if not (low >= black and high <= white):  # NaN fails, too
        raise BadSampleError(f"{path} holds values from {low:g} to {high:g}, expected {black:g} to {white:g}.")
    grey = (values.astype(np.float64) - black) / (white - black)
    if _tag(file, PHOTOMETRIC, 1) == 0:
        grey = 1 - grey
    hidden = file.info.get("transparency")
    if hidden is not None:
        grey[values == hidden] = 1
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)


def _range(file: Image.Image, path: Path) -> tuple[float, float]:
    """Returns the values of black and white that the file's format fixes."""
    if file.mode.startswith("I;16"):
        return 0, 2 ** _tag(file, BITS, 16) - 1
    if file.mode == "I" and file.format in ("PNG", "PPM"):
        return 0, 2**16 - 1
    raise BadSampleError(
        f"{path} is a {file.format or 'PIL'} picture of mode {file.mode}, which does not say which of its values are "
        "black and white. Save it with 8 or 16 bits, or let the data set read it by "
        "read_picture(path, bounds=(black, white))."
    )


def _tag(file: Image.Image, tag: int, default: int) -> int:
    """Returns the first value of a TIFF's tag."""
    value = getattr(file, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
