"""How the nodes behave from run to run: caches, interrupts, a queue, memory given back."""

from __future__ import annotations

import numpy as np
import pytest

from .client import Client, Graph
from .graphs import sample, segment

RED, BLUE = "the red cat", "the blue cat"  # the red one sits on the left


def _mask(client: Client, graph: Graph) -> np.ndarray:
    (mask,) = client.images(client.run(graph), "mask")
    return mask[..., 0]


def test_a_second_run_does_no_work(client: Client) -> None:
    graph = segment(client, RED)
    client.run(graph)
    again = client.run(graph)
    assert again.executed == [] and set(again.cached) == set(graph)
    other = client.run(segment(client, BLUE))
    assert other.executed == ["segment", "mask"]


def test_the_same_mask_after_everything_was_freed(client: Client) -> None:
    before = _mask(client, segment(client, RED))
    client.free()
    assert set(np.unique(before)) == {0, 255}
    assert np.array_equal(_mask(client, segment(client, RED)), before)


def test_two_prompts_queued_at_once(client: Client) -> None:
    graphs = [segment(client, text) for text in (RED, BLUE)]
    prompts = [client.queue(graph) for graph in graphs]
    runs = [client.wait(prompt).checked() for prompt in prompts]
    red, blue = (client.images(run, "mask")[0][..., 0] for run in runs)
    assert np.nonzero(red)[1].mean() < 100 < 156 < np.nonzero(blue)[1].mean()
    for graph, mask in zip(graphs, (red, blue), strict=True):
        alone = client.run(graph)
        assert "segment" in alone.executed
        assert np.array_equal(client.images(alone, "mask")[0][..., 0], mask)


@pytest.mark.parametrize("moment", ["executing", "progress"])
def test_interrupt(client: Client, moment: str) -> None:
    """An interrupt in mid-run leaves the model as it was, and the next run is right."""
    painting, one = sample(client, "a red cat", seed=1), segment(client, RED)
    before, mask = client.images(client.run(painting), "picture")[0], _mask(client, one)
    prompt = client.queue(segment(client, RED, copies=8, noise_index=3))
    client.wait_for(prompt, moment, node="segment")
    client.interrupt()
    stopped = client.wait(prompt)
    assert stopped.interrupted and "segment" not in stopped.outputs
    again = client.run(painting)
    assert "sampler" in again.executed and "models" in again.cached
    assert np.array_equal(client.images(again, "picture")[0], before)
    after = client.run(one)
    assert "segment" in after.executed and "models" in after.cached
    assert np.array_equal(client.images(after, "mask")[0][..., 0], mask)
