"""What the local stack consists of: its parts by name, how each pipeline part is run and asked whether it is ready."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import kylo_outbox
from kylo_outbox.local.paths import LOOPBACK, listens

# In the order of their start; they end in the opposite order.
SERVERS = ("postgres", "kafka")
PIPELINE = ("sheets", "api", "relay", "projectors")
PARTS = SERVERS + PIPELINE

_TITLES = {"postgres": "PostgreSQL", "kafka": "Kafka", "sheets": "Sheets stand-in", "api": "API"}
_VERBS = {
    "sheets": ("sheets-emulator", "--port", "{port}"),
    # They wait for a server that is just coming back; nobody else would start them again here.
    "api": ("serve", "--wait"),
    "relay": ("relay", "--wait"),
    "projectors": ("project", "--all", "--wait"),
}
_ANSWER_SECONDS = 2.0
_OK = 200

# What would make an isolated stack (demo, tests) follow the settings of the person who starts it.
_OURS = ("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION_CREDENTIALS")

State = Literal["running", "stopped", "crashed", "external"]


@dataclass(frozen=True)
class PartState:
    """What is known about one part at one moment; `external` parts are used but neither started nor stopped here."""

    name: str
    state: State
    pid: int | None
    port: int | None
    url: str | None
    log: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the stable shape of `status --json`."""
        return asdict(self)


def title(part: str) -> str:
    """Return the name of a part as people read it."""
    return _TITLES.get(part, part)


def command(part: str, port: int | None) -> list[str]:
    """Return the command that runs a pipeline part, with the Python that runs us."""
    return own_command(*(word.format(port=port) for word in _VERBS[part]))


def own_command(*words: str) -> list[str]:
    """Return `kylo-outbox` with some words, as a command that needs no search path."""
    return [sys.executable, "-m", "kylo_outbox", *words]


def url(part: str, port: int | None) -> str | None:
    """Return the address that a person can open, None for parts without a page."""
    return f"http://{LOOPBACK}:{port}" if part in {"api", "sheets"} and port else None


def is_ready(part: str, port: int | None) -> bool:
    """Tell whether a running part serves already; parts without a port are ready as soon as they run."""
    if part == "api":
        return answers(f"http://{LOOPBACK}:{port}/livez")
    return listens(port) if part == "sheets" and port else True


def answers(address: str) -> bool:
    """Tell whether an address of this machine answers with 200."""
    return get(address) is not None


def get(address: str) -> bytes | None:
    """Return the body of an answer with status 200, None for anything else: refused, slow, another status."""
    try:
        # No proxy: it is this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=_ANSWER_SECONDS) as answer:
            body: bytes = answer.read()
            return body if answer.status == _OK else None
    except (OSError, urllib.error.URLError):
        return None


def environment(names: dict[str, str], *, isolated: bool) -> dict[str, str]:
    """Return the environment of a part: ours, with `names` on top and this package importable.

    Args:
        names: what the stack sets.
        isolated: leave out every setting of the product and of libpq that the caller's environment has.
    """
    kept = {name: value for name, value in os.environ.items() if not (isolated and name.startswith(_OURS))}
    package = str(Path(kylo_outbox.__file__).parent.parent)
    found = [package, *filter(None, [kept.get("PYTHONPATH")])]
    return kept | names | {"PYTHONPATH": os.pathsep.join(found), "PYTHONUNBUFFERED": "1"}
