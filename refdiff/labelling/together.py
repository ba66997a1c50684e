"""One call of CLIP for the crops of several pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from ..scoring.clip import CHUNK, ClipScorer

T = TypeVar("T")
A = TypeVar("A")


class Together:
    """Works on several things at a time, and lets CLIP see what they ask of it as one batch.

    Each has a thread of its own, of which one works at a time. Who asks for crops' features waits
    until all others have asked too or are done; one call, of at most CHUNK crops of a size, then
    answers them all. So what is joined does not depend on the threads' speed.
    """

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = copy.copy(clip)
        self.clip.tower = copy.copy(clip.tower)
        self._alone = clip.tower.plain
        setattr(self.clip.tower, "plain", self._plain)  # noqa: B010 - of this copy only
        self._turn = Lock()
        self._asked: list[tuple[Tensor, Future[Tensor]]] = []
        self._at_work = 0

    def map(self, work: Callable[[A], T], things: Sequence[A]) -> list[T]:
        """work(thing) of each, in order; it may ask `self.clip`. The first error is raised."""
        self._at_work = len(things)
        with ThreadPoolExecutor(max(1, len(things))) as threads:
            return list(threads.map(lambda thing: self._one(work, thing), things))

    def _one(self, work: Callable[[A], T], thing: A) -> T:
        with self._turn:
            try:
                return work(thing)
            finally:
                self._at_work -= 1
                self._answer()

    def _plain(self, pictures: Tensor) -> Tensor:
        """In the place of `Tower.plain`: the same features, later."""
        answer: Future[Tensor] = Future()
        self._asked.append((pictures, answer))
        self._answer()
        if not answer.done():
            self._turn.release()
            try:
                answer.exception()  # waits
            finally:
                self._turn.acquire()
        return answer.result()

    @torch.inference_mode()
    def _answer(self) -> None:
        """Once all who are at work have asked, ask CLIP for them."""
        if not self._asked or len(self._asked) < self._at_work:
            return
        asked, self._asked = self._asked, []
        for size in dict.fromkeys(pictures.shape[1:] for pictures, _ in asked):
            same = [each for each in asked if each[0].shape[1:] == size]
            counts = [len(pictures) for pictures, _ in same]
            try:
                parts = torch.cat([pictures for pictures, _ in same]).split(CHUNK)
                found = torch.cat([self._alone(part) for part in parts]).split(counts)
            except Exception as error:
                for _, answer in same:
                    answer.set_exception(error)
                continue
            for (_, answer), features in zip(same, found, strict=True):
                answer.set_result(features)
