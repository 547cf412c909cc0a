from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kylo_outbox.local import paths, processes
from kylo_outbox.local.kafka import LocalKafka
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from pathlib import Path


def write(server: LocalKafka, *values: bytes) -> None:
    """Make the topic and wait until the broker has acknowledged the values."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
    producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all"})
    for value in values:
        producer.produce("kept", value)
    assert producer.flush(30) == 0


def read(server: LocalKafka, count: int) -> list[bytes]:
    """Read the topic from its beginning."""
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe(["kept"])
        found = [message.value() for message in consumer.consume(count, 30) if message.error() is None]
        return [value for value in found if isinstance(value, bytes)]
    finally:
        consumer.close()


def test_acknowledged_records_survive_kill_and_stop(own_kafka):
    """After kill -9 and after an orderly stop the broker starts again with everything that it acknowledged."""
    write(own_kafka, b"one", b"two")
    for end in (own_kafka.kill, own_kafka.stop):
        end()
        assert not own_kafka.is_running()
        own_kafka.start()
    assert read(own_kafka, 2) == [b"one", b"two"]


def test_stale_state_foreign_pid_and_second_starter(own_kafka):
    """Another process sees the running broker; a remembered pid of somebody else is left alone at the next start."""
    other = LocalKafka(
        own_kafka.data_dir, own_kafka.port, own_kafka.controller_port, log_file=own_kafka.log_file, heap="384m"
    )
    other.start()
    assert other.handle() == own_kafka.handle()
    processes.kill(own_kafka.handle())
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        processes.save_handle(own_kafka.data_dir / "server.json", processes.Handle(foreign.pid, 1.0))
        assert not other.is_running()
        other.kill()
        other.start()
        assert own_kafka.is_running()
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_ports_may_change_between_runs(own_kafka):
    """A broker that finds its ports taken later can be started on others and still has its records."""
    write(own_kafka, b"one")
    own_kafka.stop()
    moved = LocalKafka(
        own_kafka.data_dir, paths.free_port(), paths.free_port(), log_file=own_kafka.log_file, heap="384m"
    )
    try:
        moved.start()
        assert read(moved, 1) == [b"one"]
    finally:
        moved.kill()


def test_taken_port_is_named(own_kafka):
    """A port of another program gives one line with the remedy, before anything is started."""
    folder: Path = own_kafka.data_dir.parent / "second"
    second = LocalKafka(folder, own_kafka.port, paths.free_port(), log_file=folder / "log")
    with pytest.raises(Unreachable, match=f"port {own_kafka.port} is taken"):
        second.start()
    assert not second.is_running()
