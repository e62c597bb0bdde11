"""The report page: every document renders, nothing in it can attack, and a browser agrees."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qdr_bench.report import headline
from qdr_bench.report_page.page import render
from tests.browser import Browser, chromium, opened, started
from tests.reports import emptied, hostile, report, version_1

DOCUMENTS = {
    "full": report(),
    "one row": report(rows=1),
    "forty rows": report(rows=20, bundles=2),
    "empty": emptied(report()),
    "version 1": version_1(report()),
    "hostile": hostile(report()),
}
needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine: apt-get install chromium"
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_renders(name: str) -> None:
    document = DOCUMENTS[name]
    html = render(document)
    assert ">None<" not in html
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL).lower().split()
    for row in document["rows"]:
        assert html.count(f'id="row-{document["rows"].index(row) + 1}"') == 1
    packed = re.search(r'id="document">([A-Za-z0-9+/=]+)<', html)
    assert packed is not None
    inside = json.loads(gzip.decompress(base64.b64decode(packed.group(1))))
    assert len(inside["rows"]) == len(document["rows"])


def test_names_and_reasons_stay_text() -> None:
    html = render(DOCUMENTS["hostile"])
    assert "<img src=x" not in html
    assert "<script>window" not in html
    assert html.count("<script") == html.count("</script>")
    assert "{{ 7 * 7 }}" in html


def test_a_peer_never_introduces_a_bundle() -> None:
    rows = report()["rows"]
    fastest = min(
        (row for row in rows if row["variant"] == "int8" and row["target"] == "peer"),
        key=lambda row: row["latency"]["mean_ms"],
    )
    fastest["status"], fastest["latency"]["mean_ms"] = "VALID", 0.001
    best = headline(rows)
    assert best is not None
    assert best["target"] not in ("peer", "float")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


def saved(folder: Path, name: str) -> Path:
    file = folder / "report.html"
    file.write_text(render(DOCUMENTS[name]), encoding="utf-8")
    return file


@needs_browser
@pytest.mark.full
@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_word_on_the_console_and_no_request(
    browser: Browser, tmp_path: Path, name: str, dark: bool
) -> None:
    file = saved(tmp_path, name)
    with opened(browser, file, dark=dark) as page:
        assert page.said == []
        asked = [url for url in page.requested if not url.startswith(("data:", file.as_uri()))]
        assert asked == []
        assert page.run("window.broken") is None


@needs_browser
@pytest.mark.full
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_phone_shows_all_of_it(browser: Browser, tmp_path: Path, name: str) -> None:
    with opened(browser, saved(tmp_path, name), width=390) as page:
        widths = page.run("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1]


def _column(page: Any, column: int) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelectorAll('#results tbody tr')]"
        f".map(row => row.cells[{column}].dataset.v ?? '')"
    )
    return found


@needs_browser
@pytest.mark.full
def test_the_first_table_sorts_by_number_with_nothing_last(
    browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, saved(tmp_path, "forty rows")) as page:
        heads = page.run(
            "[...document.querySelectorAll('#results thead th')].map(h => h.textContent)"
        )
        column = next(place for place, head in enumerate(heads) if head.strip().startswith("p50"))
        before = _column(page, column)
        head = f"#results thead th:nth-child({column + 1})"
        page.click(f"{head} button")
        upwards = _column(page, column)
        assert sorted(upwards) == sorted(before)
        numbers = [float(value) for value in upwards if value]
        assert len(numbers) > 9
        assert numbers == sorted(numbers)
        assert "" not in upwards[: len(numbers)]
        assert page.run(f"document.querySelector('{head}').ariaSort") == "ascending"
        # The keyboard does the same.
        page.run(f"document.querySelector('{head} button').focus()")
        page.press("Enter", 13, "\r")
        downwards = _column(page, column)
        assert [float(value) for value in downwards if value] == numbers[::-1]
        assert "" not in downwards[: len(numbers)]
        assert page.run(f"document.querySelector('{head}').ariaSort") == "descending"


@needs_browser
@pytest.mark.full
def test_without_javascript_it_is_a_plain_table(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, saved(tmp_path, "full"), script=False) as page:
        assert page.said == []
    html = (tmp_path / "report.html").read_text()
    assert "<button" not in html.split('id="results"')[1].split("</thead>")[0]


@needs_browser
@pytest.mark.full
@pytest.mark.parametrize("name", ["full", "forty rows", "hostile"])
def test_nothing_is_cut_off_in_print(browser: Browser, tmp_path: Path, name: str) -> None:
    with opened(browser, saved(tmp_path, name), width=760, print_=True) as page:
        wide = page.run(
            "[...document.querySelectorAll('table, svg')]"
            ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).length"
        )
        assert wide == 0
        assert page.pdf().startswith(b"%PDF")
