"""Locks and downloads, which wait for others with a limit."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from filelock import FileLock

from studiogan_gsr import files


def test_a_lock_that_another_holds_is_waited_for_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    path = tmp_path / "lock"
    other = FileLock(path, thread_local=False)
    other.acquire()
    threading.Timer(0.5, other.release).start()
    with files.locked(path, "another process that packs it"):
        assert capsys.readouterr().out == (
            f"waiting for another process that packs it (it holds {path}); Ctrl-C ends the wait\n"
        )
    with files.locked(path, "nobody"):
        assert not capsys.readouterr().out


def test_a_lock_is_not_waited_for_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    monkeypatch.setattr(files, "_DAY", 0.1)
    other = FileLock(tmp_path / "lock")
    expected = pytest.raises(OSError, match=r"another process that packs it has held .*lock for a day")
    with other, expected, files.locked(tmp_path / "lock", "another process that packs it"):
        raise AssertionError("was held twice")


def test_a_download_that_brings_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and never answers."""
    monkeypatch.setattr(files, "_SILENCE", 0.3)
    before = socket.getdefaulttimeout()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth"
        with pytest.raises((TimeoutError, URLError), match="timed out"), files.impatient_network():
            urlopen(address)
    assert socket.getdefaulttimeout() == before
