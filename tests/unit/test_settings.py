"""Settings: where they are read, what stops the start, what is only warned about, and that no value is ever told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.settings import Settings, known_names, load

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-value-nobody-may-see"


@pytest.fixture
def no_file(tmp_path: Path) -> Path:
    """A `.env` that does not exist."""
    return tmp_path / "absent"


def read(no_file: Path, **environ: str) -> Settings:
    """Settings of an environment alone."""
    return load(environ, no_file)


def test_defaults(no_file: Path):
    """Nothing set: Kafka is the road, nothing is posted, only this machine is served."""
    found = read(no_file)
    assert (found.route_via_kafka, found.all_via_kafka, found.sheets_post) == (True, True, False)
    assert (found.http_host, found.http_port, found.relay_interval) == ("127.0.0.1", 8080, None)
    assert (found.topic_txns, found.topic_promote) == ("txns.company.batches", "rules.promote.requests")
    assert (found.group_txns, found.group_promote) == ("kylo-workers-txns", "kylo-workers-promote")
    assert (found.pg_dsn_rw, found.kafka_brokers, found.sheets_endpoint) == (None, None, None)


def test_env_file_is_read_and_the_environment_wins(tmp_path: Path):
    """A name in both places has the environment's value; the others come from the file."""
    file = tmp_path / ".env"
    file.write_text("KYLO_HTTP_PORT=9000\nexport KYLO_LOG_LEVEL='debug'\n# KYLO_NOTHING=1\nKAFKA_BROKERS=file:1\n")
    found = load({"KYLO_HTTP_PORT": "9001"}, file)
    assert (found.http_port, found.log_level, found.kafka_brokers) == (9001, "DEBUG", "file:1")


def test_env_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a path it is `.env` in the working directory, and what references look up includes it."""
    (tmp_path / ".env").write_text("PG_DSN_710=host=h\n")
    monkeypatch.chdir(tmp_path)
    assert load({}).environ["PG_DSN_710"] == "host=h"


def test_every_fault_is_listed_at_once(no_file: Path):
    """One start shows all that must be mended, each by its name."""
    with pytest.raises(Misconfigured) as caught:
        read(
            no_file,
            KYLO_HTTP_PORT="99999",
            KYLO_SHEETS_POST="perhaps",
            KYLO_RELAY_INTERVAL="soon",
            KYLO_LOG_LEVEL="LOUD",
            KYLO_LOG_FORMAT="xml",
            KAFKA_SECURITY_PROTOCOL="TLS",
            KYLO_RELAY_FENCING="all",
            KYLO_SHEETPOST="1",
        )
    for name in ("KYLO_HTTP_PORT", "KYLO_SHEETS_POST", "KYLO_RELAY_INTERVAL", "KYLO_LOG_LEVEL", "KYLO_LOG_FORMAT"):
        assert f"{name}: " in str(caught.value)
    for name in ("KAFKA_SECURITY_PROTOCOL", "KYLO_RELAY_FENCING", "KYLO_SHEETPOST"):
        assert f"{name}: " in str(caught.value)


@pytest.mark.parametrize(
    "name", sorted(name for name in known_names() if name.startswith(("KYLO_", "KAFKA_", "ROUTE_VIA_KAFKA")))
)
def test_no_value_in_a_message(no_file: Path, name: str, caplog: pytest.LogCaptureFixture):
    """Whatever a name is set to, neither the error nor the warning shows it."""
    with caplog.at_level(logging.DEBUG), pytest.raises(Misconfigured) as caught:
        load({name: SECRET, "KYLO_NO_SUCH": SECRET, "KAFKA_NO_SUCH": SECRET}, no_file)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


def test_secrets_stay_out_of_the_repr(no_file: Path):
    """Settings may be printed while somebody looks for a fault."""
    secret = {
        "PG_DSN_RW": f"postgresql://u:{SECRET}@h/d",
        "KAFKA_SASL_PASSWORD": SECRET,
        "KAFKA_SSL_KEY_PASSWORD": SECRET,
        "KYLO_API_TOKENS": f"me:operator:{SECRET}",
        "KYLO_WEBHOOK_SECRETS": SECRET,
        "UNRELATED": SECRET,
    }
    found = load(secret, no_file)
    assert SECRET not in repr(found)
    assert SECRET not in found.model_dump_json(exclude={"pg_dsn_rw"} | _secret_fields())
    assert set(found.secrets()) == {SECRET, f"me:operator:{SECRET}"}


def _secret_fields() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if not field.repr}


@pytest.mark.parametrize("name", ["KYLO_SHEETS_POSTS", "KYLO_", "KYLO_HTTP_PORT_", "KYLO_SHEETS_POST_CHECK"])
def test_an_unknown_name_of_ours_stops_the_start(no_file: Path, name: str):
    """A typing error in a safety switch must not pass."""
    with pytest.raises(Misconfigured, match=f"{name}: unknown name"):
        load({name: "1"}, no_file)


def test_names_that_kubernetes_injects_are_ignored(no_file: Path):
    """A Service called kylo-api puts these into every pod of its namespace."""
    load(
        {
            "KYLO_API_SERVICE_HOST": "10.0.0.7",
            "KYLO_API_SERVICE_PORT": "8080",
            "KYLO_API_SERVICE_PORT_HTTP": "8080",
            "KYLO_API_PORT": "tcp://10.0.0.7:8080",
            "KYLO_API_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        },
        no_file,
    )


def test_old_names_and_unsafe_values_are_one_warning(no_file: Path, caplog: pytest.LogCaptureFixture):
    """The old services' `.env` starts; what is not followed is named once, with what holds instead."""
    with caplog.at_level(logging.WARNING):
        load(
            {
                "KAFKA_ENABLE_AUTO_COMMIT": "true",
                "KAFKA_AUTO_OFFSET_RESET": "latest",
                "KAFKA_ACKS": "1",
                "KAFKA_HEAP_OPTS": "-Xmx1g",
                "KAFKA_ZOOKEEPER_CONNECT": "zookeeper:2181",
                "KAFKA_GROUP_ID": "zamaz-debate-group",
                "KAFKA_RETRIES": "3",
            },
            no_file,
        )
    [record] = caplog.records
    line = record.getMessage()
    for part in ("KAFKA_HEAP_OPTS", "KAFKA_ZOOKEEPER_CONNECT", "KAFKA_ENABLE_AUTO_COMMIT (always false here)"):
        assert part in line
    assert "KAFKA_AUTO_OFFSET_RESET (always earliest here)" in line
    assert "KAFKA_ACKS (always all here)" in line
    for part in ("KAFKA_GROUP_ID", "KAFKA_RETRIES", "latest", "2181"):
        assert part not in line


