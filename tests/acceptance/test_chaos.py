"""The whole road under fire: processes killed with -9, PostgreSQL and Kafka killed and started again."""

from __future__ import annotations

import random
import threading
from functools import partial

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
    """5,000 transactions as 250 requests; each company's come in the order of their numbers."""
    dice = random.Random(seed)
    left = {company: iter(range(1, PER_COMPANY + 1)) for company in COMPANIES}
    everything = [company for company in COMPANIES for _ in range(PER_COMPANY)]
    dice.shuffle(everything)
    ordered = [transaction(next(left[company]), company) for company in everything]
    return [list(part) for part in zip(*[iter(ordered)] * 20, strict=True)]


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 8))])
def test_every_transaction_arrives_exactly_once_and_in_order(pipeline, seed):
    """5,000 transactions, 14 kills: each once in its table and tab, per company in order, repeats absorbed."""
    requests = batches(seed)
    done, calm = threading.Event(), threading.Event()

    def post_all() -> None:
        for request in requests:
            pipeline.post_until_taken(request)
            # Spread over the faults, so that each of them meets work in hand.
            calm.wait(0.2)
        done.set()

    client = threading.Thread(target=post_all)
    client.start()
    dice = random.Random(seed)
    faults = FAULTS.copy()
    dice.shuffle(faults)
    for part in faults:
        pipeline.kill(part)
        done.wait(dice.random())
        pipeline.start(part)
        done.wait(dice.random() * 1.5)
    calm.set()
    client.join(300)
    assert done.is_set()

    def open_items() -> list[tuple[str, str]]:
        sql = (
            "select p.company_id, t.txn_id, p.seq from kylo.pending_txns p "
            "join kylo.transactions t using (company_id, txn_uid) order by p.company_id, p.seq"
        )
        return [row[:2] for row in pipeline.rows(sql) + pipeline.rows(sql, "elsewhere")]

    wait_until(lambda: len(open_items()) >= 20 * PER_COMPANY, 60, "all transactions are pending")
    items = open_items()
    assert len(items) == len(set(items)) == 20 * PER_COMPANY
    for company in COMPANIES:
        order = [batch for batch, _ in first_seen(pipeline, company)]
        assert order == sorted(order), f"company {company} was applied out of order"

    def in_tabs() -> int:
        return sum(len(pipeline.tab("rules", f"{company} Pending")) for company in COMPANIES)

    wait_until(lambda: in_tabs() >= 20 * PER_COMPANY, 120, "all rows are in the tabs")
    for company in COMPANIES:
        hashes = [row[0] for row in pipeline.tab("rules", f"{company} Pending")]
        database = "elsewhere" if company in OWN_DATABASE else "kylo"
        uids = pipeline.rows(f"select txn_uid::text from app.pending_txns where company_id = '{company}'", database)
        assert sorted(hashes) == sorted(uid for (uid,) in uids)
    absorbed = "select coalesce(sum(duplicates), 0)::int from kylo.positions"
    assert pipeline.rows(absorbed)[0][0] + pipeline.rows(absorbed, "elsewhere")[0][0] > 0
    for database in ("kylo", "elsewhere"):
        left = partial(pipeline.rows, "select count(*) from outbox where processed_at is null", database)
        wait_until(lambda left=left: left() == [(0,)], 30, f"nothing is left unprocessed in {database}")  # type: ignore[misc]
        assert pipeline.rows("select count(*) from kylo.dead_letters", database) == [(0,)]


def first_seen(pipeline: Pipeline, company: str) -> list[tuple[int, int]]:
    """(batch, seq) of a company's items in the order in which they were left open."""
    database = "elsewhere" if company in OWN_DATABASE else "kylo"
    sql = f"select first_seen_batch, seq from kylo.pending_txns where company_id = '{company}' order by seq"
    return pipeline.rows(sql, database)
