"""
Tests of the chat as a project has them: in Channels' own class, by a browser.

``python -m django test`` runs them, in a process for each way to start processes.
"""

from __future__ import annotations

import multiprocessing
import os
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from browsers import headless_browser
from channels.testing import ChannelsLiveServerTestCase
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from .models import Line
from .processes import OwnProcess

multiprocessing.set_start_method(os.environ["START_METHOD"], force=True)


class ChatTests(ChannelsLiveServerTestCase):  # type: ignore[misc] # untyped
    """Two who chat, and a server with another class of process."""

    def test_two_windows(self) -> None:
        """What one says the other one reads, and it is in the test's database."""
        # The browser's processes may write to it while they end.
        folder = TemporaryDirectory(ignore_cleanup_errors=True)
        with folder as name, headless_browser(Path(name)) as browser:
            first = self.open_chat(browser)
            browser.switch_to.new_window("window")
            self.open_chat(browser)
            browser.find_element(By.NAME, "text").send_keys("hello\n")
            self.wait_for_text(browser, "lines", "hello")
            browser.switch_to.window(first)
            self.wait_for_text(browser, "lines", "hello")

        assert ["hello"] == [line.text for line in Line.objects.all()]

    def open_chat(self, browser: Chrome) -> str:
        """Open the page, wait for its WebSocket, and return the window."""
        browser.get(self.live_server_url)
        self.wait_for_text(browser, "state", "open")
        return browser.current_window_handle

    def wait_for_text(self, browser: Chrome, name: str, text: str) -> None:
        """Wait until a part of the page has a text."""
        WebDriverWait(browser, 20, poll_frequency=0.05).until(
            lambda browser: browser.find_element(By.ID, name).text == text
        )


class OwnProcessTests(ChannelsLiveServerTestCase):  # type: ignore[misc] # untyped
    """The project's own class of process, and no static files."""

    ProtocolServerProcess = OwnProcess
    serve_static = False

    def test_it_is_served(self) -> None:
        """The process serves the application, as Daphne does."""
        assert ("daphne", 200) == self.answer("/")
        assert ("daphne", 404) == self.answer("/static/channels_site/chat.js")
        assert isinstance(self._server_process, OwnProcess)

    def answer(self, path: str) -> tuple[str | None, int]:
        """Return what serves a path, and the status."""
        connection = HTTPConnection(self.host, self._port, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        connection.close()
        return response.getheader("server"), response.status
