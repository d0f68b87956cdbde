"""The report as people meet it: in a browser, with pointer and keys, with hostile texts, without scripts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page

from connectors.examples import message
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.report import write_report
from pipelines.report_against import write_against
from pipelines.run import Finished, reselect, run
from pipelines.runner import RunnerChoice
from tests.pipelines.corpus import MODEL
from tests.pipelines.fake_run import make_run

QUICKSTART = MODEL.parent
PAGE_BYTES = 4_000_000
HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "</script><script>document.title = 'taken'</script><!--",
    "<img src=http://evil.example/x onerror=\"document.title = 'taken'\">",
    "\u202emirrored\u202c \u2066left\u2069 שלום עולם \u200f!",
    "word" * 25_000,  # one line of 100,000 characters
    "🧑\u200d🚀🦆" * 300,
    "nul \x00 bell \x07 escape \x1b[31m delete \x7f",
    "\"quotes\" 'of' `all` ”kinds„ & &amp; &lt; \\u003c \\",
    "\u2028line\u2029separators\ufeff",
)
WIDTH = "[document.documentElement.scrollWidth, window.innerWidth]"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The quickstart's recipe over the beginning of each of its inputs."""
    plain = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text("utf-8"))
    plain["model"]["path"] = str(MODEL)
    plain["dedupe"] = {"exact": True}
    for one in plain["inputs"]:
        one["path"] = str(QUICKSTART.parent / one["path"])
    out = tmp_path_factory.mktemp("real") / "out"
    return run(parse_recipe(plain), out, RunnerChoice(), Progress(), limit=40)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every text, id, source and reason attacks the page."""
    out = make_run(tmp_path_factory.mktemp("hostile"), 200)
    for folder in ("train", "dropped"):
        for number, path in enumerate(sorted((out / folder).glob("*.parquet"))):
            table = pq.read_table(path)
            for name in table.column_names:
                if name in ("source", "reason", "prompt_excerpt", "response_excerpt"):
                    texts = [HOSTILE[(i + number) % len(HOSTILE)] for i in range(table.num_rows)]
                    table = replaced(table, name, texts)
                if name == "id":
                    ids = [
                        f"{row_id} {HOSTILE[i % 9][:40]}" for i, row_id in enumerate(table[name].to_pylist())
                    ]
                    table = replaced(table, name, ids)
                if name == "messages":
                    turns = [
                        [message("user", HOSTILE[i % 9]), message("assistant", HOSTILE[(i + 1) % 9])]
                        for i in range(table.num_rows)
                    ]
                    table = replaced(table, name, turns)
            pq.write_table(table, path)
    write_report(out)
    return out


def replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def column(out: str | Path, name: str, *folders: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    tables = [pq.read_table(Path(out) / folder)[name] for folder in folders]
    return np.concatenate([np.asarray(values.to_numpy(), np.float64) for values in tables])


def opened(page: Page, path: Path) -> None:
    page.goto(path.as_uri())


def number(text: str) -> int:
    return int(text.replace(",", ""))


def figure(page: Page, score: str) -> Locator:
    return page.locator(f'figure[data-score="{score}"]')


def test_the_sample_says_how_many_rows_it_is_of(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    scored = np.isfinite(column(real.out, "loss", "train", "dropped")).sum()
    assert f"All {scored} scored rows." in page.locator("#plane .note").first.inner_text()
    assert f"of the {scored} rows of the sample are shown" in page.locator(".tools").inner_text()


@pytest.mark.parametrize("score", ["ifd_ppl", "response_tokens"])
def test_arrow_keys_move_a_threshold_and_the_counts_are_those_of_the_files(
    page: Page, real: Finished, score: str
) -> None:
    opened(page, Path(real.out, "report.html"))
    box = figure(page, score)
    slider = box.get_by_label(f"{score} at most")
    slider.focus()
    for _ in range(37):
        page.keyboard.press("ArrowLeft")
    bound = float(slider.get_attribute("aria-valuetext") or "")
    line = box.locator(".recipe-line code").inner_text()
    assert yaml.safe_load(line) == [{"threshold": {"column": score, "max": bound}}]
    values, kept = (column(real.out, score, *f) for f in (("train", "dropped"), ("train",)))
    tokens = sum(column(real.out, f"{part}_tokens", "train", "dropped") for part in ("prompt", "response"))
    stay = values <= bound
    assert 0 < stay.sum() < np.isfinite(values).sum()
    said = [
        number(found) for found in re.findall(r"[\d,]*\d(?![\d.]*\s?%)", box.locator("output").inner_text())
    ]
    wanted = [stay.sum(), np.isfinite(values).sum(), tokens[stay].sum(), len(kept), (kept <= bound).sum()]  # type: ignore[index]  # an array, not the 0 of no arrays
    assert said[:2] + said[-3:] == wanted


def test_the_recipe_line_keeps_as_many_rows_as_the_page_said(
    page: Page, real: Finished, tmp_path: Path
) -> None:
    opened(page, Path(real.out, "report.html"))
    box = figure(page, "loss")
    box.get_by_label("loss at least").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    said = number(box.locator("output").inner_text().split()[0])
    selection = yaml.safe_load(box.locator(".recipe-line code").inner_text())
    out = shutil.copytree(real.out, tmp_path / "out")
    plain = {**real.manifest["recipe"], "select": selection}
    again = reselect(out, parse_recipe(plain), RunnerChoice(), Progress())
    assert again.manifest["counts"]["kept"] == said


def test_thresholds_together_are_counted_in_the_sample_and_taken_back(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    for label, key in (("loss at most", "PageDown"), ("entropy at least", "PageUp")):
        page.get_by_label(label, exact=True).focus()
        for _ in range(5):
            page.keyboard.press(key)
    bounds = [
        float(page.get_by_label(label, exact=True).get_attribute("aria-valuetext") or "")
        for label in ("loss at most", "entropy at least")
    ]
    loss, entropy = (column(real.out, name, "train", "dropped") for name in ("loss", "entropy"))
    together = page.locator("#together")
    low, high = loss <= bounds[0], entropy >= bounds[1]
    both = int((low & high).sum())
    assert 0 < both < min(low.sum(), high.sum())
    assert f"Within all 2 thresholds together: {both} of the" in together.inner_text()
    assert len(yaml.safe_load(together.locator("pre").inner_text())) == 2
    assert page.locator("#explorer g.faded path").count() > 0
    together.get_by_role("button", name="Take all thresholds back").click()
    assert together.inner_text() == ""
    assert page.locator("#explorer g.faded path").count() == 0


def test_bounds_cannot_cross(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    box = figure(page, "entropy")
    box.get_by_label("entropy at most").focus()
    page.keyboard.press("Home")
    box.get_by_label("entropy at least").focus()
    page.keyboard.press("End")
    line = yaml.safe_load(box.locator(".recipe-line code").inner_text())[0]["threshold"]
    assert "max" not in line or line["min"] <= line["max"]


def test_keys_walk_from_row_to_row_pin_one_and_let_go(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "application":
            break
    card = page.locator(".card")
    first = card.locator(".id").first.inner_text()
    page.keyboard.press("ArrowRight")
    second = card.locator(".id").first.inner_text()
    assert first != second
    row = row_of(Path(real.out), second)
    assert row["reason"] in card.inner_text()
    assert f"{row['loss']:.4g}" in card.inner_text()
    page.keyboard.press("Enter")
    assert "pinned" in card.locator(".state").inner_text()
    page.mouse.move(*middle_of(page, '[role="application"]'))
    assert card.locator(".id").first.inner_text() == second
    page.keyboard.press("Escape")
    assert "Point at a mark" in card.inner_text()


def test_the_pointer_shows_a_row_and_a_click_pins_it(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    page.locator("#explorer").scroll_into_view_if_needed()
    found = page.evaluate(
        "(() => { const p = plane.shown[5], m = plane.svg.getScreenCTM();"
        " return [p.x * m.a + m.e, p.y * m.d + m.f, DATA.sample.id[p.row]]; })()"
    )
    page.mouse.move(found[0], found[1])
    shown = page.locator(".card .id").first.inner_text()
    near = row_of(Path(real.out), shown)
    wanted = row_of(Path(real.out), found[2])
    assert abs(near["loss"] - wanted["loss"]) < 0.05  # itself, or one drawn upon it
    page.mouse.click(found[0], found[1])
    page.mouse.move(found[0] + 150, found[1] - 60)
    assert page.locator(".card .id").first.inner_text() == shown
    assert "pinned" in page.locator(".card .state").inner_text()


def test_states_and_sources_are_chosen_and_other_scores_are_drawn(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    before = page.locator('.tools [role="status"]').inner_text()
    page.get_by_label(re.compile("^dropped")).uncheck()
    assert page.locator("#explorer svg.plane path.mark.dropped").count() == 0
    page.get_by_role("combobox", name="source").select_option("maths")
    fewer = page.locator('.tools [role="status"]').inner_text()
    assert number(fewer.split()[0]) < number(before.split()[0])
    page.get_by_role("combobox", name="across").select_option("ifd_ppl")
    assert page.locator("#explorer text.axis").first.text_content() == "ifd_ppl"


def test_a_table_is_sorted_by_its_heads(page: Page, real: Finished) -> None:
    opened(page, Path(real.out, "report.html"))
    table = page.get_by_role("region", name="Rows by source")
    for order, backwards in (("descending", True), ("ascending", False)):
        table.get_by_role("button", name="kept", exact=True).click()
        cells = table.locator("tbody tr td:nth-of-type(5)").all_inner_texts()
        assert [number(cell) for cell in cells] == sorted(map(number, cells), reverse=backwards)
        assert table.locator(f'th[aria-sort="{order}"]').inner_text().startswith("kept")
    table.get_by_role("button", name="source").press("Enter")
    names = table.locator("tbody th").all_inner_texts()
    assert names == sorted(names)


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(page: Page, hostile: Path) -> None:
    path = hostile / "report.html"
    assert path.stat().st_size < PAGE_BYTES
    opened(page, path)
    assert "winnow report" in page.title()
    assert page.locator("img, iframe, object, embed, link, base").count() == 0
    assert page.locator("script").count() == 2
    page.evaluate("DATA.sample.id.forEach((_, row) => select(row))")  # each row in the card once
    assert page.locator(".card script, .card img").count() == 0
    rows = page.evaluate("DATA.sample.prompt.map((prompt, row) => [row, prompt])")
    row = next(row for row, prompt in rows if prompt.startswith("<img"))
    page.evaluate("row => select(row)", row)
    assert page.locator(".card .text").first.inner_text().startswith("<img src=http://evil.example")
    assert page.locator(".card .text").first.get_attribute("dir") == "auto"
    assert page.evaluate(WIDTH) == [1280, 1280]
    assert "winnow report" in page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_does_not_scroll_sideways(
    page: Page, real: Finished, hostile: Path, scheme: str, tmp_path: Path
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its words
    page.set_viewport_size({"width": 360, "height": 740})
    against = write_against(shutil.copytree(hostile, tmp_path / "a"), make_like(hostile, tmp_path))
    for path in (Path(real.out, "report.html"), hostile / "report.html", against):
        opened(page, path)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate(WIDTH) == [360, 360], path
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(252, 252, 251)" if scheme == "light" else "rgb(21, 24, 27)")


def make_like(out: Path, folder: Path) -> Path:
    """A run of the same rows that kept nothing differently."""
    return shutil.copytree(out, folder / "b")


def test_without_scripts_every_picture_and_table_is_there(browser: Browser, real: Finished) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    opened(page, Path(real.out, "report.html"))
    assert page.locator("svg.plane path.mark").count() == 3
    assert page.locator("svg.histogram").count() >= 8
    assert page.locator("table").count() >= 6
    assert "Scripts are off" in page.locator("noscript").inner_text()
    assert page.locator("input, select").count() == 0
    context.close()


def test_the_comparison_opens_sorts_and_shows_rows_of_each_cell(
    page: Page, real: Finished, tmp_path: Path
) -> None:
    b = shutil.copytree(real.out, tmp_path / "b")
    plain = {
        **real.manifest["recipe"],
        "select": [{"top_k": {"column": "loss", "order": "highest", "keep": 0.5}}],
    }
    other = reselect(b, parse_recipe(plain), RunnerChoice(), Progress())
    a = shutil.copytree(real.out, tmp_path / "a")
    opened(page, write_against(a, other.out))
    kept = [set(pq.read_table(Path(out) / "train")["id"].to_pylist()) for out in (a, b)]
    counts = [number(text) for text in page.locator(".cells b").all_inner_texts()]
    assert counts[:3] == [len(kept[0] & kept[1]), len(kept[0] - kept[1]), len(kept[1] - kept[0])]
    assert min(counts) > 0
    sources = page.get_by_role("region", name="Rows kept where, by source")
    sources.get_by_role("button", name="kept by B only").click()
    cells = [number(text) for text in sources.locator("tbody td:nth-of-type(3)").all_inner_texts()]
    assert cells == sorted(cells, reverse=True)
    assert sum(cells) == counts[2]
    assert "top_k" in page.locator(".diff .add").all_inner_texts()[0] + page.locator(".diff").inner_text()
    assert page.locator("#examples .row").count() == 16
    page.locator('[role="application"]').focus()
    page.keyboard.press("ArrowLeft")
    row_id = page.locator(".card .id").first.inner_text()
    for letter, out in (("A", a), ("B", b)):
        assert f"{letter}: {row_of(Path(out), row_id)['reason']}" in page.locator(".card").inner_text()
    page.get_by_label(re.compile("^kept in both")).uncheck()
    assert page.locator("#explorer svg.plane path.mark.kept").count() == 0
    assert page.locator("#explorer svg.plane path.mark.only-b").count() == 1


def test_a_decision_taken_again_takes_the_old_comparison_away(real: Finished, tmp_path: Path) -> None:
    out = shutil.copytree(real.out, tmp_path / "out")
    write_against(out, real.out)
    reselect(out, parse_recipe(real.manifest["recipe"]), RunnerChoice(), Progress())
    assert not (out / "report-against.html").exists()


def row_of(out: Path, row_id: str) -> dict[str, Any]:
    for folder in ("train", "dropped"):
        for row in pq.read_table(out / folder, filters=[("id", "=", row_id)]).to_pylist():
            return dict(row)
    raise AssertionError(f"no row {row_id}")


def middle_of(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
