"""``daphne.testing``: the classes of :mod:`daphne_like.testing`."""

from __future__ import annotations

from daphne_like.testing import (
    BaseDaphneTestingInstance,
    DaphneProcess,
    DaphneTestingInstance,
    TestApplication,
)

__all__ = [
    "BaseDaphneTestingInstance",
    "DaphneProcess",
    "DaphneTestingInstance",
    "TestApplication",
]
