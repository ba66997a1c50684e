"""Scenes read as they were written, figures as they are defined, reports as promised."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refdiff.evaluation import (
    Scene,
    SceneObject,
    Sentence,
    evaluate,
    judge,
    kinds_table,
    read_scenes,
    summarise,
    table,
    write_scenes,
)
from refdiff.evaluation.report import Finder

SIZE = (20, 30)


def block(top: int, left: int, side: int = 8) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


MASKS = np.stack([block(1, 1), block(1, 20), block(11, 10)])


def pixels(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def drafts() -> list[tuple[Image.Image, list[SceneObject], list[Sentence]]]:
    things = [
        SceneObject.from_mask(noun, colour, mask)
        for noun, colour, mask in zip(
            ("cat", "cat", "dög"), ("red", None, "blue"), MASKS, strict=True
        )
    ]
    said = [
        Sentence("the red cat", (0,), "colour"),
        Sentence("both cats", (0, 1), "plural"),
        Sentence("the dög", (2,), "plain"),
        Sentence("the bus", (), "absent"),
    ]
    return [(pixels(1), things, said), (pixels(2), things[2:], [Sentence("dog", (0,), "plain")])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "data", iter(drafts()))
    return tmp_path / "data"


def answer(mask: Callable[[Scene, Sentence], Any]) -> Callable[[Scene], Finder]:
    return lambda scene: lambda sentence: mask(scene, sentence)


def union(masks: np.ndarray, indices: Sequence[int]) -> np.ndarray:
    return np.logical_or.reduce(masks[list(indices)], axis=0)


def exact(scene: Scene, sentence: Sentence) -> np.ndarray:
    return union(scene.masks(), sentence.objects)


# Scenes


def test_scenes_read_as_they_were_written(folder: Path) -> None:
    scenes = read_scenes(str(folder))
    assert [scene.image.name for scene in scenes] == ["0001.png", "0002.png"]
    for scene, (picture, things, said) in zip(scenes, drafts(), strict=True):
        assert scene.objects == tuple(things) and scene.sentences == tuple(said)
        assert (np.asarray(scene.picture()) == np.asarray(picture)).all()
    assert (scenes[0].masks() == MASKS).all() and scenes[0].masks().dtype == bool
    data = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    assert data["version"] == 1
    assert data["scenes"][0]["sentences"][1] == {
        "text": "both cats",
        "objects": [0, 1],
        "kind": "plural",
    }


@pytest.mark.parametrize("seed", range(5))
def test_any_mask_survives_its_encoding(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = random.random((3, *SIZE)) < random.random((3, 1, 1))
    masks[0] = seed % 2 == 0
    things = [SceneObject.from_mask("cat", None, mask) for mask in masks]
    write_scenes(tmp_path, [(pixels(seed), things, [])])
    assert (read_scenes(tmp_path)[0].masks() == masks).all()


def test_unknown_keys_and_kinds_and_empty_scenes_are_fine(folder: Path) -> None:
    data = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    data["licence"] = "none"
    data["scenes"][0]["source"] = data["scenes"][0]["objects"][0]["box"] = [1, 2]
    data["scenes"][0]["sentences"][0]["kind"] = "a kind of its own"
    del data["scenes"][0]["objects"][1]["colour"]
    data["scenes"].append({"image": "0001.png", "objects": [], "sentences": []})
    (folder / "scenes.json").write_text(json.dumps(data), encoding="utf-8")
    scenes = read_scenes(folder)
    assert scenes[0].sentences[0].kind == "a kind of its own"
    assert scenes[2].masks().shape == (0, *SIZE)


def spoil(data: Any, path: str, value: Any) -> None:
    *keys, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in keys:
        data = data[key]
    data[last] = value


COUNTS = "scenes/0/objects/0/mask/counts"
WRONG = [
    ("version", 2, "version"),
    ("scenes", {}, "scenes"),
    ("scenes/0", 7, "scene 1"),
    ("scenes/1/image", "missing.png", "missing.png"),
    ("scenes/1/image", None, "scene 2.*image"),
    ("scenes/0/objects/0/noun", 3, "object 0.*noun"),
    ("scenes/0/objects/0/colour", 3, "colour.*object 0"),
    ("scenes/0/objects/0/mask/size", [30, 20], r"\(30, 20\).*\(20, 30\)"),
    (COUNTS, [1, 2], "counts"),
    (COUNTS, "", "RLE"),
    (COUNTS, "oooo", "RLE"),
    (COUNTS, "5", "RLE"),
    (COUNTS, "zz é", "RLE"),
    ("scenes/0/sentences/0/objects", [3], r"sentence 1.*\[3\].*3 objects"),
    ("scenes/0/sentences/0/objects", [-1], r"\[-1\]"),
    ("scenes/0/sentences/0/objects", [0, 0], r"\[0, 0\]"),
    ("scenes/0/sentences/0/objects", [True], "True"),
    ("scenes/0/sentences/0/text", None, "sentence 1.*text"),
    ("scenes/0/sentences/0/kind", None, "sentence 1.*kind"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_sentence(
    folder: Path, path: str, value: Any, said: str
) -> None:
    data = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    spoil(data, path, value)
    (folder / "scenes.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=f"(?i){said}") as caught:
        read_scenes(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_run_length_cut_short_is_refused(folder: Path) -> None:
    data = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    counts = data["scenes"][0]["objects"][0]["mask"]["counts"]
    for end in range(len(counts)):
        spoil(data, COUNTS, counts[:end])
        (folder / "scenes.json").write_text(json.dumps(data), encoding="utf-8")
        with pytest.raises(ValueError, match="RLE"):
            read_scenes(folder)


def test_a_folder_without_scenes_is_named(tmp_path: Path) -> None:
    for text in (None, "{", "[]", "3"):
        if text:
            (tmp_path / "scenes.json").write_text(text)
        with pytest.raises(ValueError, match=r"scenes\.json"):
            read_scenes(tmp_path)


def test_nothing_wrong_is_written(tmp_path: Path) -> None:
    picture, things, said = drafts()[0]
    with pytest.raises(ValueError, match="size"):
        write_scenes(tmp_path, [(picture.resize((5, 5)), things, said)])
    with pytest.raises(ValueError, match="indices"):
        write_scenes(tmp_path, [(picture, things[:1], said)])
    assert not (tmp_path / "scenes.json").exists()


# Figures


def test_exact_masks_are_perfect_and_empty_ones_are_nothing() -> None:
    for meant in ((0,), (2,), (0, 1), (0, 1, 2)):
        good = judge(union(MASKS, meant), MASKS, meant)
        assert good.iou == 1 and good.right and good.present
        bad = judge(np.zeros(SIZE, bool), MASKS, meant)
        assert bad.iou == 0 and not bad.right and bad.empty


def test_right_is_more_overlap_than_with_any_other_object() -> None:
    assert judge(block(1, 1, 9), MASKS, (0,)).right
    assert not judge(MASKS[1], MASKS, (0,)).right
    assert not judge(MASKS[0] | MASKS[1], MASKS, (0,)).right  # a draw is not more
    assert judge(MASKS[0], MASKS, (0, 1)).right  # half of a plural, and nothing else
    assert not judge(MASKS[0] | MASKS[2], MASKS, (0, 1)).right
    assert not judge(block(12, 22, 3), MASKS[:1], (0,)).right  # touches no object
    assert judge(np.ones(SIZE, bool), MASKS[:1], (0,)).right


def test_iou_is_against_the_union_of_what_is_meant() -> None:
    outcome = judge(MASKS[0], MASKS, (0, 1))
    assert (outcome.intersection, outcome.union, outcome.iou) == (64, 128, 0.5)


def test_the_order_of_the_objects_does_not_matter() -> None:
    mask = block(5, 8, 9)
    for meant in ((0,), (1, 2)):
        turned = judge(mask, MASKS[::-1], [2 - index for index in meant])
        assert turned == judge(mask, MASKS, meant)


def test_figures_over_several_sentences() -> None:
    outcomes = [
        judge(MASKS[0], MASKS, (0,)),
        judge(MASKS[0], MASKS, (0, 1)),
        judge(MASKS[1], MASKS, (2,)),
        judge(np.ones(SIZE, bool), MASKS, ()),
    ]
    assert summarise(outcomes) == {
        "n": 3,
        "miou": 0.5,
        "oiou": round(128 / (64 + 128 + 128), 4),
        "pr50": 0.3333,  # 0.5 is not above 0.5
        "right_object": 0.6667,
    }
    assert set(summarise(outcomes[3:]).values()) == {0, None}


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(20, 30\)"):
        judge(np.zeros((4, 4), bool), MASKS, (0,))


# Reports


def test_a_perfect_segmenter_has_a_perfect_report(folder: Path) -> None:
    report = evaluate(read_scenes(folder), answer(exact), "oracle").to_dict()
    full = {"n": 4, "miou": 1.0, "oiou": 1.0, "pr50": 1.0, "right_object": 1.0}
    assert report.pop("seconds_per_sentence") > 0
    assert report == {
        "profile": "oracle",
        "overall": full,
        "kinds": {
            "colour": full | {"n": 1},
            "plural": full | {"n": 1},
            "plain": full | {"n": 2},
            "absent": {"n": 1, "empty_rate": 1.0},
        },
    }
    assert json.loads(json.dumps(report)) == report


def test_tensors_are_masks_too_and_a_full_mask_is_not_empty(folder: Path) -> None:
    report = evaluate(read_scenes(folder), answer(lambda *_: torch.ones(SIZE, dtype=torch.bool)))
    assert report.kinds["absent"] == {"n": 1, "empty_rate": 0.0}
    assert report.overall["oiou"] == round((64 * 3 + 128) / (4 * 20 * 30), 4)


def test_a_kind_with_and_without_objects_has_both_figures(folder: Path) -> None:
    picture, things, said = drafts()[0]
    said.append(Sentence("no dog", (), "plain"))
    write_scenes(folder, [(picture, things, said)])
    plain = evaluate(read_scenes(folder), answer(exact)).kinds["plain"]
    assert plain["n"] == 1 and plain["n_absent"] == 1 and plain["empty_rate"] == 1.0


def test_pictures_are_prepared_once_and_the_limit_counts_sentences(folder: Path) -> None:
    prepared: list[str] = []
    asked: list[str] = []
    steps: list[tuple[int, int]] = []

    def segmenter(scene: Scene) -> Finder:
        prepared.append(scene.image.name)

        def find(sentence: Sentence) -> np.ndarray:
            asked.append(sentence.text)
            return exact(scene, sentence)

        return find

    scenes = read_scenes(folder)
    report = evaluate(scenes, segmenter, limit=3, progress=lambda *step: steps.append(step))
    assert prepared == ["0001.png"] and asked == ["the red cat", "both cats", "the dög"]
    assert steps == [(1, 3), (2, 3), (3, 3)] and len(report.outcomes) == 3
    evaluate(scenes, segmenter, limit=99)
    assert prepared[1:] == ["0001.png", "0002.png"] and len(asked) == 8


def test_nothing_to_evaluate_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="sentence"):
        evaluate([], answer(exact))
    with pytest.raises(ValueError, match=r"limit.*0"):
        evaluate(read_scenes(folder), answer(exact), limit=0)


def test_only_absent_things_leave_the_overall_figures_open(folder: Path) -> None:
    write_scenes(folder, [(pixels(1), [], [Sentence("the bus", (), "absent")])])
    report = evaluate(read_scenes(folder), answer(lambda *_: np.zeros(SIZE, bool)))
    assert report.overall["n"] == 0 and report.overall["miou"] is None
    assert "| **overall** | 0 | - |" in report.to_markdown()


def test_tables_have_a_cell_for_everything(folder: Path) -> None:
    scenes = read_scenes(folder)
    good = evaluate(scenes, answer(exact), "oracle")
    bad = evaluate(scenes, answer(lambda *_: np.zeros(SIZE, bool)), "nothing", limit=2)
    own = good.to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in own[2:]] == [*good.kinds, "**overall**"]
    rows = table({"oracle": good, "nothing": bad.to_dict()}).splitlines()
    assert rows[2].startswith("| oracle | 4 | 1.000 | 1.000 | 1.000 | 1.000 |")
    assert rows[3].startswith("| nothing | 2 | 0.000 |")
    kinds = kinds_table({"oracle": good, "nothing": bad}, "right_object").splitlines()
    assert kinds[0] == "|  | colour | plural | plain | absent |"
    assert kinds[3] == "| nothing | 0.000 | 0.000 | - | - |"
    for lines in (own, rows, kinds):
        assert len({line.count("|") for line in lines}) == 1
