"""Tests of ``daphne_like.asgi.loading``."""

from __future__ import annotations

import asyncio
import functools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from asgiref.compatibility import is_double_callable

from daphne_like.asgi.loading import (
    DEMO,
    as_asgi3,
    explain,
    import_by_path,
    load_application,
)
from daphne_like.errors import ApplicationLoadError
from daphne_like.settings import ApplicationSettings

WriteFile = Callable[[str, str], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFile]:
    """The user's project directory, which is the current directory."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def write(name: str, source: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(source), "utf-8")

    yield write
    for name in ("main", "other", "pkg", "pkg.web"):
        sys.modules.pop(name, None)


def load(path: str | None = "main:app", **settings: Any) -> Any:
    """Load as the server does."""
    return load_application(ApplicationSettings(application=path, **settings))


async def call(application: Any) -> list[dict[str, Any]]:
    """Call an ASGI 3 application, and return what it has sent."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application({"type": "http"}, None, send)
    return sent


def test_an_application_is_found_in_the_current_directory(project: WriteFile) -> None:
    """``daphne-like main:app`` serves ``app`` of ``main.py`` right here."""
    project("main.py", "async def app(scope, receive, send): pass")

    application = load("main:app")

    assert application is sys.modules["main"].app
    assert str(Path.cwd()) == sys.path[0]


def test_attributes_of_attributes_are_found(project: WriteFile) -> None:
    """The path may go through objects to the application."""
    project("pkg/__init__.py", "")
    project(
        "pkg/web.py",
        """
        class Site:
            async def app(self, scope, receive, send): pass
        site = Site()
        """,
    )

    assert load("pkg.web:site.app") == sys.modules["pkg.web"].site.app


def test_another_directory_can_be_searched_first(project: WriteFile) -> None:
    """``--app-dir`` names the directory of the application, relative or not."""
    project("src/main.py", "async def app(scope, receive, send): pass")

    assert load("main:app", app_dir="src") is sys.modules["main"].app
    assert str(Path.cwd() / "src") == sys.path[0]


def test_the_directory_is_put_first_once(project: WriteFile) -> None:
    """Loading again, as after a restart in the process, leaves ``sys.path`` short."""
    project("main.py", "async def app(scope, receive, send): pass")
    load("main:app")
    before = list(sys.path)

    load("main:app")

    assert before == sys.path


def test_a_missing_directory_is_told(project: WriteFile) -> None:
    """A wrong ``--app-dir`` is named, instead of a module that isn't found."""
    with pytest.raises(
        ApplicationLoadError, match=r"app_dir .*nowhere is no directory"
    ):
        load("main:app", app_dir="nowhere")


def test_without_a_name_the_demo_is_served() -> None:
    """``daphne-like`` alone serves something, and leaves ``sys.path`` alone."""
    before = list(sys.path)
    asked = []

    async def demo(scope: Any, receive: Any, send: Any) -> None: ...

    def import_object(path: str) -> object:
        asked.append(path)
        return demo

    assert load_application(ApplicationSettings(), import_object) is demo
    assert [DEMO] == asked
    assert before == sys.path


