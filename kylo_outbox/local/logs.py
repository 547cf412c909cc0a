"""The log files of the local parts: kept at a sane size, and shown to people while they grow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LIMIT = 20_000_000
_LOOK_SECONDS = 0.2


def trim(log_file: Path) -> None:
    """Put a log that grew over 20 MB aside as `.1` before its part starts anew; one older copy is kept."""
    if log_file.exists() and log_file.stat().st_size > _LIMIT:
        log_file.replace(log_file.with_suffix(log_file.suffix + ".1"))


def read(log_file: Path, *, lines: int, follow: bool) -> Iterator[str]:
    """Yield the last `lines` of a log, and with `follow` what is added from then on, without end.

    A log that does not exist yet is made. Growth is looked for five times a second: no event for it exists on all
    platforms.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.touch()
    with log_file.open(encoding="utf-8", errors="replace") as stream:
        yield from stream.readlines()[-lines:]
        while follow:
            line = stream.readline()
            if line:
                yield line
            else:
                time.sleep(_LOOK_SECONDS)
