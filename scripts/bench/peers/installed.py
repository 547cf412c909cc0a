"""Which programs of others are installed for a comparison, and how to install them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.local.paths import data_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = {"debezium": "Debezium Server", "faststream": "faststream-outbox"}
_INSTALL = "python3 scripts/dev.py bench relay --install"


def folder(peer: str) -> Path:
    """Where a peer is installed."""
    return data_dir() / "bench" / "peers" / peer


def is_installed(peer: str) -> bool:
    """Whether its folder was made to the end."""
    return (folder(peer) / "installed").exists()


def require(peers: Sequence[str]) -> Sequence[str]:
    """The same peers, if each is known and installed.

    Raises:
        ValueError: one is not; the message says how to install it.
    """
    for peer in peers:
        if peer not in NAMES:
            raise ValueError(f"--with {peer}: the peers are {', '.join(NAMES)}")
        if not is_installed(peer):
            raise ValueError(f"--with {peer}: it is not installed. Run: {_INSTALL} {peer}")
    return peers


def how(name: str) -> str:
    """How a peer, by its full name, comes into the run."""
    peer = next(short for short, full in NAMES.items() if full == name)
    return f"{_INSTALL} {peer}, then --with {peer}"
