"""An application that tells which version of HTTP it is asked in, and moves bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs

PIECE = bytes(range(256)) * 256

PAGE = b"""<!doctype html><title>page</title><link rel=icon href="data:,">
<script>
async function exchange(url, count) {
  const answers = await Promise.all(
    [...Array(count).keys()].map(n => fetch(`${url}?n=${n}`).then(r => r.json())));
  return answers.map(a => a.version).join();
}
async function upload(bytes) {
  const response = await fetch("/digest", {method: "POST", body: new Uint8Array(bytes)});
  return (await response.json()).bytes;
}
function chat(text) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/chat`, ["chat"]);
    const heard = [];
    socket.onopen = () => socket.send(text);
    socket.onerror = () => reject("error");
    socket.onmessage = event => {
      heard.push(event.data);
      if (heard.length == 2) socket.close(3000);
    };
    socket.onclose = event => resolve([socket.protocol, event.code, ...heard]);
  });
}
</script>"""


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer as the path says."""
    if scope["type"] == "websocket":
        await _chat(scope, receive, send)
    elif scope["type"] == "http":
        path = scope["path"]
        if path == "/digest":
            await _digest(scope, receive, send)
        elif path == "/download":
            await _download(scope, send)
        elif path == "/page":
            await _answer(send, PAGE, b"text/html")
        elif path == "/trailers":
            await _with_trailers(send)
        else:
            await _answer(send, json.dumps(_told(scope)).encode())


def _told(scope: dict[str, Any]) -> dict[str, Any]:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    return {
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "method": scope.get("method"),
        "host": headers.get("host"),
        "cookie": headers.get("cookie"),
        "tls": "tls" in scope["extensions"],
    }


async def _answer(send: Any, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _digest(scope: dict[str, Any], receive: Any, send: Any) -> None:
    hashed, size = hashlib.sha256(), 0
    pause = float(parse_qs(scope["query_string"].decode()).get("pause", ["0"])[0])
    more = True
    while more:
        if pause:
            await asyncio.sleep(pause)
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body = event["body"]
        hashed.update(body)
        size += len(body)
        more = event["more_body"]
    told = {"bytes": size, "sha256": hashed.hexdigest(), **_told(scope)}
    await _answer(send, json.dumps(told).encode())


async def _download(scope: dict[str, Any], send: Any) -> None:
    count = int(parse_qs(scope["query_string"].decode())["pieces"][0])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(count):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body"})


async def _with_trailers(send: Any) -> None:
    links = [b"</style.css>; rel=preload"]
    await send({"type": "http.response.early_hint", "links": links})
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await send({"type": "http.response.body", "body": b"body"})
    trailers = [(b"x-checksum", b"123")]
    await send({"type": "http.response.trailers", "headers": trailers})


async def _chat(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
    version = f"{scope['http_version']} {scope['scheme']}"
    await send({"type": "websocket.send", "text": version})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"].upper()})
