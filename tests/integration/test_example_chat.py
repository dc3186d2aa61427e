"""The example project: a chat with Django and Channels, as its users see it."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chat_site import CHAT, LOBBY, PASSWORD, Member, manage, serve_chat
from clients import client, get
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from server_process import Serve, ServerProcess
from websockets.exceptions import InvalidStatus

# Selenium leaves sockets of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make a site with tables and the first room in it."""
    data = tmp_path_factory.mktemp("chat")
    environment = {"CHAT_DATA": str(data), "CHAT_SUMMARY": "0.2"}
    manage(environment, "migrate", "--verbosity", "0")
    return environment


@pytest.fixture(scope="module")
def server(serve_module: Serve, environment: dict[str, str]) -> ServerProcess:
    """Serve the site for most tests; in the end it must stop by itself."""
    return serve_chat(serve_module, environment)


@pytest.fixture
def member(server: ServerProcess) -> Iterator[Member]:
    """Somebody new."""
    with closing(Member(server.url)) as member:
        yield member


# -- In a browser ------------------------------------------------------------------


class Window:
    """A window of the browser, in which somebody uses the site."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self._browser = browser
        self._url = url
        browser.switch_to.new_window("window")
        self._handle = browser.current_window_handle
        # Whoever was logged in there before.
        self.open("/")
        browser.delete_all_cookies()

    @property
    def browser(self) -> Chrome:
        """The browser, with this window before the others."""
        self._browser.switch_to.window(self._handle)
        return self._browser

    @property
    def path(self) -> str:
        """Which page is shown."""
        return self.browser.current_url.removeprefix(self._url)

    def open(self, path: str) -> None:
        """Go to a page."""
        self.browser.get(self._url + path)

    def element(self, selector: str) -> WebElement:
        """Find a part of the page."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def follow(self, text: str) -> None:
        """Follow a link."""
        self.browser.find_element(By.LINK_TEXT, text).click()

    def submit(self, selector: str, **fields: str) -> None:
        """Fill in a form, and send it."""
        for name, value in fields.items():
            field = self.element(f"{selector} [name={name}]")
            field.clear()
            field.send_keys(value)
        self.element(f"{selector} button").click()

    def wait_for(self, selector: str, pattern: str) -> None:
        """Wait until what a part of the page says matches."""
        browser = self.browser
        # An element is stale when the next page has taken the place of its own.
        stale = [StaleElementReferenceException]
        WebDriverWait(browser, 20, 0.05, ignored_exceptions=stale).until(
            lambda _: any(
                re.search(pattern, element.text)
                for element in browser.find_elements(By.CSS_SELECTOR, selector)
            ),
            f"{pattern!r} did not appear in {selector}",
        )

    def close(self) -> None:
        """Close it."""
        self.browser.close()


@pytest.fixture
def windows(browser: Chrome, server: ServerProcess) -> Iterator[tuple[Window, Window]]:
    """Two windows, each with a login of its own, since cookies are a host's."""
    first = browser.current_window_handle
    browser.get_log("browser")  # which forgets what was there
    windows = (
        Window(browser, server.url),
        Window(browser, server.url.replace("127.0.0.1", "localhost")),
    )
    yield windows
    for window in windows:
        window.close()
    browser.switch_to.window(first)


# Keeps each text of the line below the messages, also those shown for a moment.
RECORD_STATUS = """
const status = document.getElementById("status");
window.said = [];
new MutationObserver(() => said.push(status.textContent))
    .observe(status, {childList: true});
"""


def sign_up(window: Window, name: str) -> None:
    """Make an account on the page for that."""
    window.open("/sign-up/")
    window.submit(".card", username=name, password1=PASSWORD, password2=PASSWORD)
    window.wait_for("#user", f"^{name}$")


