"""A real browser for integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import find_program
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


def find_browser() -> tuple[str, str]:
    """Return the paths of browser and driver; skip the test if there are none."""
    browser = find_program("chromium", "chromium-browser", "google-chrome")
    return browser, find_program("chromedriver")


@contextmanager
def headless_browser(profile: Path) -> Iterator[Chrome]:
    """Start a browser without a window, which asks nobody but the server."""
    options = ChromeOptions()
    options.binary_location, driver = find_browser()
    for argument in (
        "--headless",
        # Chromium's sandbox refuses to run as root, as tests in containers do.
        "--no-sandbox",
        "--disable-gpu",
        # Shared memory is small in containers.
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    # Those of tests are signed by authorities of their own.
    options.accept_insecure_certs = True
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, Service(driver))
    try:
        yield browser
    finally:
        browser.quit()
