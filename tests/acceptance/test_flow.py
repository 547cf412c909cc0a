"""Flow 1 with real processes: from a POST to rows in tabs, on both paths, in shadow mode and out of it."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import pytest

from tests.helpers.pipeline import Pipeline, transaction, wait_until

RUNBOOK = [
    {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": -12.34, "description": "STARBUCKS"},
    {"id": "t2", "company_id": "711", "date": "2025-08-26", "amount": 45.67, "description": "WALMART"},
    {"id": "t3", "company_id": "710", "date": "2025-08-26", "amount": 10.00, "description": "UNKNOWN"},
]


@pytest.fixture(scope="module")
def pipeline(module_folder):
    """The whole stack; each test has companies of its own on it."""
    pipeline = Pipeline(module_folder)
    pipeline.up()
    for company in ("710", "711", "720", "721", "730", "731"):
        pipeline.ok("company", "add", company, "--spreadsheet", f"book-{company}", "--schema", f"app_{company}")
    yield pipeline
    pipeline.tell()
    pipeline.down()


def restart(pipeline: Pipeline, *parts: str, **settings: str) -> None:
    """Start parts again with other settings."""
    pipeline.extra |= settings
    for part in parts:
        pipeline.restart(part)


def sources(pipeline: Pipeline, company: str) -> list[str]:
    """The column Source of a company's Pending tab."""
    return [row[2] for row in pipeline.tab(f"book-{company}", f"{company} Pending")]


def refusal(pipeline: Pipeline, transactions: list[dict[str, Any]]) -> tuple[int, Any]:
    """(status, problem) of a post that must be refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        pipeline.post(transactions)
    with refused.value as answer:
        return answer.code, json.load(answer)


def unprocessed(pipeline: Pipeline) -> int:
    """The answer to the question in people's fingers."""
    return pipeline.rows("SELECT COUNT(*) FROM outbox WHERE processed_at IS NULL")[0][0]


@pytest.mark.timeout(300)
def test_the_runbook(pipeline):
    """The runbook's payload lands in both tabs; a second identical post does nothing; the runbook's queries answer."""
    first = pipeline.post(RUNBOOK)
    assert first == {"ok": True, "items_published": 2}
    wait_until(lambda: sorted(sources(pipeline, "710")) == ["STARBUCKS", "UNKNOWN"], 30, "the tab of 710")
    wait_until(lambda: sources(pipeline, "711") == ["WALMART"], 30, "the tab of 711")
    posts = pipeline.rows(
        "SELECT company_id, tab_name, batch_signature, row_count, created_at "
        "FROM control.sheet_posts ORDER BY created_at DESC"
    )
    assert {(post[0], post[1], post[3]) for post in posts} == {("710", "710 Pending", 2), ("711", "711 Pending", 1)}
    events = pipeline.rows("select count(*) from outbox")
    assert pipeline.post(RUNBOOK) == first
    assert pipeline.rows("select count(*) from outbox") == events
    assert pipeline.rows(
        "SELECT company_id, COUNT(*) as pending_count FROM app.pending_txns WHERE status = 'open' "
        "GROUP BY company_id ORDER BY 1"
    ) == [("710", 2), ("711", 1)]
    assert pipeline.rows("select count(*) from app_710.pending_txns") == [(2,)]
    wait_until(lambda: unprocessed(pipeline) == 0, 10, "everything is processed")
    health = pipeline.get("/health/kafka")
    assert health["status"] == "healthy"
    assert health["producer"] == {"connected": True}
    assert health["publisher"]["unprocessedEvents"] == 0
    assert b"password" not in json.dumps(pipeline.get("/health/kafka/stats")).encode()


