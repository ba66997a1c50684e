"""How the sticker models are made: their shapes, a step of every training, and the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn.functional import normalize
from typer.testing import CliRunner

from refdiff.attention.diffusers import DiffusersCapture
from refdiff.attention.hooks import layer_table
from refdiff.commands.common import make_ready
from refdiff.evaluation.scenes import SceneObject, Sentence
from refdiff.scoring.clip import ClipScorer
from refdiff.scoring.scores import log_evidence
from refdiff.stickers import PAINTER, SAMPLE, SAMPLE_LABELS, WEIGHTS
from refdiff.stickers.nouns import NOUNS
from refdiff.stickers.training import train_clip as clips
from refdiff.stickers.training import train_closeups as brushes
from refdiff.stickers.training import train_painter as painters
from refdiff.stickers.training import train_unet as unets
from refdiff.stickers.training import train_vae as vaes
from refdiff.stickers.training.closeups import draw_closeup
from refdiff.stickers.training.export import export
from refdiff.stickers.training.fusion import examples_of, fit
from refdiff.stickers.training.grounding import Example, grounding
from refdiff.stickers.training.loop import Loop, Losses
from refdiff.stickers.training.pool import SHARD, read_pool
from refdiff.stickers.training.regions import CROPS, STICKERS, batch
from refdiff.stickers.training.scenes import Thing
from refdiff.stickers.training.sentences import Scene, absent
from refdiff.stickers.training.sprites import Sprites
from refdiff.stickers.training.train import app

WORDS = ["the red cat on the left", "strawberry", "all the butterflies"]


# ---- the loop --------------------------------------------------------------------------------


def linear_loop(folder: Path, steps: int, stop_at: int | None = None) -> Loop:
    """Fits a line; stops with an error before step `stop_at`, as a machine that goes down."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    calls = iter(range(1_000))

    def step(generator: torch.Generator) -> Losses:
        if next(calls) == stop_at:
            raise InterruptedError
        inputs = torch.randn(8, 3, generator=generator)
        return {"loss": (module(inputs) - inputs[:, :2]).square().mean(), "one": torch.ones(())}

    return Loop(module, step, folder, steps, rate=0.05, warmup=4, save_minutes=0)


def test_stopping_and_going_on_changes_nothing(tmp_path: Path) -> None:
    whole = linear_loop(tmp_path / "whole", 6)
    start = whole.module.weight.detach().clone()
    whole.run()
    with pytest.raises(InterruptedError):
        linear_loop(tmp_path / "parts", 6, stop_at=3).run()
    rest = linear_loop(tmp_path / "parts", 6)
    rest.run()
    assert whole.done == rest.done == 6
    assert not torch.equal(whole.module.weight, start)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(rest.module.state_dict()[name], value)
        assert torch.equal(rest.mean[name], whole.mean[name])
        assert not torch.equal(value, whole.mean[name])
    last = whole.module.weight.detach().clone()
    assert torch.equal(whole.averaged().weight, rest.mean["weight"])
    assert not torch.equal(whole.module.weight, last)


def test_a_finished_training_is_left_alone(tmp_path: Path) -> None:
    linear_loop(tmp_path, 5).run()
    again = linear_loop(tmp_path, 5, stop_at=0)
    again.run()
    assert again.done == 5


