"""Pictures and masks from every kind of file, and files that are whole or not there."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff.io.pictures import (
    as_picture,
    picture_size,
    read_mask,
    read_masks,
    read_picture,
)


def colours(height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, idat)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_rgb_of_the_same_size(tmp_path: Path, mode: str) -> None:
    file = tmp_path / f"picture.{'tif' if mode in ('CMYK', 'YCbCr', 'I', 'F') else 'png'}"
    Image.fromarray(colours()).convert("L" if mode in "IF" else "RGB").convert(mode).save(file)
    picture = read_picture(file)
    assert picture.mode == "RGB" and picture.size == (9, 6)
    assert np.asarray(picture).std() > 20
    assert picture_size(file) == (6, 9)


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")],
)
def test_deep_grey_is_scaled_not_clipped(tmp_path: Path, dtype: type, suffix: str) -> None:
    values = np.linspace(0, 65535, 256).reshape(16, 16)
    values = values / 65535 if dtype == np.float32 else values
    Image.fromarray(values.astype(dtype)).save(tmp_path / f"deep.{suffix}")
    grey = np.asarray(read_picture(tmp_path / f"deep.{suffix}"))[..., 0]
    assert (grey == np.arange(256).reshape(16, 16)).all()


def test_transparent_parts_are_white_in_pictures_and_outside_in_masks(tmp_path: Path) -> None:
    layers = np.full((4, 4, 4), 255, np.uint8)
    layers[..., 0] = 0
    layers[:2, :, 3] = 0
    Image.fromarray(layers).save(tmp_path / "layers.png")
    picture = np.asarray(read_picture(tmp_path / "layers.png"))
    assert (picture[:2] == 255).all() and (picture[2:] == (0, 255, 255)).all()
    mask = read_mask(tmp_path / "layers.png")
    assert not mask[:2].any() and mask[2:].all()


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "palette.png", transparency=0)
    read = read_picture(tmp_path / "palette.png")
    assert read.getpixel((0, 0)) == (255, 255, 255) and read.getpixel((1, 1)) == (200, 0, 0)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8] = 255
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(read_picture(tmp_path / "turned.png"))
    assert upright.shape == (16, 8, 3) and (upright[:8] == 255).all() and not upright[8:].any()
    assert picture_size(tmp_path / "turned.png") == (16, 8)
    assert read_mask(tmp_path / "turned.png").shape == (16, 8)


@pytest.mark.parametrize("size", [(1, 1), (20000, 200)])
def test_extreme_shapes_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "shape.png")
    picture = read_picture(tmp_path / "shape.png")
    assert picture.size == size and picture.getpixel((0, 0)) == (1, 2, 3)


def bad_file(folder: Path, kind: str) -> Path:
    file = folder / "photo.png"
    if kind == "folder":
        file.mkdir()
    elif kind == "text":
        file.write_text("the red cat")
    elif kind == "empty":
        file.touch()
    elif kind == "truncated":
        Image.fromarray(colours(200, 200)).save(file)
        file.write_bytes(file.read_bytes()[:5000])
    elif kind == "corrupt":
        Image.fromarray(colours(200, 200)).save(file)
        data = bytearray(file.read_bytes())
        data[1000:2000] = bytes(1000)
        file.write_bytes(data)
    elif kind == "drawing":
        file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    return file


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "text", "empty", "truncated", "corrupt", "drawing"]
)
def test_bad_files_are_named_in_one_sentence(tmp_path: Path, kind: str) -> None:
    file = bad_file(tmp_path, kind)
    with pytest.raises(ValueError) as caught:
        read_picture(file)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (2_000_000_000, 1_000)])
def test_more_than_a_hundred_megapixels_is_refused_undecoded(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    file = tmp_path / "huge.png"
    file.write_bytes(png_header(*size))
    for read in (read_picture, read_mask, picture_size):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match="100 megapixels"):
                read(file)


def test_a_hundred_megapixels_pass_the_limit_without_pils_warning(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(png_header(10_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture_size(tmp_path / "big.png") == (10_000, 10_000)


def test_arrays_and_tensors_of_one_picture_agree() -> None:
    pixels = colours()
    tensor = torch.from_numpy(pixels)
    same: list[np.ndarray | torch.Tensor | Image.Image] = [
        pixels,
        pixels[None],
        pixels / 255,
        pixels.astype(np.uint16) * 257,
        pixels.astype(np.int16),
        tensor,
        tensor.movedim(-1, 0),
        (tensor.movedim(-1, 0) / 255)[None],
        (tensor.float() / 255)[None],
        Image.fromarray(pixels),
    ]
    for value in same:
        assert (np.asarray(as_picture(value)) == pixels).all()


def test_grey_bool_and_transparent_arrays() -> None:
    grey = colours()[..., 0]
    assert (np.asarray(as_picture(grey))[..., 2] == grey).all()
    assert (np.asarray(as_picture(torch.from_numpy(grey)[None]))[..., 1] == grey).all()
    assert (np.asarray(as_picture(grey > 99))[..., 0] == (grey > 99) * 255).all()
    clear = np.concatenate([colours(), np.zeros((6, 9, 1), np.uint8)], axis=2)
    assert (np.asarray(as_picture(clear)) == 255).all()


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 5, 5, 3), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.full((5, 5, 3), 200.0),
        np.full((5, 5, 3), -1.0),
        np.full((5, 5, 3), np.nan),
        np.full((5, 5), -3),
        torch.zeros(5),
        np.broadcast_to(np.uint8(0), (10_001, 10_000)),
    ],
)
def test_arrays_that_are_no_picture_are_refused(value: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="picture"):
        as_picture(value)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        as_picture(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("inside", [1, 128, 255, 65535])
def test_a_mask_is_what_is_above_half_of_its_brightest(tmp_path: Path, inside: int) -> None:
    wanted = colours()[..., 0] > 120
    values = (wanted * inside).astype(np.uint16 if inside > 255 else np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png") == wanted).all()
    Image.new("L", (3, 2)).save(tmp_path / "black.png")
    assert not read_mask(tmp_path / "black.png").any()


def test_masks_from_files_folder_and_arrays_agree(tmp_path: Path) -> None:
    masks = np.random.default_rng(2).random((12, 6, 9)) > 0.5
    folder = tmp_path / "masks"
    folder.mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"mask{index}.png")
    (folder / "notes.txt").write_text("not a mask")
    np.save(tmp_path / "masks.npy", masks.astype(np.float32))
    np.savez(tmp_path / "masks.npz", first=masks[:5], second=masks[5], rest=masks[6:] * 255)
    files = [folder / f"mask{index}.png" for index in range(12)]
    for given in (folder, str(folder), files, tmp_path / "masks.npy", tmp_path / "masks.npz"):
        assert (read_masks(given) == masks).all()
    assert len(read_masks([folder, tmp_path / "masks.npy"])) == 24


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "small.png")
    Image.new("L", (5, 4)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"small.png.*\(4, 4\).*wide.png.*\(4, 5\)"):
        read_masks([tmp_path / "small.png", tmp_path / "wide.png"])
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "logits.npy", np.full((1, 3, 3), -2.0))
    np.save(tmp_path / "flat.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    for name in ("objects.npy", "logits.npy", "flat.npy", "cut.npz", "missing.npy"):
        with pytest.raises(ValueError, match=name):
            read_masks(tmp_path / name)
    with pytest.raises(ValueError, match="No masks"):
        read_masks([])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing"):
        read_masks(tmp_path / "nothing")
