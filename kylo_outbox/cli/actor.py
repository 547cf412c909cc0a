"""Who is acting, for the audit: the account and the machine of whoever runs the command."""

from __future__ import annotations

import getpass
import socket
from contextlib import suppress


def who() -> str:
    """`user@host`."""
    name = "somebody"
    with suppress(OSError, KeyError, ImportError):  # an account without a name
        name = getpass.getuser()
    return f"{name}@{socket.gethostname()}"
