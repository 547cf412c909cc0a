"""The state file of the stack: which ports it chose and which processes it started."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kylo_outbox.local import paths, processes

if TYPE_CHECKING:
    from pathlib import Path

    from kylo_outbox.local.processes import Handle


class StackFile:
    """`stack.json`: `{"ports": {name: port}, "parts": {name: {pid, create_time, port, log}}}`.

    Read anew at each question, because another process may have changed it, and replaced as a whole at each change.
    Safe for threads of one process; writers of several processes hold the stack's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def port(self, name: str) -> int | None:
        """Return the remembered port of a part, None before the first start."""
        port = self._read("ports").get(name)
        return port if isinstance(port, int) else None

    def set_port(self, name: str, port: int) -> None:
        """Remember the port of a part."""
        self._change("ports", name, port)

    def free_port(self) -> int:
        """Return a free port that no other part of this stack has been given."""
        taken = set(self._read("ports").values())
        while (port := paths.free_port()) in taken:
            pass
        return port

    def handle(self, part: str) -> Handle | None:
        """Return the process that was started for a part, running or not."""
        return processes.handle_from(self._read("parts").get(part) or {})

    def remember(self, part: str, handle: Handle, port: int | None, log: Path) -> None:
        """Note the process of a part."""
        self._change("parts", part, asdict(handle) | {"port": port, "log": str(log)})

    def forget(self, part: str) -> None:
        """Note that a part was ended on purpose."""
        self._change("parts", part, None)

    def _read(self, section: str) -> dict[str, Any]:
        found = processes.load_json(self._path).get(section)
        return found if isinstance(found, dict) else {}

    def _change(self, section: str, name: str, value: Any) -> None:
        with self._lock:
            whole = processes.load_json(self._path)
            entries = dict(whole.get(section) or {})
            if value is None:
                entries.pop(name, None)
            else:
                entries[name] = value
            processes.save_json(self._path, whole | {section: entries})
