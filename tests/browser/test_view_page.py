"""The page of `winnow view` as a person uses it: search, filters, pages, rows, keyboard, a narrow window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from pipelines.view.server import ViewServer, open_server
from tests.pipelines.fake_run import SCRIPT
from tests.pipelines.view.run import REST, make_view_run

NARROW = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    out: Path = make_view_run(tmp_path_factory.mktemp("view") / "out")
    with open_server(str(out), 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def opened(page: Page, server: ViewServer, query: str = "") -> Page:
    """The page with its first rows and what it says of the run."""
    page.goto(server.address + query)
    expect(page.locator("#headline")).to_contain_text("rows kept")
    expect(page.locator("#status")).not_to_be_empty()
    return page


def row(page: Page, at: int) -> Locator:
    return page.locator("#list a").nth(at)


def has_no_sideways_scroll(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_rows_can_be_searched_and_what_was_found_is_marked(page: Page, server: ViewServer) -> None:
    opened(page, server)
    page.get_by_role("searchbox", name="Search the conversations").fill("BUYS 3")
    expect(page.locator("#list mark").first).to_have_text("buys 3")
    expect(page).to_have_url(server.address + "?text=BUYS+3")
    page.get_by_role("searchbox", name="Search the conversations").fill("nothing says this")
    expect(page.locator("#status")).to_have_text("No row is like this.")
    expect(page.locator("#list a")).to_have_count(0)


def test_filters_narrow_the_rows_and_the_back_button_widens_them_again(
    page: Page, server: ViewServer
) -> None:
    opened(page, server)
    page.get_by_role("button", name="Dropped").click()
    expect(page.locator("#list .part").first).to_have_text("Dropped")
    page.get_by_label("reason").select_option("near duplicate")
    expect(page.locator("#status")).to_have_text("1–20 of 20 rows")
    expect(page.locator("#list .reason").first).to_have_text("near duplicate")
    page.get_by_label("Order").select_option("similarity")
    expect(page.get_by_role("button", name="highest first")).to_be_visible()
    page.go_back()
    page.go_back()
    expect(page.get_by_label("reason")).to_have_value("")
    page.go_back()
    expect(page.locator("#status")).to_have_text("1–50 of 300 rows")


def test_a_number_between_two_values_can_be_asked_for(page: Page, server: ViewServer) -> None:
    opened(page, server, "?sort=loss")
    page.get_by_label("Number", exact=True).first.select_option("loss")
    page.get_by_label("at least").first.fill("1.5")
    page.get_by_label("at least").first.blur()
    expect(page).to_have_url(server.address + "?sort=loss&score=loss%3A1.5%3A")
    expect(page.locator("#list .numbers").first).to_contain_text("loss 1.5")
    expect(page.get_by_label("Number", exact=True)).to_have_count(2)


def test_pages_follow_each_other_and_a_link_leads_to_one(page: Page, server: ViewServer) -> None:
    opened(page, server)
    first = row(page, 0).get_attribute("data-key")
    page.get_by_role("button", name="Next page").click()
    expect(page.locator("#status")).to_have_text("51–100 of 300 rows")
    assert row(page, 0).get_attribute("data-key") != first
    opened(page, server, "?page=6")
    expect(page.locator("#status")).to_have_text("251–300 of 300 rows")
    expect(page.get_by_role("button", name="Next page")).to_be_disabled()


def test_an_open_row_says_why_and_shows_the_whole_conversation(page: Page, server: ViewServer) -> None:
    opened(page, server, "?part=dropped&kind=near")
    row(page, 0).click()
    article = page.get_by_role("article")
    expect(article).to_be_focused()
    expect(article.get_by_role("heading", name="Dropped at stage dedupe")).to_be_visible()
    expect(article).to_contain_text(REST.strip())
    expect(article).to_contain_text("Duplicates: 2 rows")
    article.locator(".relative a").click()
    expect(article.get_by_role("heading", name="Kept", exact=True)).to_be_visible()
    expect(article.get_by_role("table")).to_contain_text("loss")
    page.go_back()
    expect(article.get_by_role("heading", name="Dropped at stage dedupe")).to_be_visible()
    page.get_by_role("button", name="Close (Esc)").click()
    expect(article).to_be_hidden()
    expect(row(page, 0)).to_be_focused()


def test_a_link_opens_its_row(page: Page, server: ViewServer) -> None:
    opened(page, server, "?part=bad&row=bad:3")
    expect(page.get_by_role("article")).to_contain_text("data/in.jsonl, row 3")


def test_a_link_to_no_row_says_so(browser: Browser, server: ViewServer) -> None:
    page = opened(browser.new_page(), server, "?row=no-such-row")  # whose console says "404"
    expect(page.get_by_role("article")).to_contain_text("no row of this run has the id")
    expect(page.locator("#list a")).to_have_count(50)
    page.close()


def test_text_of_the_data_is_only_ever_text(page: Page, server: ViewServer) -> None:
    opened(page, server, "?text=%3Cscript")
    expect(page.locator("#list mark").first).to_have_text("<script")
    for query in ("?text=%3Cimg", "?part=bad", "?text=%7B%7B&part=dropped"):
        opened(page, server, query)
        for at in range(3):
            row(page, at).click()
            expect(page.locator("#row .id").first).to_have_text(row(page, at).locator(".id").inner_text())
    assert page.locator("body script, body img, body iframe").count() == 0
    assert page.locator(".text script").count() == 0
    assert SCRIPT in page.title()
    expect(page.get_by_role("heading", level=1)).to_contain_text(SCRIPT)


def test_unseen_characters_are_symbols_and_cannot_turn_the_line(page: Page, server: ViewServer) -> None:
    opened(page, server, "?text=nul")
    row(page, 0).click()
    expect(page.get_by_role("article").locator(".unseen").first).to_have_text("␀")
    opened(page, server, "?text=evil")
    expect(page.locator("#list .unseen").first).to_have_text("RLO")
    assert "\u202e" not in page.locator("body").inner_text()


def test_a_long_line_is_folded_and_wraps(page: Page, server: ViewServer) -> None:
    opened(page, server, "?part=kept&text=xxxxxxxx")
    row(page, 0).click()
    article = page.get_by_role("article")
    button = article.get_by_role("button", name="Show all 5,000 characters").first
    button.click()
    expect(article.locator(".text").first).to_have_text("x" * 5_000)
    assert has_no_sideways_scroll(page)
    assert page.evaluate(
        "document.querySelector('#row').scrollWidth <= document.querySelector('#row').clientWidth"
    )


def test_right_to_left_text_runs_its_own_way(page: Page, server: ViewServer) -> None:
    opened(page, server, "?text=מה")
    prompt = page.locator("#list .prompt").first
    assert prompt.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert page.locator("#list .id").first.evaluate("node => getComputedStyle(node).direction") == "ltr"


def test_everything_can_be_done_by_keyboard(page: Page, server: ViewServer) -> None:
    opened(page, server)
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("ducks j/k")
    expect(page.locator("#text")).to_have_value("ducks j/k")
    page.locator("#text").fill("ducks")
    expect(page.locator("#list mark").first).to_have_text("ducks")
    page.keyboard.press("Enter")
    expect(row(page, 0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    expect(row(page, 2)).to_be_focused()
    page.keyboard.press("k")
    expect(row(page, 1)).to_be_focused()
    page.keyboard.press("Enter")
    article = page.get_by_role("article")
    expect(article).to_be_focused()
    expect(article).to_contain_text(row(page, 1).get_attribute("data-key") or "?")
    page.keyboard.press("j")
    expect(article).to_contain_text(row(page, 2).get_attribute("data-key") or "?")
    page.keyboard.press("Escape")
    expect(article).to_be_hidden()
    expect(row(page, 2)).to_be_focused()
    page.keyboard.press("]")
    expect(page.locator("#status")).to_contain_text("51–100")
    page.keyboard.press("[")
    expect(page.locator("#status")).to_contain_text("1–50")


def test_moving_past_the_last_row_goes_to_the_next_page(page: Page, server: ViewServer) -> None:
    opened(page, server)
    row(page, 49).focus()
    page.keyboard.press("j")
    expect(page.locator("#status")).to_contain_text("51–100")
    expect(row(page, 0)).to_be_focused()
    page.keyboard.press("k")
    expect(row(page, 49)).to_be_focused()


def test_tab_goes_through_the_page_in_its_order_and_focus_can_be_seen(page: Page, server: ViewServer) -> None:
    opened(page, server)
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen
    assert seen[:4] == ["To the rows", "text", "id", "All 300"]
    assert seen[7].startswith("Suspects")


def test_every_control_has_a_name(page: Page, server: ViewServer) -> None:
    opened(page, server, "?part=dropped&row=bad:1")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, a')].filter(one => !(one.textContent.trim()"
        " || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_a_narrow_window_needs_no_sideways_scroll(page: Page, server: ViewServer) -> None:
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]  # a viewport
    opened(page, server, "?sort=loss&desc=1")
    assert has_no_sideways_scroll(page)
    expect(page.locator("#filters")).to_be_hidden()
    page.get_by_role("button", name="Filters").click()
    expect(page.locator("#filters")).to_be_visible()
    assert has_no_sideways_scroll(page)
    row(page, 1).click()
    article = page.get_by_role("article")
    expect(article).to_be_visible()
    assert has_no_sideways_scroll(page)
    assert page.evaluate("document.querySelector('header').inert")  # what it covers cannot be tabbed to
    page.keyboard.press("Escape")
    expect(article).to_be_hidden()
    assert not page.evaluate("document.querySelector('header').inert")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(page: Page, server: ViewServer, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # light or dark
    opened(page, server, "?text=ducks")
    row(page, 0).click()
    expect(page.get_by_role("article").get_by_role("heading", level=2)).to_be_visible()
    for where in ("#list .prompt", "#list .reason", "#list .part", "#list mark", "#row .soft", "#status"):
        assert page.locator(where).first.evaluate(CONTRAST) >= 4.5, where


CONTRAST = r"""node => {
  const linear = c => c / 255 <= .03928 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const rgb = text => text.match(/[\d.]+/g).map(Number);
  let behind = node;
  while (rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const ink = light(rgb(getComputedStyle(node).color));
  const paper = light(rgb(getComputedStyle(behind).backgroundColor));
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
}"""


def test_a_search_says_how_far_it_came_and_can_be_stopped(
    page: Page, server: ViewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.view.rows.SEARCH_SECONDS", 0)
    from pipelines.view.search import TextSearch

    advance = TextSearch.advance
    held = threading.Semaphore(1)  # each step is let go by the test

    def stepwise(self: TextSearch, wanted: object, seconds: float) -> object:
        held.acquire(timeout=10)
        return advance(self, wanted, seconds)  # type: ignore[arg-type]  # bools

    monkeypatch.setattr(TextSearch, "advance", stepwise)
    opened(page, server, "?text=farmer")
    expect(page.locator("#status")).to_contain_text("of 300 rows,")
    expect(page.locator("#progress")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    held.release()
    expect(page.locator("#status")).to_contain_text("Stopped: searched")
    page.get_by_role("button", name="Go on").click()
    for _ in range(10):
        held.release()
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("1–50 of")


def test_a_server_that_ended_is_said(browser: Browser, server: ViewServer) -> None:
    page = opened(browser.new_page(), server)
    page.route("**/api/rows*", lambda route: route.abort("connectionrefused"))
    page.get_by_role("button", name="Kept").click()
    expect(page.locator("#status")).to_have_text("The server does not answer: was it ended?")
    page.close()
