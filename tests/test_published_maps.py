"""Maps as the literature makes them: each formula against its plain form."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import interpolate

from refdiff.attention import heads as published
from refdiff.attention import propagate as spread
from refdiff.attention.compete import shares
from refdiff.attention.heads import (
    answer_by_heads,
    head_outputs,
    head_weights,
    layer_weights,
    products_of,
    projection_of,
    said_by_heads,
    weighted_maps,
)
from refdiff.attention.propagate import SelfAttention, propagate, propagate_sharpened
from refdiff.masks.ncut import regions

GRID = (6, 8)
PLACES = GRID[0] * GRID[1]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(seed: int, heads: int = 3, wide: int = 12, grid: tuple[int, int] = GRID) -> SelfAttention:
    places = grid[0] * grid[1]
    return SelfAttention(
        seeded(places, wide, seed=seed), seeded(places, wide, seed=seed + 9), heads, grid
    )


def dense(one: SelfAttention) -> Tensor:
    """A of a layer, [n, n], as diffusers would compute it."""
    query, key = (x.unflatten(1, (one.heads, -1)).transpose(0, 1) for x in (one.query, one.key))
    return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1).mean(0)


# ---- words that compete ----------------------------------------------------------------------


def test_shares_sum_to_one_and_a_long_phrase_has_no_more_say() -> None:
    maps = seeded(5, *GRID).softmax(0)
    found = shares(maps, [[0], [1, 2], [3, 4]])
    assert torch.allclose(found.sum(0), torch.ones(GRID), atol=1e-6)
    even = shares(torch.full((3, 2, 2), 0.1), [[0], [1, 2]])
    assert torch.allclose(even, torch.full((2, 2, 2), 0.5))


def test_a_sink_takes_its_part_and_is_no_answer() -> None:
    maps = torch.tensor([0.2, 0.2, 0.6])[:, None, None].expand(3, *GRID)
    assert torch.allclose(shares(maps, [[0], [1]], sink=[2])[:, 0, 0], torch.tensor([0.2, 0.2]))
    assert torch.allclose(shares(maps, [[0], [1]])[:, 0, 0], torch.tensor([0.5, 0.5]))


def test_shares_do_not_depend_on_how_much_of_a_place_the_text_gets() -> None:
    maps, level = seeded(4, *GRID).softmax(0), torch.rand(GRID) + 0.1
    groups = [[0, 1], [2], [3]]
    assert torch.allclose(shares(maps * level, groups), shares(maps, groups), atol=1e-5)
    assert not shares(torch.zeros(2, *GRID), [[0], [1]]).any()
    with pytest.raises(ValueError, match="needs a token"):
        shares(maps, [[0], []])


# ---- self-attention --------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 1 << 9, 1 << 22])
@pytest.mark.parametrize("kept", [0, 1 << 24])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_propagation_is_the_power_of_the_mean_matrix(
    monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int, order: int
) -> None:
    monkeypatch.setattr(spread, "_CHUNK", chunk)
    monkeypatch.setattr(spread, "_SMALL", kept)
    layers, heat = [layer(1), layer(2)], torch.rand(4, *GRID)
    matrix = torch.stack([dense(one) for one in layers]).mean(0)
    wanted = torch.linalg.matrix_power(matrix, order) @ heat.flatten(1).mT
    assert torch.allclose(propagate(heat, layers, order).flatten(1).mT, wanted, atol=1e-5)


def test_an_even_heat_stays_even_and_a_finer_one_is_resampled() -> None:
    assert torch.allclose(
        propagate(torch.full((1, *GRID), 0.3), [layer(3)]), torch.full((1, *GRID), 0.3)
    )
    assert propagate(torch.rand(2, 48, 64), [layer(3)]).shape == (2, *GRID)


def test_heat_spreads_over_the_places_that_look_at_each_other_and_no_others() -> None:
    """Two halves whose places look at their own half alone; one place of the left is hot."""
    side = torch.arange(PLACES) % GRID[1] < GRID[1] // 2
    state = torch.stack([side.float(), 1 - side.float()], 1) * 40
    heat = torch.zeros(1, *GRID)
    heat[0, 2, 1] = 1
    for found in (
        propagate(heat, [SelfAttention(state, state, 1, GRID)]),
        propagate_sharpened(heat, [SelfAttention(state, state, 1, GRID)], rounds=2),
    ):
        left, right = found.flatten()[side], found.flatten()[~side]
        assert left.min() > 100 * right.max().clamp(min=1e-9)
        assert torch.allclose(left, left[0].expand_as(left), atol=1e-4)


@pytest.mark.parametrize("kept", [0, 1 << 24])
def test_sharpening_is_the_published_one(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Against the plain matrices of iSeg."""
    monkeypatch.setattr(spread, "_CHUNK", 1 << 9)
    monkeypatch.setattr(spread, "_SMALL", kept)
    one, heat = layer(5, wide=24), torch.rand(2, *GRID)
    matrix = dense(one).mT
    matrix = matrix / matrix.amax(0, keepdim=True)
    matrix = (matrix + 0.1 * torch.log10(torch.e * matrix)).clamp(min=0)
    matrix = matrix / matrix.sum(1, keepdim=True)
    values = heat.flatten(1).mT
    values = values - values.amin(0)
    values = values / values.sum(0)
    for _ in range(3):
        values = matrix @ values
        values = values - values.amin(0)
        values = values / values.sum(0)
    found = propagate_sharpened(heat, [one], rounds=3).flatten(1).mT
    assert torch.allclose(found, values / values.amax(0), atol=1e-4)


