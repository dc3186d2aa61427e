"""
Functions of ``daphne.utils`` which other programs import.

The server uses neither: it loads applications by :mod:`daphne_like.asgi.loading`, and
reads the headers of proxies by :mod:`daphne_like.asgi.forwarded`.

Tests: ``tests/unit/test_utils.py``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from twisted.web.http_headers import Headers

    Address = TypeVar("Address")

__all__ = ["import_by_path", "parse_x_forwarded_for"]


def import_by_path(path: str) -> Any:
    """
    Return the object at ``module:attribute.attribute``.

    Raises:
        ValueError: There is no colon.
        ImportError: There is no such module.
        AttributeError: It has no such attribute.
    """
    module_name, attributes = path.split(":", 1)
    found: Any = importlib.import_module(module_name)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def parse_x_forwarded_for(
    headers: Headers | Mapping[bytes, bytes | list[bytes]],
    address_header_name: str | None = "X-Forwarded-For",
    port_header_name: str | None = "X-Forwarded-Port",
    proto_header_name: str | None = "X-Forwarded-Proto",
    original_addr: Address | None = None,
    original_scheme: str | None = None,
) -> tuple[list[Any] | Address | None, str | None]:
    """
    Tell client and scheme as a proxy's headers do, whoever has sent them.

    The left-most address counts, which a client can choose; so this is right only
    behind a proxy that removes what clients send. Port and scheme are looked at only
    where there is an address.

    Args:
        headers: Twisted's, or values (or lists of them) by name.
        address_header_name: The header with the address; without it nothing is done.
        port_header_name: The header with the port, or nothing.
        proto_header_name: The header with the scheme, or nothing.
        original_addr: What is returned where the headers name no address.
        original_scheme: The same for the scheme.

    Returns:
        A list of host and port, which is 0 if none is named, and the scheme.
    """
    if not address_header_name:
        return original_addr, original_scheme
    value_of = _reader(headers)
    address = value_of(address_header_name)
    if address is None:
        return original_addr, original_scheme
    host, comma, _ = address.partition(",")
    port, scheme = 0, original_scheme
    if port_header_name:
        try:
            port = int(value_of(port_header_name) or "0")
        except ValueError:
            port = 0
    if proto_header_name:
        scheme = value_of(proto_header_name, scheme)
    return [host.strip() if comma else host, port], scheme


def _reader(
    headers: Headers | Mapping[bytes, bytes | list[bytes]],
) -> Callable[..., str | None]:
    """Return what looks up the first value of a header, whatever its case."""
    from twisted.web.http_headers import Headers

    pairs: Iterable[tuple[bytes, bytes | Sequence[bytes]]]
    pairs = (
        headers.getAllRawHeaders() if isinstance(headers, Headers) else headers.items()
    )
    values = {name.lower(): value for name, value in pairs}

    def value_of(name: str, missing: str | None = None) -> str | None:
        value = values.get(name.lower().encode())
        if value is None:
            return missing
        return (value if isinstance(value, bytes) else value[0]).decode()

    return value_of
