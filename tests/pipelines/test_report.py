from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.manifest import read_manifest
from pipelines import charts
from pipelines.report import check_books, format_share, read_columns, write_report
from pipelines.report_examples import EXAMPLES_PER_REASON, format_number, visible
from pipelines.report_numbers import SAMPLE_ROWS
from tests.pipelines.fake_run import HOSTILE, SCRIPT, make_run, write_manifest

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; `open` is empty again when every tag was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data


def report_of(folder: Path, **kwargs: bool | int) -> tuple[str, Page]:
    html = write_report(make_run(folder, **kwargs)).read_text("utf-8")  # type: ignore[arg-type]  # checked by make_run
    return html, Page(html)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("run"))).read_text("utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_text_of_the_data_never_becomes_markup(html: str, page: Page) -> None:
    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert SCRIPT in page.text
    assert {"img", "iframe", "object", "link"}.isdisjoint(page.tags)
    assert page.tags.count("script") == 2  # the data and the code, both our own
    data, code = page.scripts
    assert "<" not in data
    assert SCRIPT in json.dumps(json.loads(data))
    assert "alert" not in code
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in page.text


def test_every_tag_is_closed_whatever_the_text(page: Page) -> None:
    assert page.open == []


def test_nothing_is_fetched(html: str, page: Page) -> None:
    links = [
        value or ""
        for name, value in page.attributes
        if name in {"href", "src", "srcset", "data", "xlink:href"}
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [
        value or "" for name, value in page.attributes if name == "content" and "default-src" in (value or "")
    ]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind, text in (("style", style[len("<style>") :]), ("script", page.scripts[1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_links_of_the_page_lead_to_sections_that_are_there(page: Page) -> None:
    ids = {value for name, value in page.attributes if name == "id"}
    assert {(value or "")[1:] for name, value in page.attributes if name == "href"} <= ids


def test_the_counts_of_the_manifest_are_on_the_page(tmp_path: Path) -> None:
    _, page = report_of(tmp_path)
    counts = read_manifest(tmp_path)["counts"]
    text = " ".join(page.text.split())
    assert f"{counts['kept']} of {counts['read']} rows kept" in text
    assert "12,345 tokens, for toy/llama-1M" in text
    lost = [counts["bad"], counts["duplicates"]["exact"], counts["duplicates"]["near"], 5]
    lost.append(counts["read"] - counts["kept"] - sum(lost))
    flow = text[text.index("read300") : text.index("Why rows were dropped")]
    assert [int(n) for n in re.findall(r"−(\d+)", flow)] == lost


def test_the_source_table_balances(html: str) -> None:
    table = html[html.index('caption">Rows by source') : html.index('caption">Mean scores by source')]
    rows = re.findall(r"<tr><th scope=\"row\".*?</tr>", table)
    cells = [re.findall(r'<td class="n">([^<]*)</td>', row) for row in rows]
    assert len(cells) == 3
    for read, bad, duplicates, other, kept, share, *_ in cells:
        assert int(read) == int(bad) + int(duplicates) + int(other) + int(kept)
        assert share == format_share(int(kept), int(read))
    assert sum(int(line[0]) for line in cells) == 300


def test_a_near_duplicate_is_shown_with_the_row_that_it_repeats(html: str) -> None:
    group = html[html.index("<summary><bdi>near duplicate") :]
    group = group[: group.index("</details>")]
    assert group.count("<dt>repeats</dt>") == EXAMPLES_PER_REASON
    assert "similarity <b><bdi>0.83</bdi></b>" in group


def test_long_and_odd_text_is_cut_and_made_visible(page: Page) -> None:
    assert "x" * 301 not in page.text
    assert "\x00" not in page.text
    assert "␀" in page.text
    assert "מה בירת צרפת?" in page.text


def test_bad_rows_are_shown_with_place_and_reason(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "row without a response" in text
    assert re.search(r"data/in.jsonl, row \d", text)
    assert f"found {SCRIPT}" in text


def test_q_tuning_outlines_the_region_that_it_kept(html: str) -> None:
    page = html[: html.index("<script")]
    assert page.count('class="region"') == 2
    assert "Q2<tspan" in page
    assert 'class="tile"' not in page


def test_a_run_without_a_model_has_no_plane_and_no_histograms(tmp_path: Path) -> None:
    html, page = report_of(tmp_path, scored=False)
    assert '<svg class="plane"' not in html
    assert '<svg class="histogram"' not in html
    assert "no model was used" in page.text
    assert "No row has a score" in page.text


def test_a_run_that_keeps_nothing_still_reports(tmp_path: Path) -> None:
    _, page = report_of(tmp_path, keep=False)
    assert "0 of 300 rows kept" in " ".join(page.text.split())
    assert "No row was kept." in page.text
    assert page.open == []


def test_a_single_row_is_enough(tmp_path: Path) -> None:
    _, page = report_of(tmp_path, rows=1)
    assert "1 of 1 rows kept" in " ".join(page.text.split())
    assert "Every row could be read." in page.text
    assert "No row was dropped." in page.text


def test_folders_without_files_count_as_empty(tmp_path: Path) -> None:
    make_run(tmp_path, rows=1)
    for folder in ("dropped", "bad_rows"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    write_report(tmp_path)


def test_the_plane_says_how_it_was_sampled(tmp_path: Path) -> None:
    html, page = report_of(tmp_path, rows=2 * SAMPLE_ROWS)
    paths = dict(
        re.findall(r'<path class="mark (\w+)" d="([^"]*)"', html[html.index('<svg class="plane"') :])
    )
    shown = paths["kept"].count("h0") + paths["dropped"].count("m-2.2-2.2")
    text = " ".join(page.text.split())
    outside = int(re.search(r"axis; (\d+) of the 3,000 lie outside", text).group(1))  # type: ignore[union-attr]  # fails if absent
    assert shown + outside == SAMPLE_ROWS
    assert "3,000 of 5,100 scored rows, drawn by a hash of their id" in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, rows=60)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_manifest_that_is_given_needs_none_on_disk(tmp_path: Path) -> None:
    manifest = read_manifest(make_run(tmp_path, rows=30))
    (tmp_path / "manifest.json").unlink()
    assert write_report(tmp_path, manifest).exists()
    with pytest.raises(ValueError, match="no finished run"):
        write_report(tmp_path)


def test_books_that_do_not_match_the_files_are_refused(tmp_path: Path) -> None:
    manifest = read_manifest(make_run(tmp_path, rows=30))
    manifest["counts"]["kept"] += 1
    write_manifest(tmp_path, manifest)
    with pytest.raises(ValueError, match="kept = "):
        write_report(tmp_path)


def test_rows_that_vanished_are_refused() -> None:
    with pytest.raises(ValueError, match="read = 10 is not bad 1"):
        check_books(Path("out"), {"read": 10, "bad": 1, "dropped": 2, "kept": 3}, 3, 2, 1)


def test_a_column_that_a_file_lacks_is_null(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"id": ["c"], "loss": pa.array([1], pa.float32())}), tmp_path / "2.parquet")
    table = read_columns(tmp_path, pa.schema([("id", pa.string()), ("loss", pa.float64())]))
    assert table.to_pydict() == {"id": ["a", "b", "c"], "loss": [None, None, 1.0]}


def test_numbers_that_are_not_known_are_a_dash() -> None:
    assert [format_number(value) for value in (None, float("nan"), float("inf"))] == ["–"] * 3
    assert [format_number(value) for value in (0.0, 12.3456, 98765.4)] == ["0", "12.35", "9.877e+04"]
    assert format_share(1, 0) == "–"
    assert format_share(1, 8) == "12.5\u00a0%"


@given(st.sampled_from(HOSTILE) | st.text(max_size=400), st.integers(1, 300))
def test_visible_text_is_short_and_has_no_control_characters(text: str, limit: int) -> None:
    shown = visible(text, limit)
    assert len(shown) <= limit + 1
    assert not [char for char in shown if ord(char) < 32 and char not in "\n\t"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside_the_range(low: float, width: float) -> None:
    ticks = charts.Scale(low, low + width, 0, 100).ticks(5)
    assert 2 <= len(ticks) <= 9
    assert min(ticks) >= low - 1e-6 * width - 1e-9
    assert max(ticks) <= low + width + 1e-6 * width + 1e-9


def test_without_rectangles_the_kept_region_is_where_most_rows_were_kept() -> None:
    tiles = np.zeros((2, charts.TILES, charts.TILES), np.int64)
    tiles[1, :13], tiles[0, 13:] = 9, 9  # kept where x is low
    tiles[1, 20, 20] = 1  # too few rows to say anything
    frame = charts.Frame("loss", "<b>", (0.0, 1.0), (0.0, 1.0))
    picture = charts.plane(np.zeros((2, 1)), np.zeros(1, np.int8), frame, [], tiles)
    found = re.findall(r"M([\d.]+),[\d.]+h", str(picture.svg).split('class="tile"')[1].split("/>")[0])
    middle = (56 + 632) / 2
    assert max(map(float, found)) < middle
    assert min(map(float, found)) == 56
    assert "&lt;b&gt;" in picture.svg


def test_one_lost_row_in_a_million_is_still_drawn() -> None:
    bar = str(charts.waterfall_bar(1_000_000, 999_999, 1_000_000))
    assert re.search(r'class="dropped" x="99.60%" width="0.40%"', bar)
    assert 'class="dropped" x="100.00%" width="0.00%"' in str(charts.waterfall_bar(5, 5, 5))
