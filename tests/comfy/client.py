"""Talks to a ComfyUI server: queues a graph in API format, waits for it, reads what came out.

Pictures come back as the server serves them, in 8 bits. What must be equal to the last bit is
compared by nodes of the graph itself.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import requests
import websocket
from PIL import Image

Graph = dict[str, dict[str, Any]]
NOTHING: Graph = {
    "image": {
        "class_type": "EmptyImage",
        "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 0},
    },
    "show": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
}


class Refused(Exception):
    """The server did not accept a graph (HTTP 400); `node_errors` says why, node by node."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1))
        self.error: dict[str, Any] = answer["error"]
        self.node_errors: dict[str, Any] = answer["node_errors"]

    def kinds(self) -> dict[str, list[str]]:
        """ComfyUI's names for the errors of each node, such as `value_bigger_than_max`."""
        return {
            node: [error["type"] for error in said["errors"]]
            for node, said in self.node_errors.items()
        }


class RunFailed(Exception):
    """A node raised; the server's words."""


@dataclass(frozen=True)
class Run:
    """What became of one prompt.

    outputs: what the nodes showed, by node, such as {"9": {"images": [{"filename": ...}]}}.
    executed: the nodes that ran, in order. cached: those whose results were still there.
    error: ComfyUI's `execution_error` (node_id, node_type, exception_message, traceback...).
    """

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    executed: list[str]
    cached: list[str]
    error: dict[str, Any] | None = None
    interrupted: bool = False

    def checked(self) -> Run:
        """Itself, if it went well. Raises RunFailed."""
        if self.error:
            place = f"node {self.error['node_id']} ({self.error['node_type']})"
            words = f"{self.error['exception_type']}: {self.error['exception_message']}"
            raise RunFailed(f"{place}: {words}\n{''.join(self.error.get('traceback', []))}")
        if self.interrupted:
            raise RunFailed("interrupted")
        return self

    def text(self, node: str) -> str:
        """What a node showed as text."""
        return "\n".join(str(line) for line in self.outputs[node]["text"])


