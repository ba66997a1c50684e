"""Pictures labelled in a second, by the pictures in a batch: one process against workers on Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from statistics import median

import torch

from ..attention.diffusers import DiffusersCapture
from ..errors import ModelError
from ..evaluation import read_scenes
from ..labelling.cluster import Worker, running
from ..labelling.labeller import Labeller, in_one_process
from ..labelling.pictures import Item
from ..labelling.records import Record
from ..models.catalogue import STICKERS, load_models
from ..settings import Settings
from ..stickers import DATA
from .clock import interleaved, ratio, seconds
from .curve import Curve

WORKERS = 2
BATCHES = (1, 2, 4, 8, 16, 32)
FEWEST = 8  # pictures that are timed, however small the batches
CPU = torch.device("cpu")
TITLE = "labelling stickers"
ONE, TWO = "one process", f"{WORKERS} Ray workers"
Batches = Sequence[Sequence[Item]]
Label = Callable[[Batches], list[Record]]


def labelling(
    counts: Sequence[int], turns: int, progress: Callable[[str], object]
) -> Iterator[Curve]:
    """Pictures per second for each size of batch, and the ratio of the workers to one process.

    The built-in models, loaded before, and one thread in every process; each turn labels the same
    pictures both ways. Without Ray there is one process alone.
    """
    items = _items(max(WORKERS * counts[-1], FEWEST))
    found: dict[int, tuple[int, dict[str, list[float]]]] = {}
    with ExitStack() as stack:
        ways = _ways(stack, progress)
        for run in ways.values():
            _warm_up(run, items)
        for count in counts:
            progress(f"labelling: batches of {count}")
            own = items[: max(WORKERS * count, FEWEST)]
            found[count] = len(own), _timed(ways, own, count, turns)
    rates = {
        name: [(count, number / median(each[name])) for count, (number, each) in found.items()]
        for name in ways
    }
    yield Curve(TITLE, "pictures in a batch", rates, "pictures per second")
    if TWO in ways:
        gains = [(count, ratio(each, ONE, TWO)) for count, (_, each) in found.items()]
        title = f"{TITLE}, {TWO} against {ONE}"
        yield Curve(title, "pictures in a batch", {"": gains}, "times as many pictures per second")


def _ways(stack: ExitStack, progress: Callable[[str], object]) -> dict[str, Label]:
    """One process and, where Ray is installed, workers; open until the stack is closed."""
    ways = {ONE: stack.enter_context(_one_process())}
    progress(f"labelling: starting {TWO}")
    try:
        ways[TWO] = stack.enter_context(_on_ray())
    except ModelError as error:
        progress(f"labelling: {ONE} alone. {error}")
    return ways


def _warm_up(run: Label, items: Sequence[Item]) -> None:
    """A picture for every worker; ModelError for one that cannot be labelled."""
    for record in run([[item] for item in items[:WORKERS]]):
        if record.error is not None:
            raise ModelError(f"'{record.name}' could not be labelled: {record.error}")


def _timed(
    ways: dict[str, Label], items: Sequence[Item], count: int, turns: int
) -> dict[str, list[float]]:
    """Seconds that each way takes for all the pictures in batches of `count`."""
    work = [items[start : start + count] for start in range(0, len(items), count)]
    timed = {name: partial(seconds, partial(run, work), CPU) for name, run in ways.items()}
    return interleaved(timed, turns)


def _items(most: int) -> list[Item]:
    """Pictures of one size, each with the first sentence of its scene."""
    scenes = read_scenes(DATA / "validation")[:most]
    return [
        Item(one.image.name, str(one.image), (0, 0), (one.sentences[0].text,)) for one in scenes
    ]


def sticker_labeller() -> Labeller:
    """The built-in models on the CPU, ready to label."""
    models = load_models(STICKERS, device=CPU)
    capture = DiffusersCapture(models.pipe)
    return Labeller(capture, models.clip, Settings.named("default", capture.family))


@contextmanager
def _one_process() -> Iterator[Label]:
    """Batches one after the other in this process, with one thread."""
    labeller, before = sticker_labeller(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield lambda work: list(in_one_process(labeller, work))
    finally:
        torch.set_num_threads(before)


@contextmanager
def _on_ray() -> Iterator[Label]:
    """Batches on actors such as `cluster.on_ray` has, each taking the next when it is free.

    Raises ModelError where Ray is not installed.
    """
    with running(WORKERS) as ray:
        actor = ray.remote(num_cpus=1)(Worker)
        pool = ray.util.ActorPool([actor.remote(sticker_labeller, 1) for _ in range(WORKERS)])

        def run(work: Batches) -> list[Record]:
            rows = [{"items": [json.dumps([asdict(item) for item in batch])]} for batch in work]
            answers = pool.map_unordered(lambda one, row: one.__call__.remote(row), rows)
            found = [json.loads(answer["records"][0]) for answer in answers]
            return [Record.from_dict(plain) for batch in found for plain in batch]

        yield run
