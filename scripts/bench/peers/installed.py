"""Which programs of others are installed for a comparison, and how to install them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.local.paths import data_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_HOW = {
    "debezium": "python3 scripts/dev.py bench relay --install debezium",
    "faststream": "python3 scripts/dev.py bench relay --install faststream",
}


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
        if peer not in _HOW:
            raise ValueError(f"--with {peer}: the peers are {', '.join(_HOW)}")
        if not is_installed(peer):
            raise ValueError(f"--with {peer}: it is not installed. Run: {_HOW[peer]}")
    return peers
