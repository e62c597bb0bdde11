"""The documents keep their word: commands exist, links lead somewhere."""

import re
from pathlib import Path

import pytest

from qdr_edge.cli import ORDER

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_command_is_in_the_readme_and_none_is_invented():
    text = (ROOT / "README.md").read_text()
    documented = set(re.findall(r"`qdr-edge (\w+)", text)) | set(re.findall(r", `(\w+)` \|", text))
    documented |= set(re.findall(r"^qdr-edge (\w+)", text, flags=re.MULTILINE))
    assert documented == set(ORDER)


def test_no_placeholder_is_left():
    for page in PAGES:
        assert "@@" not in page.read_text(), page


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE):
            assert name in targets, (page, name)