def test_the_demo_can_be_imported() -> None:
    """The built-in demo is there and can be called."""
    assert callable(import_by_path(DEMO))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mian:app", "module 'mian' not found; did you mean main?"),
        ("pkg.wbe:app", "module 'pkg.wbe' not found; did you mean pkg.web?"),
        ("qqqq:app", "module 'qqqq' not found"),
        ("qqqq.main:app", "module 'qqqq' not found"),
        ("main:aap", "main has no attribute 'aap'; did you mean app?"),
        (
            "main:Config.debg",
            "main:Config has no attribute 'debg'; did you mean debug?",
        ),
        ("main:wsgi", "main has no attribute 'wsgi'; did you mean app?"),
        ("pkg:qqqq", "pkg has no attribute 'qqqq'"),
        (
            "main",
            "'main' is not of the form module:attribute; did you mean main:app?",
        ),
        (
            "pkg.web.application",
            (
                "'pkg.web.application' is not of the form module:attribute; "
                "did you mean pkg.web:application?"
            ),
        ),
        (
            "main.py",
            "'main.py' is not of the form module:attribute; did you mean main:app?",
        ),
        (
            "pkg/web.py:site",
            (
                "'pkg/web.py:site' is not of the form module:attribute; "
                "did you mean pkg.web:site?"
            ),
        ),
        (
            "/srv/main.py:app",
            (
                "'/srv/main.py:app' is not of the form module:attribute; "
                "did you mean --app-dir /srv main:app?"
            ),
        ),
        (
            ":app",
            "':app' is not of the form module:attribute; did you mean main:app?",
        ),
    ],
)
def test_a_wrong_name_is_one_line_with_a_suggestion(
    project: WriteFile, path: str, message: str
) -> None:
    """A typing error in the application's name is told in one line."""
    project("main.py", "app = None\nclass Config:\n    debug = True\n")
    project("pkg/__init__.py", "")
    project("pkg/web.py", "")

    with pytest.raises(ApplicationLoadError) as raised:
        load(path)

    assert message == explain(raised.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            """\
            def configure():
                return 1 / 0
            configure()
            """,
            """\
            Traceback (most recent call last):
              File "main.py", line 3, in <module>
                configure()
              File "main.py", line 2, in configure
                return 1 / 0
            ZeroDivisionError: division by zero
            ZeroDivisionError was raised while importing main:app
            """,
        ),
        (
            "import no_such_package.part\n",
            """\
            Traceback (most recent call last):
              File "main.py", line 1, in <module>
                import no_such_package.part
            ModuleNotFoundError: No module named 'no_such_package'
            ModuleNotFoundError was raised while importing main:app
            """,
        ),
        (
            "import importlib\nimportlib.import_module('other')\n",
            """\
            Traceback (most recent call last):
              File "main.py", line 2, in <module>
                importlib.import_module('other')
              File "other.py", line 1, in <module>
                raise LookupError("here")
            LookupError: here
            LookupError was raised while importing main:app
            """,
        ),
        (
            "import main.sub\n",
            """\
            Traceback (most recent call last):
              File "main.py", line 1, in <module>
                import main.sub
            ModuleNotFoundError: No module named 'main.sub'; 'main' is not a package
            ModuleNotFoundError was raised while importing main:app
            """,
        ),
        (
            "def app(:\n",
            """\
              File "main.py", line 1
                def app(:
            SyntaxError: invalid syntax
            SyntaxError was raised while importing main:app
            """,
        ),
        (
            "def __getattr__(name):\n    return {}['x']\n",
            """\
            Traceback (most recent call last):
              File "main.py", line 2, in __getattr__
                return {}['x']
            KeyError: 'x'
            KeyError was raised while importing main:app
            """,
        ),
        (
            (
                "class Lazy:\n    @property\n    def app(self):\n"
                "        return self.nope\nimport sys\nsys.modules['main'] = Lazy()\n"
            ),
            """\
            Traceback (most recent call last):
              File "main.py", line 4, in app
                return self.nope
            AttributeError: 'Lazy' object has no attribute 'nope'
            AttributeError was raised while importing main:app
            """,
        ),
    ],
    ids=["raises", "import", "importlib", "shadow", "syntax", "getattr", "property"],
)
def test_an_error_in_the_users_code_is_shown_as_theirs(
    project: WriteFile, source: str, expected: str
) -> None:
    """The traceback shows the user's files only, and then what we were doing."""
    project("main.py", source)
    project("other.py", 'raise LookupError("here")\n')

    with pytest.raises(ApplicationLoadError) as raised:
        load()

    shown = explain(raised.value).replace(f"{Path.cwd()}/", "")
    lines = [line for line in shown.splitlines() if line.strip(" ~^")]
    assert textwrap.dedent(expected).splitlines() == lines


def test_the_users_exit_is_left_alone(project: WriteFile) -> None:
    """A module which ends the program while it is imported does end it."""
    project("main.py", "raise SystemExit(7)")

    with pytest.raises(SystemExit) as raised:
        load()

    assert raised.value.code == 7


def test_a_factory_makes_the_application(project: WriteFile) -> None:
    """With ``--factory`` the named function is called for the application."""
    project(
        "main.py",
        """
        async def app(scope, receive, send): pass
        def create(): return app
        """,
    )

    assert load("main:create", factory=True) is sys.modules["main"].app


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("create = 5", "main:create is no factory: an object of 'int' can't be called"),
        (
            "async def create(): pass",
            (
                "main:create is an asynchronous function: a factory must return the "
                "application itself; without --factory the function is served"
            ),
        ),
        (
            "def create(): pass",
            "main:create is no application: None can't be called",
        ),
        (
            "def create(debug): pass",
            (
                "TypeError: create() missing 1 required positional argument: 'debug'\n"
                "TypeError was raised while calling the factory main:create"
            ),
        ),
    ],
)
def test_a_wrong_factory_is_told(project: WriteFile, source: str, message: str) -> None:
    """What is no factory, or makes no application, is said clearly."""
    project("main.py", source)

    with pytest.raises(ApplicationLoadError) as raised:
        load("main:create", factory=True)

    assert message == explain(raised.value)


def test_any_object_can_be_imported_but_not_served(project: WriteFile) -> None:
    """The hook may return anything; only what is to be served must be callable."""
    project("main.py", "version = '1.0'")
    sys.path.insert(0, str(Path.cwd()))

    assert import_by_path("main:version") == "1.0"
    with pytest.raises(
        ApplicationLoadError,
        match=r"^main:version is no application: an object of 'str' can't be called$",
    ):
        load("main:version")


