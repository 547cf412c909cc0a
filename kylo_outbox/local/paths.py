"""Where the local stack keeps its files, and how it chooses its ports."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from pathlib import Path

import platformdirs

_OWN_PORTS = range(20_000, 32_000)
LOOPBACK = "127.0.0.1"
_APP = "kylo-outbox"


def data_dir() -> Path:
    """Return the folder of the local stack: `KYLO_DATA_DIR`, or `.kylo` in the working directory, as absolute path."""
    return Path(os.environ.get("KYLO_DATA_DIR") or ".kylo").absolute()


def cache_dirs(fallback: Path) -> tuple[Path, ...]:
    """Return the folders where downloads may be kept, best first: the platform's cache, then `fallback`/cache.

    The second is for accounts without a writable home; it is private to one data directory.
    """
    best = _platform_cache()
    own = fallback / "cache"
    # An account that the system does not know has `~` for a home, which would be a folder of the working directory.
    return (best, own) if best.is_absolute() else (own,)


def _platform_cache() -> Path:
    if os.environ.get("HOME") == "" and not os.environ.get("XDG_CACHE_HOME") and sys.platform != "win32":
        # An empty HOME would put the cache at the root of the file system; the account knows its home.
        import pwd  # noqa: PLC0415 - does not exist on Windows

        try:
            home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        except KeyError:
            home = Path(os.sep, "nonexistent")
        return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _APP
    return platformdirs.user_cache_path(_APP, appauthor=False)


def first_writable(folders: tuple[Path, ...]) -> Path:
    """Return the first folder that can be made and written to.

    Raises:
        OSError: none can; the error is that of the last.
    """
    for folder in folders[:-1]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    folders[-1].mkdir(parents=True, exist_ok=True)
    return folders[-1]


def free_port() -> int:
    """Return a TCP port that nobody listens on at this moment. It is not reserved: start its listener soon.

    It lies below the ports that systems give to outgoing connections: one of those would take the place of a server
    that is down for a moment, and whoever knows its address would wait for ever.
    """
    while not is_free(port := secrets.choice(_OWN_PORTS)):
        pass
    return port


def comes_free(port: int, seconds: float = 5.0) -> bool:
    """Wait up to `seconds` until a listener could be started on the port; whether it can."""
    until = time.monotonic() + seconds
    while not is_free(port):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def is_free(port: int) -> bool:
    """Tell whether a listener could be started on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            # Connections of an earlier listener that wait for their end do not hinder a new one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections on the port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False
