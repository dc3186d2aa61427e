"""
What a browser sends: addresses that change, and a dozen fields that mostly don't.

Compressed with HPACK, fields which repeat are a byte each. The addresses never
repeat soon enough, so that they are spelled out each time, and a server can't take
the block of a request for one it has met.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

PATH_PREFIX = "/pages/"
"""With it begin the paths of all requests."""

FIELDS = tuple(
    {
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
        " (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
        "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,"
        "image/webp,*/*;q=0.8",
        "accept-encoding": "gzip, deflate, br, zstd",
        "accept-language": "en-GB,en;q=0.9,de;q=0.7",
        "cache-control": "max-age=0",
        "priority": "u=0, i",
        "referer": "https://127.0.0.1/pages/",
        "sec-ch-ua": '"Chromium";v="142", "Not_A Brand";v="99"',
        "sec-ch-ua-mobile": "?0",
        "sec-ch-ua-platform": '"Linux"',
        "sec-fetch-dest": "document",
        "sec-fetch-mode": "navigate",
        "sec-fetch-site": "same-origin",
        "upgrade-insecure-requests": "1",
    }.items()
)
COOKIE = "session=3f0c9a7be2d84415a6c1; theme=dark; consent=20261101"

_SECTIONS = ("articles", "products", "images", "search", "people", "orders")


def targets(count: int) -> Iterator[str]:
    """Yield different paths with query, the same ones in each run."""
    chosen = random.Random(0)
    for number in range(count):
        section = chosen.choice(_SECTIONS)
        page = chosen.randrange(10**6)
        token = f"{chosen.getrandbits(64):016x}"
        yield f"{PATH_PREFIX}{section}/{page}?id={number}&view=full&token={token}"


def cookies(count: int, new_parts: int) -> Iterator[str]:
    """Yield cookies of which one or two parts are new, the same ones in each run."""
    chosen = random.Random(1)
    for number in range(count):
        trace = f"trace={chosen.getrandbits(64):016x}"
        yield "; ".join([COOKIE, f"visit={number}", trace][:: 3 - new_parts])
