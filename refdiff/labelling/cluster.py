"""The same labelling on Ray Data: a model per actor, batches spread over actors and machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..errors import ModelError
from .labeller import Labeller
from .pictures import Item
from .records import Record


class Worker:
    """An actor: loads the models once, then labels the batches it is given."""

    def __init__(self, make: Callable[[], Labeller], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._label = make()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        found = []
        for row in rows["items"]:
            items = [_item(plain) for plain in json.loads(row)]
            found.append(json.dumps([record.to_dict() for record in self._label(items)]))
        return {"records": np.array(found, dtype=object)}


def _item(plain: dict[str, Any]) -> Item:
    return Item(plain["name"], plain["path"], tuple(plain["stamp"]), tuple(plain["texts"]))


def on_ray(
    make: Callable[[], Labeller],
    batches: Sequence[Sequence[Item]],
    workers: int,
    address: str | None = None,
    gpus: float = 0.0,
) -> Iterator[Record]:
    """Every picture's record, as the actors finish their batches.

    make: loads the models; it is pickled and called once in every actor. address: of a running
    cluster, whose machines see the pictures under the same paths; None starts Ray on this machine
    for as long as the run takes. gpus: of each actor. When an actor or its machine dies, Ray
    starts another and gives it the batch again: no picture comes twice.
    Raises ModelError where Ray is not installed.
    """
    with running(workers, address) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        threads = max(1, (os.cpu_count() or 1) // workers)
        rows = [{"items": json.dumps([asdict(item) for item in batch])} for batch in batches]
        answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=(make, threads),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=gpus,
        )
        for row in answered.iter_rows():
            yield from (Record.from_dict(plain) for plain in json.loads(row["records"]))


@contextmanager
def running(workers: int, address: str | None = None) -> Iterator[Any]:
    """Ray itself, started for as long as the block runs, unless it runs already.

    Raises ModelError where Ray is not installed.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=address,
            num_cpus=None if address else max(workers, os.cpu_count() or 1),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ModelError(
            'Several workers need Ray Data; install it with `pip install "refdiff[ray]"`.'
        ) from error
    return ray
