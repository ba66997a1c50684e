"""A forty-first sticker, learned as an embedding and a LoRA (`python -m` this module, `--help`).

A few vectors in the text encoder's input, and a LoRA on the UNet, which never saw such a thing, are
fitted so that the word's attention lies on the thing in scenes where it is, and nowhere in scenes
where it is not: the loss by which the model's own words were taught. (OVAM optimises tokens for
attention too, arXiv 2403.14291; vectors alone stay at chance here.) The thing is one drawing in the
style held out, the things around it are in the training styles; scenes to check it show other
things in the style held out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ...evaluation.scenes import SceneObject, write_scenes
from ...evaluation.scenes import Sentence as Asked
from ...models.pipelines import load_pipeline
from .. import WEIGHTS
from .grounding import Example, grounding
from .looks import COLOURS
from .scenes import Cast, Drawing, draw_scene
from .sentences import Sentence, Writer
from .sprites import HELD_OUT_STYLE, TRAINING_STYLES, Sprites, load_noun, load_sprites
from .train_unet import Watched
from .train_vae import to_pixels

NOUN, CODE, WORD = "octopus", "1f419", "<octo>"
OWN = (HELD_OUT_STYLE,)
KIN = ("frog", "fish", "turtle", "bear", "penguin")
"""Words of the model between which the new one begins."""
BATCH, POOL = 12, 500
RATE, LORA_RATE = 0.004, 4e-3
RANK = 8
ADAPTED = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out"),
    *("ff.net.0.proj", "ff.net.2", "conv1", "conv2"),
]


def draw_scenes(sprites: Sprites, count: int, seed: int, augment: bool) -> list[Drawing]:
    """Scenes of two to five things; in three of four the new one is among them, once."""
    rng = np.random.default_rng(seed)
    found: list[Drawing] = []
    while len(found) < count:
        drawing = draw_scene(sprites, rng, augment, cast=_cast(sprites, rng))
        if len(drawing.things) > 1:
            found.append(drawing)
    return found


def _cast(sprites: Sprites, rng: np.random.Generator) -> Cast:
    others = sorted({noun for style in sprites.values() for noun in style} - {NOUN})
    nouns = [str(noun) for noun in rng.choice(others, rng.integers(1, 5), replace=False)]
    if rng.random() < 0.75:
        nouns.insert(0, NOUN)
    tones = [str(rng.choice(list(COLOURS))) if rng.random() < 0.5 else None for _ in nouns]
    order = rng.permutation(len(nouns))
    return [(nouns[index], tones[index]) for index in order]


def sentence(drawing: Drawing, rng: np.random.Generator) -> Sentence:
    """A few words with the new one among them."""
    meant = [index for index, thing in enumerate(drawing.things) if thing.noun == NOUN]
    tones = [drawing.things[index].colour for index in meant]
    writer = Writer().add(str(rng.choice(["", "the", "the", "a", "a picture of a"])))
    if meant and tones[0] and rng.random() < 0.4:
        writer.add(tones[0])
    writer.noun(WORD, meant)
    others = [thing.noun for thing in drawing.things if thing.noun != NOUN]
    if rng.random() < 0.4:
        other = str(rng.choice(others))
        there = [index for index, thing in enumerate(drawing.things) if thing.noun == other]
        writer.add("and the").noun(other, there)
    elif rng.random() < 0.3:
        writer.add(str(rng.choice(["on the left", "at the top", "on the right"])))
    return writer.sentence("word", meant)


class Learning:
    """A pipeline with the new word in it: its vectors and a LoRA on the UNet can be trained."""

    def __init__(self, pipe: Any, vectors: int) -> None:
        self.pipe = pipe
        table = pipe.text_encoder.get_input_embeddings().weight.detach()
        kin = [pipe.tokenizer(noun, add_special_tokens=False).input_ids[0] for noun in KIN]
        torch.manual_seed(0)
        noise = 0.1 * table[kin].std(0) * torch.randn(vectors, table.shape[1])
        start = table[kin].mean(0) + noise
        pipe.load_textual_inversion({WORD: start}, token=WORD)
        for part in (pipe.unet, pipe.text_encoder, pipe.vae):
            part.requires_grad_(False)
        self.rows = pipe.tokenizer.convert_tokens_to_ids(
            [WORD, *(f"{WORD}_{index}" for index in range(1, vectors))]
        )
        self.table = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
        self.vectors = self.table.detach()[self.rows].clone().requires_grad_(True)
        pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ADAPTED))
        self.adapter = [value for value in pipe.unet.parameters() if value.requires_grad]
        self.watched = {name: Watched() for name in pipe.unet.attn_processors if "attn2" in name}
        pipe.unet.set_attn_processor({**pipe.unet.attn_processors, **self.watched})

    def fit(self, drawings: Sequence[Drawing], steps: int) -> None:
        """So many steps over these scenes."""
        latents = _latents(self.pipe, drawings)
        groups = [{"params": [self.vectors], "lr": RATE}, {"params": self.adapter, "lr": LORA_RATE}]
        optimiser = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        sums = 0.0
        for step in range(1, steps + 1):
            rng = np.random.default_rng(step)
            picked = rng.integers(0, len(drawings), BATCH)
            examples = [_example(drawings[index], latents[index], rng) for index in picked]
            with torch.no_grad():
                self.table[self.rows] = self.vectors
            loss = self._loss(examples, torch.Generator().manual_seed(step))
            optimiser.zero_grad()
            self.table.grad = None
            loss.backward()
            assert self.table.grad is not None
            self.vectors.grad = self.table.grad[self.rows]
            optimiser.step()
            schedule.step()
            sums += float(loss.detach())
            if step % 25 == 0:
                print(step, round(sums / 25, 4), flush=True)
                sums = 0.0

    def _loss(self, examples: Sequence[Example], generator: torch.Generator) -> Tensor:
        """How badly the words' attention lies on their things, the new one's and the others'."""
        pipe, texts = self.pipe, [one.sentence.text for one in examples if one.sentence]
        converted = [pipe.maybe_convert_prompt(text, pipe.tokenizer) for text in texts]
        encoded = pipe.tokenizer(
            converted,
            padding="max_length",
            max_length=77,
            truncation=True,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        clean = torch.from_numpy(np.stack([one.latent for one in examples]))
        timestep = torch.randint(20, 300, (len(examples),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        context = pipe.text_encoder(encoded.input_ids).last_hidden_state
        pipe.unet(pipe.scheduler.add_noise(clean, noise, timestep), timestep, context)
        offsets = encoded.offset_mapping.clone()
        for row, (text, longer) in enumerate(zip(texts, converted, strict=True)):
            _in_the_text(offsets[row], encoded.input_ids[row] >= min(self.rows), text, longer)
        maps = {name: each.maps for name, each in self.watched.items()}
        return grounding(maps, examples, offsets, timestep)["all"]


def _in_the_text(offsets: Tensor, new: Tensor, text: str, converted: str) -> None:
    """Bring the places of a converted text's tokens [77, 2] back to the text with the word once."""
    start = text.index(WORD)
    end = start + len(WORD)
    more = len(converted) - len(text)
    after = (offsets[:, 0] >= end + more) & (offsets[:, 1] > 0)
    offsets[after] -= more
    offsets[new] = torch.tensor([start, end])


def _example(drawing: Drawing, latent: Tensor, rng: np.random.Generator) -> Example:
    return Example(latent.numpy(), drawing.labels, sentence(drawing, rng), drawing.things)


@torch.no_grad()
def _latents(pipe: Any, drawings: Sequence[Drawing]) -> Tensor:
    pictures = np.stack([drawing.picture for drawing in drawings])
    parts = [
        pipe.vae.encode(to_pixels(pictures[at : at + 10])).latent_dist.mean
        for at in range(0, len(pictures), 10)
    ]
    return torch.cat(parts) * pipe.vae.config.scaling_factor


def main(
    folder: Path,
    packages: Annotated[Path, typer.Option(help="The node_modules folder.")] = Path("node_modules"),
    model: Path = WEIGHTS,
    steps: int = 600,
    vectors: int = 2,
    scenes: int = 24,
) -> None:
    """Write the embedding, the LoRA and scenes of the held-out style to FOLDER."""
    sprites = {**load_sprites(packages, TRAINING_STYLES), **load_noun(packages, OWN, NOUN, CODE)}
    pipe = load_pipeline(str(model))
    learning = Learning(pipe, vectors)
    learning.fit(draw_scenes(sprites, POOL, 7, augment=True), steps)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({WORD: learning.vectors.detach().contiguous()}, folder / "octo.safetensors")
    adapter = {k: v.half() for k, v in get_peft_model_state_dict(pipe.unet).items()}
    type(pipe).save_lora_weights(folder, adapter, weight_name="octo.lora.safetensors")
    held = load_sprites(packages, OWN)
    for style, new in load_noun(packages, OWN, NOUN, CODE).items():
        held[style] |= new
    drawn = draw_scenes(held, 2 * scenes, 8, augment=False)
    there = [one for one in drawn if any(thing.noun == NOUN for thing in one.things)]
    write_scenes(folder, map(_entry, there[:scenes]), "jpg")


def _entry(drawing: Drawing) -> Any:
    objects = [
        SceneObject.from_mask(thing.noun, thing.colour, drawing.labels == index + 1)
        for index, thing in enumerate(drawing.things)
    ]
    meant = tuple(i for i, thing in enumerate(drawing.things) if thing.noun == NOUN)
    return Image.fromarray(drawing.picture), objects, [Asked(f"the {WORD}", meant, "plain", "")]


if __name__ == "__main__":
    typer.run(main)
