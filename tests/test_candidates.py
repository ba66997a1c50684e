"""Candidates from anywhere: files, other libraries' results, boxes, SAM; many of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import refdiff
from refdiff.cli import app
from refdiff.errors import ModelError
from refdiff.masks.candidates import Candidates, Runs, distinct, gather, without_crumbs
from refdiff.masks.handover import hand_over
from refdiff.masks.refining import refined
from refdiff.masks.resize import resize_masks, upsample
from refdiff.masks.sam import KINDS, load_sam
from refdiff.masks.sources import candidates_of
from refdiff.stickers import SAMPLE, SAMPLE_LABELS
from refdiff.stickers.sample import sample_masks

SIZE = (97, 131)


@pytest.fixture
def masks() -> np.ndarray:
    """A square, a bar and a corner, [3, 97, 131]."""
    found = np.zeros((3, *SIZE), bool)
    found[0, 20:60, 10:50] = True
    found[1, 80:90, 20:120] = True
    found[2, :30, 100:] = True
    return found


def full(found: Candidates) -> np.ndarray:
    return found.full(range(len(found))).numpy()


# ---- from files and other libraries ------------------------------------------------------------


def test_a_picture_of_labels_gives_a_mask_for_each(
    tmp_path: Path, masks: np.ndarray, picture: Image.Image
) -> None:
    values = (masks * np.array([3, 7, 300])[:, None, None]).sum(0)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(full(candidates_of(f"labels:{tmp_path / 'deep.png'}", picture)), masks)
    indexed = Image.fromarray((values % 256).astype(np.uint8))
    indexed.putpalette(list(range(256)) * 3)
    indexed.save(tmp_path / "palette.png")
    assert len(candidates_of(tmp_path / "palette.png", picture)) == 3
    assert np.array_equal(full(candidates_of(f"labels:{SAMPLE_LABELS}", SAMPLE)), sample_masks())


def test_cocos_run_lengths_and_polygons(
    tmp_path: Path, masks: np.ndarray, picture: Image.Image
) -> None:
    from pycocotools import mask as coco

    compressed = [Runs.of(mask) for mask in masks]
    plain = [{"size": list(SIZE), "counts": runs.counts.decode()} for runs in compressed]
    path = tmp_path / "masks.json"
    path.write_text(json.dumps([{"segmentation": one, "area": 1} for one in plain]))
    assert np.array_equal(full(candidates_of(path, picture)), masks)
    path.write_text(json.dumps(plain[0]))
    assert np.array_equal(full(candidates_of(path, picture)), masks[:1])
    flat = masks[2].T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *lengths] if flat[0] else lengths
    found = candidates_of({"size": list(SIZE), "counts": counts}, picture)
    assert np.array_equal(full(found), masks[2:])
    square = [[10, 20, 50, 20, 50, 60, 10, 60]]
    found = candidates_of([{"segmentation": square}], picture)
    assert np.array_equal(full(found)[0], coco.decode(coco.merge(coco.frPyObjects(square, *SIZE))))


def test_a_data_set_of_several_pictures_is_asked_by_name(
    tmp_path: Path, masks: np.ndarray, picture: Image.Image
) -> None:
    plain = [{"size": list(SIZE), "counts": Runs.of(mask).counts.decode()} for mask in masks]
    path = tmp_path / "set.json"
    path.write_text(json.dumps({
        "images": [{"id": 5, "file_name": "a/one.png"}, {"id": 6, "file_name": "two.png"}],
        "annotations": [
            {"image_id": image, "segmentation": one}
            for image, one in zip((5, 6, 5), plain, strict=True)
        ],
    }))  # fmt: skip
    picture.save(tmp_path / "one.png")
    found = candidates_of(path, tmp_path / "one.png")
    assert np.array_equal(full(found), masks[[0, 2]])
    with pytest.raises(ValueError, match=r"2 pictures and none called 'three\.png'"):
        candidates_of(path, picture, "three.png")


def test_boxes_are_filled(picture: Image.Image, masks: np.ndarray) -> None:
    boxes = [[10, 20, 50, 60], [20.2, 80, 120, 90], [100, -4, 200, 30]]
    for given in (boxes, np.array(boxes), torch.tensor(boxes)):
        assert np.array_equal(full(candidates_of(given, picture)), masks)
    with pytest.raises(ValueError, match="right exceeds left"):
        candidates_of([[50, 20, 10, 60]], picture)


def test_supervisions_detections(picture: Image.Image, masks: np.ndarray) -> None:
    supervision = pytest.importorskip("supervision")
    boxes = np.array([[10, 20, 50, 60], [20, 80, 120, 90], [100, 0, 131, 30]], float)
    with_masks = supervision.Detections(xyxy=boxes, mask=masks)
    assert np.array_equal(full(candidates_of(with_masks, picture)), masks)
    assert np.array_equal(full(candidates_of(supervision.Detections(xyxy=boxes), picture)), masks)


def test_results_of_ultralytics(picture: Image.Image, masks: np.ndarray) -> None:
    """Its own attributes, as its Results class has them: orig_shape, boxes.xyxy, masks.xy."""
    boxes = SimpleNamespace(xyxy=torch.tensor([[10.0, 20, 50, 60]]))
    outline = np.array([[10, 20], [49, 20], [49, 59], [10, 59]], np.float32)
    result = SimpleNamespace(orig_shape=SIZE, boxes=boxes, masks=SimpleNamespace(xy=[outline]))
    assert np.array_equal(full(candidates_of([result], picture)), masks[:1])
    result.masks = None
    assert np.array_equal(full(candidates_of(result, picture)), masks[:1])


def test_several_sources_are_taken_together(
    tmp_path: Path, picture: Image.Image, masks: np.ndarray
) -> None:
    Image.fromarray(masks[0]).save(tmp_path / "one.png")
    (tmp_path / "boxes.json").write_text("[[20, 80, 120, 90]]")
    found = candidates_of([tmp_path / "one.png", str(tmp_path / "boxes.json")], picture)
    assert np.array_equal(full(found), masks[:2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[1, 2, 3", "not JSON"),
        ('[{"segmentation": {"size": [4, 4], "counts": "04"}}]', "the picture is"),
        ('[{"segmentation": 5}]', "should be lists of numbers, found 5"),
        ('{"annotations": []}', "no segmentation"),
    ],
)
def test_bad_json_is_refused(tmp_path: Path, picture: Image.Image, content: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        candidates_of(tmp_path / "bad.json", picture)


def test_a_look_chooses_among_them_and_gives_them_back_as_they_came(tiny_pipe: Any) -> None:
    masks = sample_masks()
    look = refdiff.look(tiny_pipe, SAMPLE, proposals=f"labels:{SAMPLE_LABELS}")
    found = look("the red cat")
    assert len(found.candidates) == 6
    assert any(np.array_equal(found.mask.numpy(), mask) for mask in masks)


# ---- many --------------------------------------------------------------------------------------


def test_the_same_thing_is_kept_once_and_trifles_are_dropped() -> None:
    rows, columns = np.mgrid[:200, :300]
    disc = (rows - 90) ** 2 + (columns - 120) ** 2 < 50**2
    near = (rows - 90) ** 2 + (columns - 121) ** 2 < 50**2
    other = (rows - 90) ** 2 + (columns - 150) ** 2 < 50**2
    dot = np.zeros_like(disc)
    dot[5, 5] = True
    found = gather([disc, np.ones_like(disc), near, other, dot, np.zeros_like(disc)], (171, 256))
    assert len(found) == 5, "an empty one is no candidate"
    kept = distinct(found)
    assert np.array_equal(full(kept), np.stack([disc, other]))
    assert len(distinct(gather([dot], (171, 256)))) == 1, "something is left"


def test_masks_one_by_one_are_what_they_are_together() -> None:
    random = np.random.default_rng(0)
    small = torch.from_numpy(random.random((4, 48, 64)) > 0.6)
    stack = torch.stack([upsample(mask, (300, 400)) for mask in small])
    found = gather((mask.numpy() for mask in stack), (48, 64))
    assert torch.equal(found.small, small) and torch.equal(found.full([2])[0], stack[2])
    rough = torch.from_numpy(random.random((3, 300, 400)) > 0.5)
    assert torch.equal(
        gather((m.numpy() for m in rough), (48, 64)).small, resize_masks(rough, (48, 64))
    )


def test_crumbs_go_and_holes_are_closed() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    wanted = mask.copy()
    mask[40:43, 40:43] = False
    mask[5:8, 90:93] = True
    assert np.array_equal(without_crumbs(mask), wanted)
    ring = wanted.copy()
    ring[30:70, 30:70] = False
    assert np.array_equal(without_crumbs(ring), ring), "a large hole is a hole"
    assert not without_crumbs(np.zeros((9, 9), bool)).any()


# ---- SAM ---------------------------------------------------------------------------------------


def small_sam(kind: str) -> tuple[Any, Any]:
    """A SAM of transformers' own class with small random weights, and its processor."""
    import transformers as t

    torch.manual_seed(0)
    decoder: dict[str, Any] = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1}
    decoder |= {"num_attention_heads": 2, "iou_head_hidden_dim": 16, "attention_downsample_rate": 1}
    if kind == "sam":
        config = t.SamConfig(
            vision_config={
                "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 128, "patch_size": 16, "global_attn_indexes": [0],
                "output_channels": 32, "mlp_dim": 32, "window_size": 4, "num_pos_feats": 16,
            },
            prompt_encoder_config={
                "hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 8,
            },
            mask_decoder_config=decoder,
        )  # fmt: skip
        pixels = t.SamImageProcessor(
            size={"longest_edge": 128}, pad_size={"height": 128, "width": 128},
            mask_size={"longest_edge": 32}, mask_pad_size={"height": 32, "width": 32},
        )  # fmt: skip
        return t.SamModel(config), t.SamProcessor(pixels)
    prompts = {"hidden_size": 32, "mask_input_channels": 8}
    if kind == "sam2":
        config = t.Sam2Config(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model", "hidden_size": 8,
                    "num_attention_heads": 1, "image_size": [128, 128],
                    "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                    "num_attention_heads_per_stage": [1, 2, 4, 8],
                    "window_size_per_stage": [8, 4, 4, 4], "global_attention_blocks": [3],
                    "window_positional_embedding_background_size": [4, 4],
                },
                "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
                "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            },
            prompt_encoder_config={**prompts, "image_size": 128, "patch_size": 16},
            mask_decoder_config=decoder,
        )  # fmt: skip
        pixels = t.Sam2ImageProcessor(
            size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32}
        )
        return t.Sam2Model(config), t.Sam2Processor(pixels)
    config = t.Sam3TrackerConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32,
                "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 112,
                "pretrain_image_size": 56, "patch_size": 14, "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        prompt_encoder_config={**prompts, "image_size": 112, "patch_size": 14},
        mask_decoder_config=decoder,
    )  # fmt: skip
    pixels = t.Sam2ImageProcessor(
        size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32}
    )
    return t.Sam3TrackerModel(config), t.Sam3TrackerProcessor(pixels)


