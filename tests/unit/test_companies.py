"""Companies and topics as values: defaults, and everything that is refused before it is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.companies import DEFAULT_DSN, Company, checked, default_schema, new_company
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.model.topics import DAY_MS, dead_letter_name, declared, default_topic


def test_defaults_of_a_company():
    """An id and a workbook are enough."""
    company = new_company("710", "book")
    assert (company.dsn_ref, company.schema) == (DEFAULT_DSN, "app_710")
    assert (company.tab_pending, company.tab_active) == ("710 Pending", "710 Active")
    assert not company.paused


@pytest.mark.parametrize(
    ("company_id", "schema"), [("710", "app_710"), ("ACME Ltd.", "app_acme_ltd_"), ("Müller", "app_m_ller")]
)
def test_default_schema(company_id, schema):
    """What a schema name cannot hold becomes an underscore."""
    assert default_schema(company_id) == schema


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"company_id": ""}, "company_id: must be 1 to 50"),
        ({"company_id": "x" * 51, "schema": "app_x"}, "company_id: must be 1 to 50"),
        ({"company_id": " 710"}, "company_id: must not begin"),
        ({"company_id": "7\x0010"}, "company_id: must not begin"),
        ({"schema": "App"}, "schema: must begin"),
        ({"schema": "a" * 42}, "schema: must begin"),
        ({"schema": "app;drop"}, "schema: must begin"),
        ({"schema": "kylo"}, "schema: kylo belongs"),
        ({"schema": "pg_catalog"}, "schema: pg_catalog belongs"),
        ({"dsn_ref": " "}, "dsn: must not be empty"),
        ({"spreadsheet_id": " "}, "spreadsheet: must be"),
        ({"tab_pending": "x" * 101}, "tab_pending: must be"),
        ({"tab_active": "710 Pending"}, "tab_active: must differ"),
    ],
)
def test_what_a_company_cannot_be(changes, fault):
    """Every fault is named by its field."""
    with pytest.raises(Refused) as refused:
        new_company(**{"company_id": "710", "spreadsheet_id": "book"} | changes)
    assert any(line.startswith(fault) for line in refused.value.faults)


def test_all_faults_at_once_and_no_secret():
    """A person corrects once; the connection string is never repeated."""
    with pytest.raises(Refused) as refused:
        new_company("", "", dsn_ref="postgresql://u:hunter2@h/d", schema="1")
    assert len(refused.value.faults) == 3
    assert "hunter2" not in str(refused.value)


def test_company_keeps_its_dsn_out_of_repr():
    """What is logged by accident holds no password."""
    assert "hunter2" not in repr(new_company("710", "book", dsn_ref="postgresql://u:hunter2@h/d"))


@given(st.text(min_size=1, max_size=36))
def test_default_schema_is_always_acceptable(company_id):
    """Whatever an id holds, its schema is a name that PostgreSQL and we accept."""
    company = Company(company_id, "env:X", default_schema(company_id), "book", "p", "a")
    assert checked(replace(company, company_id="710")).schema == company.schema


def test_declared_topics():
    """Names, partitions and days as the old systems' users know them, and dead letter topics with more room."""
    topics = {topic.name: topic for topic in declared("txns.company.batches", "rules.promote.requests")}
    assert topics["txns.company.batches"].partitions == 16
    assert topics["rules.promote.requests"].partitions == 8
    assert {"pending.ready", "tabs.changed"} <= topics.keys()
    sources = [topic for name, topic in topics.items() if not name.endswith(".dlq")]
    assert len(topics) == 2 * len(sources)
    for source in sources:
        grave = topics[source.dead_letter]
        assert source.retention_ms == 7 * DAY_MS
        assert (grave.retention_ms, grave.partitions) == (30 * DAY_MS, source.partitions)
        assert grave.max_bytes > source.max_bytes
        assert grave.dead_letter == grave.name


@pytest.mark.parametrize("names", [("a", "a"), ("pending.ready", "a"), ("a", "a.dlq")])
def test_two_topics_of_one_name_are_refused(names):
    """Settings that make two topics one cannot be followed."""
    with pytest.raises(Misconfigured, match="two topics at once"):
        declared(*names)


def test_names_of_dead_letter_topics():
    """The wallets' keeps its old name, and dead letters have no dead letters."""
    assert dead_letter_name("wallet-events") == "wallet-events-dlq"
    assert dead_letter_name("wallet-events-dlq") == "wallet-events-dlq"
    assert dead_letter_name("a.b") == "a.b.dlq"
    assert dead_letter_name("a.b.dlq") == "a.b.dlq"
    assert default_topic("x").on_poison == "hold"