def test_layers_of_two_grids_and_queries_of_another_are_refused() -> None:
    other = SelfAttention(seeded(12, 4), seeded(12, 4), 2, (3, 4))
    with pytest.raises(ValueError, match="one grid"):
        propagate(torch.rand(1, *GRID), [layer(1), other])
    with pytest.raises(ValueError, match="6x8"):
        SelfAttention(seeded(12, 4), seeded(12, 4), 2, GRID)


# ---- heads and layers ------------------------------------------------------------------------


def test_the_heads_outputs_sum_to_the_layers_own() -> None:
    """On diffusers' own attention."""
    torch.manual_seed(0)
    attention = Attention(query_dim=24, cross_attention_dim=10, heads=4, dim_head=6).eval()
    hidden, text = seeded(2, PLACES, 24), seeded(2, 7, 10, seed=1)
    with torch.no_grad():
        answer = attention(hidden, text) - attention.to_out[0].bias
        query, key = attention.to_q(hidden), attention.to_k(text)
        query, key = (x.unflatten(2, (4, -1)).transpose(1, 2) for x in (query, key))
        shown = (query @ key.mT * 6**-0.5).softmax(-1)
        outputs = head_outputs(shown, attention.to_v(text), attention.to_out[0].weight)
    assert torch.allclose(outputs.sum(1), answer, atol=1e-5)
    weights = head_weights(outputs)
    assert torch.allclose(weights.sum(1), torch.ones(2, PLACES), atol=1e-5)
    asked, output = (attention.to_q(hidden), attention.to_k(text)), attention.to_out[0]
    products = products_of(*asked, attention.to_v(text), output.weight, 4)
    said = said_by_heads(*asked, products, 4, [1, 3])
    assert torch.allclose(said, weighted_maps(shown, weights)[:, [1, 3]], atol=1e-5)
    even = torch.full_like(weights, 1 / 4)
    assert torch.allclose(weighted_maps(shown, even), shown.mean(1).mT, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layers_answer_is_made_of_its_heads(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk: int
) -> None:
    monkeypatch.setattr(published, "_CHUNK", chunk)
    torch.manual_seed(0)
    linear, joined = torch.nn.Linear(24, 10).to(dtype), seeded(2, PLACES, 24).to(dtype)
    with torch.no_grad():
        answer, products = answer_by_heads(joined, linear.weight, linear.bias, 4)
        tolerance = 8 * torch.finfo(dtype).eps
        assert answer.dtype == dtype
        assert torch.allclose(answer.float(), linear(joined).float(), atol=tolerance)
        slices = linear.weight.float().unflatten(1, (4, -1)).transpose(0, 1)
        outputs = joined.float().unflatten(2, (4, -1)).transpose(1, 2) @ slices.mT
    wanted = (outputs * outputs.sum(1, keepdim=True)).sum(-1)
    assert torch.allclose(products, wanted, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_tells_its_weight(dtype: torch.dtype) -> None:
    """A bias far larger than the weights costs no digits."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 10).to(dtype)
    linear.bias.data += 3
    value = seeded(2, 7, 24).to(dtype)
    with torch.no_grad():
        asked = torch.nn.Sequential(linear)  # any layer but a plain one is asked
        shown, told = projection_of(linear, value), projection_of(asked, value)
    tolerance = 2 * torch.finfo(dtype).eps
    assert told.dtype == shown.dtype == torch.float32 and shown.equal(linear.weight.float())
    assert (told - shown).abs().max() <= tolerance * shown.abs().max()


def test_a_layer_that_does_more_than_its_weight_says_is_asked() -> None:
    linear, value = torch.nn.Linear(24, 10), seeded(2, 7, 24)
    with torch.no_grad():
        linear.register_forward_hook(lambda _module, _inputs, output: 2 * output)
        assert torch.allclose(projection_of(linear, value), 2 * linear.weight, atol=1e-5)


def test_a_head_that_says_what_the_layer_says_has_more_say() -> None:
    along, across = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    outputs = torch.stack([along, across, -along / 3])[None, :, None]
    weights = head_weights(outputs)[0, :, 0]
    assert weights.tolist() == pytest.approx([1.2, 0.2, -0.4])
    assert torch.allclose(head_weights(torch.zeros(1, 5, 2, 3)), torch.full((1, 5, 2), 0.2))


def test_layers_weigh_by_how_far_they_link_what_is_alike() -> None:
    asked = torch.eye(2).repeat_interleave(PLACES // 2, 0) * 8  # two halves, each alike in itself
    within = SelfAttention(asked, asked, 1, GRID)
    across = SelfAttention(asked, asked.flip(0), 1, GRID)
    weights = layer_weights([within, across], asked, GRID)
    assert weights[0] > 0.95 and float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("own", [(3, 4), (6, 8), (12, 16)])
def test_layers_of_other_grids_are_brought_to_the_named_ones(own: tuple[int, int]) -> None:
    """Against the tables themselves, resampled whole: keys between places, queries the nearest."""
    other, same = layer(5, grid=own), layer(6)
    asked = seeded(PLACES, 6, seed=7)
    alike = (asked @ asked.T * 6**-0.5).softmax(-1)

    def product(one: SelfAttention) -> Tensor:
        links = dense(one).unflatten(1, one.grid)
        links = interpolate(links[:, None], GRID, mode="bilinear")[:, 0]
        links = links.unflatten(0, one.grid).permute(2, 3, 0, 1)
        links = interpolate(links, GRID, mode="nearest").permute(2, 3, 0, 1)
        return (links.flatten(0, 1).flatten(1) * alike).sum()

    wanted = torch.stack([product(other), product(same)])
    found = layer_weights([other, same], asked, GRID)
    assert torch.allclose(found, wanted / wanted.sum(), atol=1e-6)


# ---- regions ---------------------------------------------------------------------------------


def test_regions_of_alike_places_are_found_and_part_the_grid() -> None:
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    kind = (columns >= 8).long() + 2 * ((rows >= 6) & (columns < 8)).long()
    means = torch.eye(3) * 4
    features = means[kind.flatten()] + 0.3 * seeded(192, 3, seed=2)
    masks = regions(features, (12, 16))
    assert torch.equal(masks.sum(0), torch.ones(12, 16, dtype=torch.long))
    for number in range(3):
        meant = kind == number
        overlap = (masks & meant).flatten(1).sum(1) / (masks | meant).flatten(1).sum(1)
        assert overlap.max() > 0.95
    assert len(masks) == 3


def test_alike_places_stay_together_and_the_same_is_found_again() -> None:
    alike = seeded(1, 6).expand(48, 6) + 0.001 * seeded(48, 6, seed=1)
    noise = seeded(48, 6, seed=3)
    assert len(regions(alike, GRID, most_costly=0.05)) == 1
    assert torch.equal(regions(noise, GRID), regions(noise, GRID))
    with pytest.raises(ValueError, match="6x8"):
        regions(seeded(10, 3), GRID)
