"""Save for Mask Editor: a picture with its mask, as ComfyUI's own mask editor saves one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..refdiff.io.files import write_safely
from .pictures import escaped, pictures_of, stacked
from .types import CATEGORY, found_by

PREFIX = "refdiff_mask"


class SaveForMaskEditor(io.ComfyNode):
    """Picture and mask in, a file in the input folder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RefDiffSaveForMaskEditor",
            display_name="Save for Mask Editor",
            category=CATEGORY,
            description="Saves the picture with its mask into the input folder. Choose that file "
            "in Load Image (R reads the list again): its mask is there, and the mask editor opens "
            "with it.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch."),
                io.Mask.Input("mask", tooltip="Its mask, one for each picture."),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    tooltip="How the file's name begins; a number follows, nothing is overwritten.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            **found_by("mask editor", "edit mask", "save mask", "clipspace"),
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, filename_prefix: str) -> io.NodeOutput:
        pictures = pictures_of(image)
        size = pictures[0].height, pictures[0].width
        masks = stacked(mask, size)
        if len(masks) != len(pictures):
            raise ValueError(
                f"There are {len(pictures)} pictures and {len(masks)} masks; give one for each."
            )
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
            Path(filename_prefix).name or PREFIX,
            folder_paths.get_input_directory(),
            pictures[0].width,
            pictures[0].height,
        )
        saved = []
        for index, (picture, one) in enumerate(zip(pictures, masks, strict=True), start=number):
            file = f"{name}_{index:05}_.png"
            drawn = with_mask(picture, one)
            write_safely(Path(folder, file), partial(drawn.save, format="PNG", compress_level=4))
            saved.append({"filename": file, "subfolder": subfolder, "type": "input"})
        words = ", ".join(one["filename"] for one in saved)
        return io.NodeOutput(ui={"images": saved, "text": (escaped(f"Saved as {words}"),)})


def with_mask(picture: Image.Image, mask: Tensor) -> Image.Image:
    """RGBA, transparent where the mask [H, W] is 1; what lies under it is kept."""
    alpha = ((1 - mask.clamp(0, 1)) * 255).round().numpy().astype(np.uint8)
    out = picture.convert("RGB").copy()
    out.putalpha(Image.fromarray(alpha))
    return out
