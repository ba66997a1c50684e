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

from ..errors import HeatError, WordError, quoted
from .compete import shares
from .heads import said_by_heads
from .propagate import Grid, SelfAttention, propagate, propagate_sharpened

Span = tuple[int, int] | None
Box = tuple[float, float, float, float]
Heads = Literal["mean", "output"]
Spread = Literal["off", "mean", "sharp"]
Mode = Literal["probabilities", "logits", "log_probabilities"]
MODES = ("probabilities", "logits", "log_probabilities")

_CHUNK = 1 << 22  # most logits held at once, in numbers: 16 MiB
_ROUNDING = 1e-6  # a map whose range is below this share of its size is constant


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """What every observed layer says about every token of one prompt.

    maps: one [T, h, w] float32 tensor on the CPU per layer, heads averaged. layers: their names.
    strides: pixels between each layer's places in the picture as the UNet saw it.
    tokens: the T pieces that cover characters of `text`; begin, end and padding are left out.
    spans: the characters [start, end) each covers. content: the (top, left, height, width) of the
    maps that shows the picture, as fractions; None when all of it does. places: the self-attention
    of layers of one grid, along which heat can be spread. layer_weights: the layers' say, above 0;
    None where all have the same. Tokens whose span lies behind `text` are the background's
    (`CaptureSettings.background`).
    """

    maps: tuple[Tensor, ...]
    layers: tuple[str, ...]
    strides: tuple[int, ...]
    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    text: str
    mode: Mode = "probabilities"
    content: Box | None = None
    places: tuple[SelfAttention, ...] = ()
    layer_weights: tuple[float, ...] | None = None

    def columns(self, start: int, end: int) -> tuple[int, ...]:
        """The columns of the characters [start, end) of `text`; see `columns_of`."""
        return columns_of(self.spans, start, end, self.text)


def columns_of(spans: Sequence[Span], start: int, end: int, text: str) -> tuple[int, ...]:
    """Every column whose piece covers one of the characters [start, end) of `text`.

    Raises WordError, naming the word, when no piece does: the tokenizer drops it.
    """
    word = text[start:end]
    if not 0 <= start < end <= len(text):
        raise ValueError(f"Characters {start} to {end} are not a word of {quoted(text)}.")
    found = tuple(i for i, span in enumerate(spans) if span and span[0] < end and start < span[1])
    if not found:
        raise WordError(f"The tokenizer makes no token of {word!r}; name the thing with a word.")
    return found


def word_columns(texts: Iterable[Sequence[Span]]) -> tuple[int, ...]:
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
    keep_queries: names of layers whose queries are kept too, so that `score` can ask them about
    other words.
    places: names of layers beside which the self-attention is kept as well. heads: how the heads
    of a layer become one map; "output" needs to know of each head's output.
    """

    def __init__(
        self,
        wanted: Collection[str] | Callable[[str, Grid], bool],
        mode: Mode = "probabilities",
        columns: Sequence[int] | None = None,
        keep_queries: Collection[str] = (),
        places: Collection[str] = (),
        heads: Heads = "mean",
    ) -> None:
        self._wanted = wanted
        self._mode: Mode = mode
        self._columns = columns
        self._keep_queries = frozenset(keep_queries)
        self._places = tuple(places)
        self.heads: Heads = heads
        self.queries: dict[str, tuple[Tensor, int, Grid]] = {}  # [R, h*w, heads*d], heads, (h, w)
        self.maps: dict[str, Tensor] = {}  # layer -> [R, T, h, w] float32, in the order seen
        self.asked: dict[str, tuple[int, int]] = {}  # layer -> its rows and tokens, kept or not
        self.places: dict[
            str, tuple[Tensor, Tensor, int, Grid]
        ] = {}  # queries and keys, on the CPU

    def wants(self, layer: str, grid: Grid) -> bool:
        """Whether this layer's queries and keys should be brought to `add`."""
        return self._wanted(layer, grid) if callable(self._wanted) else layer in self._wanted

    def wants_places(self, layer: str) -> bool:
        """Whether the self-attention beside this layer should be brought to `add_places`."""
        return layer in self._places

    def add(
        self,
        layer: str,
        query: Tensor,
        key: Tensor,
        heads: int,
        grid: Grid,
        products: Tensor | None = None,
    ) -> None:
        """Reduce one layer's queries and keys (shapes as in `attention_maps`) and keep the maps.

        A layer that comes again (a second batch of rows) is appended below the rows it has.
        products: for heads="output", of each head's output with their sum, [R, heads, h*w]
        (`heads.answer_by_heads`).
        """
        if not self.wants(layer, grid):
            return
        query, key = query.detach(), key.detach()
        if products is None:
            maps = attention_maps(query, key, heads, grid, self._mode, self._columns)
        else:
            found = said_by_heads(query, key, products.detach(), heads, self._columns)
            maps = found.unflatten(2, grid)
        seen = self.maps.get(layer)
        self.maps[layer] = maps if seen is None else torch.cat([seen, maps])
        self.asked[layer] = (len(self.maps[layer]), key.shape[-2])
        if layer in self._keep_queries:
            self.queries[layer] = (query, heads, grid)

    def add_places(self, layer: str, query: Tensor, key: Tensor, heads: int, grid: Grid) -> None:
        """Keep the self-attention that stands before a layer.

        query, key: [R, h*w, heads*d], of the same places. Rows that come again are appended.
        """
        query, key = query.detach().cpu(), key.detach().cpu()
        if layer in self.places:
            queries, keys, *_ = self.places[layer]
            query, key = torch.cat([queries, query]), torch.cat([keys, key])
        self.places[layer] = (query, key, heads, grid)

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
        query, heads, grid = self.queries[layer]
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
        return not callable(self._wanted) and not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """The wanted layers that were not seen, where their names are known."""
        names = () if callable(self._wanted) else self._wanted
        unseen = [name for name in names if name not in self.maps]
        return (*unseen, *(name for name in self._places if name not in self.places))


