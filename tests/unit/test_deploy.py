"""The files of deployment against the code: commands, names of settings, pinned images; read as text, without YAML."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

import kylo_outbox
from kylo_outbox import settings
from kylo_outbox.cli import app
from kylo_outbox.flows.overview import RelayView, Snapshot, StoreView
from kylo_outbox.store.backlog import Backlog
from kylo_outbox.store.heartbeats import Heartbeat
from kylo_outbox.telemetry import metrics
from kylo_outbox.web.metrics import table_gauges
from kylo_outbox.wiring.projectors import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")
# libpq reads this one by itself; it keeps the password out of the address.
LIBPQ = {"PGPASSWORD"}
# For compose and its servers, never for our processes.
COMPOSE_ONLY = {"POSTGRES_PASSWORD", "PROMETHEUS_TOKEN", "PUBLISH_ON"}


def block(text: str, name: str, indent: int) -> str:
    """The lines below `name:` that are indented deeper than it."""
    head = " " * indent + re.escape(name) + r":.*\n"
    found = re.search(rf"^{head}((?: {{{indent + 1},}}.*\n|\n| *#.*\n)*)", text, re.MULTILINE)
    return found[1] if found else ""


def services() -> dict[str, str]:
    """Each service with its lines."""
    body = block(COMPOSE, "services", 0)
    return {name: block(body, name, 2) for name in re.findall(r"^  ([a-z-]+):$", body, re.MULTILINE)}


def ours() -> dict[str, str]:
    """The services that run our image."""
    return {name: text for name, text in services().items() if "<<: *kylo" in text}


def faults_of(words: Sequence[str]) -> list[str]:
    """What the command does not know of `words`: verbs and options (`company add 710 --spreadsheet X`)."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest and command.invoke_without_command:
            return []
        if not rest or rest[0] not in command.commands:
            return [f"no such verb: {' '.join(words)}"]
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    return [f"{' '.join(words)}: {word}" for word in rest if word.startswith("-") and word not in options]


def test_services_are_all_there():
    """The compose file has the servers, one service for each process of ours, and the two optional ones."""
    servers = {"postgres", "kafka", "prometheus", "sheets-door"}
    assert set(services()) == servers | {"migrate", "api", "relay", "projectors", "sheets"}
    assert set(ours()) == {"migrate", "api", "relay", "projectors", "sheets"}


@pytest.mark.parametrize("name", sorted(ours()))
def test_commands_exist(name: str):
    """What each service runs is a verb of the command, with options that it knows."""
    words = json.loads(re.search(r"^    command: (.*)$", ours()[name], re.MULTILINE)[1])  # type: ignore[index]
    if name == "migrate":
        commands = [found.split() for found in re.findall(r"kylo-outbox ([a-z ]+)", words[0])]
        assert commands == [["migrate"], ["topics", "apply"]]
    else:
        commands = [words]
    assert [fault for each in commands for fault in faults_of(each)] == []


def test_settings_are_known():
    """Every environment name that our processes are given is one that they read."""
    given = {name for text in (*ours().values(), block(COMPOSE, "x-settings", 0)) for name in _environment(text)}
    assert "PG_DSN_RW" in given
    assert given - LIBPQ - settings.known_names() == set()


def test_given_settings_can_be_followed():
    """The values of the compose file, with what env.example leaves unset filled in, load without a fault."""
    given = {}
    for line in (block(COMPOSE, "x-settings", 0) + block(ours()["api"], "environment", 4)).splitlines():
        if found := re.match(r" +([A-Z_]+): (.*)$", line):
            given[found[1]] = re.sub(
                r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{\w+:\?[^}]*\}", "me:operator:x", found[2])
            )
    loaded = settings.load(given, dotenv=ROOT / "no-such-file")
    assert loaded.http_host == "0.0.0.0"
    assert loaded.route_via_kafka
    assert not loaded.sheets_post
    assert loaded.sheets_endpoint is None


def test_images_are_pinned():
    """Every image has a tag that names a release; ours carries the version of the package."""
    images = re.findall(r"^ +image: (\S+)$", COMPOSE, re.MULTILINE) + re.findall(
        r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE
    )
    assert len(images) >= 7
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
    own = {image for image in images if image.startswith("kylo-outbox")}
    assert {image.rpartition(":")[2] for image in own} == {kylo_outbox.__version__}


def test_image_installs_locked_versions_only():
    """Each pip call that may fetch demands hashes and no resolving; the others have no index."""
    calls = re.findall(r"pip[^&\n]*(?:\\\n[^&\n]*)*? install[^&\n]*(?:\\\n[^&\n]*)*", DOCKERFILE)
    assert len(calls) == 4
    for call in calls:
        assert "--no-deps" in call
        assert ("--require-hashes" in call and "--only-binary :all:" in call) or "--no-index" in call