@pytest.fixture(scope="module", params=list(KINDS))
def sam_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model, as "sam2:folder"."""
    folder = tmp_path_factory.mktemp("sam") / request.param
    model, processor = small_sam(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"{request.param}:{folder}"


def test_sam_gives_every_mask_at_the_pictures_size(sam_folder: str, picture: Image.Image) -> None:
    sam = load_sam(sam_folder)
    everything = list(sam.everything(picture, side=3, quality=-9.0, stability=0.0))
    assert len(everything) == 3 * 3 * 3
    assert {mask.shape for mask in everything} == {SIZE}
    assert len(list(sam.everything(picture, side=3, quality=99.0))) == 0
    again = list(sam.everything(picture, side=3, quality=-9.0, stability=0.0))
    assert all(np.array_equal(a, b) for a, b in zip(everything, again, strict=True))


def test_sam_answers_a_hand_over(sam_folder: str, picture: Image.Image) -> None:
    heat = torch.zeros(97, 131)
    heat[20:60, 10:50] = 1.0
    prompts = hand_over(heat, heat > 0.5)
    sam = load_sam(sam_folder)
    answers = sam.ask(picture, prompts)
    assert len(answers) == 3 and {mask.shape for mask in answers} == {SIZE}
    bare = sam.ask(picture, prompts, logits=False)
    assert any(not np.array_equal(a, b) for a, b in zip(answers, bare, strict=True))


def test_a_single_file_is_read_by_the_config_beside_it(sam_folder: str, tmp_path: Path) -> None:
    import shutil

    kind, _, folder = sam_folder.partition(":")
    shutil.copy(Path(folder) / "model.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_sam(f"{kind}:{tmp_path / 'mine.safetensors'}")
    for name in Path(folder).glob("*.json"):
        shutil.copy(name, tmp_path)
    mine = load_sam(f"{kind}:{tmp_path / 'mine.safetensors'}").model.state_dict()
    whole = load_sam(sam_folder).model.state_dict()
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


def test_a_sams_configs_are_looked_through(sam_folder: str, tmp_path: Path) -> None:
    kind, _, source = sam_folder.partition(":")
    changes: dict[str, dict[str, Any]] = {
        "never runs": {"auto_map": {"AutoModel": "evil.Evil"}},
        "beyond": {"vision_config": {"image_size": 1_000_000}},
    }
    for number, (said, change) in enumerate(changes.items()):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        for given in (folder, folder / "model.safetensors"):
            with pytest.raises(ModelError, match=said):
                load_sam(f"{kind}:{given}")
    os.unlink(folder / "config.json")
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelError, match="files only"):
        load_sam(f"{kind}:{folder}")
    for name in ("~nobody-here/sam", "x" * 5000, "a\0b"):
        with pytest.raises(ModelError, match=r"no path|cannot be read"):
            load_sam(f"{kind}:{name}")


def test_what_is_no_sam_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    for spec, said in (
        ("sam9:x", "names no SAM"),
        (f"sam2:{tmp_path / 'pickled'}", "pickled weights are not read"),
        ("sam2:nobody/nothing-here", "cannot be read"),
    ):
        with pytest.raises(ModelError, match=said):
            load_sam(spec)


# ---- the hand-over -----------------------------------------------------------------------------


def test_points_lie_in_the_core_and_in_rivals() -> None:
    heat, mask = torch.zeros(100, 150), torch.zeros(100, 150, dtype=torch.bool)
    mask[20:60, 20:60] = True
    heat[mask] = 0.6
    heat[30:40, 40:55] = 1.0
    rival = torch.zeros(2, 100, 150, dtype=torch.bool)
    rival[0, 60:95, 105:140] = True
    rival[1, 50:70, 50:70] = True
    prompts = hand_over(heat, mask, rival, (200, 300))
    inside = mask.numpy()
    assert 1 <= len(prompts.positive) <= 3 and 1 <= len(prompts.negative) <= 3
    for x, y in prompts.positive:
        assert inside[int(y / 2), int(x / 2)]
    x, y = prompts.positive[0] / 2
    assert 30 <= y < 40 and 40 <= x < 55, "the first is the hot and deep one"
    x, y = prompts.negative[0] / 2
    assert 60 <= y < 95 and 105 <= x < 140, "the rival that does not touch comes first"
    for x, y in prompts.negative:
        assert not inside[int(y / 2), int(x / 2)]
    assert prompts.box == (40, 40, 120, 120)
    low = prompts.logits
    assert low.shape == (256, 256) and float(low[100, 68]) > 0 > float(low[200, 30])


def test_the_forms_that_others_take() -> None:
    heat = torch.zeros(40, 40)
    heat[10:30, 10:30] = 1.0
    prompts = hand_over(heat, heat > 0)
    ours = prompts.for_transformers()
    assert np.array(ours["input_points"]).shape == (1, 1, len(prompts.points), 2)
    assert np.array(ours["input_labels"]).shape == (1, 1, len(prompts.points))
    assert ours["input_boxes"] == [[[10, 10, 30, 30]]]
    comfy = prompts.for_comfyui()
    assert all(set(each) == {"x", "y"} for each in json.loads(comfy["positive_coords"]))
    assert comfy["bboxes"] == {"x": 10, "y": 10, "width": 20, "height": 20}


def test_a_hand_over_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        hand_over(torch.zeros(8, 8), torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="wanted one size"):
        hand_over(torch.zeros(8, 8), torch.ones(9, 8, dtype=torch.bool))


def test_on_stickers_positive_points_hit_and_negative_ones_miss() -> None:
    """The sample's known objects, with heat that is each object blurred."""
    from scipy import ndimage

    masks = torch.from_numpy(sample_masks())
    for index, mask in enumerate(masks):
        heat = torch.from_numpy(ndimage.gaussian_filter(mask.numpy().astype(np.float32), 6))
        others = torch.cat([masks[:index], masks[index + 1 :]])
        prompts = hand_over(heat / heat.max(), mask, others)
        assert all(mask[int(y), int(x)] for x, y in prompts.positive)
        assert not any(mask[int(y), int(x)] for x, y in prompts.negative)
        assert len(prompts.negative) >= 2


