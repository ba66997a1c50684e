"""Figures as the field defines them: cases made by hand, and the same formulas written anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refdiff.evaluation.bootstrap import compare_scores
from refdiff.evaluation.datasets.items import Item
from refdiff.evaluation.html import extremes
from refdiff.evaluation.kinds import kinds_of
from refdiff.evaluation.predictions import Prediction
from refdiff.evaluation.referring_metrics import (
    NO_TARGET,
    Figures,
    Score,
    by_kind,
    figures,
    score,
    score_all,
)
from refdiff.masks.rle import checked, decode, encode, from_segmentation, text_of

from .releases import coco_polygons, coco_runs, sticker_pictures

SIZE = (12, 20)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def scored(
    mask: np.ndarray | None, truth: np.ndarray, id: str = "1", image: str = "a", targets: int = 1
) -> Score:
    item = Item(id, "the cat", image, SIZE, encode(truth), targets)
    return score(item, None if mask is None else Prediction(id, encode(mask)), ("plain",))


NOTHING = np.zeros(SIZE, bool)


def test_one_sentence_by_hand() -> None:
    half = scored(block(0, 0, 4, 8), block(0, 4, 4, 8))
    assert (half.intersection, half.predicted, half.truth, half.union) == (16, 32, 32, 48)
    assert half.iou == pytest.approx(1 / 3) and half.answered
    missed = scored(None, block(0, 0, 2, 2))
    assert (missed.iou, missed.predicted, missed.answered) == (0.0, 0, False)
    assert scored(NOTHING, NOTHING, targets=0).iou == 1.0
    assert scored(block(0, 0, 1, 1), NOTHING, targets=0).kinds == ("plain", NO_TARGET)


def test_figures_by_hand() -> None:
    scores = [
        scored(block(0, 0, 4, 4), block(0, 0, 4, 4), "1"),  # 1
        scored(block(0, 0, 4, 4), block(0, 0, 4, 8), "2"),  # 0.5, which Pr@0.5 counts
        scored(NOTHING, block(0, 0, 2, 4), "3"),  # 0, and its truth joins the unions
        scored(NOTHING, NOTHING, "4", targets=0),  # rightly nothing
        scored(block(0, 0, 2, 2), NOTHING, "5", targets=0),  # wrongly something
    ]
    found = figures(scores)
    assert found == {
        "n": 5,
        "targeted": 3,
        "empty": 2,
        "unanswered": 0,
        "oiou": 32 / (16 + 32 + 8),
        "miou": 0.5,
        "pr50": 2 / 3,
        "pr60": 1 / 3,
        "pr70": 1 / 3,
        "pr80": 1 / 3,
        "pr90": 1 / 3,
        "giou": (1 + 0.5 + 0 + 1 + 0) / 5,
        "ciou": 32 / (16 + 32 + 8 + 4),
        "n_acc": 0.5,
        "t_acc": 2 / 3,
    }


def test_a_target_without_a_pixel_is_left_out_and_nothing_is_no_figure() -> None:
    alone = scored(block(0, 0, 2, 2), NOTHING, targets=1)
    found = figures([alone])
    assert found["n"] == 1 and found["targeted"] == 0
    assert all(found[name] is None for name in ("oiou", "miou", "giou", "ciou", "n_acc", "t_acc"))
    assert figures([])["n"] == 0


def written_anew(masks: list[np.ndarray], truths: list[np.ndarray]) -> Figures:
    """ReLA's and LAVT's loops on pixels."""
    i_all = u_all = i_t = u_t = 0
    ious, per, tp, tn, fp, fn = [], [], 0, 0, 0, 0
    for mask, truth in zip(masks, truths, strict=True):
        i, u = int(np.logical_and(mask, truth).sum()), int(np.logical_or(mask, truth).sum())
        if not truth.any():
            tp, fn = tp + (not mask.any()), fn + bool(mask.any())
            ious.append(float(not mask.any()))
            u_all += u
            continue
        tn, fp = tn + bool(mask.any()), fp + (not mask.any())
        ious.append(i / u)
        per.append(i / u)
        i_all, u_all, i_t, u_t = i_all + i, u_all + u, i_t + i, u_t + u
    found: Figures = {"oiou": i_t / u_t, "miou": float(np.mean(per))}
    for level in (50, 60, 70, 80, 90):
        found[f"pr{level}"] = float(np.mean(np.array(per) >= level / 100))
    return found | {
        "giou": float(np.mean(ious)),
        "ciou": i_all / u_all,
        "n_acc": tp / (tp + fn),
        "t_acc": tn / (tn + fp),
    }


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_an_independent_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    truths = [one.truth(meant) for one in sticker_pictures(4) for _, meant in one.said]
    masks = [
        truth ^ (random.random(truth.shape) < random.choice([0, 0.02, 0.4])) for truth in truths
    ]
    truths += [np.zeros(SIZE, bool)] * 3
    masks += [NOTHING, block(1, 1, 2, 2), NOTHING]
    masks[0] = np.zeros_like(masks[0])
    items, predictions = [], []
    for number, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        id = str(number)
        size = (truth.shape[0], truth.shape[1])
        items.append(Item(id, "the cat", id, size, encode(truth), int(truth.any())))
        predictions.append(Prediction(id, encode(mask), kinds=()))
    found = figures(score_all(items, reversed(predictions)))
    want = written_anew(masks, truths)
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_a_mask_of_another_size_is_refused() -> None:
    item = Item("7", "cat", "a.jpg", (5, 5), encode(np.ones((5, 5), bool)))
    with pytest.raises(ValueError, match=r"sentence 7 is \(12, 20\).*'a.jpg' is \(5, 5\).*\.$"):
        score(item, Prediction("7", encode(NOTHING)))


def test_of_two_masks_for_a_sentence_the_first_counts_and_strangers_do_not() -> None:
    item = Item("1", "the cat", "a", SIZE, encode(block(0, 0, 2, 2)))
    one, two = Prediction("1", encode(block(0, 0, 2, 2))), Prediction("1", encode(NOTHING))
    other = Prediction("9", encode(NOTHING))
    assert [found.iou for found in score_all([item], [other, one, two])] == [1.0]
    assert [found.answered for found in score_all([item], [other])] == [False]


# ---- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_polygons_and_runs_are_the_masks_they_were_made_of(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(SIZE) < 0.4
    for shape in (coco_polygons(mask), coco_runs(mask)):
        assert (decode(from_segmentation(shape, SIZE, "x")) == mask).all()
    assert (decode(checked(text_of(encode(mask)), SIZE, "x")) == mask).all()


def test_points_and_lines_are_no_polygons() -> None:
    square = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]
    for extra in ([1.0, 1.0, 9.0, 9.0], [3.0, 3.0]):  # pycocotools would draw a box
        for polygons in ([extra, square], [square, extra]):
            assert decode(from_segmentation(polygons, SIZE, "x")).sum() == 16
    assert not decode(from_segmentation([[1.0, 1.0, 9.0, 9.0]], SIZE, "x")).any()


# ---- kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("cat", {"plain"}),
        ("the red cat", {"colour"}),
        ("the big cat on the left", {"size", "place"}),
        ("the second cat from the left", {"order"}),
        ("the cat next to the dog", {"relation"}),
        ("both cats", {"plural"}),
        ("the cat and the red dog", {"several", "colour"}),
        ("...", {"unread"}),
    ],
)
def test_kinds_are_read_from_the_sentence(text: str, kinds: set[str]) -> None:
    assert set(kinds_of(text)) == kinds


def test_a_sentence_counts_in_each_of_its_kinds() -> None:
    one = replace(scored(block(0, 0, 2, 2), block(0, 0, 2, 2), "1"), kinds=("place", "size"))
    two = replace(scored(NOTHING, block(0, 0, 2, 2), "2"), kinds=("place",))
    none = replace(scored(NOTHING, NOTHING, "3", targets=0), kinds=("place", NO_TARGET))
    found = by_kind([none, one, two])
    assert list(found) == ["size", "place", NO_TARGET]
    assert found["place"]["n"] == 3 and found["place"]["miou"] == 0.5
    assert found["size"]["miou"] == 1.0 and found[NO_TARGET]["n_acc"] == 1.0


# ---- two runs --------------------------------------------------------------------------------


def runs(gain: float, pictures: int = 60) -> tuple[list[Score], list[Score]]:
    random = np.random.default_rng(1)
    one, two = [], []
    for number in range(pictures * 2):
        inside = int(random.integers(20, 60))
        more = inside + round(gain * 100) + int(random.integers(-3, 4))
        image = str(number // 2)
        base = {"kinds": ("plain",), "targets": 1, "predicted": 100, "truth": 100}
        one.append(Score(str(number), image, intersection=inside, **base))
        two.append(Score(str(number), image, intersection=more, **base))
    return one, two


def test_a_gain_is_clear_and_none_is_not() -> None:
    one, two = runs(0.1)
    found = compare_scores(one, two)["all"]
    for name in ("oiou", "miou", "giou", "ciou"):
        assert found[name].clear and found[name].low > 0.03, name
        assert found[name].low <= found[name].difference <= found[name].high
    want = np.mean([o.iou for o in two]) - np.mean([o.iou for o in one])
    assert found["miou"].difference == pytest.approx(want) and found["miou"].n == 120
    back = compare_scores(two, one)["all"]["miou"]
    assert back.difference == pytest.approx(-want) and back.high < 0
    same = compare_scores(*runs(0.0))["all"]["miou"]
    assert same.low < 0 < same.high and not same.clear
    assert compare_scores(one, two) == compare_scores(one, two)


def test_the_interval_is_as_wide_as_the_textbook_says() -> None:
    one, two = runs(0.1, pictures=400)
    gaps = [b.iou - a.iou for a, b in zip(one, two, strict=True)]
    per_picture = np.array(gaps).reshape(-1, 2).mean(1)
    error = per_picture.std(ddof=1) / np.sqrt(len(per_picture))
    found = compare_scores(one, two)["all"]["miou"]
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_runs_of_other_sentences_or_another_truth_cannot_be_compared() -> None:
    one, two = runs(0.1, 3)
    with pytest.raises(ValueError, match="no sentence in common"):
        compare_scores(one, [replace(score, id=f"x{score.id}") for score in two])
    with pytest.raises(ValueError, match="means 100 pixels in the one run and 99"):
        compare_scores(one, [replace(score, truth=99) for score in two])


# ---- the page --------------------------------------------------------------------------------


def test_best_median_and_worst_are_what_they_say() -> None:
    scores = [
        Score(str(n), "a", (), 1, intersection=n, predicted=100, truth=100) for n in range(101)
    ]
    found = {name: [int(one.id) for one in group] for name, group in extremes(scores).items()}
    assert found["The best"] == [100, 99, 98, 97] and found["The worst"] == [3, 2, 1, 0]
    assert set(found["The median"]) <= set(range(48, 53))
    none = Score("x", "a", (), 0, 0, 5, 0)
    assert all(not group for group in extremes([none]).values())
