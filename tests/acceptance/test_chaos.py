"""The whole road under fire: processes killed with -9, PostgreSQL and Kafka killed and started again."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from tests.helpers.pipeline import Pipeline, transaction, wait_until

COMPANIES = [f"{700 + number}" for number in range(20)]
OWN_DATABASE = COMPANIES[15:]
FAULTS = ["relay"] * 5 + ["projectors"] * 5 + ["postgres"] * 2 + ["kafka"] * 2
PER_COMPANY = 250


@pytest.fixture
def pipeline(own_folder):
    """The whole stack with 20 companies, five of them in a database of their own."""
    pipeline = Pipeline(own_folder)
    pipeline.up()
    pipeline.postgres().create_database("elsewhere")
    dsn = own_folder / "elsewhere.dsn"
    dsn.write_text(pipeline.postgres().dsn("elsewhere"))
    # The old runbook's way: rows in the table, then `migrate`.
    insert = (
        "insert into control.company_config "
        "(company_id, db_dsn_rw, db_schema, spreadsheet_id, tab_pending, tab_active) "
        "values (%s, %s, %s, 'rules', %s, %s)"
    )
    with psycopg.connect(pipeline.postgres().dsn()) as connection:
        for company in COMPANIES:
            where = f"file:{dsn}" if company in OWN_DATABASE else pipeline.postgres().dsn()
            connection.execute(insert, (company, where, f"app_{company}", f"{company} Pending", f"{company} Active"))
    pipeline.ok("migrate")
    yield pipeline
    pipeline.tell()
    pipeline.down()


def batches(seed: int) -> list[list[dict[str, object]]]:
    """5,000 transactions as 1,000 requests; each company's come in the order of their numbers."""
    dice = random.Random(seed)
    left = {company: iter(range(1, PER_COMPANY + 1)) for company in COMPANIES}
    everything = [company for company in COMPANIES for _ in range(PER_COMPANY)]
    dice.shuffle(everything)
    ordered = [transaction(next(left[company]), company) for company in everything]
    return [list(part) for part in zip(*[iter(ordered)] * 5, strict=True)]


def post_under_fire(pipeline: Pipeline, seed: int) -> None:
    """Post everything while one part after the other is killed and started again."""
    done, calm = threading.Event(), threading.Event()

    def post_all() -> None:
        for request in batches(seed):
            pipeline.post_until_taken(request)
            # Spread over the faults and dense, so that each of them meets work in hand.
            calm.wait(0.02)
        done.set()

    client = threading.Thread(target=post_all)
    client.start()
    dice = random.Random(seed)
    for part in dice.sample(FAULTS, len(FAULTS)):
        pipeline.kill(part)
        done.wait(dice.random())
        pipeline.start(part)
        done.wait(dice.random() * 1.5)
    calm.set()
    client.join(300)
    assert done.is_set()


def home(company: str) -> str:
    """The database in which a company lives."""
    return "elsewhere" if company in OWN_DATABASE else "kylo"


def both(pipeline: Pipeline, sql: str) -> list[tuple[Any, ...]]:
    """The answer of both stores."""
    return pipeline.rows(sql) + pipeline.rows(sql, "elsewhere")


def in_tabs(pipeline: Pipeline) -> int:
    """How many rows all tabs hold."""
    return sum(len(pipeline.tab("rules", f"{company} Pending")) for company in COMPANIES)


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 8))])
def test_every_transaction_arrives_exactly_once_and_in_order(pipeline, seed):
    """5,000 transactions, 14 kills: each once in its table and tab, per company in order, repeats absorbed."""
    post_under_fire(pipeline, seed)
    items = (
        "select p.company_id, t.txn_id from kylo.pending_txns p join kylo.transactions t using (company_id, txn_uid)"
    )
    wait_until(lambda: len(both(pipeline, items)) >= 20 * PER_COMPANY, 60, "all transactions are pending")
    assert len(both(pipeline, items)) == len(set(both(pipeline, items))) == 20 * PER_COMPANY
    wait_until(lambda: in_tabs(pipeline) >= 20 * PER_COMPANY, 120, "all rows are in the tabs")
    for company in COMPANIES:
        sql = f"select txn_uid::text, first_seen_batch from app.pending_txns where company_id = '{company}'"
        hashes = [row[0] for row in pipeline.tab("rules", f"{company} Pending")]
        assert sorted(hashes) == sorted(uid for uid, _ in pipeline.rows(sql, home(company)))
        order = pipeline.rows(
            f"select first_seen_batch from kylo.pending_txns where company_id = '{company}' order by seq", home(company)
        )
        assert order == sorted(order), f"company {company} was applied out of order"
    assert sum(row[0] for row in both(pipeline, "select coalesce(sum(duplicates), 0)::int from kylo.positions")) > 0
    open_events = "select count(*) from outbox where processed_at is null"
    wait_until(lambda: both(pipeline, open_events) == [(0,), (0,)], 30, "nothing is left unprocessed")
    assert both(pipeline, "select count(*) from kylo.dead_letters") == [(0,), (0,)]
