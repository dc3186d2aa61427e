"""Tests of ``daphne_like.asgi.scope``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.asgi.scope import ScopeBuilder, daphne_scope, http_scope
from daphne_like.asgi.types import Scope
from daphne_like.protocols.interfaces import Connection, RequestHead

TCP = Connection(("192.0.2.7", 50123), ("192.0.2.1", 8000), "http")


def scope_of(
    target: bytes = b"/",
    *,
    connection: Connection = TCP,
    root_path: str = "",
    **attributes: Any,
) -> Scope:
    """Return the scope of a request."""
    head = RequestHead(target)
    head.method = "GET"
    for name, value in attributes.items():
        setattr(head, name, value)
    return http_scope(head, connection, root_path, {})


def test_whole_scope() -> None:
    """All keys of the specification are there, and no others (C1, C2, C3, H1)."""
    headers = [(b"host", b"a"), (b"x-a", b"1"), (b"x-a", b"2")]

    scope = scope_of(b"/a/b?c=d", method="POST", headers=headers, http_version="1.0")

    assert {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.0",
        "method": "POST",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a/b",
        "query_string": b"c=d",
        "root_path": "",
        "headers": headers,
        "client": ["192.0.2.7", 50123],
        "server": ["192.0.2.1", 8000],
        "extensions": {},
    } == scope
    assert type(scope) is dict


@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
def test_http_version(version: str) -> None:
    """Each version has the name that ASGI gives it (H2)."""
    assert version == scope_of(http_version=version)["http_version"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/?", "/", b""),
        (b"/a?b", "/a", b"b"),
        (b"/a?b?c=%20", "/a", b"b?c=%20"),
        (b"/caf%C3%A9", "/café", b""),
        (b"/caf%c3%a9", "/café", b""),
        (b"/a%2Fb%3Fc", "/a/b?c", b""),
        (b"/a+b", "/a+b", b""),
        (b"/%", "/%", b""),
        (b"/%4", "/%4", b""),
        (b"/%zz", "/%zz", b""),
        (b"/%25%34%31", "/%41", b""),
        (b"/%00", "/\0", b""),
        (b"/%E2%82%AC/%F0%9F%A6%8A", "/€/🦊", b""),
        (b"/\xc3\xa9", "/é", b""),
        (b"/\xc3\xa9%C3%A9", "/éé", b""),
        (b"//a//b", "//a//b", b""),
        (b"/a/../b", "/a/../b", b""),
        (b"*", "*", b""),
    ],
)
def test_target(target: bytes, path: str, query: bytes) -> None:
    """A path is decoded once, the raw path and the query stay as received (H5-H7)."""
    scope = scope_of(target)

    assert path == scope["path"]
    assert target.partition(b"?")[0] == scope["raw_path"]
    assert query == scope["query_string"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/%FF", "/\ufffd"),
        (b"/%C3", "/\ufffd"),
        (b"/a%E9b", "/a\ufffdb"),
        (b"/\xff", "/\ufffd"),
        (b"/%C3/%A9", "/\ufffd/\ufffd"),
    ],
)
def test_undecodable_path(target: bytes, path: str) -> None:
    """What isn't UTF-8 shows as such, and is still there in raw_path (H5, H6)."""
    scope = scope_of(target)

    assert path == scope["path"]
    assert target == scope["raw_path"]


@given(st.binary())
def test_any_target(rest: bytes) -> None:
    """Whatever arrives, there is a path and nothing of it is lost (H5, H6, H7)."""
    target = b"/" + rest

    scope = scope_of(target)

    assert type(scope["path"]) is str
    raw_path, _, query = target.partition(b"?")
    assert (raw_path, query) == (scope["raw_path"], scope["query_string"])
    scope["path"].encode()


