"""A real Chromium, driven by playwright: no browser of its own is downloaded, and a missing one is a failure."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
REMEDY = "no Chromium was found (looked for chromium, chromium-browser, google-chrome): apt-get install chromium"


@contextmanager
def page() -> Iterator[Page]:
    """A fresh page; what its scripts complain of fails the test."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail(REMEDY)
    with sync_playwright() as driver:
        # Without its sandbox: a container's root may not make one, and it shows nothing but the stand-in.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(60_000)
        complaints: list[str] = []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        try:
            yield opened
        finally:
            browser.close()
        assert complaints == []
