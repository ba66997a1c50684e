"""Words of a picture while it is being made: each run of a sampler has its own recording."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import refdiff
from refdiff import stickers as world

from .checks import greys, latent
from .client import Client, Graph
from .graphs import stickers
from .server import Server

PROMPT = "a red cat next to a green car"
LONG = "a very small yellow cup, " * 14  # two windows of 77 tokens
EULER = {"sampler_name": "euler", "scheduler": "normal", "steps": 3, "denoise": 1.0}


def recorded(client: Client, prompt: str = PROMPT, negative: str = "", batch: int = 1) -> Graph:
    """The models, a recorded prompt, a negative one and an empty latent of 128 x 128 pixels."""
    return {
        **stickers(client),
        "record": client.node(
            "RefDiffRecordSampling", model=["models", 0], clip=["models", 1], prompt=prompt
        ),
        "negative": client.node("CLIPTextEncode", clip=["models", 1], text=negative),
        "empty": client.node("EmptyLatentImage", width=128, height=128, batch_size=batch),
    }


def sampler(client: Client, seed: int, cfg: float = 4.0, **changes: Any) -> dict[str, Any]:
    """The ordinary sampler on the recorded model and prompt."""
    wires = {"model": ["record", 0], "positive": ["record", 1], "negative": ["negative", 0]}
    wires |= {"latent_image": ["empty", 0], **EULER, **changes}
    return client.node("KSampler", seed=seed, cfg=cfg, **wires)


def heat(client: Client, source: str, words: str = "", output: int = 0) -> Graph:
    """The heat of words in the run that made a latent, shown by "SOURCE heat"."""
    collect = client.node(
        "RefDiffCollectAttention", recording=["record", 2], latent=[source, output]
    )
    return {
        f"{source} collect": collect,
        f"{source} map": client.node(
            "RefDiffHeatMap", attention=[f"{source} collect", 0], words=words
        ),
        f"{source} heat": client.node("MaskPreview", mask=[f"{source} map", 0]),
    }


def heats(client: Client, graph: Graph, *samplers: str) -> list[np.ndarray]:
    """What the samplers' runs looked at: for each int [K, H, W]."""
    run = client.run(graph)
    return [greys(client, run, f"{name} heat") for name in samplers]


def painting(client: Client, seed: int, **changes: Any) -> Graph:
    """One sampler, "one", and its heat."""
    return {
        **recorded(client),
        "one": sampler(client, seed, **changes),
        **heat(client, "one"),
    }


def test_another_seed_is_recorded_afresh(client: Client) -> None:
    (first,) = heats(client, painting(client, 1), "one")
    run = client.run(painting(client, 2))
    assert "record" in run.cached and "one" in run.executed
    second = greys(client, run, "one heat")
    assert "1 pictures, 3 steps" in run.text("one collect")
    assert np.abs(first - second).max() > 20
    client.free()
    (fresh,) = heats(client, painting(client, 2), "one")
    assert np.array_equal(second, fresh)


def test_two_samplers_share_a_recorded_model(client: Client) -> None:
    both = {**painting(client, 2), "two": sampler(client, 3), **heat(client, "two")}
    one, two = heats(client, both, "one", "two")
    client.free()
    (alone,) = heats(client, painting(client, 3), "one")
    assert np.array_equal(two, alone) and np.abs(one - two).max() > 20


def test_a_batch_gives_a_list(client: Client) -> None:
    graph = {**recorded(client, batch=4), "one": sampler(client, 1), **heat(client, "one")}
    (four,) = heats(client, graph, "one")
    (first,) = heats(client, painting(client, 1), "one")
    assert len(four) == 4 and np.abs(four[:1] - first).max() <= 1
    pairs = [(a, b) for a in range(4) for b in range(a)]
    assert all(np.abs(four[a] - four[b]).max() > 20 for a, b in pairs)


def test_guidance_and_the_negative_prompt_are_not_recorded(client: Client) -> None:
    """At the first step the picture is the same noise, whatever the guidance does to it next."""
    graph = {
        **recorded(client),
        "long": client.node("CLIPTextEncode", clip=["models", 1], text=LONG),
    }
    cases: dict[str, dict[str, Any]] = {
        "unguided": {"cfg": 1.0},
        "guided": {"cfg": 7.0},
        "longer": {"cfg": 7.0, "negative": ["long", 0]},
    }
    for name, changes in cases.items():
        graph |= {name: sampler(client, 5, steps=1, **changes), **heat(client, name)}
    unguided, guided, longer = heats(client, graph, *cases)
    assert np.ptp(unguided) > 100
    assert np.abs(unguided - guided).max() <= 1
    assert np.abs(unguided - longer).max() <= 1


