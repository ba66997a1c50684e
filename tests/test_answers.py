"""The built-in models still answer right: what no other test would notice if masks got worse."""

from __future__ import annotations

import numpy as np
import pytest

from refdiff import Look, look
from refdiff.evaluation import evaluate, read_scenes
from refdiff.models.catalogue import Models, load_models
from refdiff.stickers import DATA, SAMPLE
from refdiff.stickers.sample import sample_masks

RED_CAT, BLUE_CAT, DOG, TREE, BALLOON, CAR = range(6)
SENTENCES = {
    "the red cat on the left": [RED_CAT],
    "the blue cat": [BLUE_CAT],
    "the cat on the right": [BLUE_CAT],
    "the dog": [DOG],
    "the tree": [TREE],
    "the balloon": [BALLOON],
    "the green car": [CAR],
    "both cats": [RED_CAT, BLUE_CAT],
    "left": [RED_CAT],  # texts that name no thing
    "second from the right": [BLUE_CAT],
    "bottom right": [BLUE_CAT],  # and not its eyes
}


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models()


@pytest.fixture(scope="module")
def sample(models: Models) -> Look:
    return look(models.pipe, SAMPLE, models.clip)


@pytest.mark.parametrize("text", SENTENCES)
def test_the_sample_is_answered_right(sample: Look, text: str) -> None:
    mask, meant = sample(text).numpy() > 0, sample_masks()[SENTENCES[text]].any(0)
    assert np.sum(mask & meant) > 0.5 * np.sum(mask | meant)


def test_a_bare_noun_gives_a_whole_thing_and_no_strip_of_another(sample: Look) -> None:
    mask, objects = sample("the cat").numpy() > 0, sample_masks()
    shares = [np.sum(mask & each) / each.sum() for each in objects]
    assert max(shares[RED_CAT], shares[BLUE_CAT]) > 0.8
    assert max(shares[DOG:]) < 0.05


@pytest.mark.parametrize("text", ["the purple cat", "the pizza"])
def test_what_is_not_there_is_not_found(sample: Look, text: str) -> None:
    found = sample(text)
    assert found.empty and found.presence < found.settings.empty_below


def test_sixty_sentences_of_the_validation_split(models: Models) -> None:
    from refdiff import DiffusersCapture
    from refdiff.commands.common import Ready
    from refdiff.commands.evaluate import segmenter_of
    from refdiff.settings import Settings

    capture = DiffusersCapture(models.pipe)
    ready = Ready(models, capture, Settings.named("default", capture.family))
    report = evaluate(read_scenes(DATA / "validation"), segmenter_of(ready, False, []), limit=60)
    figures = report.overall
    assert figures["miou"] > 0.72 and figures["right_object"] > 0.82
