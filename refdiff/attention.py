"""Words read out of cross-attention: queries and keys in, one map per token out.

Pure arithmetic on tensors. A *layer* is one cross-attention; its *grid* is the (height, width)
of the places it asks from; a *column* is one token of the text it asks about. *Row* r of every
batch belongs to prompt r.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .errors import HeatError, WordError

Grid = tuple[int, int]
Span = tuple[int, int] | None
Box = tuple[float, float, float, float]
Mode = Literal["probabilities", "logits", "log_probabilities"]
MODES = ("probabilities", "logits", "log_probabilities")

_CHUNK = 1 << 22  # most logits held at once, in numbers: 16 MiB
_ROUNDING = 1e-6  # a map whose range is below this share of its size is constant


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """What every observed layer says about every token of one prompt.

    maps: one [T, h, w] float32 tensor on the CPU per layer, heads averaged. layers: their names.
    tokens: the T pieces that cover characters of `text`; begin, end and padding are left out.
    spans: the characters [start, end) each covers. content: the (top, left, height, width) of the
    maps that shows the picture, as fractions; None when all of it does.
    """

    maps: tuple[Tensor, ...]
    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    text: str
    mode: Mode = "probabilities"
    content: Box | None = None

    def columns(self, start: int, end: int) -> tuple[int, ...]:
        """The columns of the characters [start, end) of `text`; see `columns_of`."""
        return columns_of(self.spans, start, end, self.text)


def columns_of(spans: Sequence[Span], start: int, end: int, text: str) -> tuple[int, ...]:
    """Every column whose piece covers one of the characters [start, end) of `text`.

    Raises WordError, naming the word, when no piece does: the tokenizer drops it.
    """
    word = text[start:end]
    if not 0 <= start < end <= len(text):
        raise ValueError(f"Characters {start} to {end} are not a word of {text!r}.")
    found = tuple(i for i, span in enumerate(spans) if span and span[0] < end and start < span[1])
    if not found:
        raise WordError(f"The tokenizer makes no token of {word!r}; name the thing with a word.")
    return found


def spoken(texts: Iterable[Sequence[Span]]) -> tuple[int, ...]:
    """The columns that cover characters of any of these texts, whose spans are given."""
    return tuple(sorted({i for spans in texts for i, span in enumerate(spans) if span}))


def attention_maps(
    query: Tensor,
    key: Tensor,
    heads: int,
    grid: Grid,
    mode: Mode = "probabilities",
    columns: Sequence[int] | None = None,
) -> Tensor:
    """How much each place of the grid asks for each token, averaged over the heads.

    query: [R, h*w, heads*d] or [R, heads, h*w, d]; key: [R, T, heads*d] or [R, heads, T, d]; one
    row serves any number of rows of the other. Returns [R, T, h, w] float32, computed in float32
    whatever came: `logits` are q·k / sqrt(d), `probabilities` their softmax over all T tokens
    (section 3.1 of the paper), `log_probabilities` its logarithm, averaged as logarithms.
    `columns` keeps only those tokens, after the softmax. Heads are taken a few at a time.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}.")
    query, key = _by_head(query, heads), _by_head(key, heads)
    if query.shape[2] != grid[0] * grid[1]:
        raise ValueError(f"{query.shape[2]} queries do not fill a grid of {grid[0]}x{grid[1]}.")
    rows = max(query.shape[0], key.shape[0])
    step = max(1, _CHUNK // (rows * query.shape[2] * key.shape[2]))
    total: Tensor | float = 0.0
    with torch.autocast(query.device.type, enabled=False):
        for first in range(0, heads, step):
            part = slice(first, first + step)
            values = _reduced(query[:, part].float(), key[:, part].float(), mode)
            if columns is not None:
                values = values[..., list(columns)]
            total = total + values.sum(1)
    return (torch.as_tensor(total) / heads).mT.unflatten(2, grid).contiguous()


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(2, (heads, -1)).transpose(1, 2) if tensor.ndim == 3 else tensor


def _reduced(query: Tensor, key: Tensor, mode: Mode) -> Tensor:
    logits = (query * query.shape[-1] ** -0.5) @ key.mT
    if mode == "logits":
        return logits
    return logits.softmax(-1) if mode == "probabilities" else logits.log_softmax(-1)


class AttentionRecorder:
    """Collects the maps of the wanted layers of one run; keeps nothing else.

    wanted: layer names, or a function of (layer, grid). columns: keep only these tokens.
    keep_queries: keep each layer's queries too, so that `score` can ask them about other words.
    """

    def __init__(
        self,
        wanted: Collection[str] | Callable[[str, Grid], bool],
        mode: Mode = "probabilities",
        columns: Sequence[int] | None = None,
        keep_queries: bool = False,
    ) -> None:
        self._wanted = wanted
        self._mode: Mode = mode
        self._columns = columns
        self._keep_queries = keep_queries
        self._queries: dict[str, tuple[Tensor, int, Grid]] = {}
        self.maps: dict[str, Tensor] = {}  # layer -> [R, T, h, w] float32, in the order seen
        self.asked: dict[str, tuple[int, int]] = {}  # layer -> its rows and tokens, kept or not

    def wants(self, layer: str, grid: Grid) -> bool:
        """Whether this layer's queries and keys should be brought to `add`."""
        return self._wanted(layer, grid) if callable(self._wanted) else layer in self._wanted

    def add(self, layer: str, query: Tensor, key: Tensor, heads: int, grid: Grid) -> None:
        """Reduce one layer's queries and keys (shapes as in `attention_maps`) and keep the maps.

        A layer that comes again (a second batch of rows) is appended below the rows it has.
        """
        if not self.wants(layer, grid):
            return
        query, key = query.detach(), key.detach()
        maps = attention_maps(query, key, heads, grid, self._mode, self._columns)
        seen = self.maps.get(layer)
        self.maps[layer] = maps if seen is None else torch.cat([seen, maps])
        self.asked[layer] = (len(self.maps[layer]), key.shape[-2])
        if self._keep_queries:
            self._queries[layer] = (query, heads, grid)

    def score(
        self,
        layer: str,
        key: Tensor,
        groups: int | None = None,
        columns: Sequence[int] | None = None,
    ) -> Tensor:
        """The maps [R, T, h, w] of other words, from the kept queries and these words' keys.

        columns: keep only these of their tokens. groups: both are that many equal parts, and
        within a part every kept row is asked about every row of keys (row-major); left out, rows
        pair up as in `attention_maps`.
        """
        query, heads, grid = self._queries[layer]
        if groups is None:
            return attention_maps(query, key, heads, grid, self._mode, columns)
        parts = zip(query.chunk(groups), key.chunk(groups), strict=True)
        rows = [
            attention_maps(row, keys, heads, grid, self._mode, columns)
            for queries, keys in parts
            for row in queries.split(1)
        ]
        return torch.cat(rows)

    @property
    def done(self) -> bool:
        """True once every wanted layer was seen; never known when `wanted` is a function."""
        return not callable(self._wanted) and all(name in self.maps for name in self._wanted)


def guide(cond: Tensor, uncond: Tensor, scale: float = 9.0) -> Tensor:
    """Classifier-free combination of two logit maps: scale * (cond - uncond) + uncond."""
    return scale * (cond - uncond) + uncond


def min_max(values: Tensor) -> Tensor:
    """Stretch to 0..1 (step 4 of the paper's method); a constant map becomes zeros.

    The epsilon is relative: a range below one millionth of the largest value is rounding, not
    heat. Raises HeatError when a value is not finite.
    """
    if not torch.isfinite(values).all():
        raise HeatError(
            "The heat map holds values that are not finite; run the model in float32 or bfloat16."
        )
    low, high = values.min(), values.max()
    if high - low <= _ROUNDING * values.abs().max():
        return torch.zeros_like(values)
    return (values - low) / (high - low)


def word_map(
    maps: TokenMaps,
    columns: Sequence[int],
    *,
    size: Grid | None = None,
    weights: Mapping[int, float] | None = None,
    normalise: Literal["mean", "layer", False] = "mean",
    quantise: bool = False,
) -> Tensor:
    """The heat of one word: [h, w] float32, 0..1, over the picture alone (padding is cut off).

    columns: the word's tokens (`TokenMaps.columns`), averaged. size: (height, width) of the
    answer; left out, the finest grid observed. weights: from coarseness (0 = coarsest grid
    observed) to the weight of that grid, whose layers are averaged first; left out, every layer
    weighs the same. normalise: "mean" stretches the mean of the layers to 0..1, "layer" each
    layer and then their mean (the authors' code), False leaves the raw mean, as evidence that the
    word is there at all. quantise: round down to 1/255 before the last stretch (authors' code).
    Raises HeatError when a value is not finite.
    """
    if not maps.maps or not columns:
        raise ValueError(f"{len(maps.maps)} layers and {len(columns)} columns: both must be > 0.")
    size = size or _content_size(maps)
    layers = [_over_content(m[list(columns)].mean(0), maps.content, size) for m in maps.maps]
    if normalise == "layer":
        layers = [min_max(layer) for layer in layers]
    shares = _layer_weights([(m.shape[1], m.shape[2]) for m in maps.maps], weights)
    heat = (torch.stack(layers) * torch.tensor(shares).view(-1, 1, 1)).sum(0)
    if not normalise:
        return heat
    heat = heat if normalise == "layer" else min_max(heat)
    return min_max((heat * 255).floor() / 255 if quantise else heat)


def _content_size(maps: TokenMaps) -> Grid:
    """The finest grid observed, less its padding."""
    height, width = max((tuple(m.shape[1:]) for m in maps.maps), key=lambda grid: grid[0] * grid[1])
    _, _, tall, wide = maps.content or (0.0, 0.0, 1.0, 1.0)
    return max(1, round(height * tall)), max(1, round(width * wide))


def _over_content(values: Tensor, content: Box | None, size: Grid) -> Tensor:
    """Bilinear resampling of a map [h, w] to `size`, seeing its content box only."""
    batch = values[None, None]
    if content is None:
        if values.shape == size:
            return values
        return functional.interpolate(batch, size, mode="bilinear", align_corners=False)[0, 0]
    top, left, tall, wide = content
    y = (torch.arange(size[0]) + 0.5) / size[0] * tall + top
    x = (torch.arange(size[1]) + 0.5) / size[1] * wide + left
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None] * 2 - 1
    return functional.grid_sample(batch, where, padding_mode="border", align_corners=False)[0, 0]


def _layer_weights(grids: Sequence[Grid], weights: Mapping[int, float] | None) -> list[float]:
    """One weight per layer, together 1."""
    if weights is None:
        return [1 / len(grids)] * len(grids)
    order = sorted(set(grids), key=lambda grid: grid[0] * grid[1])
    shares = [weights.get(order.index(grid), 0.0) / grids.count(grid) for grid in grids]
    total = sum(shares)
    if total <= 0:
        raise ValueError(f"weights {dict(weights)} give nothing to the {len(order)} grids seen.")
    return [share / total for share in shares]