def cfg_logits(cond: Tensor, uncond: Tensor, scale: float = 9.0) -> Tensor:
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


@dataclass(frozen=True)
class Rivals:
    """What competes with a word, as columns of its text.

    groups: a group for each other noun and the background, whose tokens are averaged. sink: tokens
    that take their part and are never an answer.
    """

    groups: tuple[tuple[int, ...], ...] = ()
    sink: tuple[int, ...] = ()


def word_map(
    maps: TokenMaps,
    columns: Sequence[int],
    *,
    size: Grid | None = None,
    weights: Mapping[int, float] | None = None,
    normalise: bool = True,
    rivals: Rivals | None = None,
    spread: Spread = "off",
) -> Tensor:
    """The heat of one word: [h, w] float32, 0..1, over the picture alone (padding is cut off).

    columns: the word's tokens (`TokenMaps.columns`), averaged. size: (height, width) of the
    answer; left out, the finest grid observed. weights: of each stride, whose layers are averaged
    first; left out, every layer has its say (`TokenMaps.layer_weights`), all the same where none is
    known. normalise: the mean of the layers is stretched to
    0..1; False leaves it raw, as evidence that the word is there at all. rivals: the word's share
    against theirs is taken at every place (`compete.shares`). spread: the heat is spread along the
    places' self-attention, where the maps hold any: "mean" by two steps, "sharp" by iSeg's.
    Raises HeatError when a value is not finite.
    """
    if not maps.maps or not columns:
        raise ValueError(f"{len(maps.maps)} layers and {len(columns)} columns: both must be > 0.")
    size = size or _content_size(maps)
    groups = [tuple(columns), *(rivals.groups if rivals else ())]
    sink = rivals.sink if rivals else ()
    wanted = [*groups, sink] if sink else groups
    along = maps.places if spread != "off" else ()
    grid, content = (along[0].grid, None) if along else (size, maps.content)
    layers = [
        _over_content(torch.stack([m[list(group)].mean(0) for group in wanted]), content, grid)
        for m in maps.maps
    ]
    part = torch.tensor(_layer_weights(maps, weights)).view(-1, 1, 1, 1)
    heat = (torch.stack(layers) * part).sum(0)
    if rivals is not None:
        last = [len(groups)] if sink else []
        heat = shares(heat, [[index] for index in range(len(groups))], last)
    heat = heat[:1]
    if along:
        moved = propagate(heat, along) if spread == "mean" else propagate_sharpened(heat, along)
        heat = _over_content(moved, maps.content, size)
    return min_max(heat[0]) if normalise else heat[0]


def _content_size(maps: TokenMaps) -> Grid:
    """The finest grid observed, less its padding."""
    height, width = max((tuple(m.shape[1:]) for m in maps.maps), key=lambda grid: grid[0] * grid[1])
    _, _, tall, wide = maps.content or (0.0, 0.0, 1.0, 1.0)
    return max(1, round(height * tall)), max(1, round(width * wide))


def _over_content(values: Tensor, content: Box | None, size: Grid) -> Tensor:
    """Bilinear resampling of maps [K, h, w] to `size`, seeing their content box only."""
    batch = values[None]
    if content is None:
        if values.shape[1:] == size:
            return values
        return functional.interpolate(batch, size, mode="bilinear", align_corners=False)[0]
    top, left, tall, wide = content
    y = (torch.arange(size[0]) + 0.5) / size[0] * tall + top
    x = (torch.arange(size[1]) + 0.5) / size[1] * wide + left
    where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None] * 2 - 1
    return functional.grid_sample(batch, where, padding_mode="border", align_corners=False)[0]


def _layer_weights(maps: TokenMaps, weights: Mapping[int, float] | None) -> list[float]:
    """One weight per layer, together 1: its say, or its part of its stride's weight."""
    says = maps.layer_weights or (1.0,) * len(maps.strides)
    of_stride: dict[int, float] = {}
    for stride, say in zip(maps.strides, says, strict=True):
        of_stride[stride] = of_stride.get(stride, 0.0) + say
    shares = [
        say if weights is None else weights.get(stride, 0.0) * say / of_stride[stride]
        for stride, say in zip(maps.strides, says, strict=True)
    ]
    total = sum(shares)
    if weights is not None and total <= 0:
        seen = ", ".join(str(stride) for stride in sorted(of_stride, reverse=True))
        raise ValueError(f"weights {dict(weights)} give nothing to the strides read, {seen}.")
    return [share / total for share in shares]
