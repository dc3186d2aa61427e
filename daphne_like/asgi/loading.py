"""
Turn ``module:attribute.attribute`` into an ASGI 3 application.

What the user got wrong in the name becomes one clear line; what the user's own code
raises is shown as the user's own traceback, without the frames of the import system
and of this module, which tell the user nothing.

Tests: ``tests/unit/test_loading.py``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from daphne_like.errors import ApplicationLoadError
from daphne_like.setting_kinds import did_you_mean

if TYPE_CHECKING:
    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.settings import ApplicationSettings

__all__ = [
    "DEMO",
    "as_asgi3",
    "explain",
    "import_by_path",
    "load_application",
]

DEMO = "daphne_like.demo:application"
"""What is served when no application is named."""

# Between the user's code and whoever called for it stand frames of these.
_OUR_MODULES = (__name__, "daphne_like.cli")

# Names which frameworks' documentation gives to the application.
_USUAL_NAMES = ("application", "app")


def load_application(
    settings: ApplicationSettings,
    import_object: Callable[[str], object] | None = None,
) -> ASGIApplication:
    """
    Return the application which the settings name, ready to be served.

    Puts ``app_dir`` first on ``sys.path``, for good: applications import later too.

    Args:
        settings: Which object, where it is, whether it is a factory, its interface.
        import_object: Turns the path into the object; :func:`import_by_path` unless
            a frozen program, for instance, has its own way.

    Raises:
        ApplicationLoadError: There is no such object, it can't be called, or the
            user's code raised: then that exception is the cause, and
            :func:`explain` shows both.
    """
    path = settings.application or DEMO
    if settings.application is not None:
        _search_first(settings.app_dir)
    application = _run_users_code(
        lambda: (import_object or import_by_path)(path), f"importing {path}"
    )
    if settings.factory:
        if not callable(application):
            raise ApplicationLoadError(
                f"{path} is no factory: {_kind_of(application)} can't be called"
            )
        application = _run_users_code(application, f"calling the factory {path}")
        if inspect.iscoroutine(application):
            application.close()
            raise ApplicationLoadError(
                f"{path} is an asynchronous function: a factory must return the "
                "application itself; without --factory the function is served"
            )
    # Daphne takes anything: programs load some object only to see what comes of it.
    if not callable(application) and not settings.daphne_compat:
        raise ApplicationLoadError(
            f"{path} is no application: {_kind_of(application)} can't be called"
        )
    return as_asgi3(application, settings.interface)


def import_by_path(path: str) -> object:
    """
    Return the object at ``module:attribute.attribute``, whatever it is.

    Raises:
        ApplicationLoadError: The path is no such path, or leads nowhere.
        Exception: Whatever the module raises while it is imported.
    """
    module_name, _, attributes = path.partition(":")
    if (
        not module_name
        or not attributes
        or os.sep in module_name
        or module_name.endswith(".py")
    ):
        raise ApplicationLoadError(
            f"{path!r} is not of the form module:attribute; "
            f"did you mean {_path_meant(module_name, attributes)}?"
        )
    found = _import_module(module_name)
    reached = module_name + ":"
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            if _users_frames(error):
                raise
            raise ApplicationLoadError(
                f"{reached.rstrip(':.')} has no attribute {attribute!r}"
                + _attribute_hint(found, attribute)
            ) from None
        reached += attribute + "."
    return found


def as_asgi3(application: Any, interface: str) -> ASGIApplication:
    """
    Return an application with one call, adapting ASGI 2's two calls.

    Args:
        application: What is to be served.
        interface: ``asgi3``, ``asgi2``, or ``auto``: as asgiref judges, which goes
            by marks on the object and by what kind of function it is.
    """
    # The usual case, told without the 10 ms which importing asgiref takes: a function
    # or an instance which is a coroutine function. asgiref calls a class ASGI 2.
    if interface == "asgi3" or (
        interface == "auto"
        and not inspect.isclass(application)
        and not getattr(application, "_asgi_double_callable", False)
        and (
            inspect.iscoroutinefunction(application)
            or (
                callable(application)
                and inspect.iscoroutinefunction(application.__call__)
            )
        )
    ):
        return cast("ASGIApplication", application)
    from asgiref.compatibility import double_to_single_callable, is_double_callable

    if interface == "asgi2" or is_double_callable(application):  # type: ignore[no-untyped-call]
        application = double_to_single_callable(application)  # type: ignore[no-untyped-call]
    return cast("ASGIApplication", application)


def explain(error: ApplicationLoadError) -> str:
    """
    Return what the user should read: the traceback in the user's code, then a line.

    Returns:
        Text without a final line end; a single line when no code of the user ran.
    """
    if error.__cause__ is None:
        return str(error)
    import traceback

    return "".join(traceback.format_exception(error.__cause__)) + str(error)


# -- The user's code and its tracebacks ---------------------------------------


def _run_users_code(call: Callable[[], Any], doing: str) -> Any:
    try:
        return call()
    except ApplicationLoadError:
        raise
    except Exception as error:
        error.__traceback__ = _users_frames(error)
        raise ApplicationLoadError(
            f"{type(error).__name__} was raised while {doing}"
        ) from error


def _users_frames(error: BaseException) -> TracebackType | None:
    """Return an exception's traceback without our modules and the import system."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        if name not in _OUR_MODULES and name.partition(".")[0] != "importlib":
            frames.append(traceback)
        traceback = traceback.tb_next
    kept = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not found is the module itself or a package on the way to it; an import
        # inside of the user's modules that fails has the user's frames.
        missing = error.name or ""
        if _users_frames(error) or not f"{name}.".startswith(f"{missing}."):
            raise
        parent, _, last = missing.rpartition(".")
        raise ApplicationLoadError(
            f"module {missing!r} not found" + _module_hint(parent, last)
        ) from None


def _search_first(directory: str) -> None:
    path = os.path.abspath(directory)  # noqa: PTH100 - pathlib is slow to import
    if not os.path.isdir(path):  # noqa: PTH112
        raise ApplicationLoadError(f"app_dir {path} is no directory")
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)


# -- Suggestions --------------------------------------------------------------


def _path_meant(module_name: str, attributes: str) -> str:
    """Return what probably was meant by a file's name or a path without a colon."""
    from pathlib import PurePath

    file = PurePath(module_name.removesuffix(".py"))
    name = file.name
    if not attributes and name.rpartition(".")[2] in _USUAL_NAMES:
        name, _, attributes = name.rpartition(".")
    meant = f"{name or 'main'}:{attributes or 'app'}"
    if file.is_absolute():
        return f"--app-dir {file.parent} {meant}"
    packages = [part for part in file.parent.parts if part.strip(".")]
    return ".".join([*packages, meant])


def _module_hint(parent: str, missing: str) -> str:
    """Suggest a module beside the missing one: in its package, or in app_dir."""
    import pkgutil

    prefix = f"{parent}." if parent else ""
    directories = sys.modules[parent].__path__ if parent else sys.path[:1]
    names = [module.name for module in pkgutil.iter_modules(directories)]
    return did_you_mean(missing, {name: prefix + name for name in names})


def _attribute_hint(found: object, missing: str) -> str:
    names = dir(found)
    hint = did_you_mean(missing, names)
    if hint:
        return hint
    usual = next((name for name in _USUAL_NAMES if name in names), None)
    return f"; did you mean {usual}?" if usual else ""


def _kind_of(found: object) -> str:
    return "None" if found is None else f"an object of {type(found).__name__!r}"