def test_the_log_holds_means_also_after_a_stop(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        linear_loop(tmp_path, 50, stop_at=35).run()
    linear_loop(tmp_path, 50).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [25, 50]
    assert [line["one"] for line in lines] == [1.0, 1.0]
    assert lines[1]["loss"] < lines[0]["loss"]


# ---- shapes ----------------------------------------------------------------------------------


def test_the_shapes_are_those_that_other_programs_can_load() -> None:
    unet, text, vae = unets.new_unet(), unets.new_text_encoder(), vaes.new_vae()
    for config in (unet.config, vae.config):
        assert config.norm_num_groups == 32
        assert all(channels % 32 == 0 for channels in config.block_out_channels)
    assert "CrossAttn" not in unet.config.down_block_types[0] + unet.config.up_block_types[-1]
    assert unet.config.cross_attention_dim == text.config.hidden_size
    assert text.config.vocab_size == 49408 and text.config.max_position_embeddings == 77
    assert text.config.hidden_act == "quick_gelu"
    with torch.inference_mode():
        latent = vae.encode(torch.zeros(1, 3, 256, 256)).latent_dist.mean
        assert latent.shape == (1, 4, 32, 32)
        assert vae.decode(latent).sample.shape == (1, 3, 256, 256)
        states = text(torch.zeros(1, 77, dtype=torch.long)).last_hidden_state
        assert unet(latent, 100, states).sample.shape == latent.shape


@pytest.fixture(scope="module")
def clip() -> Any:
    torch.manual_seed(1)
    return clips.new_clip().eval().requires_grad_(False)


def test_short_texts_are_the_models_own(clip: Any) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    tokens = SimpleTokenizer()(WORDS)
    found = clips.short_texts(clip, tokens[:, : clips.WORDS])
    assert torch.allclose(found, clip.encode_text(tokens), atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 0.01


@pytest.mark.parametrize("side", [64, 128])
def test_masked_regions_are_what_the_scorer_sees(clip: Any, side: int) -> None:
    generator = torch.Generator().manual_seed(2)
    scenes = torch.rand(2, 3, side, side, generator=generator)
    masks = torch.zeros(2, 3, side, side, dtype=torch.bool)
    masks[:, 0] = True
    masks[0, 1, 5 : side // 2, 9 : side - 3] = True
    masks[1, 1, side // 3 :, : side // 2] = True
    masks[:, 2, 41:43, 30:31] = True
    scorer = ClipScorer(clip, None, 64, [0.5] * 3, [0.5] * 3)
    found = normalize(clips.masked_regions(clip.visual, 2 * scenes - 1, masks.float()), dim=-1)
    for row in range(2):
        wanted = scorer.masked_features(scenes[row], masks[row])
        assert torch.allclose(found[row], wanted, atol=1e-4)
        assert float((wanted[0] - wanted[1]).abs().max()) > 0.01


# ---- from a pool to models -------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of twelve pictures with two discs each, as `draw_pool` writes it."""
    folder = tmp_path_factory.mktemp("work") / "pool" / "0000"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 256, 256, 3), np.uint8)
    rows, columns = np.mgrid[:256, :256]
    labels = np.zeros((12, 256, 256), np.uint8)
    for label, (y, x) in enumerate(((80, 70), (150, 180)), 1):
        inside = (rows - y) ** 2 + (columns - x) ** 2 < 40**2
        labels[:, inside] = label
        pictures[:, inside] = (220, 30 * label, 60)
    things = [
        {"noun": noun, "colour": colour, "centre": [y / 256, x / 256], "size": 80.0}
        for noun, colour, y, x in (("cat", "red", 80, 70), ("dog", None, 150, 180))
    ]
    np.save(folder / "pictures.npy", pictures)
    np.save(folder / "labels.npy", labels)
    (folder / "things.json").write_text(json.dumps([things] * 12))
    return folder.parent


@pytest.fixture(scope="module")
def emoji() -> Sprites:
    """Two styles of three discs."""
    found: Sprites = {"bright": {}, "dark": {}}
    for style, shade in (("bright", 255), ("dark", 120)):
        for hue, name in enumerate(("cat", "dog", "owl")):
            ink = [40, 40, 40]
            ink[hue] = shade
            picture = Image.new("RGBA", (96, 80))
            ImageDraw.Draw(picture).ellipse((0, 0, 95, 79), fill=tuple(ink))
            found[style][name] = [picture]
    return found


@pytest.fixture(scope="module")
def made(pool: Path, emoji: Sprites) -> Path:
    """The work folder after one step of every training."""
    work = pool.parent
    vaes.train_vae(pool, work, 1)
    vaes.encode_pool(pool, work)
    vaes.train_decoder(pool, work, 1)
    unets.train_unet(pool, work, 1)
    clips.train_clip(pool, work, 1, emoji)
    return work


@pytest.fixture(scope="module")
def weights(made: Path) -> Path:
    folder = made / "weights"
    export(made, folder)
    return folder


def test_a_pool_is_read_back(pool: Path, made: Path) -> None:
    assert SHARD >= 100
    (shard,) = read_pool(pool, latents=True)
    assert shard.pictures.shape == (12, 256, 256, 3) and shard.labels.max() == 2
    assert shard.latents.shape == (12, 4, 32, 32) and shard.latents.dtype == np.float16
    assert shard.things[3][0].centre == (80 / 256, 70 / 256)
    assert 0.2 < float(shard.latents.astype(float).std()) < 5
    assert read_pool(pool, pictures=False)[0].pictures.size == 0


def test_every_training_steps_and_says_so(made: Path) -> None:
    stages = ("vae", "decoder", "unet", "clip")
    for stage in stages:
        state = torch.load(made / f"{stage}-training" / "checkpoint.pt", weights_only=True)
        assert state["done"] == 1
        assert all(bool(torch.isfinite(value).all()) for value in state["mean"].values())
    fresh = unets.make_model(None).unet.state_dict()
    trained = torch.load(made / "unet-training" / "checkpoint.pt", weights_only=True)["module"]
    moved = [name for name in fresh if not torch.equal(fresh[name], trained[f"unet.{name}"])]
    assert len(moved) > 0.9 * len(fresh)


def test_clip_is_shown_each_sticker_in_two_styles(pool: Path, emoji: Sprites) -> None:
    shards = read_pool(pool)
    rng = np.random.default_rng(0)
    cut_outs, _, masks, regions, sentences, truth = batch(shards, emoji, rng)
    assert cut_outs.shape == (CROPS + STICKERS, 3, 64, 64)
    assert float(cut_outs.amin()) >= -1 and float(cut_outs.amax()) <= 1
    assert len(regions) == len(cut_outs) + masks.shape[0] * masks.shape[1]
    assert truth.shape == (len(regions), len(sentences))
    shown = [regions[i].thing for i in range(CROPS, CROPS + STICKERS)]
    pairs = [(a.noun, b.noun) for a, b in zip(shown[::2], shown[1::2], strict=True) if a and b]
    assert len(pairs) > STICKERS / 4 and all(a == b for a, b in pairs)
    assert {a for a, _ in pairs} == {"cat", "dog", "owl"}
    for index in (CROPS, CROPS + 1):
        assert float(cut_outs[index].std()) > 0.01
    none = [index for index, region in enumerate(regions) if region.thing is None]
    assert none and not bool(truth[none].any())


def test_the_pool_says_which_names_are_to_be_told_apart(tmp_path: Path, pool: Path) -> None:
    names = unets.names_in(pool)
    assert list(names) == list(NOUNS) and list(names.values()) == list(range(1, 41))
    shutil.copytree(pool / "0000", tmp_path / "pool" / "0000")
    path = tmp_path / "pool" / "0000" / "things.json"
    path.write_text(path.read_text().replace('"dog"', '"owl"'))
    assert unets.names_in(tmp_path / "pool") == {**names, "owl": 41}


@pytest.mark.parametrize("shipped", [False, True])
def test_the_export_is_small_and_in_half_precision(weights: Path, shipped: bool) -> None:
    from safetensors.torch import load_file

    folder = WEIGHTS if shipped else weights
    files = [path for path in folder.rglob("*") if path.is_file()]
    painter = {"painter/unet"} if shipped else set()
    assert sum(path.stat().st_size for path in files) < 64e6 + len(painter) * 22e6
    assert not {path.suffix for path in files} & {".bin", ".pt", ".ckpt"}
    tensors = {
        path.parent.relative_to(folder).as_posix(): load_file(path)
        for path in files
        if path.suffix == ".safetensors"
    }
    assert set(tensors) == {"vae", "unet", "text_encoder", "clip"} | painter
    for values in tensors.values():
        assert {value.dtype for value in values.values()} == {torch.float16}
        assert all(bool(torch.isfinite(value).all()) for value in values.values())
    names = tensors["text_encoder"]
    assert all(name.startswith("text_model.") for name in names)
    assert names["text_model.embeddings.token_embedding.weight"].shape == (49408, 128)
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 77
    for part in ("unet", "vae", *painter):
        config = json.loads((folder / part / "config.json").read_text())
        assert config["norm_num_groups"] == 32 and "_name_or_path" not in config
        assert all(channels % 32 == 0 for channels in config["block_out_channels"])


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionInpaintPipeline"])
def test_diffusers_loads_the_export_and_it_says_the_same(
    name: str, made: Path, weights: Path
) -> None:
    import diffusers
    from transformers import CLIPTextModel

    pipe = getattr(diffusers, name).from_pretrained(weights)
    scheduler = pipe.scheduler.config
    assert (scheduler.beta_start, scheduler.beta_end) == (0.00085, 0.012)
    assert scheduler.beta_schedule == "scaled_linear" and pipe.tokenizer.model_max_length == 77
    before = CLIPTextModel.from_pretrained(made / "text_encoder")
    tokens = pipe.tokenizer(WORDS, padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        states = [model(tokens).last_hidden_state.float() for model in (before, pipe.text_encoder)]
        assert torch.allclose(*states, atol=0.02)
        assert same_after_half(before, pipe.text_encoder, lambda one: one(tokens).last_hidden_state)
        unet = diffusers.UNet2DConditionModel.from_pretrained(made / "unet")
        noise = torch.randn(1, 4, 32, 32)
        assert same_after_half(unet, pipe.unet, lambda one: one(noise, 9, states[0][:1]).sample)
        vae = diffusers.AutoencoderKL.from_pretrained(made / "vae")
        assert same_after_half(vae, pipe.vae, lambda one: one.decode(noise).sample)
        assert pipe.vae.config.scaling_factor == vae.config.scaling_factor != 1


def same_after_half(before: Any, after: Any, answer: Callable[[Any], Tensor]) -> bool:
    """Whether two models answer alike once the first one's weights are rounded to half."""
    return torch.allclose(answer(before.half().float()), answer(after.float()), atol=1e-5)


def test_the_library_reads_the_export(weights: Path) -> None:
    from diffusers import StableDiffusionPipeline

    scorer = ClipScorer.load(weights / "clip")
    assert scorer.size == 64 and scorer.text_features(WORDS).shape == (3, 128)
    capture = DiffusersCapture(StableDiffusionPipeline.from_pretrained(weights))
    assert capture.native == 256
    picture = capture.encode(read_picture())
    grids = {tuple(maps.shape[1:]) for maps in capture.read(picture, WORDS[:1])[0].maps}
    assert grids == {(8, 8), (16, 16)}


def read_picture() -> Any:
    return Image.new("RGB", (200, 200), (200, 30, 40))


def test_training_goes_on_from_the_finished_weights_alone(
    weights: Path, pool: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    model = unets.make_model(weights)
    given = AutoencoderKL.from_pretrained(weights / "vae").state_dict()
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    trained = torch.load(weights.parent / "unet-training" / "checkpoint.pt", weights_only=True)
    for name, value in model.state_dict().items():
        if not name.startswith("heads."):
            assert torch.equal(value, trained["mean"].get(name, value).half().float())
    arguments = ["vae", "--work", tmp_path, "--start", weights]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    taken = AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(taken[name], value) for name, value in given.items())


# ---- the painter -----------------------------------------------------------------------------


def test_a_close_up_shows_its_thing_in_the_middle() -> None:
    sprite = Image.new("RGBA", (96, 80), (250, 10, 20, 255))
    captions = set()
    for seed in range(30):
        picture, caption = draw_closeup({"flat": {"cat": [sprite]}}, np.random.default_rng(seed))
        captions.add(caption)
        assert picture.shape == (160, 160, 3) and picture.dtype == np.uint8
        if caption in ("cat", "a cat", "the cat"):
            red = np.abs(picture.astype(int) - (250, 10, 20)).max(2) < 40
            assert red[30:130, 30:130].mean() > 0.8 and red.mean() < 0.7
    assert {"", "a cat", "empty background"} <= captions
    assert any("red cat" in caption or "blue cat" in caption for caption in captions)


def test_the_painter_is_taught_on_close_ups(
    pool: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file

    monkeypatch.setattr(brushes, "BATCH", 4)
    shard = tmp_path / "closeups" / "0000"
    shard.mkdir(parents=True)
    np.save(shard / "pictures.npy", np.load(pool / "0000" / "pictures.npy")[:4, :160, :160])
    (shard / "captions.json").write_text(json.dumps(["a cat", "", "a red dog", "empty background"]))
    vaes.encode_pool(shard.parent, made)
    brushes.train_closeups(shard.parent, tmp_path, 2, WEIGHTS)
    log = (tmp_path / "closeups-training" / "checkpoint.pt").stat()
    brushes.train_closeups(shard.parent, tmp_path, 2, WEIGHTS)  # nothing is left to do
    assert log.st_size == (tmp_path / "closeups-training" / "checkpoint.pt").stat().st_size
    arguments = ["export-brush", "--work", tmp_path, "--folder", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    shipped = UNet2DConditionModel.load_config(PAINTER / "unet")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    made_of = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in made_of.values()} == {torch.float16}
    names = ("block_out_channels", "sample_size", "norm_num_groups", "cross_attention_dim")
    assert all(unet.config[name] == shipped[name] for name in names)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"


def test_scenes_of_which_no_noun_can_be_asked_cost_nothing() -> None:
    """A handful of scenes can all be without a sentence, or too noisy."""
    things = (Thing("cat", None, (0.5, 0.5), 80.0),)
    labels = np.ones((256, 256), np.uint8)
    said = absent(Scene(things, (1.0,)), 0, np.random.default_rng(0))
    offsets = torch.zeros(2, 77, 2, dtype=torch.long)
    maps = {"mid_block.attentions.0": torch.full((2, 64, 77), 1 / 77)}
    latent = np.zeros((4, 32, 32), np.float16)
    silent, loud = (Example(latent, labels, one, things) for one in (None, said))
    losses = grounding(maps, [silent, loud], offsets, torch.tensor([50, 900]))
    assert losses == {"all": 0, "mid_block": 0}


# ---- the second edition ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter(pool: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder after one step of the second edition's training."""
    work = tmp_path_factory.mktemp("painter")
    painters.train_painter(pool, work, 1, WEIGHTS)
    return work


def test_the_second_edition_reads_texts_as_the_clip_does(painter: Path) -> None:
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(painter / "text_encoder")
    scorer = ClipScorer.load(WEIGHTS / "clip")
    tokens = painters.clip_tokenizer()(WORDS, padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        states = encoder(tokens).last_hidden_state
        ends = states[torch.arange(len(WORDS)), (tokens == 49407).int().argmax(1)]
        projected = ends @ scorer.model.text_projection.float()
    assert torch.allclose(normalize(projected, dim=-1), scorer.text_features(WORDS), atol=1e-4)


def test_the_second_edition_begins_with_the_first_and_without_its_cross_attention(
    painter: Path,
) -> None:
    from diffusers import UNet2DConditionModel

    first = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet", torch_dtype=torch.float32)
    second = UNet2DConditionModel.from_pretrained(painter / "unet")
    strides = {stride for _, stride in layer_table(second)}
    assert strides == {1, 2, 4} and painters.TAUGHT in dict(layer_table(second))
    old, new = first.state_dict(), second.state_dict()
    for name in old:
        assert "attn2" in name or torch.allclose(old[name], new[name], atol=1e-4)
    assert torch.equal(*(each[f"{painters.TAUGHT}.to_q.weight"] for each in (old, new)))
    keys = [name for name in old if name.endswith("attn2.to_k.weight")]
    assert keys and not any(torch.allclose(old[name], new[name], atol=1e-2) for name in keys)
    added = painters.new_painter()
    painters.warm_start(added, WEIGHTS / "unet")
    inputs = torch.randn(1, 4, 32, 32), torch.tensor([100])
    with torch.inference_mode():
        answers = [added(*inputs, torch.randn(1, 77, 128)).sample for _ in range(2)]
    assert torch.equal(*answers)  # no word is heard yet


def test_the_grounding_loss_leaves_the_layers_after_the_taught_one_alone() -> None:
    torch.manual_seed(0)
    model = painters.Painter(painters.new_painter())
    model(torch.randn(1, 4, 32, 32), torch.tensor([500]), torch.randn(1, 77, 128))
    assert model.watched.maps is not None and model.watched.maps.shape == (1, 256, 77)
    model.watched.maps[..., 3].sum().backward()
    names = list(dict(layer_table(model.unet)))
    felt = {name for name in names if model.unet.get_submodule(name).to_k.weight.grad is not None}
    assert felt == set(names[: names.index(painters.TAUGHT) + 1])


def test_a_batch_whose_words_name_nothing_has_a_loss() -> None:
    thing = Thing("cat", None, (0.3, 0.3), 60.0)
    labels = np.zeros((256, 256), np.uint8)
    labels[40:120, 40:120] = 1
    said = absent(Scene((thing,), (0.1,)), 0, np.random.default_rng(0))
    assert said is not None and not said.things
    example = Example(np.zeros((4, 32, 32)), labels, said, (thing,))
    encoded = unets.tokenize(unets.clip_tokenizer(), [example])
    maps = {painters.TAUGHT: torch.full((1, 256, 77), 1 / 77)}
    losses = grounding(maps, [example], encoded["offset_mapping"], torch.tensor([100]))
    assert 0 < float(losses["all"]) < 0.2


def test_noise_comes_from_all_levels_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([painters.timesteps(4, generator) for _ in range(500)])
    assert bool((drawn.diff(dim=1) >= 0).all()) and int(drawn.min()) >= 0
    assert int(drawn.max()) <= 999
    assert 0.27 < float((drawn < 300).float().mean()) < 0.33


# ---- the fusion's weights ----------------------------------------------------------------------


def test_sentences_are_weighed_by_what_their_candidates_are() -> None:
    ready = make_ready("stickers", None, "cpu", None, "default", None, 0)
    labels = np.asarray(Image.open(SAMPLE_LABELS))
    objects = [
        SceneObject.from_mask("thing", None, labels == i) for i in range(1, labels.max() + 1)
    ]
    asked = [Sentence("the dog", (0,), "plain"), Sentence("the balloon", (0,), "plain")]
    assert ready.models.clip is not None
    scene = (Image.open(SAMPLE).convert("RGB"), objects, asked)
    examples = examples_of(scene, ready, ready.models.clip)
    for evidence, ious in examples:
        assert evidence.shape == (len(ious), 3) and bool((evidence <= 0).all())
        assert 0 < float(ious.amax()) <= 1
    for _, ious in examples[-2:]:  # the objects' own masks
        assert len(ious) == len(objects) and sorted(ious.tolist())[-1] == 1
    assert bool(torch.isfinite(fit(examples)).all())


def test_the_weights_of_least_loss_are_found() -> None:
    """Candidates drawn by known weights give these weights back."""
    random, truth = torch.Generator().manual_seed(0), torch.tensor([1.5, 0.5, -1.0])
    examples = []
    for _ in range(4_000):
        sizes = (torch.rand(5, generator=random), torch.randn(5, generator=random))
        evidence = log_evidence(*sizes, torch.rand(5, generator=random))
        right = (evidence @ truth).softmax(0).multinomial(1, generator=random)
        examples.append((evidence, torch.zeros(5).scatter(0, right, 1.0)))
    torch.testing.assert_close(fit(examples), truth, atol=0.15, rtol=0.0)