def test_build_lock_is_complete():
    """The lock file of the build tool pins every package with a hash, in the version of dev.txt where that has it."""
    build = (ROOT / "deploy" / "requirements" / "build.txt").read_text(encoding="utf-8")
    dev = (ROOT / "deploy" / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z-]+)==(\S+) \\\n +--hash=sha256:[0-9a-f]{64}", build, re.MULTILINE))
    assert set(pins) == set(re.findall(r"^([a-z-]+)==", build, re.MULTILINE))
    assert "hatchling" in pins
    shared = {name: version for name, version in re.findall(r"^([a-z-]+)==(\S+)", dev, re.MULTILINE) if name in pins}
    assert shared == {name: pins[name] for name in shared}


def test_images_run_as_a_plain_user():
    """Both images end as user 10001, and no file that may hold a secret is sent to the builder."""
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    sent = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert sent[1] == "*"
    assert not [line for line in sent if ".env" in line and line.startswith("!")]
    assert not re.search(r"^(ARG|ENV).*(PASSWORD|TOKEN|SECRET)", DOCKERFILE, re.MULTILINE)


def test_no_secret_has_a_default():
    """Passwords and tokens come from variables that must be set; the API's says why."""
    secret = re.findall(r"\$\{((?:\w+_)?(?:PASSWORD|TOKENS?))(:[-?])", COMPOSE)
    assert {name for name, _ in secret} == {"POSTGRES_PASSWORD", "KYLO_API_TOKENS"}
    assert {kind for _, kind in secret} == {":?"}
    assert "KYLO_API_TOKENS:?is needed because the API listens on every address" in COMPOSE


def test_every_variable_is_in_the_example():
    """env.example names every variable that the compose file asks for, and nothing that nobody reads."""
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE)) | set(re.findall(r"^    environment: (\w+)$", COMPOSE, re.MULTILINE))
    offered = set(re.findall(r"^([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    assert offered == asked
    assert offered - COMPOSE_ONLY - settings.known_names() == set()


def test_api_answers_on_the_old_ports():
    """Port 8080 of the API is published as 8080, 3000 and 8000, and its health check asks for readiness."""
    api = services()["api"]
    assert re.findall(r":(\d+):8080", api) == ["8080", "3000", "8000"]
    assert "/readyz" in block(api, "healthcheck", 4)


def test_kafka_tells_each_side_an_address_it_can_use():
    """Inside the network the broker is called by its name, outside localhost, and our processes use the inside."""
    kafka = services()["kafka"]
    assert "KAFKA_ADVERTISED_LISTENERS: INSIDE://kafka:29092,OUTSIDE://localhost:9092" in kafka
    assert "KAFKA_BROKERS: kafka:29092" in COMPOSE


def test_postgres_keeps_its_data():
    """The volume lies where the image of PostgreSQL 18 keeps its data, one folder above the former place."""
    assert "postgres:/var/lib/postgresql\n" in services()["postgres"]


@pytest.mark.parametrize("guide", ["docs/operations.md", "docker-compose.yml", "deploy/env.example", "CONTRIBUTING.md"])
def test_guides_name_commands_that_exist(guide: str):
    """Every `kylo-outbox ...` in a guide is a verb with options that exist."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    named = re.findall(
        r"(?:`|^ *(?:\$ )?|api )kylo-outbox ((?:[a-z][a-z-]*|--[a-z-]+)(?: [^`\s|#>]+)*)", text, re.MULTILINE
    )
    assert [fault for each in named for fault in faults_of(each.split())] == []
    for names in re.findall(r"kylo-outbox project ([a-z]+)", text):
        assert names in NAMES


def test_every_metric_is_in_the_guide():
    """docs/operations.md lists the metrics that a scrape shows, each once, and no other."""
    backlog = Backlog({"t": 1}, 1.0, True, {"t": 1}, {"t": 1}, 1, 1, 1.0)
    now = datetime.now(UTC)
    beat = Heartbeat("relay", "one", now, 1.0, {}, [])
    snapshot = Snapshot(now, (StoreView("s", backlog),), (beat,), RelayView())
    shown = {name for name, *_ in table_gauges(snapshot)}
    shown |= {
        f"{family.name}_total" if family.type == "counter" else family.name for family in metrics.REGISTRY.collect()
    }
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(kylo_\w+)` \|", guide, re.MULTILINE)
    assert sorted(listed) == sorted(shown)
    assert {name for name in re.findall(r"`(kylo_\w+)`", guide) if name not in shown} == set()


def _environment(text: str) -> list[str]:
    return re.findall(r"^ {2,6}([A-Z][A-Z_]+): ", text, re.MULTILINE)
