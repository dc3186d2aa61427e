"""
What stands in the body of an answer which the server gives by itself.

Tests: ``tests/unit/test_daphne_compat.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

__all__ = ["ErrorPage", "html_page", "plain_page"]

ErrorPage = Callable[[int, str], tuple[bytes, bytes]]
"""Makes the content type and the body, of a status and a line of text."""


def plain_page(status: int, detail: str) -> tuple[bytes, bytes]:
    """Say no more than the line."""
    return b"text/plain; charset=utf-8", f"{detail}\n".encode()


def html_page(status: int, detail: str) -> tuple[bytes, bytes]:
    """Say it in HTML, as Daphne does."""
    from html import escape

    title = f"{status} {HTTPStatus(status).phrase}"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n'
        f'<head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body><h1>{title}</h1><p>{escape(detail)}</p></body>\n</html>\n"
    )
    return b"text/html; charset=utf-8", page.encode()
