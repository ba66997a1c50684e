"""What each layer's attention finds, taught or not: `python -m refdiff.stickers.training.layers`.

Every cross-attention by itself and in groups, its maps plain and made in each way that the
literature makes them; the generative half alone, on the validation scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import typer

from ...attention.diffusers import DiffusersCapture
from ...attention.known_maps import KnownMaps
from ...commands.common import Model, make_ready
from ...commands.compare import limited
from ...commands.evaluate import progress_bar
from ...evaluation import Scene, read_scenes
from ...evaluation.metrics import Outcome, judge, summarise
from ...evaluation.report import markdown
from ...expression import parse
from ...pipeline import Look
from ...settings import Settings
from .. import DATA
from .published_maps import OPTIONS, Groups, maps_of
from .train_painter import TAUGHT

CHANCE = "heat the same everywhere"
Outcomes = dict[tuple[str, str], list[Outcome]]


def main(
    model: Model = None,
    taught: Annotated[
        str, typer.Option(help="The layers with a grounding loss, by commas, or 'all'.")
    ] = TAUGHT,
    limit: Annotated[int, typer.Option(help="Sentences.")] = 150,
    timestep: Annotated[int, typer.Option(help="Noise level at which is read.")] = 100,
    given_masks: Annotated[bool, typer.Option(help="Choose among the objects' masks.")] = False,
    single: Annotated[bool, typer.Option(help="Every layer by itself too.")] = True,
) -> None:
    """Print, as markdown, mIoU by layer and way of making maps, and the gain over plain maps."""
    ready = make_ready(model, "none", None, None, "default", None, 0)
    settings = ready.settings.changed(
        {
            "capture": {"strides": None, "timestep": timestep},
            "stride_weights": None,
            "empty_below": 0.0,  # a floor on presence says nothing of where the heat is
            "edges": 0.0,  # nor do outlines, which take most of the time
        }
    )
    capture = ready.capture.using(settings.capture)
    assert isinstance(capture, DiffusersCapture)
    groups = groups_of(capture.strides, taught, single)
    scenes = limited(read_scenes(DATA / "validation"), limit)
    found: Outcomes = {(group, option): [] for group in (*groups, CHANCE) for option in OPTIONS}
    with progress_bar() as advance:
        for number, scene in enumerate(scenes, 1):
            _measure(scene, capture, groups, settings, given_masks, found)
            advance(number, len(scenes))
    rows = [_row(name, [found[name, option] for option in OPTIONS]) for name in groups]
    rows.append(_row(CHANCE, [found[CHANCE, OPTIONS[0]]]) + ["-"] * (len(OPTIONS) - 1))
    print(markdown(["layer, or layers", *OPTIONS], rows))


def groups_of(strides: Mapping[str, int], taught: str, single: bool = True) -> Groups:
    """Layers by themselves, and together: the untaught of each stride, those after the taught, all.

    strides: of every layer, in the order of the pass. Layers after the taught one get no gradient
    from its loss; those before it do, by what they hand on. ValueError for a layer not there.
    """
    names = set(strides) if taught == "all" else set(taught.split(","))
    if not names <= set(strides):
        raise ValueError(f"taught is {taught!r}, and the layers are {', '.join(strides)}.")
    free = [name for name in strides if name not in names]
    groups: Groups = {}
    for name, stride in strides.items() if single else ():
        short = name.replace(".transformer_blocks.0.attn2", "").replace("attentions.", "")
        groups[f"{short} (1/{stride}){', taught' if name in names else ''}"] = (name,)
    for stride in sorted(set(strides.values()), reverse=True):
        groups[f"untaught, 1/{stride}"] = tuple(name for name in free if strides[name] == stride)
    last = max(list(strides).index(name) for name in names)
    groups["after the taught"] = tuple(strides)[last + 1 :]
    groups |= {"taught": tuple(name for name in strides if name in names)}
    groups |= {"all untaught": tuple(free), "all": tuple(strides)}
    return {name: layers for name, layers in groups.items() if layers}


def _measure(
    scene: Scene,
    capture: DiffusersCapture,
    groups: Groups,
    settings: Settings,
    given: bool,
    found: Outcomes,
) -> None:
    """Adds the outcomes of a scene's sentences, for every group and option."""
    picture, objects = scene.picture(), scene.masks()
    latent = capture.encode(picture)
    look = Look(picture, KnownMaps({}, latent), None, settings, objects if given else None)
    for sentence in scene.sentences if objects.any() else ():
        if not sentence.objects:
            continue
        expression = parse(sentence.text)
        made = maps_of(capture, latent, expression, groups)
        some = made["all", OPTIONS[0]]
        made[CHANCE, OPTIONS[0]] = replace(some, maps=(torch.ones_like(some.maps[0]),))
        for key, maps in made.items():
            look.capture = KnownMaps({expression.text: maps}, latent)
            mask = look(expression).mask.numpy()
            found[key].append(judge(mask, objects, sentence.objects, sentence.kind))


def _row(name: str, by_option: Sequence[Sequence[Outcome]]) -> list[str]:
    """The plain maps' mIoU and right object; each option's mIoU, its gain and standard error."""
    plain = by_option[0]
    figures = summarise(plain)
    cells = [f"{figures['miou']:.3f} / {figures['right_object']:.3f}"]
    for other in by_option[1:]:
        gaps = np.array([two.iou - one.iou for one, two in zip(plain, other, strict=True)])
        error = gaps.std() / len(gaps) ** 0.5
        cells.append(f"{summarise(other)['miou']:.3f} ({gaps.mean():+.3f} ± {error:.3f})")
    return [name, *cells]


if __name__ == "__main__":
    typer.run(main)