def test_safe_old_values_are_no_warning(no_file: Path, caplog: pytest.LogCaptureFixture):
    """Who has set what holds anyway hears nothing."""
    with caplog.at_level(logging.WARNING):
        read(no_file, KAFKA_ENABLE_AUTO_COMMIT="False", KAFKA_AUTO_OFFSET_RESET="earliest", KAFKA_ACKS="all")
    assert not caplog.records


def test_bootstrap_servers_is_the_same_as_brokers(no_file: Path):
    """Both names of the address work; ours wins where both are set."""
    assert read(no_file, KAFKA_BOOTSTRAP_SERVERS="a:1").kafka_brokers == "a:1"
    assert read(no_file, KAFKA_BOOTSTRAP_SERVERS="a:1", KAFKA_BROKERS="b:2").kafka_brokers == "b:2"


def test_blank_is_unset(no_file: Path):
    """An empty value, as compose files pass it, is no address and no credential."""
    found = read(
        no_file,
        PG_DSN_RW="  ",
        KAFKA_BROKERS="",
        KYLO_SHEETS_ENDPOINT="",
        GOOGLE_APPLICATION_CREDENTIALS="",
        KYLO_API_TOKENS="",
        ROUTE_VIA_KAFKA_COMPANIES="",
        KYLO_RELAY_INTERVAL="",
    )
    assert (found.pg_dsn_rw, found.kafka_brokers, found.sheets_endpoint, found.google_credentials) == (None,) * 4
    assert (found.api_tokens, found.route_via_kafka_companies, found.relay_interval) == ((), (), None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604800.0), ("30m", 1800.0), ("5", 5.0), ("5s", 5.0), ("1.5h", 5400.0), (" 2 m ", 120.0), ("0", 0.0)],
)
def test_durations(no_file: Path, text: str, seconds: float):
    """Seconds, or a number with s, m, h or d."""
    assert read(no_file, KYLO_OUTBOX_RETENTION=text).outbox_retention == seconds


@pytest.mark.parametrize("text", ["-5", "7 days", "1w", "d", "1h30m", "nan"])
def test_durations_that_are_none(no_file: Path, text: str):
    """What is not understood, negative or no finite time stops the start."""
    with pytest.raises(Misconfigured, match="KYLO_OUTBOX_RETENTION"):
        read(no_file, KYLO_OUTBOX_RETENTION=text)


@pytest.mark.parametrize("name", ["KYLO_OUTBOX_RETENTION", "KYLO_RELAY_INTERVAL"])
def test_for_ever_is_no_duration(no_file: Path, name: str):
    """A relay that looks again after an infinite time would look once."""
    with pytest.raises(Misconfigured, match=name):
        load({name: "inf"}, no_file)


@pytest.mark.parametrize(("text", "seconds"), [("adaptive", None), ("5", 5.0), ("200m", 12000.0), ("0.2", 0.2)])
def test_relay_interval(no_file: Path, text: str, seconds: float | None):
    """Adaptive, or a fixed time between looks."""
    assert read(no_file, KYLO_RELAY_INTERVAL=text).relay_interval == seconds


def test_relay_interval_of_nothing(no_file: Path):
    """No pause at all is no interval."""
    with pytest.raises(Misconfigured, match="KYLO_RELAY_INTERVAL"):
        read(no_file, KYLO_RELAY_INTERVAL="0")


@pytest.mark.parametrize(
    ("switch", "companies", "over_kafka", "every_one"),
    [
        ("1", "", {"710", "711", "712"}, True),
        ("1", "710, 712", {"710", "712"}, False),
        ("1", "710", {"710"}, False),
        ("0", "", set(), False),
        ("0", "710", set(), False),
    ],
)
def test_canary_list(no_file: Path, switch: str, companies: str, over_kafka: set[str], every_one: bool):
    """Empty means all; a list lets only these over Kafka; the switch at 0 lets nobody."""
    found = read(no_file, ROUTE_VIA_KAFKA=switch, ROUTE_VIA_KAFKA_COMPANIES=companies)
    assert {company for company in ("710", "711", "712") if found.via_kafka(company)} == over_kafka
    assert found.all_via_kafka is every_one


def test_a_company_is_matched_whole(no_file: Path):
    """710 in the list lets neither 71 nor 7100 through."""
    found = read(no_file, ROUTE_VIA_KAFKA_COMPANIES="710")
    assert not found.via_kafka("71")
    assert not found.via_kafka("7100")


def test_settings_do_not_change(no_file: Path):
    """They are read once; nobody turns a switch behind another's back."""
    with pytest.raises(ValueError, match="frozen"):
        read(no_file).sheets_post = True
