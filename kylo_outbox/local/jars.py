"""The jars of Apache Kafka: fetched once by jgo, checked against pinned sums, kept for all clones."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kylo_outbox.local.locks import exclusive
from kylo_outbox.model.errors import NotReady, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PINS = "kafka-jars.sha256"
# Central answers a request in some tenths of a second and the jars are small: several at once hide that wait.
_PARALLEL = 8
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Jar:
    """One pinned jar: its Maven coordinate and the sum that its bytes must have."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file name; artifact names are unique in the list."""
        return f"{self.artifact}-{self.version}.jar"


def pinned() -> tuple[Jar, ...]:
    """Return the jars of the pinned list, in the order of the class path."""
    text = files("kylo_outbox.local").joinpath(PINS).read_text(encoding="ascii")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(_jar(coordinate, digest) for digest, coordinate in lines)


def _jar(coordinate: str, digest: str) -> Jar:
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, digest)


def class_path(
    cache: Path,
    *,
    jars: Sequence[Jar] | None = None,
    fetch: Callable[[Jar, Path], Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Return the jars on disk, fetching those that are missing or whose bytes are not the pinned ones.

    With everything in the cache nothing is asked of the network. Several processes may do this at once: one fetches,
    the others wait; a file appears under its name only when it is whole and right.

    Args:
        cache: folder for downloads; the jars are put below it.
        jars: what to have, the pinned list when None.
        fetch: brings one jar into a folder and returns its path; jgo's resolver when None.
        progress: told (jars in place, jars in all) while it fetches.

    Raises:
        Unreachable: the repository does not answer, or its bytes were wrong twice.
    """
    wanted = pinned() if jars is None else tuple(jars)
    fetch = fetch or _fetch_with_jgo
    folder = cache / "kafka-jars"
    with exclusive(folder / "fetch.lock"):
        missing = [jar for jar in wanted if not _is_right(folder / jar.name, jar)]
        if missing:
            there = len(wanted) - len(missing)
            _fetch_all(missing, folder, fetch, lambda done: progress and progress(there + done, len(wanted)))
    return [folder / jar.name for jar in wanted]


def _fetch_all(
    missing: Sequence[Jar], folder: Path, fetch: Callable[[Jar, Path], Path], progress: Callable[[int], object]
) -> None:
    # Folders of a fetch that was killed: only one process is here at a time, so they belong to nobody.
    for stale in folder.glob("fetch-*"):
        shutil.rmtree(stale)
    progress(0)
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as work,
        ThreadPoolExecutor(_PARALLEL, thread_name_prefix="jars") as pool,
    ):
        jobs = [pool.submit(_fetch_one, jar, folder, Path(work), fetch) for jar in missing]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                progress(done)
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch_one(jar: Jar, folder: Path, work: Path, fetch: Callable[[Jar, Path], Path]) -> None:
    """Fetch a jar, once more when its bytes are wrong or the line broke, and put it in its place."""
    fault = ""
    for attempt in ("first", "second"):
        try:
            got = fetch(jar, work / f"{jar.name}.{attempt}")
        except (OSError, RuntimeError) as error:  # what `requests` and jgo raise
            fault = f"{jar.name}: {type(error).__name__}"
            continue
        if _is_right(got, jar):
            got.replace(folder / jar.name)
            return
        fault = f"{jar.name} does not have its pinned checksum"
    raise Unreachable(
        "the Maven repository",
        fault,
        f"Check the connection and its proxy, then try again; what was right is kept in {folder}.",
    )


def _fetch_with_jgo(jar: Jar, into: Path) -> Path:
    """Fetch one jar through jgo's own resolver into a repository folder of its own."""
    if find_spec("jgo") is None:
        raise NotReady('Kafka for the local stack is not installed: pip install "kylo-outbox[local]"')
    from jgo.maven import MavenContext  # noqa: PLC0415 - a second of import, needed for a download only

    context = MavenContext(repo_cache=into, timeout=_TIMEOUT_SECONDS)
    path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return Path(path)


def _is_right(path: Path, jar: Jar) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False