def test_two_people_talk(browser: Chrome, windows: tuple[Window, Window]) -> None:
    """
    Each sees what the other one says, as it was typed, and how much was said.

    The browser has nothing to complain about, its security policy included.
    """
    ann, ben = windows
    sign_up(ann, "ann")
    sign_up(ben, "ben")
    ann.submit(".card", name="Garden")
    ann.wait_for("#status", "Connected")
    ben.open("/")
    ben.follow("Garden")
    ben.wait_for("#status", "Connected")

    ann.submit("#say", text="<b>Grüezi</b> & hello")
    ben.wait_for("#messages li", r"(?s)^ann.*<b>Grüezi</b> & hello$")
    ben.submit("#say", text="Hello Ann")
    ann.wait_for("#messages li", r"(?s)^ben.*Hello Ann$")

    for window in windows:
        window.wait_for("#summary", "2 messages from 2 people")
        assert 2 == len(window.browser.find_elements(By.CSS_SELECTOR, "#messages li"))
    ben.open(ben.path)
    ben.wait_for("#messages li", r"(?s)^ann.*<b>Grüezi</b> & hello$")
    assert [] == browser.get_log("browser")


def test_accounts(windows: tuple[Window, Window]) -> None:
    """Who has an account comes in, to where he wanted; all others don't."""
    window, _ = windows
    room = f"/rooms/{LOBBY}/"

    window.open(room)
    assert f"/login/?next={room}" == window.path
    window.submit(".card", username="carol", password=PASSWORD)
    window.wait_for(".errorlist", "correct username and password")
    window.follow("Sign up")
    window.wait_for("h1", "Sign up")
    window.submit(".card", username="carol", password1="12345", password2="12345")
    window.wait_for(".errorlist", "too short")
    window.submit(".card", username="carol", password1=PASSWORD, password2=PASSWORD)
    window.wait_for("#user", "carol")
    window.submit("nav")
    window.wait_for("h1", "Log in")
    window.open(room)
    window.submit(".card", username="carol", password=PASSWORD)
    window.wait_for("#status", "Connected")
    assert room == window.path


def test_a_page_survives_a_restart(
    browser: Chrome, serve: Serve, environment: dict[str, str]
) -> None:
    """
    It says that the server restarts, keeps what is being typed, and comes back by
    itself, with what was said in between.
    """
    first = browser.current_window_handle
    server = serve_chat(serve, environment)
    window = Window(browser, server.url)
    sign_up(window, "dora")
    window.follow("Lobby")
    window.wait_for("#status", "Connected")
    window.browser.execute_script(RECORD_STATUS)

    assert 0 == server.stop()

    # Each pause is up to twice as long as the one before.
    window.wait_for("#status", "Trying again in [2-9] s")
    window.submit("#say", text="Is anybody here?")
    window.wait_for("#status", "your message is kept|Trying again")
    assert "Is anybody here?" == window.element("#say [name=text]").get_property(
        "value"
    )
    database = Path(environment["CHAT_DATA"]) / "chat.sqlite3"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO chat_message (room_id, author_id, text, sent_at) "
            "SELECT ?, id, 'said elsewhere', '2026-01-01' FROM auth_user "
            "WHERE username = 'dora'",
            [LOBBY],
        )

    serve_chat(serve, environment, "-p", str(server.port))

    window.wait_for("#messages li", "said elsewhere$")
    window.wait_for("#status", "Connected")
    window.element("#say button").click()
    window.wait_for("#messages li", r"Is anybody here\?$")
    said = window.browser.execute_script("return said")
    assert "The server is restarting. Trying again in 1 s." == said[0]
    window.close()
    browser.switch_to.window(first)


# -- Without one -------------------------------------------------------------------


def test_a_form_is_enough(member: Member, server: ServerProcess) -> None:
    """Without JavaScript a message is sent by a form, and others hear it at once."""
    with closing(Member(server.url)) as other, other.in_room() as room:
        page = member.submit(f"/rooms/{LOBBY}/", text="by <form>")

        event = room.hear("by <form>")

    assert member.name == event["author"]
    assert "by &lt;form&gt;" in page.text
    assert "by <form>" not in page.text


def test_what_was_missed_comes_first(member: Member) -> None:
    """
    Who comes back names the last message it knows, and gets what followed, with a
    little before it.
    """
    with member.in_room() as room:
        for number in range(30):
            room.say(f"known {number}")
        known = room.hear("known 29")["id"]
    member.submit(f"/rooms/{LOBBY}/", text="two")

    with member.in_room(after=known) as room:
        texts = [room.wait_for(lambda _: True)["text"] for _ in range(21)]
    assert [*(f"known {number}" for number in range(10, 30)), "two"] == texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [(" ", "required"), ("x" * 2001, "at most 2000"), ("\0", "Null characters")],
    ids=["empty", "long", "null"],
)
def test_a_message_which_cannot_be_taken(
    member: Member, text: str, reason: str
) -> None:
    """It is refused with a reason, and nobody else hears of it."""
    with member.in_room() as room:
        room.say(text)

        refused = room.wait_for(lambda event: event["type"] == "refused")

    assert reason in refused["reason"]


