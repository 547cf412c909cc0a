"""Where the threads of a process stand: what is left to know of one that hangs."""

from __future__ import annotations

import sys
import threading
import traceback


def standing() -> list[str]:
    """One text for each other thread that runs Python: its name and its stack, files and lines, no values."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    return [
        f"thread {names.get(number, number)}:\n" + "".join(traceback.format_stack(frame)).rstrip()
        for number, frame in sys._current_frames().items()  # noqa: SLF001 - the standard library's own way
        if number != here
    ]
