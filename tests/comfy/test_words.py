"""What a node says goes to the browser that asked, and to no other."""

from __future__ import annotations

import struct
import time
import uuid

import requests
import websocket

from .client import Client
from .graphs import segment
from .server import Server

TEXT = 3  # ComfyUI's number for words on a node, among its binary messages


def listener(server: Server, name: str) -> websocket.WebSocket:
    address = server.url.replace("http", "ws", 1) + f"/ws?clientId={name}"
    return websocket.create_connection(address, timeout=60)


def heard(socket: websocket.WebSocket, seconds: float) -> list[tuple[str, str]]:
    """The (node, words) of every message that came, and comes within some seconds of silence."""
    found = []
    socket.settimeout(seconds)
    try:
        while True:
            message = socket.recv()
            if isinstance(message, bytes) and struct.unpack(">I", message[:4])[0] == TEXT:
                length = struct.unpack(">I", message[4:8])[0]
                node, words = message[8 : 8 + length], message[8 + length :]
                found.append((node.decode(), words.decode()))
    except websocket.WebSocketTimeoutException:
        return found


def test_only_the_asking_browser_hears(server: Server, client: Client) -> None:
    asking, other = uuid.uuid4().hex, uuid.uuid4().hex
    mine, theirs = listener(server, asking), listener(server, other)
    for name, seed in ((asking, 21), (None, 22)):
        body: dict[str, object] = {"prompt": segment(client, "the red cat", noise_index=seed)}
        if name is not None:
            body["client_id"] = name
        prompt = requests.post(f"{server.url}/prompt", json=body, timeout=60).json()["prompt_id"]
        deadline = time.monotonic() + 300
        while not client.get(f"history/{prompt}").json() and time.monotonic() < deadline:
            time.sleep(0.2)
    said = heard(mine, 2)
    assert [node for node, _ in said] == ["segment"]
    assert said[0][1].startswith("Looks for: cat")
    assert heard(theirs, 2) == []
    mine.close()
    theirs.close()
