"""ComfyUI's IMAGE and MASK tensors to the library's pictures and masks, and back.

IMAGE is float [B, H, W, C] in 0..1. MASK is float32 [B, H, W] in 0..1 on the CPU, the picture's
own size; what is inside is exactly 1.0 and what is outside exactly 0.0.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ui
from PIL import Image
from torch import Tensor

from ..refdiff.io.pictures import as_picture

Size = tuple[int, int]


def pictures_of(image: Tensor) -> list[Image.Image]:
    """One RGB picture for each of a batch; what is transparent is laid on white."""
    if image.ndim == 3:
        image = image[None]
    batch = image.detach().cpu().clamp(0, 1).nan_to_num()
    return [as_picture(one.numpy()) for one in batch]


def only_picture(image: Tensor, node: str) -> Image.Image:
    """The picture of a batch of one; ValueError names the node that takes one at a time."""
    pictures = pictures_of(image)
    if len(pictures) != 1:
        raise ValueError(
            f"{node} takes one picture and got a batch of {len(pictures)}; put Rebatch Images "
            "with a batch size of 1 before it, or use Ref-Diff Segment."
        )
    return pictures[0]


def image_of(pictures: Sequence[Image.Image]) -> Tensor:
    """IMAGE [B, H, W, 3] of pictures of one size."""
    stack = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stack).float() / 255


def mask_of(masks: Tensor) -> Tensor:
    """MASK [B, H, W] of masks or heat."""
    return masks.detach().float().cpu().contiguous()


def stacked(mask: Tensor, size: Size | None = None) -> Tensor:
    """A MASK input as float [N, H, W].

    size: the picture's; the 64 x 64 zeros with which loaders mean "no mask" are refused when the
    picture has another size, like any mask of another size.
    """
    masks = (mask[None] if mask.ndim == 2 else mask.flatten(0, -3)).detach().float().cpu()
    if size is not None and tuple(masks.shape[1:]) != size:
        raise ValueError(
            f"The masks are {masks.shape[1]} x {masks.shape[2]} (height x width) and the picture "
            f"is {size[0]} x {size[1]}; wire masks of this very picture."
        )
    return masks


def is_placeholder(mask: Tensor) -> bool:
    """True for the all-zero 64 x 64 mask that loaders give for a picture without transparency."""
    return mask.shape[-2:] == (64, 64) and not bool(mask.any())


def boxes_of(masks: Tensor, scores: Sequence[float], first: int = 0) -> list[dict[str, float]]:
    """One BOUNDING_BOX {x, y, width, height, score, mask} for each mask that is not empty.

    All but the score, 0..1, in pixels; mask: which one it is, counted from `first`. The masks are
    one picture's: ComfyUI's nodes take a list of such lists, one for each picture.
    """
    boxes = []
    for index, (mask, score) in enumerate(zip(masks > 0, scores, strict=True), start=first):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            size = {"width": int(columns[-1]) + 1 - left, "height": int(rows[-1]) + 1 - top}
            said = {"score": round(score, 4), "mask": index}
            boxes.append({"x": left, "y": top, **size, **said})
    return boxes


def points_of(masks: Tensor) -> str:
    """JSON [{"x", "y"}, ...]: for each mask the place deepest inside it, in pixels."""
    return json.dumps([{"x": at[0], "y": at[1]} for at in middles_of(masks) if at is not None])


def middles_of(masks: Tensor) -> list[tuple[int, int] | None]:
    """The (x, y) of the place deepest inside each mask [N, H, W]; None for an empty one."""
    from scipy import ndimage

    places: list[tuple[int, int] | None] = []
    for mask in masks > 0:
        depth = ndimage.distance_transform_edt(np.pad(mask.numpy(), 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        places.append((int(column), int(row)) if bool(mask.any()) else None)
    return places


def cut_out(picture: Image.Image, mask: Tensor) -> Tensor:
    """The picture as [H, W, 4], which is transparent where the mask [H, W] is 0."""
    return torch.cat([image_of([picture])[0], mask[..., None].float()], -1)


def data_url(picture: Image.Image, kind: str) -> str:
    """A picture as text, for a front end; kind: png, or jpeg for what may be coarse."""
    data = BytesIO()
    picture.save(data, kind, quality=70)
    return f"data:image/{kind};base64," + base64.b64encode(data.getvalue()).decode()


def escaped(words: str) -> str:
    """Words without HTML: front ends of 2025 put them into the page as they are.

    Brackets and quotes become others that look alike, since newer front ends escape for themselves
    and would show `&lt;`.
    """
    return words.translate(_LOOKALIKES)


_LOOKALIKES = str.maketrans({"<": "\u2039", ">": "\u203a", '"': "\u201d"})


def shown(cls: Any, pictures: Sequence[Image.Image] = (), words: str = "") -> dict[str, Any] | None:
    """What a node shows on itself: a gallery of pictures of one size, and words."""
    out: dict[str, Any] = {}
    words = escaped(words)
    if pictures:
        out |= ui.PreviewImage(image_of(pictures), cls=cls).as_dict()
    if words:
        out |= ui.PreviewText(words).as_dict()
        say(cls, words)
    return out or None


def say(cls: Any, words: str) -> None:
    """Write words on the node that is running, in the front end that asked for it and no other."""
    running = getattr(sys.modules.get("server"), "PromptServer", None)
    server = getattr(running, "instance", None)
    node = getattr(getattr(cls, "hidden", None), "unique_id", None)
    asked = getattr(server, "client_id", None)  # without one the server would tell everybody
    if node is not None and asked is not None:
        server.send_progress_text(escaped(words), node, asked)
