"""
``import daphne`` where no Daphne is installed.

Packages in the world of Django import Daphne by its name; ``channels.testing``, for
one, can't be imported without ``daphne.testing`` (channels#1942). A folder ``daphne``
of ours would collide with an installed Daphne. So :func:`install` appends a finder
to :data:`sys.meta_path`, where it is asked after all others: a real Daphne is always
found first.

The modules in the folder beside this one, ``daphne``, are what is found. They are
small modules of their own, since a module of ours under a second name would get the
import data of that name; in them Daphne's leniency is on. Once the package is found,
its modules are found by its path, as those of any package; so they can also be taken
out of :data:`sys.modules` and imported anew.

It costs nothing to install the finder: nothing is imported before somebody asks.

Tests: ``tests/unit/test_aliases.py``, ``tests/integration/test_live_server.py``.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["AliasFinder", "install"]

# There is no folder "management" in it, in which Django would find a command.
_FOLDER = f"{__path__[0]}/daphne"


class AliasFinder:
    """Finds the package ``daphne`` when nobody else does (MetaPathFinder)."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Tell where the package is; nothing of any other module."""
        if fullname != "daphne":
            return None
        return spec_from_file_location(
            fullname, f"{_FOLDER}/__init__.py", submodule_search_locations=[_FOLDER]
        )


def install() -> None:
    """
    Make ``import daphne`` work for the rest of the process.

    Where a real Daphne can be imported nothing changes. Further calls do nothing.
    """
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.append(AliasFinder())
