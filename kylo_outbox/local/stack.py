"""The whole local stack: two servers and four processes of the pipeline, remembered in one state file."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kylo_outbox import settings
from kylo_outbox.local import logs, parts, paths, processes
from kylo_outbox.local.kafka import LocalKafka
from kylo_outbox.local.locks import exclusive
from kylo_outbox.local.parts import PARTS, PIPELINE, SERVERS, PartState
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.local.state import StackFile
from kylo_outbox.model.errors import Misconfigured, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kylo_outbox.local.processes import Handle

_READY_SECONDS = 60.0
_DRAIN_SECONDS = 20.0
_TOOL_SECONDS = 300.0
_PARTLY = 4
_WANTED_API_PORT = 8080


class Stack:
    """The local stack of one data directory; any number of objects and processes may look at the same one.

    Whatever runs is found again through `stack.json` (pid and creation time), so a stack that was killed is adopted or
    cleaned at the next start, and no process that is not provably of this directory is ever signalled.

    Args:
        data_dir: where everything lies; two directories are two stacks that do not disturb each other.
        isolated: ignore `PG_DSN_RW`, `KAFKA_BROKERS` and every other setting of the environment and of `.env`. Without
            it, servers that are named there are used instead of being started.
        say: told in one line what happens, for people.
    """

    def __init__(self, data_dir: Path, *, isolated: bool = False, say: Callable[[str], None] | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self._isolated = isolated
        self._say = say or (lambda line: None)  # noqa: ARG005 - nobody listens
        self._file = StackFile(self.data_dir / "stack.json")
        self.external = {} if isolated else self._named_elsewhere()

    # -- the verbs

    def up(
        self,
        *,
        fresh: bool = False,
        port: int | None = None,
        stack_only: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Start whatever does not run yet, migrate, declare the topics, and return when everything serves.

        Args:
            fresh: end what runs and begin with empty servers; servers named by the environment keep their data.
            port: port of the API; remembered.
            stack_only: PostgreSQL, Kafka and the Sheets stand-in only, without schema and pipeline.
            meanwhile: what needs the schema only (companies to add, say), done while the rest starts.

        Raises:
            Unreachable: a part does not start; what this call started has been stopped again.
        """
        with exclusive(self.data_dir / "stack.lock"):
            if fresh:
                self._end(PARTS)
                self._wipe()
            before = {state.name for state in self.status() if state.state == "running"}
            self._choose_ports(port, with_api=not stack_only)
            try:
                self._bring_up(meanwhile, stack_only=stack_only)
            except BaseException:
                self._end([part for part in PARTS if part not in before])
                raise

    def down(self) -> None:
        """End every part, the pipeline first so that it can finish what it holds. Data stay."""
        with exclusive(self.data_dir / "stack.lock"):
            self._end(PARTS)

    def start(self, part: str) -> None:
        """Start one part; nothing when it runs.

        Raises:
            Misconfigured: there is no such part, or it is not ours to start.
            Unreachable: it does not start.
        """
        self._own(part)
        with exclusive(self.data_dir / "stack.lock"):
            self._choose_ports(None, with_api=part == "api")
            self._start(part)

    def stop(self, part: str) -> None:
        """End one part in order; the others go on and wait for it."""
        self._own(part)
        with exclusive(self.data_dir / "stack.lock"):
            self._end([part])

    def restart(self, part: str) -> None:
        """End one part in order and start it again."""
        self.stop(part)
        self.start(part)

    def kill(self, part: str) -> None:
        """End one part with kill -9, as a crash would; its state stays `crashed` until it is started again."""
        self._own(part)
        handle = self._handle(part)
        if handle is not None:
            processes.kill(handle)

    def status(self) -> list[PartState]:
        """Return what is known about every part, in the order of their start. Asks processes, not ports."""
        return [self._state_of(part) for part in PARTS]

    def env(self) -> dict[str, str]:
        """Return the settings of this stack by environment name, for its parts and for programs beside it.

        Raises:
            NotReady: the stack has never been started.
        """
        api = self._file.port("api")
        found = {
            "PG_DSN_RW": self.external.get("postgres") or self.postgres().dsn(),
            "KAFKA_BROKERS": self.external.get("kafka") or self.kafka().bootstrap,
            "KYLO_API_URL": parts.url("api", api),
            "KYLO_SHEETS_ENDPOINT": self.external.get("sheets") or parts.url("sheets", self._file.port("sheets")),
            "KYLO_SHEETS_POST": "1" if self._isolated else os.environ.get("KYLO_SHEETS_POST", "1"),
            "KYLO_HTTP_PORT": str(api) if api else None,
            "KYLO_DATA_DIR": str(self.data_dir),
        }
        return {name: value for name, value in found.items() if value}

    def log_file(self, part: str) -> Path:
        """Return the file that a part's output is added to."""
        return self.data_dir / "logs" / f"{part}.log"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one `kylo-outbox` command against this stack and return its answer, output captured as text."""
        return subprocess.run(  # noqa: S603 - our own command
            parts.own_command(*words),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=self._environment(),
            cwd=self._folder(),
            timeout=_TOOL_SECONDS,
        )

    def postgres(self) -> LocalPostgres:
        """Return the PostgreSQL of this stack, running or not."""
        return LocalPostgres(
            self.data_dir / "postgres", self._file.port("postgres") or 0, log_file=self.log_file("postgres")
        )

    def kafka(self) -> LocalKafka:
        """Return the broker of this stack, running or not."""
        return LocalKafka(
            self.data_dir / "kafka",
            self._file.port("kafka") or 0,
            self._file.port("controller") or 0,
            log_file=self.log_file("kafka"),
            progress=self._fetching,
        )

    # -- starting

    def _bring_up(self, meanwhile: Callable[[], None] | None, *, stack_only: bool) -> None:
        # The broker needs longest; the schema, and what needs only the schema, is ready by the time that it listens.
        with ThreadPoolExecutor(2, thread_name_prefix="up") as pool:
            broker = pool.submit(self._start, "kafka")
            self._start("postgres")
            beside = None
            if not stack_only:
                self._do("migrate")
                beside = pool.submit(meanwhile) if meanwhile else None
                self._launch("sheets")
                self._launch("api")
            broker.result()
            if not stack_only:
                # The relay needs no topic of its own and starts meanwhile; events of a missing one would wait in it.
                self._launch("relay")
                self._do("topics", "apply")
                self._launch("projectors")
            if beside is not None:
                beside.result()
        for part in ("sheets",) if stack_only else PIPELINE:
            self._start(part)
        if not stack_only:
            self._await_flow()

    def _start(self, part: str) -> None:
        if part in PIPELINE:
            self._launch(part)
            self._await(part)
            self._say(f"{parts.title(part)} is up")
        elif part not in self.external and self._handle(part) is None:
            begun = time.monotonic()
            self._say(f"{parts.title(part)} starts")
            logs.trim(self.log_file(part))
            server = self.postgres() if part == "postgres" else self.kafka()
            server.start()
            handle = server.handle()
            if handle is not None:
                self._file.remember(part, handle, self._file.port(part), self.log_file(part))
            self._say(f"{parts.title(part)} is up after {time.monotonic() - begun:.1f} s")

    def _launch(self, part: str) -> None:
        if part in self.external or self._handle(part) is not None:
            return
        logs.trim(self.log_file(part))
        port = self._file.port(part)
        argv = parts.command(part, port)
        handle = processes.start(argv, log_file=self.log_file(part), env=self._environment(), cwd=self._folder())
        self._file.remember(part, handle, port, self.log_file(part))

    def _await(self, part: str) -> None:
        if part in self.external:
            return
        port = self._file.port(part)
        processes.await_ready(
            lambda: self._handle(part) is not None and parts.is_ready(part, port),
            part=parts.title(part),
            handle=self._handle(part) or processes.Handle(0, 0.0),
            log_file=self.log_file(part),
            timeout=_READY_SECONDS,
        )

    def _await_flow(self) -> None:
        """Wait until the API says that events flow, which it knows from the relay's heartbeat."""
        health = f"{parts.url('api', self._file.port('api'))}/health/kafka"
        relay = self._handle("relay") or processes.Handle(0, 0.0)
        processes.await_ready(
            lambda: parts.answers(health),
            part="relay",
            handle=relay,
            log_file=self.log_file("relay"),
            timeout=_READY_SECONDS,
        )
        self._await("projectors")
        self._say("events flow")

    def _do(self, *words: str) -> None:
        begun = time.monotonic()
        name = " ".join(words)
        done = self.run(*words)
        log_file = self.log_file(words[0])
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("a", encoding="utf-8") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode not in {0, _PARTLY}:
            raise Unreachable(name, f"it ended with {done.returncode}{processes.tail_of(log_file)}", _whole(log_file))
        partly = f", but only partly: see {log_file}" if done.returncode == _PARTLY else ""
        self._say(f"{name} is done after {time.monotonic() - begun:.1f} s{partly}")

    # -- ending

    def _end(self, names: Iterable[str]) -> None:
        """End parts in the opposite order of their start; those of one floor at once."""
        doomed = set(names) - self.external.keys()
        for floor in (("projectors", "relay", "api"), ("sheets",), SERVERS):
            running = [part for part in floor if part in doomed]
            with ThreadPoolExecutor(len(floor), thread_name_prefix="end") as pool:
                list(pool.map(self._end_one, running))

    def _end_one(self, part: str) -> None:
        handle = self._handle(part)
        if part == "postgres":
            self.postgres().stop()
        elif part == "kafka":
            self.kafka().stop()
        elif handle is not None:
            processes.stop(handle, grace=_DRAIN_SECONDS)
        self._file.forget(part)
        if handle is not None:
            self._say(f"{parts.title(part)} has ended")

    def _wipe(self) -> None:
        for name in ("postgres", "kafka", "sheets", "logs"):
            if (self.data_dir / name).exists():
                shutil.rmtree(self.data_dir / name)

    # -- inside

    def _own(self, part: str) -> None:
        if part not in PARTS:
            raise Misconfigured(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
        if part in self.external:
            raise Misconfigured(f"{part} is named by the environment and not ours to start or stop")

    def _handle(self, part: str) -> Handle | None:
        if part == "postgres":
            return self.postgres().handle()
        if part == "kafka":
            return self.kafka().handle()
        handle = self._file.handle(part)
        return handle if handle is not None and handle.alive() else None

    def _state_of(self, part: str) -> PartState:
        if part in self.external:
            address = self.external[part] if part == "sheets" else None
            return PartState(part, "external", None, None, address, None)
        handle = self._handle(part)
        port = self._file.port(part)
        log = str(self.log_file(part)) if self.log_file(part).exists() else None
        if handle is not None:
            return PartState(part, "running", handle.pid, port, parts.url(part, port), log)
        remembered = self._file.handle(part) is not None
        return PartState(part, "crashed" if remembered else "stopped", None, port, None, log)

    def _choose_ports(self, api: int | None, *, with_api: bool) -> None:
        """Keep the remembered ports; choose another where a program that is not ours sits on one meanwhile."""
        if api is not None and api != self._file.port("api"):
            if not paths.is_free(api):
                raise Unreachable("API", f"port {api} is taken by another program", "Choose another with --port.")
            # A running API would go on listening on its old port.
            self._end(["api"])
            self._file.set_port("api", api)
        # A port that nobody is going to listen on yet would be chosen by another stack too.
        for name in ("postgres", "kafka", "controller", "sheets", *(["api"] if with_api else [])):
            port = self._file.port(name)
            running = self._handle("kafka" if name == "controller" else name) is not None
            if port is not None and (running or paths.comes_free(port)):
                continue
            wanted = _WANTED_API_PORT if name == "api" and port is None else None
            new = wanted if wanted is not None and paths.is_free(wanted) else self._file.free_port()
            if port is not None:
                self._say(f"port {port} is taken by another program: {name} moves to {new}")
            self._file.set_port(name, new)

    def _environment(self) -> dict[str, str]:
        return parts.environment(self.env(), isolated=self._isolated)

    def _folder(self) -> Path | None:
        # `.env` is read from the working directory; in its own folder an isolated stack finds none.
        return self.data_dir if self._isolated else None

    def _named_elsewhere(self) -> dict[str, str]:
        """Return the servers that the environment or `.env` names, apart from our own (after `eval "$(... env)"`)."""
        known = settings.load()
        named = {"postgres": known.pg_dsn_rw, "kafka": known.kafka_brokers, "sheets": known.sheets_endpoint}
        own: dict[str, Any] = {}
        if self._file.port("postgres") and (self.data_dir / "postgres" / "password").exists():
            own["postgres"] = self.postgres().dsn()
        if self._file.port("kafka"):
            own["kafka"] = self.kafka().bootstrap
        own["sheets"] = parts.url("sheets", self._file.port("sheets"))
        return {part: value for part, value in named.items() if value and value != own.get(part)}

    def _fetching(self, done: int, total: int) -> None:
        self._say(f"Kafka is fetched for the first time: {done} of {total} files")
        if done == total:
            self._say("Kafka is made ready for quick starts, once on this machine (some 15 s)")


def _whole(log_file: Path) -> str:
    return f"The whole log: {log_file}."
