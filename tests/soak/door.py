"""A door in front of a server: what passes it can be cut, slowed down and held up."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

_CHUNK = 1 << 16
_HERE = "127.0.0.1"


class Door:
    """A port of this machine that leads to another one. The methods may be called from any thread.

    The port stays the same while the server behind it dies and comes back; who knocks meanwhile is refused.
    """

    def __init__(self, to: int) -> None:
        """Take a port; nothing passes before `open`."""
        self._to = to
        self._socket = socket.create_server((_HERE, 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._delay = 0.0
        # (near, far) by the port that the server sees; the newest, should a port have been given again.
        self._pairs: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._thread = threading.Thread(target=self._run, name=f"door {self.port}", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, with whatever is connected."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """Reset every connection at once."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def slow(self, seconds: float) -> None:
        """Pass each piece so much later."""
        self._delay = seconds

    def hold_up(self) -> None:
        """Pass nothing; connections stay open."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def as_usual(self) -> None:
        """Neither slow nor held up."""
        self._delay = 0.0
        self._loop.call_soon_threadsafe(self._passing.set)

    def knocker(self, seen: int) -> int | None:
        """The port of the client whose connection the server sees coming from port `seen`."""
        pair = self._pairs.get(seen)
        name = pair[0].get_extra_info("peername") if pair else None
        return int(name[1]) if name else None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()
        server.close()
        self._abort_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            answers, far = await asyncio.open_connection(_HERE, self._to)
        except OSError:
            near.transport.abort()
            return
        seen: int = far.get_extra_info("sockname")[1]
        pair = self._pairs[seen] = (near, far)
        try:
            ways = [asyncio.ensure_future(self._carry(reader, far)), asyncio.ensure_future(self._carry(answers, near))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            # While this connection was held up its server may have died, and its port may belong to another by now.
            if self._pairs.get(seen) is pair:
                del self._pairs[seen]
            for side in pair:
                side.close()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._passing.wait()
                target.write(data)
                await target.drain()

    def _abort_all(self) -> None:
        for pair in self._pairs.values():
            for side in pair:
                side.transport.abort()
