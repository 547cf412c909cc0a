"""Which programs of others are installed for a comparison, and their installation into `.kylo/bench/peers`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import venv
from typing import TYPE_CHECKING

from kylo_outbox.local.paths import data_dir
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NAMES = {"debezium": "Debezium Server", "faststream": "faststream-outbox"}
DEBEZIUM = "3.6.0.Final"
_DEBEZIUM_SHA256 = "901ce7b0b75b4dafaac4aa57dac6dfcad5937f96fb7159e25d22759bbf5192e4"
FASTSTREAM = ("faststream-outbox==0.19.0", "faststream[confluent]==0.7.8", "asyncpg>=0.30,<1", "sqlalchemy>=2,<3")
_INSTALL = "python3 scripts/dev.py bench relay --install"


def folder(peer: str) -> Path:
    """Where a peer is installed."""
    return data_dir() / "bench" / "peers" / peer


def is_installed(peer: str) -> bool:
    """Whether it was installed to the end."""
    return (folder(peer) / "installed").exists()


def known(peers: Sequence[str]) -> Sequence[str]:
    """The same peers, if each is known.

    Raises:
        ValueError: one is not; the message lists those that are.
    """
    for peer in peers:
        if peer not in NAMES:
            raise ValueError(f"no peer {peer}; there are {', '.join(NAMES)}")
    return peers


def require(peers: Sequence[str]) -> Sequence[str]:
    """The same peers, if each is known and installed.

    Raises:
        ValueError: one is not; the message says how to install it.
    """
    for peer in known(peers):
        if not is_installed(peer):
            raise ValueError(f"{NAMES[peer]} is not installed. Run: {_INSTALL} {peer}")
    return peers


def how(name: str) -> str:
    """How a peer, by its full name, comes into the run."""
    peer = next(short for short, full in NAMES.items() if full == name)
    return f"{_INSTALL} {peer}, then --with {peer}"


def install(peer: str, say: Callable[[str], None]) -> None:
    """Install a peer afresh.

    Raises:
        BenchFailed: it could not be fetched.
    """
    into = folder(peer)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    {"debezium": _install_debezium, "faststream": _install_faststream}[peer](into, say)
    (into / "installed").touch()
    say(f"{NAMES[peer]} is in {into}")


def _install_debezium(into: Path, say: Callable[[str], None]) -> None:
    """The distribution from Maven Central, 760 MB; it needs Java 21, which the wheel of our JVM has."""
    from jgo.maven import MavenContext  # noqa: PLC0415 - a second of import

    say(f"fetching Debezium Server {DEBEZIUM}: about 760 MB")
    context = MavenContext(repo_cache=into / "download", timeout=600)
    component = context.project("io.debezium", "debezium-server-dist").at_version(DEBEZIUM)
    try:
        archive = component.artifact("", "tar.gz").resolve()
    except (OSError, RuntimeError) as failed:
        raise BenchFailed(f"Debezium Server could not be fetched: {failed}") from None
    with archive.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != _DEBEZIUM_SHA256:
            raise BenchFailed("Debezium Server does not have its pinned checksum")
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    shutil.rmtree(into / "download")


def _install_faststream(into: Path, say: Callable[[str], None]) -> None:
    """An environment of its own, so that its dependencies meet none of ours."""
    say(f"installing {', '.join(FASTSTREAM)}")
    venv.create(into, with_pip=True)
    argv = [str(python(into)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *FASTSTREAM]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchFailed(f"faststream-outbox could not be installed: {done.stderr.strip()[-500:]}")


def python(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
