"""Points handed to SAM, held against what the stickers' sentences really mean."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import refdiff
from refdiff.errors import WordError
from refdiff.evaluation import judge, read_scenes
from refdiff.evaluation.scenes import Scene
from refdiff.masks.handover import Prompts, hand_over
from refdiff.masks.resize import resize_masks
from refdiff.models.catalogue import Models
from refdiff.result import Segmentation
from refdiff.stickers import DATA, WEIGHTS

GOAL = 0.97


@pytest.fixture(scope="module")
def models() -> Models:
    return refdiff.load_models(str(WEIGHTS))


def answered(scene: Scene, models: Models) -> Iterator[tuple[Segmentation, np.ndarray]]:
    """Answers that are the one thing meant, each with that thing's mask [H, W]."""
    capture = refdiff.DiffusersCapture(models.pipe)
    look = refdiff.Look(scene.picture(), capture, models.clip)
    masks = scene.masks()
    for sentence in scene.sentences:
        if len(sentence.objects) != 1 or sentence.half:
            continue
        try:
            found = look(sentence.text)
        except WordError:
            continue
        outcome = judge(found.mask.numpy(), masks, sentence.objects)
        if outcome.right and len(found.instances) == 1:
            yield found, masks[sentence.objects[0]]


def handed(found: Segmentation) -> Prompts:
    """The answer's hand-over, its rivals the candidates that were not chosen."""
    size = (found.heat.shape[0], found.heat.shape[1])
    mask = resize_masks(found.instances, size)[0]
    chosen = torch.tensor([candidate.chosen for candidate in found.candidates])
    return hand_over(found.heat, mask, found.masks[~chosen], found.mask.shape)


@pytest.mark.parametrize("scenes", [6, pytest.param(100, marks=pytest.mark.full)])
def test_points_of_right_answers_fall_on_the_right_side(scenes: int, models: Models) -> None:
    inside, outside = [], []
    for scene in read_scenes(DATA / "validation")[:scenes]:
        for found, meant in answered(scene, models):
            prompts = handed(found)
            inside.append(all(meant[int(y), int(x)] for x, y in prompts.positive))
            outside.append(not any(meant[int(y), int(x)] for x, y in prompts.negative))
    assert len(inside) >= scenes / 2
    said = f"{len(inside)} answers: {np.mean(inside):.3f} inside, {np.mean(outside):.3f} outside"
    assert np.mean(inside) >= GOAL and np.mean(outside) >= GOAL, said
