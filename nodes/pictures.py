"""ComfyUI's IMAGE and MASK tensors to the library's pictures and masks, and back.

IMAGE is float [B, H, W, C] in 0..1. MASK is float32 [B, H, W] in 0..1 on the CPU, the picture's
own size; what is inside is exactly 1.0 and what is outside exactly 0.0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ui
from PIL import Image
from torch import Tensor

from ..refdiff.pictures import as_picture

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


def boxes_of(masks: Tensor, scores: Sequence[float]) -> list[dict[str, float]]:
    """One BOUNDING_BOX {x, y, width, height, score} in pixels for each mask that is not empty."""
    boxes = []
    for mask, score in zip(masks > 0, scores, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            box = {"x": left, "y": top, "width": int(columns[-1]) + 1 - left}
            boxes.append({**box, "height": int(rows[-1]) + 1 - top, "score": round(score, 4)})
    return boxes


def points_of(masks: Tensor) -> str:
    """JSON [{"x", "y"}, ...]: for each mask the place deepest inside it, in pixels."""
    from scipy import ndimage

    points = []
    for mask in masks > 0:
        if bool(mask.any()):
            depth = ndimage.distance_transform_edt(np.pad(mask.numpy(), 1))[1:-1, 1:-1]
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            points.append({"x": int(column), "y": int(row)})
    return json.dumps(points)


def shown(cls: Any, pictures: Sequence[Image.Image] = (), words: str = "") -> dict[str, Any] | None:
    """What a node shows on itself: a gallery of pictures of one size, and words."""
    out: dict[str, Any] = {}
    if pictures:
        out |= ui.PreviewImage(image_of(pictures), cls=cls).as_dict()
    if words:
        out |= ui.PreviewText(words).as_dict()
        say(cls, words)
    return out or None


def say(cls: Any, words: str) -> None:
    """Write words on the node that is running, where a front end is listening."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    node = getattr(getattr(cls, "hidden", None), "unique_id", None)
    if server is not None and node is not None:
        server.send_progress_text(words, node)
