"""Tests of ``daphne_like.listeners.development_certificate``."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from recorded_log import RecordedLog

from daphne_like.errors import SettingsError
from daphne_like.listeners import development_certificate
from daphne_like.listeners.development_certificate import obtain


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep certificates here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "daphne-like"


def names(path: str) -> set[str]:
    """Return whom a certificate is for."""
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    extension = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    hosts = extension.get_values_for_type(x509.DNSName)
    return {*hosts, *map(str, extension.get_values_for_type(x509.IPAddress))}


ALWAYS = {"localhost", "127.0.0.1", "::1"}


def test_it_is_made_once(cache: Path, log: RecordedLog) -> None:
    """The second time it is the same, and each time its fingerprint is told."""
    [first] = obtain([])
    content = Path(first.certificate).read_bytes()
    [second] = obtain(["localhost", "0.0.0.0", "::"])

    assert first == second
    assert content == Path(second.certificate).read_bytes()
    assert ALWAYS == names(first.certificate)
    told = [line for line in log.take(0) if "SHA-256" in line]
    assert 2 == len(told)
    assert told[0] == told[1]


def test_nobody_else_can_read_the_key(cache: Path) -> None:
    """Neither the file nor its directory is open to others, and nothing else is left."""
    [files] = obtain([])

    assert 0o600 == stat.S_IMODE(Path(files.key).stat().st_mode)
    assert 0o700 == stat.S_IMODE(cache.stat().st_mode)
    assert [Path(files.key)] == [*cache.iterdir()]


def test_another_name_makes_another_certificate(cache: Path) -> None:
    """It has the names of all projects, so that they don't take turns."""
    obtain(["one.example", "[2001:db8::1]"])
    [files] = obtain(["bücher.example"])
    content = Path(files.certificate).read_bytes()
    obtain(["BÜCHER.example", "2001:0db8::1"])

    assert content == Path(files.certificate).read_bytes()
    assert {
        *ALWAYS,
        "one.example",
        "2001:db8::1",
        "xn--bcher-kva.example",
    } == names(files.certificate)


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_broken_file_is_replaced(cache: Path, content: bytes) -> None:
    """Whatever has happened to it."""
    [files] = obtain([])
    Path(files.certificate).write_bytes(content)
    obtain([])

    assert ALWAYS == names(files.certificate)


def test_it_is_renewed_in_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One which expires within a month is replaced."""
    monkeypatch.setattr(development_certificate, "_VALIDITY", timedelta(days=29))
    [files] = obtain([])
    old = Path(files.certificate).read_bytes()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    obtain([])

    assert old != Path(files.certificate).read_bytes()


def test_without_a_cache_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the usual place; a relative path is no place (XDG)."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    [files] = obtain([])

    assert str(tmp_path / ".cache" / "daphne-like" / "development.pem") == files.key


def test_what_is_no_host(cache: Path) -> None:
    """It can't be in a certificate."""
    with pytest.raises(SettingsError, match=r"^ssl_dev: 'a..b' is no host name"):
        obtain(["a..b"])


def test_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written, one line says so."""
    (tmp_path / "daphne-like").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(SettingsError, match=r"^ssl_dev: .*development.pem: "):
        obtain([])
