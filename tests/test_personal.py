"""Words of one's own: embeddings and LoRAs on real pipelines, and a forty-first sticker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

import refdiff
from refdiff import DiffusersCapture
from refdiff.benchmark.random_models import random_pipeline
from refdiff.errors import ModelError
from refdiff.evaluation import read_scenes
from refdiff.models.personal import learn_words
from refdiff.models.pipelines import load_pipeline
from refdiff.stickers import WEIGHTS


@pytest.fixture
def pipe() -> Any:
    """A small pipeline of one's own, for it is changed."""
    return random_pipeline(tiny=True)


@pytest.fixture
def vectors(pipe: Any) -> Tensor:
    """Two vectors as wide as the pipeline's text."""
    wide = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    return torch.randn(2, wide, generator=torch.Generator().manual_seed(1))


def saved(tmp_path: Path, name: str, held: dict[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in held.items()}, tmp_path / name)
    return tmp_path / name


def test_a_word_of_diffusers_names_itself(pipe: Any, vectors: Tensor, tmp_path: Path) -> None:
    learn_words(pipe, [saved(tmp_path, "file.safetensors", {"<octo>": vectors})])
    maps = DiffusersCapture(pipe)(picture_of(), "a <octo> on the left")
    assert maps.columns(2, 8) == (1, 2)  # both vectors stand for it
    row = pipe.tokenizer.convert_tokens_to_ids("<octo>")
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[row], vectors[0])


@pytest.mark.parametrize(("typed", "word"), [("{}", "myfrog"), ("<f>={}", "<f>")])
def test_a_word_of_a1111_is_the_file_or_ones_own(
    pipe: Any, vectors: Tensor, tmp_path: Path, typed: str, word: str
) -> None:
    file = saved(tmp_path, "myfrog.safetensors", {"emb_params": vectors})
    learn_words(pipe, [typed.format(file)])
    assert word in pipe.tokenizer.get_vocab()
    assert DiffusersCapture(pipe)(picture_of(), f"the {word}").columns(4, 4 + len(word))


def test_a_lora_changes_what_is_read_by_its_weight(pipe: Any, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet))
    pipe.unet.delete_adapters(["default"])
    file = tmp_path / "pytorch_lora_weights.safetensors"

    def heat(*loras: str) -> Tensor:
        own = learn_words(random_pipeline(tiny=True), loras=loras)
        return DiffusersCapture(own)(picture_of(), "a cat").maps[0]

    plain, half, whole = heat(), heat(f"{file}:0.5"), heat(str(file))
    assert torch.equal(plain, heat(f"{file}:0"))
    assert not torch.allclose(plain, half) and not torch.allclose(half, whole)


def picture_of() -> Any:
    from PIL import Image

    return Image.radial_gradient("L").resize((96, 64))


BAD = {
    "a pickle": ("word.pt", b"\x80\x02}q\x00.", "can run code"),
    "cut off": ("word.safetensors", b"\x00" * 20, "cannot be read"),
    "nothing": ("none.safetensors", None, "no file"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("what", ["embeddings", "loras"])
def test_bad_files_are_refused(pipe: Any, tmp_path: Path, kind: str, what: str) -> None:
    name, content, said = BAD[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = len(pipe.tokenizer)
    with pytest.raises(ModelError, match=said):
        learn_words(pipe, **{what: [str(tmp_path / name)]})
    assert len(pipe.tokenizer) == before and not hasattr(pipe.unet, "peft_config")


def test_files_for_other_models_are_refused(pipe: Any, tmp_path: Path) -> None:
    wide = saved(tmp_path, "wide.safetensors", {"<w>": torch.ones(2, 4096)})
    known = saved(tmp_path, "known.safetensors", {"cat": torch.ones(2, 4096)})
    three = saved(tmp_path, "three.safetensors", {key: torch.ones(3) for key in "abc"})
    for file, said in ((wide, "4096 numbers"), (three, "3 tensors"), (known, "4096")):
        with pytest.raises(ModelError, match=said):
            learn_words(pipe, [file])
    other = {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": torch.ones(4, 7)}
    with pytest.raises(ModelError, match="no LoRA for this model"):
        learn_words(pipe, loras=[str(saved(tmp_path, "other.safetensors", other))])


def test_a_word_that_is_known_keeps_its_meaning(pipe: Any, vectors: Tensor, tmp_path: Path) -> None:
    word = next(w for w in pipe.tokenizer.get_vocab() if w.isalpha() and len(w) > 3)
    with pytest.raises(ModelError, match="already"):
        learn_words(pipe, [saved(tmp_path, "word.safetensors", {word: vectors})])


# ---- a forty-first sticker -----------------------------------------------------------------------

OCTO = Path(__file__).parent / "data" / "octo"
"""What `python -m refdiff.stickers.training.word` writes: an embedding, a LoRA and scenes."""


def right_things(embedding: Path, loras: tuple[str, ...]) -> float:
    """In how many scenes the new word's heat chooses the right one of the things' own masks."""
    pipe = learn_words(load_pipeline(str(WEIGHTS)), [embedding], loras)
    settings = replace(refdiff.Settings.named("default", "stickers"), empty_below=0.0)
    right = []
    for scene in read_scenes(OCTO):
        masks, (asked,) = torch.as_tensor(scene.masks()), scene.sentences
        found = refdiff.look(pipe, scene.picture(), settings=settings, proposals=masks)(asked.text)
        chosen = [index for index, mask in enumerate(masks) if torch.equal(mask, found.mask)]
        right.append(tuple(chosen) == asked.objects)
    return sum(right) / len(right)


def test_a_forty_first_sticker_is_found_once_it_was_learned(tmp_path: Path) -> None:
    """Among other things, in scenes of a style that the model never saw."""
    scenes = read_scenes(OCTO)
    chance = sum(1 / len(scene.objects) for scene in scenes) / len(scenes)
    wide = load_file(OCTO / "octo.safetensors")["<octo>"]
    unlearned = 0.02 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(1))
    before = right_things(saved(tmp_path, "unlearned.safetensors", {"<octo>": unlearned}), ())
    after = right_things(OCTO / "octo.safetensors", (str(OCTO / "octo.lora.safetensors"),))
    assert before < chance + 0.2 and after >= 0.8
