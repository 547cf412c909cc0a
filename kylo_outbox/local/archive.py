"""Kafka's classes, loaded and checked once and kept in a file that the JVM maps: the broker starts in half the time.

The JVM makes such an archive when a program ends in order. So a broker runs once for nothing, right after the jars
came, and all later ones are quick. Only a speed-up: whatever goes wrong here, brokers start without it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

from kylo_outbox.local.locks import exclusive
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_DUMP_SECONDS = 60


def flags(folder: Path, java: Path, jars: Sequence[Path], *, train: Callable[[list[str]], None]) -> list[str]:
    """Return the JVM's flags for a quick start, making the archive first when there is none for this JVM and jars.

    Args:
        folder: where archives are kept, shared by all clones; a second process waits while one is made.
        java: the JVM's program.
        jars: the class path; an archive holds for exactly these files.
        train: run a broker with the given flags from start to orderly end.
    """
    if os.name == "nt":  # no orderly end from outside there, and so no archive
        return []
    key = _key(java, jars)
    base, archive, failed = (folder / f"{name}-{key}{end}" for name, end in _NAMES)
    with exclusive(folder / "archive.lock"):
        if not archive.exists() and not failed.exists():
            try:
                _make(java, base, archive, train)
            except (Unreachable, OSError, subprocess.SubprocessError) as error:
                # Told once, in a file beside it: nobody needs this to work, and no start should try it again.
                failed.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
    return [f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"] if archive.exists() else []


_NAMES = (("jvm", ".jsa"), ("kafka", ".jsa"), ("kafka", ".failed"))


def _make(java: Path, base: Path, archive: Path, train: Callable[[list[str]], None]) -> None:
    # The wheel's JVM comes without the archive of its own classes on which every other one is built. It keeps its
    # name: the second archive refers to it.
    subprocess.run(  # noqa: S603 - the wheel's own program
        [java, "-Xshare:dump", f"-XX:SharedArchiveFile={base}"],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_DUMP_SECONDS,
    )
    unfinished = archive.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    train([f"-XX:SharedArchiveFile={base}", f"-XX:ArchiveClassesAtExit={unfinished}"])
    unfinished.replace(archive)


def _key(java: Path, jars: Sequence[Path]) -> str:
    digest = hashlib.sha256((java.parent.parent / "release").read_bytes())
    for jar in jars:
        # The JVM itself refuses an archive whose jars have changed since.
        digest.update(f"{jar} {jar.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
