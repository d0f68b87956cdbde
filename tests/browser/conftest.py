"""Headless Chromium, as a person's browser would show what winnow writes.

The browser is that of the system (`apt-get install chromium`), or the program that WINNOW_CHROMIUM names.
Tests are skipped where there is none, unless WINNOW_NEEDS_BROWSER is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STAYS = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "http://localhost:")


def _program() -> str:
    named = os.environ.get("WINNOW_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("WINNOW_NEEDS_BROWSER"):
            pytest.fail("no Chromium was found: apt-get install chromium, or set WINNOW_CHROMIUM")
        pytest.skip("no Chromium was found: apt-get install chromium, or set WINNOW_CHROMIUM")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium for a test process."""
    program = _program()
    with sync_playwright() as playwright:
        # Containers run tests as root, where Chromium's sandbox cannot start.
        browser = playwright.chromium.launch(
            executable_path=program, chromium_sandbox=os.geteuid() != 0, args=["--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page; an error of a script, a dialog, or a request that leaves the machine fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors: list[str] = []

    def heard(line: ConsoleMessage) -> None:
        if line.type == "error":
            errors.append(f"console: {line.text}")

    def asked(dialog: Dialog) -> None:
        errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def requested(request: Request) -> None:
        if not request.url.startswith(STAYS):
            errors.append(f"request: {request.url}")

    page.on("pageerror", lambda error: errors.append(f"error: {error}"))
    page.on("console", heard)
    page.on("dialog", asked)
    page.on("request", requested)
    yield page
    context.close()
    assert errors == []