class Events:
    """What the server has said over a websocket, prompt by prompt."""

    def __init__(self) -> None:
        self._said: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def add(self, message: str | bytes) -> None:
        """File a message under its prompt. Latent previews (bytes) are dropped."""
        if isinstance(message, str):
            event = json.loads(message)
            prompt_id = event["data"].get("prompt_id")
            if prompt_id:
                self.of(prompt_id).append((event["type"], event["data"]))

    def of(self, prompt_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The (kind, detail) of each event of a prompt, so far."""
        return self._said.setdefault(prompt_id, [])

    def ended(self, prompt_id: str) -> bool:
        """Whether the prompt has ended and its history is there."""
        return any(
            kind == "executing" and detail["node"] is None for kind, detail in self.of(prompt_id)
        )

    def run(self, prompt_id: str, record: dict[str, Any]) -> Run:
        """What became of a prompt that has ended; record: the server's history of it."""
        said = {kind: detail for kind, detail in record["status"]["messages"]}
        executing = [detail["node"] for kind, detail in self.of(prompt_id) if kind == "executing"]
        return Run(
            prompt_id,
            record["outputs"],
            [node for node in executing if node is not None],
            said.get("execution_cached", {}).get("nodes", []),
            said.get("execution_error"),
            "execution_interrupted" in said,
        )


@dataclass
class Client:
    """One user at the server `url`. Its websocket is open from the start, so no event is missed."""

    url: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.name}"
        self._socket = websocket.create_connection(address, timeout=60)
        self._events = Events()
        self._kinds: dict[str, Any] = {}

    def close(self) -> None:
        self._socket.close()

    def get(self, path: str, **query: Any) -> requests.Response:
        """GET url/path; raises where the answer is not 200."""
        answer = requests.get(f"{self.url}/{path.lstrip('/')}", params=query, timeout=60)
        answer.raise_for_status()
        return answer

    def post(self, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        """POST JSON to url/path; raises where the answer is not 200."""
        answer = requests.post(f"{self.url}/{path.lstrip('/')}", json=body or {}, timeout=60)
        answer.raise_for_status()
        return answer

    def object_info(self, node: str = "") -> dict[str, Any]:
        """The server's description of one class of nodes, or of all."""
        info = self.get(f"object_info/{node}".rstrip("/")).json()
        return info[node] if node else info

    def node(self, kind: str, **inputs: Any) -> dict[str, Any]:
        """A node of a graph; widgets that are not given have their defaults."""
        if kind not in self._kinds:
            self._kinds[kind] = self.object_info(kind)["input"]
        widgets = {}
        for name, (values, *options) in self._kinds[kind].get("required", {}).items():
            told = options[0] if options else {}
            choices = values if isinstance(values, list) else told.get("options", [])
            if choices or "default" in told:
                widgets[name] = told["default"] if "default" in told else choices[0]
        return {"class_type": kind, "inputs": {**widgets, **inputs}}

    def queue(self, graph: Graph) -> str:
        """Queue a graph; its prompt id. Raises Refused."""
        body = {"prompt": graph, "client_id": self.name}
        answer = requests.post(f"{self.url}/prompt", json=body, timeout=60)
        if answer.status_code == 400:
            raise Refused(answer.json())
        answer.raise_for_status()
        return answer.json()["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 300) -> Run:
        """Wait until a prompt has ended, well or not."""
        deadline = time.monotonic() + seconds
        while not self._events.ended(prompt_id):
            self._receive(deadline)
        return self._events.run(prompt_id, self.get(f"history/{prompt_id}").json()[prompt_id])

    def wait_for(self, prompt_id: str, kind: str, seconds: float = 300, **wanted: Any) -> None:
        """Wait for an event of a prompt, such as ("progress", node="5") or ("executing", ...).

        Raises RunFailed if the prompt ends without it.
        """
        deadline = time.monotonic() + seconds
        while not any(
            seen == kind and wanted.items() <= detail.items()
            for seen, detail in self._events.of(prompt_id)
        ):
            if self._events.ended(prompt_id):
                raise RunFailed(f"the prompt ended without {kind} {wanted}")
            self._receive(deadline)

    def run(self, graph: Graph, seconds: float = 300) -> Run:
        """Queue a graph and wait for its results. Raises Refused, RunFailed."""
        return self.wait(self.queue(graph), seconds).checked()

    def upload(self, picture: Image.Image | np.ndarray, name: str = "picture.png") -> str:
        """Put a picture into the input folder; the name LoadImage takes."""
        data = io.BytesIO()
        Image.fromarray(np.asarray(picture)).save(data, format="PNG")
        answer = requests.post(
            f"{self.url}/upload/image",
            files={"image": (name, data.getvalue(), "image/png")},
            data={"overwrite": "true"},
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()["name"]

    def view(self, shown: dict[str, str]) -> np.ndarray:
        """A picture a node showed or saved, uint8 [H,W,3] (or 4, or [H,W])."""
        return np.asarray(Image.open(io.BytesIO(self.get("view", **shown).content)))

    def images(self, run: Run, node: str) -> list[np.ndarray]:
        """All pictures a node showed in a run."""
        return [self.view(shown) for shown in run.outputs[node]["images"]]

    def interrupt(self) -> None:
        """Stop the prompt that is running."""
        self.post("interrupt")

    def free(self) -> None:
        """Unload all models and forget all results, and wait until that has happened.

        The server does it after a prompt, or while idle; after this empty prompt it has begun at
        the latest, and the next one waits for it.
        """
        self.post("free", {"unload_models": True, "free_memory": True})
        self.run(NOTHING)

    def _receive(self, deadline: float) -> None:
        """Take one message of the server, which must come before the deadline."""
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            self._events.add(self._socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError("the prompt did not get there in time") from None
