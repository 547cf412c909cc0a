from __future__ import annotations

import os
import socket
from pathlib import Path

import platformdirs
import pytest

from kylo_outbox.local import paths


def test_empty_home_does_not_put_the_cache_at_the_root(monkeypatch, tmp_path):
    """An empty HOME means the home of the account, not the root of the file system."""
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    first, second = paths.cache_dirs(tmp_path)
    assert first.is_absolute()
    assert len(first.parts) > 3
    assert second == tmp_path / "cache"


def test_cache_that_cannot_be_made_is_passed_over(tmp_path):
    """Without a writable home the downloads are kept in the data directory."""
    (tmp_path / "file").touch()
    chosen = paths.first_writable((tmp_path / "file" / "cache", tmp_path / "data" / "cache"))
    assert chosen == tmp_path / "data" / "cache"
    assert chosen.is_dir()


def test_data_dir_is_absolute(monkeypatch, tmp_path):
    """The folder of the stack does not change with the working directory of its processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KYLO_DATA_DIR", "")
    assert paths.data_dir() == tmp_path / ".kylo"
    monkeypatch.setenv("KYLO_DATA_DIR", "elsewhere")
    assert paths.data_dir() == tmp_path / "elsewhere"


def test_taken_port_is_seen():
    """A port with a listener is not free, and listens."""
    with socket.socket() as taken:
        taken.bind((paths.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not paths.is_free(port)
        assert paths.listens(port)
    assert not paths.listens(port)


@pytest.mark.skipif(os.name == "nt", reason="accounts without a home are a POSIX matter")
def test_relative_cache_is_not_used(monkeypatch, tmp_path):
    """An account whose home is unknown must not get a folder named ~ in the working directory."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: Path("~/.cache/kylo-outbox"))
    monkeypatch.setenv("HOME", "/somewhere")
    assert paths.cache_dirs(tmp_path) == (tmp_path / "cache",)