def test_other_sites_open_no_websockets(member: Member) -> None:
    """A page of another site can't use the cookies of somebody who is logged in."""
    for origin in ("https://evil.example", None):
        with (
            pytest.raises(InvalidStatus, match="403"),
            member.in_room(origin=origin),
        ):
            pass


def test_other_sites_send_no_forms(member: Member) -> None:
    """A form without the token of the page is refused."""
    response = member.http.post(f"/rooms/{LOBBY}/", data={"text": "forged"})

    assert 403 == response.status_code


@pytest.mark.parametrize("path", ["/", f"/rooms/{LOBBY}/"])
def test_pages_need_a_login(server: ServerProcess, path: str) -> None:
    """Without one they lead to the login."""
    response = get(server.url + path)

    assert f"/login/?next={path}" == response.headers["location"]


def test_websockets_need_a_login(member: Member) -> None:
    """Without one they are closed, with a code that the page understands."""
    member.http.cookies.clear()

    with member.in_room() as room:
        assert 4401 == room.close_code()


def test_there_is_no_such_room(member: Member) -> None:
    """A page that was left open on a room which is gone learns it."""
    with member.in_room(room=12345) as room:
        assert 4404 == room.close_code()


def test_a_logout_ends_the_websockets_of_the_login(member: Member) -> None:
    """Other tabs don't read on."""
    with member.in_room() as room:
        member.submit("/logout/")

        assert 4401 == room.close_code()


def test_a_stop_says_goodbye(serve: Serve, environment: dict[str, str]) -> None:
    """
    Pages are asked to leave, and those that don't are closed with 1001; the background
    task ends, and nothing is logged as wrong.
    """
    server = serve_chat(serve, environment, "--drain-notice-timeout", "0.5")
    with (
        closing(Member(server.url)) as member,
        member.in_room() as room,
        member.in_room() as stubborn,
    ):
        server.signal(signal.SIGTERM)

        room.leave_when_asked()
        assert 1001 == stubborn.close_code()

    assert 0 == server.wait()
    for word in ("WARNING", "ERROR", "Traceback", "destroyed", "never awaited"):
        assert word not in server.log, server.log


def test_runserver_serves_it_too(launch: Serve, environment: dict[str, str]) -> None:
    """So one develops: WebSockets and the background task are there as well."""
    server = launch(
        *("runserver", "--noreload", "127.0.0.1:0"),
        program=("manage.py",),
        cwd=CHAT,
        environment=environment,
    )
    url = server.wait_for_log(r"server at \S+\d").rpartition(" ")[2]
    with closing(Member(url)) as member, member.in_room() as room:
        room.say("in development")
        room.hear("in development")
        room.wait_for(lambda event: event["type"] == "summary")
        server.signal(signal.SIGINT)

        room.leave_when_asked()
    assert 0 == server.wait()


def test_pages_keep_to_their_policy(server: ServerProcess) -> None:
    """Browsers are told to run nothing but the site's own script."""
    with client(server.url) as visitor:
        page = visitor.get("/login/")
        script = visitor.get("/static/chat/chat.js")

    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "DENY" == page.headers["x-frame-options"]
    assert "javascript" in script.headers["content-type"]
    assert not re.search(r"<script>|<style>|style=|onclick=", page.text)


def test_migrations_are_complete(environment: dict[str, str]) -> None:
    """The tables are those of the models, and Django finds no fault."""
    assert "No changes" in manage(environment, "makemigrations", "--check", "--dry-run")
    manage(environment, "check", "--fail-level", "WARNING")


def test_the_command_is_the_one_of_its_page() -> None:
    """What the documentation says to type can be run."""
    run = CHAT / "run"

    assert run.stat().st_mode & 0o111
    for page in (CHAT / "README.md", CHAT.parents[1] / "docs" / "examples.md"):
        assert "examples/chat/run" in page.read_text("utf-8")