def test_guidance_moves_later_steps(client: Client) -> None:
    (low,) = heats(client, painting(client, 1, cfg=1.0), "one")
    (high,) = heats(client, painting(client, 1, cfg=7.0), "one")
    assert np.abs(low - high).max() > 5


def test_a_long_prompt_beside_a_short_one(client: Client) -> None:
    graph = recorded(client, LONG + PROMPT)
    graph["long"] = client.node("CLIPTextEncode", clip=["models", 1], text=LONG)
    for name, negative in {"short": "negative", "equal": "long"}.items():
        graph[name] = sampler(client, 5, steps=1, negative=[negative, 0])
        graph |= heat(client, name, "cat, cup")
    short, equal = heats(client, graph, "short", "equal")
    assert len(short) == 2 and np.abs(short[0] - short[1]).max() > 20
    assert np.abs(short - equal).max() <= 1


def test_advanced_sampler(client: Client) -> None:
    graph = painting(client, 1, cfg=4.0)
    wires = {"model": ["record", 0], "positive": ["record", 1], "negative": ["negative", 0]}
    schedule = {"scheduler": "normal", "steps": 3, "denoise": 1.0}
    graph |= {
        "guider": client.node("CFGGuider", cfg=4.0, **wires),
        "noise": client.node("RandomNoise", noise_seed=1),
        "euler": client.node("KSamplerSelect", sampler_name="euler"),
        "sigmas": client.node("BasicScheduler", model=["record", 0], **schedule),
        "clean": client.node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["euler", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
        "half": client.node("SplitSigmas", sigmas=["sigmas", 0], step=2),
    }
    unfinished = {**graph["clean"]["inputs"], "sigmas": ["half", 0]}
    graph["stopped"] = client.node("SamplerCustomAdvanced", **unfinished)
    graph |= heat(client, "clean") | heat(client, "stopped", output=1)
    plain, advanced, denoised = heats(client, graph, "one", "clean", "stopped")
    assert np.array_equal(plain, advanced)
    assert np.abs(denoised - advanced).max() > 2


def test_recording_changes_nothing(client: Client, server: Server) -> None:
    graph = recorded(client, batch=2)
    for name, model in {"seen": "record", "unseen": "models"}.items():
        graph[name] = sampler(client, 1, model=[model, 0])
        graph[f"{name} saved"] = client.node("SaveLatent", samples=[name, 0])
    run = client.run(graph)
    seen, unseen = (latent(server, run, f"{name} saved") for name in ("seen", "unseen"))
    assert seen.std() > 0.1 and torch.equal(seen, unseen)


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        ("empty", {}, "This latent was not made by the recorded model"),
        ("one", {"model": ["models", 0]}, "This latent was not made by the recorded model"),
        ("one", {"positive": ["negative", 0]}, "The sampler ran without the recorded prompt"),
    ],
)
def test_a_latent_of_another_origin(
    client: Client, source: str, changes: dict[str, Any], words: str
) -> None:
    graph = {**recorded(client), "one": sampler(client, 9, **changes), **heat(client, source)}
    run = client.wait(client.queue(graph))
    assert run.error is not None and run.error["node_type"] == "RefDiffCollectAttention"
    message = run.error["exception_message"].strip()
    assert message.startswith(words) and message.count(". ") == 0 and message.endswith(".")


@pytest.mark.parametrize(("words", "count"), [("cat, car", 2), ("*", 8), ("", 1), ("green car", 1)])
def test_words_of_the_prompt(client: Client, words: str, count: int) -> None:
    graph = {**recorded(client), "one": sampler(client, 1), **heat(client, "one", words)}
    graph["overlay"] = client.node("PreviewImage", images=["one map", 1])
    run = client.run(graph)
    found = greys(client, run, "one heat")
    assert found.shape == (count, 128, 128) and len(client.images(run, "overlay")) == count
    assert all(np.abs(a - b).max() > 2 for n, a in enumerate(found) for b in found[:n])


def test_a_learned_word(client: Client, server: Server) -> None:
    """A textual inversion with the vector of "cat" has the heat of "cat"."""
    (file,) = (world.WEIGHTS / "text_encoder").glob("*.safetensors")
    table = load_file(file)["text_model.embeddings.token_embedding.weight"]
    configs = world.WEIGHTS.parents[1] / "configs" / "tokenizer"
    assert configs.is_dir(), refdiff.__file__
    cat = CLIPTokenizer.from_pretrained(configs)("cat")["input_ids"][1]
    folder = server.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"clip_l": table[cat : cat + 1].float()}, folder / "tabby.safetensors")
    found = []
    for word in ("embedding:tabby", "cat"):
        prompt = PROMPT.replace("cat", word)
        graph = {**recorded(client, prompt), "one": sampler(client, 1), **heat(client, "one", word)}
        found += heats(client, graph, "one")
    learned, spelled = found
    assert np.ptp(spelled) > 100 and np.abs(learned - spelled).max() <= 1