def test_a_frozen_program_can_bring_its_own_import() -> None:
    """A substituted import is asked, and its refusal is passed on."""

    def refuse(path: str) -> object:
        raise ApplicationLoadError(f"{path} is not in this program")

    with pytest.raises(ApplicationLoadError, match=r"^x:y is not in this program$"):
        load_application(ApplicationSettings(application="x:y"), refuse)


# -- ASGI 2 and 3 -------------------------------------------------------------


async def asgi3_function(scope: Any, receive: Any, send: Any) -> None:
    """Version 3: one asynchronous call."""
    await send({"asgi": 3})


def asgi2_function(scope: Any) -> Any:
    """Version 2: a call with the scope returns what is called with the rest."""

    async def instance(receive: Any, send: Any) -> None:
        await send({"asgi": 2})

    return instance


class ASGI3Instance:
    """Each instance is an application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Version 3."""
        await send({"asgi": 3})


class ASGI2Class:
    """The class is an application; an instance is made for each scope."""

    def __init__(self, scope: Any) -> None:
        pass

    async def __call__(self, receive: Any, send: Any) -> None:
        """Version 2, second call."""
        await send({"asgi": 2})


class ASGI2Instance:
    """Each instance is an old application."""

    def __call__(self, scope: Any) -> Any:
        """Version 2, first call."""
        return asgi2_function(scope)


class Methods:
    """Applications which are methods."""

    async def asgi3(self, scope: Any, receive: Any, send: Any) -> None:
        """Version 3."""
        await send({"asgi": 3})

    def asgi2(self, scope: Any) -> Any:
        """Version 2, first call."""
        return asgi2_function(scope)


def wrapper(scope: Any, receive: Any, send: Any) -> Any:
    """ASGI 3, but no coroutine function: only the mark tells."""
    return asgi3_function(scope, receive, send)


class MarkedASGI2Instance(ASGI2Instance):
    """Marks may be on the class."""

    _asgi_double_callable = True


def marked(function: Any, **marks: bool) -> Any:
    """A function of its own with marks on it."""
    copy = functools.partial(function)
    for name, value in marks.items():
        setattr(copy, name, value)
    return copy


def with_call_attribute() -> Any:
    """An instance whose own ``__call__``, which Python ignores, is of another kind."""
    instance: Any = ASGI3Instance()
    instance.__call__ = asgi2_function
    return instance


APPLICATIONS: dict[str, Any] = {
    "function": asgi3_function,
    "old function": asgi2_function,
    "instance": ASGI3Instance(),
    "old instance": ASGI2Instance(),
    "old class": ASGI2Class,
    "class with asynchronous call": ASGI3Instance,
    "method": Methods().asgi3,
    "old method": Methods().asgi2,
    "partial": functools.partial(asgi3_function),
    "old partial": functools.partial(asgi2_function),
    "marked wrapper": marked(wrapper, _asgi_single_callable=True),
    "unmarked wrapper": wrapper,
    "marked as old": marked(asgi3_function, _asgi_double_callable=True),
    "marked as both": marked(
        asgi3_function, _asgi_double_callable=True, _asgi_single_callable=True
    ),
    "marked old instance": MarkedASGI2Instance(),
    "instance with another call": with_call_attribute(),
    "asynchronous mock": mock.AsyncMock(),
    "mock": mock.Mock(),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_version_of_asgi_is_told_as_asgiref_tells_it(name: str) -> None:
    """An application which runs under Daphne is taken for the same thing here."""
    application = APPLICATIONS[name]

    adapted = as_asgi3(application, "auto")

    assert is_double_callable(application) is (adapted is not application)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("name", "interface", "version"),
    [
        ("function", "auto", 3),
        ("instance", "auto", 3),
        ("marked wrapper", "auto", 3),
        ("unmarked wrapper", "asgi3", 3),
        ("old function", "auto", 2),
        ("old class", "auto", 2),
        ("old instance", "auto", 2),
        ("old function", "asgi2", 2),
        ("old partial", "asgi2", 2),
    ],
)
def test_both_versions_of_asgi_are_served(
    name: str, interface: str, version: int
) -> None:
    """Old and new applications run, told apart or as ``--interface`` says."""
    application = as_asgi3(APPLICATIONS[name], interface)

    assert [{"asgi": version}] == asyncio.run(call(application))


def test_daphne_takes_anything_for_an_application(project: WriteFile) -> None:
    """With Daphne's manners a path may name any object, until it is called."""
    project("main.py", "app = 'no application'")

    assert callable(load(daphne_compat=True))
    with pytest.raises(ApplicationLoadError, match="'str' can't be called"):
        load()
