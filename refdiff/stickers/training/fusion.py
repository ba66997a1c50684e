"""The weights of `fusion="calibrated"`: `python -m refdiff.stickers.training.fusion`.

Fresh scenes in the training styles, which no split shares, with sentences that name a thing or its
colour, so that the two halves alone decide; candidates are the heat's own proposals and, again, the
objects' masks. The weights are those under which the expected IoU of the choice is likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ...commands.common import Clip, Model, Ready, make_ready
from ...commands.evaluate import progress_bar
from ...evaluation.shared_capture import SharedCapture
from ...pipeline import Look
from ...result import Segmentation
from ...scoring.clip import ClipScorer
from ...scoring.scores import log_evidence
from .sentences import colour, plain
from .splits import Entry, draw_scenes
from .sprites import TRAINING_STYLES, load_sprites

SEED = 4  # of the scenes; 1 to 3 are the splits', 10,000 and up the training pool's
MAKERS = {"plain": plain, "colour": colour}
LEAST_IOU = 0.1  # of the best candidate: below it there is nothing to choose
Example = tuple[Tensor, Tensor]
"""A sentence's `log_evidence` [N, 3], and the IoU [N] of each candidate with what it means."""


def main(
    packages: Annotated[
        Path, typer.Option(help="The node_modules folder with the sprite packages.")
    ] = Path("node_modules"),
    model: Model = None,
    clip: Clip = None,
    pictures: Annotated[int, typer.Option(help="Scenes, with two sentences each.")] = 120,
) -> None:
    """Print the weights of the generative half, of CLIP and of the area, to put in `families`."""
    ready = make_ready(model, clip, None, None, "default", None, 0)
    assert ready.models.clip is not None
    sprites = load_sprites(packages, TRAINING_STYLES)
    examples: list[Example] = []
    with progress_bar() as advance:
        scenes = draw_scenes(sprites, np.random.default_rng(SEED), MAKERS, pictures)
        for number, scene in enumerate(scenes, 1):
            examples += examples_of(scene, ready, ready.models.clip)
            advance(number, pictures)
    fitted = fit(examples)
    print(", ".join(f"{weight:.2f}" for weight in fitted.tolist()))
    print(f"loss {float(loss(fitted, examples)):.4f} over {len(examples)} choices")


def examples_of(scene: Entry, ready: Ready, clip: ClipScorer) -> list[Example]:
    """Each sentence of a scene among the heat's own proposals, and among the objects' masks."""
    picture, objects, sentences = scene
    known = torch.from_numpy(np.stack([one.mask for one in objects]))
    capture = SharedCapture(ready.capture, ready.settings.capture)
    found = []
    for given in (None, known):
        look = Look(picture, capture, clip, replace(ready.settings, empty_below=0.0), given)
        for sentence in sentences:
            example = _example(look(sentence.text), known[list(sentence.objects)].any(0), clip)
            found += [example] if example[1].amax() >= LEAST_IOU else []
    return found


def _example(found: Segmentation, meant: Tensor, clip: ClipScorer) -> Example:
    rows = [(one.generative, one.clip or 0.0, one.area) for one in found.candidates]
    generative, near, areas = torch.tensor(rows).T
    masks = found.masks
    ious = (masks & meant).flatten(1).sum(1) / (masks | meant).flatten(1).sum(1)
    return log_evidence(generative, clip.logits(near), areas), ious


def loss(weights: Tensor, examples: Sequence[Example]) -> Tensor:
    """Mean of -ln of the IoU to be expected when candidates are drawn by their shares."""
    expected = [(evidence @ weights).softmax(0) @ ious for evidence, ious in examples]
    return -torch.stack(expected).log().mean()


def fit(examples: Sequence[Example], steps: int = 100) -> Tensor:
    """The three weights of least loss."""
    weights = torch.zeros(3, requires_grad=True)
    descent = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        descent.zero_grad()
        value = loss(weights, examples)
        value.backward()
        return value

    descent.step(step)  # type: ignore[no-untyped-call]
    return weights.detach()


if __name__ == "__main__":
    typer.run(main)
