"""Flow 2 with real processes: from a proposal to resolved items, over Kafka, on the direct path, and after a move."""

from __future__ import annotations

import json
import threading

import pytest

from tests.helpers.pipeline import Pipeline, transaction, wait_until


@pytest.fixture(scope="module")
def pipeline(module_folder):
    """The whole stack, without posts to sheets; each test has a company of its own."""
    pipeline = Pipeline(module_folder, KYLO_SHEETS_POST="0")
    pipeline.up()
    for company in ("710", "720", "730"):
        pipeline.ok("company", "add", company, "--spreadsheet", f"book-{company}")
    yield pipeline
    pipeline.tell()
    pipeline.down()


def approve(pipeline: Pipeline, company: str, source: str) -> None:
    """Propose and approve one rule."""
    words = ("--source", source, "--sheet", "PETTY CASH", "--header", "Coffee", "--approve")
    pipeline.ok("rules", "propose", company, *words)


def promote(pipeline: Pipeline, company: str) -> dict[str, int]:
    """Ask for a promotion and wait for what it came to."""
    outcome = json.loads(pipeline.ok("rules", "promote", company, "--wait", "120", "--json"))["outcome"]
    assert outcome is not None
    return outcome


def still_open(pipeline: Pipeline, company: str, database: str = "kylo") -> int:
    """How many items of a company are open, as the runbook asks."""
    ask = f"SELECT COUNT(*) FROM app.pending_txns WHERE status = 'open' AND company_id = '{company}'"
    return pipeline.rows(ask, database)[0][0]


@pytest.mark.timeout(600)
def test_the_runbooks_second_flow(pipeline):
    """Open items, a proposal, a preview, a promotion over Kafka, the rule at work on what comes next, and undo."""
    pipeline.post([transaction(n, "710", description=text) for n, text in enumerate(("STARBUCKS", "Starbucks!", "X"))])
    wait_until(lambda: still_open(pipeline, "710") == 3, 60, "three are open")
    approve(pipeline, "710", "starbucks")
    assert json.loads(pipeline.ok("rules", "promote", "710", "--preview", "--json"))["would_resolve"] == 2
    done = promote(pipeline, "710")
    assert (done["version"], done["resolved"]) == (1, 2)
    assert still_open(pipeline, "710") == 1
    pipeline.post([transaction(7, "710", description="*starbucks*")])
    sorted_rows = "select count(*) from app.sort_queue where company_id = '710'"
    wait_until(lambda: pipeline.rows(sorted_rows) == [(3,)], 60, "the rule sorts what comes next")
    pipeline.ok("company", "pause", "710")
    undone = json.loads(pipeline.ok("rules", "undo", "710", "--yes", "--json"))
    assert (undone["version"], undone["reopened"]) == (0, 3)
    pipeline.ok("company", "resume", "710")
    assert promote(pipeline, "710")["version"] == 0
    assert still_open(pipeline, "710") == 4


@pytest.mark.timeout(600)
def test_promotion_on_the_direct_path(pipeline):
    """With ROUTE_VIA_KAFKA=0 and no broker the same request does the same; back over Kafka nothing doubles."""
    pipeline.post([transaction(1, "720", description="Shell")])
    wait_until(lambda: still_open(pipeline, "720") == 1, 60, "open")
    pipeline.extra["ROUTE_VIA_KAFKA"] = "0"
    pipeline.restart("relay")
    pipeline.stop("projectors")
    pipeline.kill("kafka")
    approve(pipeline, "720", "shell")
    assert promote(pipeline, "720")["resolved"] == 1
    pipeline.start("kafka")
    pipeline.extra["ROUTE_VIA_KAFKA"] = "1"
    pipeline.restart("relay")
    pipeline.start("projectors")
    assert promote(pipeline, "720")["resolved"] == 0
    history = json.loads(pipeline.ok("rules", "history", "720", "--json"))
    assert [each["resolved"] for each in history] == [0, 1]


@pytest.mark.timeout(600)
def test_a_company_moves_while_everything_runs(pipeline):
    """To a database of its own and back, over Kafka, while transactions come in: each is applied once."""
    pipeline.postgres().create_database("own")
    pipeline.extra["OWN"] = pipeline.postgres().dsn("own")
    for part in ("api", "relay", "projectors"):
        pipeline.restart(part)
    over = threading.Event()
    posted: list[int] = []

    def post() -> None:
        while not over.wait(0.1):
            pipeline.post_until_taken([transaction(len(posted) + 1, "730")])
            posted.append(1)

    poster = threading.Thread(target=post)
    poster.start()
    try:
        for reference in ("env:OWN", "env:PG_DSN_RW", "env:OWN"):
            pipeline.ok("company", "move", "730", "--dsn", reference, "--yes", "--patience", "120")
    finally:
        over.set()
        poster.join(60)
    wait_until(lambda: still_open(pipeline, "730", "own") == len(posted), 120, "everything is in the new home")
    assert still_open(pipeline, "730") == 0
    approve(pipeline, "730", "SHOP 1")
    assert promote(pipeline, "730")["resolved"] == 1
    for database in ("kylo", "own"):
        assert pipeline.rows("select count(*) from kylo.dead_letters", database) == [(0,)]
