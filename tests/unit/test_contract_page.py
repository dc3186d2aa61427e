"""docs/server-behavior.md promises nothing that no test holds it to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server-behavior.md").read_text("utf-8")

# A sentence is an item of a list or a row of the table of errors; behind it, in
# a comment, stands `file::test` of what proves it, once or several times.
_ITEM = re.compile(r"^- (.*?)(?=^- |^$)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (?!what|---)(.*)$", re.MULTILINE)
_PROOF = re.compile(r"<!-- (.*?) -->", re.DOTALL)

SENTENCES = [*_ITEM.findall(PAGE), *_ROW.findall(PAGE)]


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda text: text[:40])
def test_each_promise_has_a_test(sentence: str) -> None:
    """What stands on the page is shown by a test that exists."""
    proofs = [name for found in _PROOF.findall(sentence) for name in found.split()]

    assert proofs
    for proof in proofs:
        file, _, name = proof.partition("::")
        source = (ROOT / "tests" / file).read_text("utf-8")
        assert re.search(rf"^ *(async )?def {re.escape(name)}\(", source, re.MULTILINE)


def test_the_page_is_read() -> None:
    """The page's sentences are found at all."""
    assert len(SENTENCES) > 60
