"""Pictures and masks from files and arrays.

Every picture comes out as 8-bit RGB, upright (EXIF orientation applied), transparent parts on
white. Sizes are (height, width).
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .arrays import read_arrays, what_json_is
from .files import PathLike

if TYPE_CHECKING:
    import torch

MAX_MEGAPIXELS = 100
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # one number of more than 8 bits a pixel
_OVERSHOOT = 0.1  # what resampling may leave outside 0..1


def read_picture(path: PathLike) -> Image.Image:
    """The picture in a file, as RGB.

    Any mode of PIL is converted, 16-bit ones by dividing by 257; transparent parts are laid on
    white; of several frames the first is taken. Raises ValueError, one sentence naming the path,
    for anything that is not a whole picture of at most 100 megapixels.
    """
    return _load(path, _to_rgb)


def picture_size(path: PathLike) -> tuple[int, int]:
    """(height, width) of the upright picture in a file, without decoding it."""
    orientation = 1
    with _opened(path) as picture:
        width, height = picture.size
        with suppress(Exception):  # damaged EXIF data says nothing about the picture
            orientation = picture.getexif().get(0x0112, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def as_picture(value: PathLike | Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """RGB picture from a path, a PIL image, a numpy array or a torch tensor.

    Arrays are [H, W] or [H, W, C] with C in 1, 3, 4; tensors may be [C, H, W] too, tried first.
    A leading axis of one picture is dropped. Values are bool, integers in 0..255, all of uint16,
    or floats in 0..1. Raises ValueError for another shape or range, TypeError for another type.
    """
    if isinstance(value, str | os.PathLike):
        return read_picture(value)
    if isinstance(value, np.ndarray) or is_tensor(value):
        return _from_array(value)  # type: ignore[arg-type]
    if not isinstance(value, Image.Image):
        raise TypeError(f"A picture is a path, PIL image, array or tensor, not {type(value)}.")
    _check_pixels(value.size, "The picture")
    with _reading("the picture given"):
        return _to_rgb(_upright(value))


def read_values(path: PathLike) -> np.ndarray:
    """A picture's values as they are stored, [H, W] or [H, W, C]; a palette's are its indices.

    Raises ValueError as `read_picture` does.
    """
    return _load(path, np.array)


def stored_mode(path: PathLike) -> str:
    """PIL's mode of the picture in a file, "P" for a palette; ValueError as `read_picture`."""
    with _opened(path) as picture:
        return picture.mode


def read_mask(path: PathLike) -> np.ndarray:
    """Mask [H, W] bool from a picture: what is brighter than half of its brightest value.

    So 0/255, 0/1 and soft masks all read as meant; transparent parts are outside; a black
    picture is an empty mask. Raises ValueError as `read_picture` does.
    """
    return _load(path, _to_mask)


def read_masks(paths: PathLike | Sequence[PathLike]) -> np.ndarray:
    """Masks [N, H, W] bool from files: one picture per mask, a folder of those, .npy or .npz.

    A folder is read in the order of its names (mask2 before mask10). Arrays are [H, W] or
    [N, H, W], bool or numbers from 0 up, read as in `read_mask`; an .npz gives all its arrays.
    Raises ValueError when nothing is found, a file is bad or the sizes differ.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [(file, masks) for path in given for file in _files(path) for masks in _stacks(file)]
    if not found:
        raise ValueError("No masks were given; name a PNG per mask, a folder, .npy or .npz.")
    sizes = {masks.shape[1:]: f"'{file}' is {masks.shape[1:]}" for file, masks in found}
    if len(sizes) > 1:
        one, other, *_ = sizes.values()
        raise ValueError(f"Masks should be of one (height, width), but {one} and {other}.")
    return np.concatenate([masks for _, masks in found])


def is_tensor(value: object) -> bool:
    """Whether it is a torch tensor; torch is not loaded to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _load(path: PathLike, convert: Callable[[Image.Image], Any]) -> Any:
    with _opened(path) as picture, _reading(path):
        picture.load()
        return convert(_upright(picture))


@contextmanager
def _opened(path: PathLike) -> Iterator[Image.Image]:
    """The picture's header, known to be of an allowed kind and size; nothing is decoded yet."""
    with _reading(path):
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("it is no file but a pipe or a device")  # which may never end
        picture = Image.open(path)
    with picture:
        if picture.format in ("EPS", "WMF"):  # decoding these would start another program
            raise ValueError(f"'{path}' is a drawing ({picture.format}); export it as PNG first.")
        _check_pixels(picture.size, f"'{path}'")
        yield picture