# ---- by number, refined, drawn -----------------------------------------------------------------


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in ("segment", *words)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_person_picks_a_candidate_by_its_number(tiny_model: Path, tmp_path: Path) -> None:
    given = ("sample", "the cat", "-m", tiny_model, "-o", tmp_path)
    given = (*given, "--proposals", f"labels:{SAMPLE_LABELS}")
    run(*given, "--everything")
    (numbered,) = tmp_path.rglob("candidates.png")
    drawn = np.asarray(Image.open(numbered))
    plain = np.asarray(Image.open(SAMPLE).convert("RGB"))
    assert drawn.shape == plain.shape and (drawn != plain).any(2).mean() > 0.02
    for number in (1, 6):
        run(*given, "--pick", number)
        mask = np.asarray(Image.open(next(tmp_path.rglob("*mask.png")))) == 255
        assert np.array_equal(mask, sample_masks()[number - 1])
    assert "numbered from 1 to 6" in run(*given, "--pick", 7, code=2)
    assert not numbered.exists(), "it would be of an earlier answer"
    numbered.write_bytes(b"mine")
    assert "was not written by refdiff" in run(*given, "--everything", code=2)
    run(*given)
    assert numbered.read_bytes() == b"mine"


def test_sams_mask_takes_the_place_only_where_it_is_of_the_same_thing(
    tiny_pipe: Any, sam_folder: str
) -> None:
    found = refdiff.look(tiny_pipe, SAMPLE, proposals=f"labels:{SAMPLE_LABELS}")("the cat")
    answer = refined(found, load_sam(sam_folder))
    overlap = (answer.mask & found.mask).sum() / (answer.mask | found.mask).sum()
    refused = any("refused" in note for note in answer.notes)
    assert torch.equal(answer.mask, found.mask) if refused else float(overlap) > 0.2
    assert answer.mask.shape == found.mask.shape and answer.candidates == found.candidates
    with pytest.raises(ValueError, match="rounds"):
        refined(found, load_sam(sam_folder), rounds=0)


def test_the_command_refines_with_sam(tiny_model: Path, sam_folder: str, tmp_path: Path) -> None:
    run("sample", "the cat", "-m", tiny_model, "-o", tmp_path, "--refine", sam_folder)
    assert Image.open(next(tmp_path.rglob("*mask.png"))).size == (256, 256)
    said = run("sample", "the cat", "-m", tiny_model, "-o", tmp_path, "--refine", "sam9:x", code=2)
    assert "names no SAM" in said
