"""
What ``daphne`` is where Daphne is not installed.

Attributes:
    __version__: The version of Daphne whose names and manners are kept.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "4.2.3"
