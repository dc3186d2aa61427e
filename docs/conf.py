"""
Settings of the documentation; tox's docs environment builds it.
"""

from __future__ import annotations

from daphne_like import __version__

project = "daphne_like"
author = "daphne_like contributors"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

html_theme = "furo"
html_title = f"daphne_like {release}"