@contextmanager
def _reading(path: PathLike) -> Iterator[None]:
    """Say in one sentence what is wrong with the file; PIL's readers raise many kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of big pictures below our limit
            yield
    except Exception as error:
        raise ValueError(_what_is_wrong(path, error)) from error


def _what_is_wrong(path: PathLike, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"There is no file '{path}'; check the path."
    if Path(path).is_dir():
        return f"'{path}' is a folder; name a picture in it."
    if isinstance(error, Image.DecompressionBombError):
        return f"'{path}' has more than {MAX_MEGAPIXELS} megapixels, the limit; scale it down."
    if isinstance(error, UnidentifiedImageError) and (kind := what_json_is(Path(path))):
        return f"'{path}' is {kind}; make pictures of it, a PNG per mask."
    if isinstance(error, UnidentifiedImageError):
        return f"'{path}' is not a picture of a known kind; convert it to PNG or JPEG."
    if isinstance(error, MemoryError):
        return f"'{path}' asks for more memory than there is; scale it down."
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"'{path}' cannot be read whole ({reason}); copy or export it again."


def _check_pixels(size: tuple[int, int], name: str) -> None:
    width, height = size
    if not width * height:
        raise ValueError(f"{name} is {height} x {width} pixels, so nothing is on it.")
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        has = f"{name} has {width * height / 1e6:.1f} megapixels ({height} x {width})"
        raise ValueError(f"{has}, the limit is {MAX_MEGAPIXELS} megapixels; scale it down.")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data: show the pixels as they are stored
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode not in _DEEP:
        return _flat(picture, "white")
    values = np.asarray(picture)
    if picture.mode == "F" and values.max() > 1 + _OVERSHOOT:
        values = values / 255
    return Image.fromarray(_eight_bits(values)).convert("RGB")


def _to_mask(picture: Image.Image) -> np.ndarray:
    if picture.mode in _DEEP:
        return _solid(np.asarray(picture))
    return _solid(np.asarray(_flat(picture, "black")).max(axis=2))


def _flat(picture: Image.Image, background: str) -> Image.Image:
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        picture = Image.new("RGBA", layers.size, background)
        picture.alpha_composite(layers)
    return picture.convert("RGB")


def _from_array(value: np.ndarray | torch.Tensor) -> Image.Image:
    array = np.asarray(value) if isinstance(value, np.ndarray) else _channels_last(value)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        wanted = "one picture [H, W] or [H, W, C] with C in 1, 3, 4"
        raise ValueError(f"A picture's array is {wanted}, got {tuple(value.shape)}; reshape it.")
    _check_pixels((array.shape[1], array.shape[0]), "The picture")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(_eight_bits(array))))


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    tensor = dense(tensor, "A picture")
    if tensor.ndim >= 3 and tensor.shape[-3] in (1, 3, 4):
        tensor = tensor.movedim(-3, -1)
    return tensor.numpy()


def dense(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """The tensor on the CPU, floats as float32; ValueError for one without plain real numbers."""
    odd = {
        "meta": tensor.is_meta,
        "quantised": tensor.is_quantized,
        "nested": tensor.is_nested,
        "complex": tensor.is_complex(),
        "sparse": str(tensor.layout) != "torch.strided",
    }
    if kind := next((name for name, is_so in odd.items() if is_so), None):
        raise ValueError(
            f"{what} is a dense tensor of real numbers, got a {kind} one of {tensor.dtype}; "
            "convert it."
        )
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """As uint8: bool, floats in 0..1, integers in 0..255 or (uint16 always) in 0..65535."""
    kind = values.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"A picture is of real numbers, got {values.dtype}; convert it.")
    low, high = values.min(), values.max()
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * 255
    if kind == "f" and -_OVERSHOOT <= low and high <= 1 + _OVERSHOOT:
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    if kind in "iu" and low >= 0 and high <= 65535:
        unit = 257 if high > 255 or values.dtype.str[1:] == "u2" else 1
        return np.rint(values / np.float32(unit)).astype(np.uint8)
    got = f"{values.dtype} from {low} to {high}"
    raise ValueError(f"A picture is floats in 0..1 or integers in 0..255, got {got}; rescale it.")


def _files(path: PathLike) -> list[Path]:
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.suffix.lower() in MASK_SUFFIXES]
    if not files:
        raise ValueError(f"There are no mask pictures in the folder '{path}'; put PNGs there.")
    return sorted(files, key=lambda file: re.sub(r"\d+", lambda n: n[0].zfill(20), file.name))


def _stacks(file: Path) -> list[np.ndarray]:
    """The file's arrays of masks, each [N, H, W] bool."""
    if file.suffix.lower() not in (".npy", ".npz"):
        return [read_mask(file)[None]]
    with _reading(file):
        arrays = read_arrays(file)
    return [_mask_stack(array, file) for array in arrays]


def _mask_stack(array: np.ndarray, file: Path) -> np.ndarray:
    masks = array[None] if array.ndim == 2 else array
    good = masks.ndim == 3 and masks.size and masks.dtype.kind in "biuf"
    if not good or not (np.isfinite(masks).all() and masks.min() >= 0):
        wanted = "masks [N, H, W], bool or finite numbers from 0 up"
        raise ValueError(f"'{file}' should hold {wanted}, not {array.dtype} {array.shape}.")
    return np.stack([_solid(mask) for mask in masks])


def _solid(values: np.ndarray) -> np.ndarray:
    """What is above half of the greatest value."""
    return values if values.dtype.kind == "b" else values > values.max() / 2