@given(st.text())
def test_encoded_path(path: str) -> None:
    """A path that was encoded by the book comes back (H5)."""
    encoded = "".join(f"%{byte:02X}" for byte in path.encode("utf-8", "replace"))

    decoded = path.encode("utf-8", "replace").decode()
    assert f"/{decoded}" == scope_of(f"/{encoded}".encode())["path"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/page", "/site/page"),
        (b"/", "/site/"),
        (b"/site", "/site"),
        (b"/site/", "/site/"),
        (b"/site/page", "/site/page"),
        (b"/sitemap", "/site/sitemap"),
        (b"/s%69te/page", "/site/page"),
        (b"*", "*"),
    ],
)
def test_root_path(target: bytes, path: str) -> None:
    """The path begins with the root path, whether or not a proxy cut it off (H8)."""
    scope = scope_of(target, root_path="/site")

    assert "/site" == scope["root_path"]
    assert path == scope["path"]
    assert target == scope["raw_path"]


def test_unix_socket() -> None:
    """A Unix socket has a path, and clients have no address (H12, H13)."""
    scope = scope_of(connection=Connection(None, ("/run/app.sock", None), "http"))

    assert scope["client"] is None
    assert ["/run/app.sock", None] == scope["server"]


def test_unknown_server() -> None:
    """What can't be known isn't made up (H13)."""
    assert scope_of(connection=Connection(None, None, "http"))["server"] is None


def test_scheme() -> None:
    """The scheme is that of the connection (H4)."""
    assert "https" == scope_of(connection=Connection(None, None, "https"))["scheme"]


def test_scopes_share_nothing() -> None:
    """An application may change its scope (C5)."""
    one, other = scope_of(), scope_of()

    for key in ("asgi", "headers", "client", "server", "extensions"):
        assert one[key] is not other[key]


def test_tls_is_told_as_a_copy() -> None:
    """
    With TLS there is the extension, and changing it changes nothing for others;
    without TLS there is none (T1).
    """
    tls: dict[str, object] = {"tls_version": 0x0304}
    connection = Connection(None, None, "https", tls)
    scope = scope_of(connection=connection)

    assert {"tls": {"tls_version": 0x0304}} == scope["extensions"]

    scope["extensions"]["tls"].clear()

    assert {"tls_version": 0x0304} == tls
    assert "tls" not in scope_of()["extensions"]


def test_what_a_proxy_has_announced_is_told_as_a_copy() -> None:
    """Behind the PROXY protocol there is an extension of ours, else there is none."""
    proxy: dict[str, object] = {"version": 2}
    connection = Connection(None, None, "https", None, proxy)
    scope = scope_of(connection=connection)

    assert {"proxy_protocol": {"version": 2}} == scope["extensions"]

    scope["extensions"]["proxy_protocol"].clear()

    assert {"version": 2} == proxy
    assert "proxy_protocol" not in scope_of()["extensions"]


@pytest.mark.parametrize("build", [http_scope, daphne_scope])
def test_scopes_of_a_request_that_comes_again(build: ScopeBuilder) -> None:
    """Each is as the first one, whatever applications have made of those before."""
    head = RequestHead(b"/a?b=c")
    head.method = "GET"
    head.headers = [(b"host", b"a")]
    fresh = RequestHead(b"/a?b=c")
    fresh.method, fresh.headers = "GET", [(b"host", b"a")]
    expected = build(fresh, TCP, "/root", {"x": {}})

    for _ in range(5):
        scope = build(head, TCP, "/root", {"x": {}})
        assert expected == scope
        for value in scope.values():
            if isinstance(value, (dict, list)):
                value.clear()
        scope.clear()


def test_the_same_request_on_another_connection() -> None:
    """Behind a proxy each of them can have a client of its own."""
    head = RequestHead(b"/")
    for _ in range(3):
        http_scope(head, TCP, "", {})
    other = Connection(("192.0.2.8", 1), ("192.0.2.1", 8443), "https")

    for _ in range(3):
        scope = http_scope(head, other, "", {})
        assert (["192.0.2.8", 1], "https") == (scope["client"], scope["scheme"])
    assert ["192.0.2.7", 50123] == http_scope(head, TCP, "", {})["client"]
