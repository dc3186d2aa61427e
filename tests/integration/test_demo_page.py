"""The built-in demo in a browser: what a new user sees first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from server_process import ServerProcess, serving_until_done

# Selenium leaves sockets of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

DEMO = "daphne_like.demo:application"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Serve the demo."""
    with serving_until_done() as serve:
        yield serve(DEMO)


class Page:
    """The demo page, opened anew for each test."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        browser.get_log("browser")  # which forgets what was there
        browser.get(url)

    def element(self, name: str) -> WebElement:
        """Find a part of the page."""
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """Tell what a part of the page says."""
        return self.element(name).text

    def click(self, name: str) -> None:
        """Press a button."""
        button = self.element(name)
        # The page itself scrolls smoothly, which would move the button away.
        self.browser.execute_script(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})",
            button,
        )
        button.click()

    def wait_for(self, name: str, pattern: str) -> re.Match[str]:
        """Wait until what a part of the page says matches."""
        wait = WebDriverWait(self.browser, 20, poll_frequency=0.05)
        return wait.until(
            lambda _: re.search(pattern, self.text(name)) or False,
            f"{pattern!r} did not appear in #{name}",
        )

    def complaints(self) -> list[str]:
        """Tell what the browser's console has to say since the page was opened."""
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture
def page(browser: Chrome, server: ServerProcess) -> Iterator[Page]:
    """Open the page; at the end nothing may be in the browser's console."""
    page = Page(browser, server.url)
    yield page
    assert [] == page.complaints()
    browser.get("about:blank")


def test_the_page_tells_about_the_request(page: Page, server: ServerProcess) -> None:
    """Protocol, addresses and headers are those of this very request."""
    assert "daphne_like demo" == page.browser.title
    assert "HTTP/1.1" == page.text("protocol")
    facts = page.text("request")
    assert f"127.0.0.1:{server.port}" in facts
    assert "HeadlessChrome" in facts

    page.click("request-button")

    page.wait_for("request-status", "Marked:")
    assert "/request" in page.text("request")


def test_a_stream_and_events_arrive_side_by_side(page: Page) -> None:
    """Chunks are drawn as they come, not all at the end; the clock goes on beside."""
    page.click("stream-button")

    page.wait_for("events-status", "Connected")
    assert "Live" == page.text("link-text")
    page.wait_for("clock", r"\d\d:\d\d:\d\d")
    page.wait_for("beats-caption", r"between two events: \d+ ms")
    page.wait_for("stream-chunks", "of 40")
    page.click("events-button")
    page.wait_for("events-status", "ended after .* client left, noticed within")

    page.wait_for("stream-status", "Complete: 40 chunks")
    assert "40 of 40" == page.text("stream-chunks")
    assert int(page.text("stream-reads")) > 20
    cells = page.browser.find_elements(By.CSS_SELECTOR, "#cells .full")
    assert 40 == len(cells)


def test_a_streaming_response_can_be_stopped(page: Page) -> None:
    """The server notices at once and says how far it had come."""
    page.click("stream-button")
    page.wait_for("stream-chunks", " of 40")

    page.click("stream-button")

    page.wait_for("stream-status", "The server stopped too, .* client left")


def test_a_slow_reader_makes_the_application_wait(page: Page) -> None:
    """Back-pressure: send() waits, long before everything is sent."""
    page.click("pressure-button")
    page.wait_for("pressure-wait", "[1-9]")
    page.click("pressure-button")

    pattern = "The server stopped too, after ([0-9]+) chunks"
    sent = int(page.wait_for("pressure-status", pattern)[1])
    assert sent < 768


def test_an_upload_arrives_whole(page: Page) -> None:
    """The server's checksum is the one which the browser computes."""
    page.click("upload-button")

    page.wait_for("upload-status", "The browser computes the same hash.")

    assert "16.0 MiB" == page.text("upload-bytes")
    assert 64 == len(page.text("upload-hash").replace("\n", ""))


def test_a_file_is_uploaded(page: Page, tmp_path: Path) -> None:
    """A file from the disk goes the same way."""
    file = tmp_path / "small.txt"
    file.write_text("hello\n")

    page.element("upload-file").send_keys(str(file))

    page.wait_for("upload-status", "The browser computes the same hash.")
    assert "6 B" == page.text("upload-bytes")


def test_a_message_comes_back_over_a_websocket(page: Page) -> None:
    """The echo answers, and the page tells how long it took; also ten at once."""
    page.wait_for("echo-status", "Connected, compressed")
    field = page.element("echo-text")
    field.clear()
    field.send_keys("Grüezi")
    page.click("echo-button")

    page.wait_for("echo-answer", "^Grüezi$")
    page.wait_for("echo-time", r"^\d+\.\d ms$")
    page.click("echo-burst")
    page.wait_for("echo-answer", "^10 of 10$")
    assert "11" == page.text("echo-count")


def test_what_one_window_says_all_see(page: Page, server: ServerProcess) -> None:
    """The broadcast reaches a second window, and tells when it has gone."""
    page.wait_for("talk-members", "^1$")
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("window")
    page.browser.get(server.url)
    page.wait_for("talk-members", "^2$")
    page.element("talk-text").send_keys("Hello to all")
    page.click("talk-button")
    page.wait_for("talk", "^You ?Hello to all$")
    page.browser.close()
    page.browser.switch_to.window(first)

    page.wait_for("talk", r"^No\. \d+ ?Hello to all$")
    page.wait_for("talk-members", "^1$")
    page.click("talk-leave")
    page.wait_for("talk-status", "Closed by this page: 1000 left")
