"""A real cluster of two brokers, one of which a test may kill: its partitions have no leader then."""

from __future__ import annotations

import subprocess
import uuid
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient, NewTopic

from kylo_outbox.local import paths
from kylo_outbox.local.kafka import LocalKafka

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "400"}


class _Joined(LocalKafka):
    """A broker that joins the cluster of another one instead of making its own."""

    def __init__(self, folder: Path, first: LocalKafka) -> None:
        self._first = first
        port = paths.free_port()
        super().__init__(
            folder / "second",
            port,
            paths.free_port(),
            log_file=folder / "second.log",
            heap="256m",
            settings=_SETTINGS
            | {
                "process.roles": "broker",
                "node.id": "2",
                "listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "controller.quorum.voters": f"1@127.0.0.1:{first.controller_port}",
            },
        )

    def _format(self, java: list[str]) -> None:
        written = (self._first.data_dir / "data" / "meta.properties").read_text()
        [cluster] = [line.partition("=")[2] for line in written.splitlines() if line.startswith("cluster.id=")]
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._config)],
            check=True,
            capture_output=True,
            timeout=120,
        )


class TwoBrokers:
    """Broker 1 keeps the cluster together and must live; `second` may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.first = LocalKafka(
            folder / "first",
            paths.free_port(),
            paths.free_port(),
            log_file=folder / "first.log",
            heap="384m",
            settings=_SETTINGS,
        )
        self.second = _Joined(folder, self.first)

    @property
    def bootstrap(self) -> str:
        """The address of broker 1."""
        return self.first.bootstrap

    def start(self) -> None:
        """Start both."""
        self.first.start()
        self.second.start()

    def make_topic(self, leaders: list[int], *, together: bool = False) -> str:
        """A topic whose partition n has its one copy on the broker `leaders[n]`; its name.

        With `together`, one partition with a copy on each of them, and none is enough.
        """
        name = f"t-{uuid.uuid4().hex[:10]}"
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        copies = [leaders] if together else [[broker] for broker in leaders]
        config = {"min.insync.replicas": str(len(copies[0]))}
        wanted = NewTopic(name, len(copies), replica_assignment=copies, config=config)
        for future in admin.create_topics([wanted]).values():
            future.result(60)
        return name