@pytest.mark.timeout(300)
def test_a_bad_batch_is_refused_whole(pipeline):
    """Every fault is named with its path, and nothing of the batch is stored."""
    before = pipeline.rows("select count(*) from intake.batches")
    bad = [RUNBOOK[0], {**RUNBOOK[1], "amount": "12.345"}, {**RUNBOOK[2], "date": "2025-13-01"}]
    code, problem = refusal(pipeline, bad)
    assert code == 422
    assert any("transactions[1].amount" in str(fault) for fault in problem["errors"])
    assert any("transactions[2].date" in str(fault) for fault in problem["errors"])
    code, problem = refusal(pipeline, [{**RUNBOOK[0], "company_id": "999"}])
    assert code == 422
    assert "kylo-outbox company add" in str(problem["errors"])
    assert pipeline.rows("select count(*) from intake.batches") == before
    code, problem = refusal(pipeline, [{**RUNBOOK[0], "amount": -99}])
    assert code == 409
    assert "t1" in str(problem["errors"])


@pytest.mark.timeout(300)
def test_shadow_mode_posts_nothing_and_switching_it_on_posts_what_is_missing(pipeline):
    """In shadow mode there is no call and no sheet_posts row; afterwards the rows arrive."""
    restart(pipeline, "projectors", KYLO_SHEETS_POST="0")
    pipeline.post([transaction(1, "720"), transaction(2, "720"), transaction(1, "721")])
    pending = "select count(*) from app.pending_txns where company_id in ('720', '721')"
    wait_until(lambda: pipeline.rows(pending) == [(3,)], 30, "rows are pending")
    wait_until(lambda: unprocessed(pipeline) == 0, 30, "everything is processed")
    assert pipeline.rows("select count(*) from control.sheet_posts where company_id in ('720', '721')") == [(0,)]
    assert sources(pipeline, "720") == []
    restart(pipeline, "projectors", KYLO_SHEETS_POST="1")
    wait_until(lambda: len(sources(pipeline, "720")) == 2, 60, "the tab of 720")
    wait_until(lambda: len(sources(pipeline, "721")) == 1, 60, "the tab of 721")


@pytest.mark.timeout(300)
def test_there_and_back_between_kafka_and_the_direct_path(pipeline):
    """The switch is turned at any moment; what lies unread in Kafka is absorbed later; nothing is lost or doubled."""
    pipeline.post([transaction(1, "730")])
    wait_until(lambda: len(sources(pipeline, "730")) == 1, 30, "over Kafka")
    # Published and left unread: the projectors are away when the switch is turned.
    pipeline.stop("projectors")
    pipeline.post([transaction(2, "730"), transaction(2, "731")])
    wait_until(lambda: unprocessed(pipeline) == 0, 30, "it lies in Kafka")
    restart(pipeline, "relay", ROUTE_VIA_KAFKA="0")
    pipeline.post([transaction(3, "730")])
    wait_until(lambda: len(sources(pipeline, "730")) == 3, 60, "directly, with what lay unread")
    wait_until(lambda: len(sources(pipeline, "731")) == 1, 60, "directly, with what lay unread")
    pipeline.kill("kafka")
    pipeline.post([transaction(4, "730")])
    wait_until(lambda: len(sources(pipeline, "730")) == 4, 60, "directly, without any broker")
    wait_until(lambda: unprocessed(pipeline) == 0, 30, "a row handed over directly counts as processed")
    pipeline.start("kafka")
    restart(pipeline, "relay", ROUTE_VIA_KAFKA="1", ROUTE_VIA_KAFKA_COMPANIES="731")
    pipeline.start("projectors")
    pipeline.post([transaction(5, "730"), transaction(5, "731")])
    wait_until(lambda: len(sources(pipeline, "730")) == 5, 60, "the canary list leaves 730 on the direct path")
    wait_until(lambda: len(sources(pipeline, "731")) == 2, 60, "731 travels over Kafka again")
    restart(pipeline, "relay", ROUTE_VIA_KAFKA_COMPANIES="")
    pipeline.post([transaction(6, "730")])
    wait_until(lambda: len(sources(pipeline, "730")) == 6, 60, "over Kafka again")
    wait_until(
        lambda: pipeline.rows("select coalesce(sum(duplicates), 0) > 0 from kylo.positions") == [(True,)],
        60,
        "what lay unread was absorbed",
    )
    hashes = [row[0] for row in pipeline.tab("book-730", "730 Pending")]
    assert len(hashes) == len(set(hashes)) == 6
    assert pipeline.rows("select count(*) from kylo.dead_letters") == [(0,)]
