"""``python -m daphne_like``: the same as the ``daphne-like`` program."""

from __future__ import annotations

from daphne_like.cli import CommandLineInterface

if __name__ == "__main__":
    CommandLineInterface.entrypoint()
