"""Rules in a store: triage, promotion, replay and undo set-based, as the pure functions of `model.rules` say."""

from __future__ import annotations

import random
import threading
import time

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kylo_outbox.model.errors import Conflict, KyloError, Refused, Transient
from kylo_outbox.model.rules import Rule, rules_in_force, triage
from kylo_outbox.store import company_state, pending, proposals, rules
from tests.helpers.rules import ingest, open_items, promote, rows, sorted_items, staged, undo

TEXTS = ["STARBUCKS", "Walmart*12", "UNKNOWN", "Shell Oil", "Metro 7", "Café"]


def active(database, company):
    """(source, sheet) of the rules in force, as the runbook's view shows them."""
    ask = "select source, target_sheet from app.rules_active where company_id = %s order by source"
    return rows(database, ask, company)


# Kylo's own tested behaviours (A6).


def test_four_transactions_and_one_rule(control_db):
    """One matches and three are open; a second version resolves one more; two stay open."""
    promote(control_db, "710", ("Starbucks", "PETTY CASH", "Coffee"))
    slice_ = [staged("710", f"t{n}", text) for n, text in enumerate(TEXTS[:4])]
    assert ingest(control_db, slice_) == {("710", 1): (1, 3, 1)}
    assert len(sorted_items(control_db, "710")) == 1
    second = promote(control_db, "710", ("WALMART 12", "BALANCE", "Food"))
    assert (second.version, second.resolved, second.rules) == (2, 1, 2)
    assert len(open_items(control_db, "710")) == 2


def test_three_replays_resolve_once(control_db):
    """1, 0, 0 and one row in the queue."""
    ingest(control_db, [staged("710", "t1", "STARBUCKS")])
    assert [promote(control_db, "710", *new).resolved for new in ([("starbucks", "A", "x")], [], [])] == [1, 0, 0]
    assert len(sorted_items(control_db, "710")) == 1
    assert [done.version for done in _history(control_db)] == [1, 1, 1]


def test_triage_of_a_repeat_gives_equal_counts_and_no_new_rows(control_db):
    """The same slice again changes nothing, also after a promotion; a resolved item stays resolved."""
    slice_ = [staged("710", "t1", "STARBUCKS"), staged("710", "t2", "x"), staged("710", "t2", "x")]
    assert ingest(control_db, slice_) == ingest(control_db, slice_)
    assert len(open_items(control_db, "710")) == 2
    promote(control_db, "710", ("starbucks", "A", "x"))
    ingest(control_db, slice_)
    assert rows(control_db, "select count(*) from kylo.pending_txns") == [(2,)]
    assert len(open_items(control_db, "710")) == 1
    assert len(sorted_items(control_db, "710")) == 1


def test_texts_are_kept_whole_and_no_rules_match_nothing(control_db):
    """1,000 characters, accents and symbols, a zero amount; a company without rules has everything open."""
    texts = ["é" * 1000, "Ünïcode €5 — Straße", ""]
    slice_ = [staged("710", f"t{n}", text, cents=0) for n, text in enumerate(texts)]
    assert ingest(control_db, slice_) == {("710", 1): (0, 3, 0)}
    found = rows(control_db, "select description from kylo.pending_txns order by seq")
    assert [row[0] for row in found] == texts
    assert ingest(control_db, []) == {}


def test_companies_never_use_each_others_rules(control_db):
    """One rule of 710 resolves nothing of 711, in triage and in replay (fault 5 of the old system)."""
    ingest(control_db, [staged("710", "t1", "STARBUCKS"), staged("711", "t1", "STARBUCKS")])
    assert promote(control_db, "710", ("starbucks", "A", "x")).resolved == 1
    both = [staged("710", "t2", "STARBUCKS", 2), staged("711", "t2", "STARBUCKS", 2)]
    assert ingest(control_db, both) == {("710", 2): (1, 0, 1), ("711", 2): (0, 1, 0)}
    assert len(open_items(control_db, "711")) == 2
    assert sorted_items(control_db, "711") == {}


# Versions.


def test_a_promotion_adds_and_the_last_source_wins(control_db):
    """Rules that were active stay (fault 8 of the old system); a second rule for a source takes its place."""
    promote(control_db, "710", ("Starbucks", "A", "x"), ("Shell", "A", "x"))
    promote(control_db, "710", ("STARBUCKS!", "B", "y"))
    assert active(control_db, "710") == [("STARBUCKS!", "B"), ("Shell", "A")]
    stored = "select version, count(*) from kylo.rules_active group by 1 order by 1"
    assert rows(control_db, stored) == [(1, 2), (2, 3)]
    ingest(control_db, [staged("710", "t1", "starbucks")])
    assert set(sorted_items(control_db, "710").values()) == {("B", "y")}


def test_a_stored_version_never_changes(control_db):
    """PostgreSQL itself refuses to change a version or to add rules to one that there is not."""
    promote(control_db, "710", ("Starbucks", "A", "x"))
    for sql in (
        "update kylo.rules_active set target_sheet = 'B'",
        "update kylo.rules_versions set created_at = now()",
        "insert into kylo.rules_active values ('710', 9, 1, 's', 's', 'A', 'x')",
    ):
        with pytest.raises(psycopg.Error), control_db.transaction() as tx:
            tx.execute(sql)


def test_the_same_rule_again_makes_no_version(control_db):
    """What holds already is promoted without a new version."""
    promote(control_db, "710", ("Starbucks", "A", "x"))
    again = promote(control_db, "710", ("STARBUCKS", "A", "x"))
    assert (again.former, again.version, again.rules) == (1, 1, 1)
    assert {each.state for each in _proposals(control_db)} == {"promoted"}


def test_undo_brings_the_former_version_back_and_reopens_what_it_had_resolved(control_db):
    """Exactly those items are open again; what the former version had resolved stays."""
    ingest(control_db, [staged("710", f"t{n}", text) for n, text in enumerate(TEXTS)])
    promote(control_db, "710", ("Starbucks", "A", "x"))
    before, sorted_before = open_items(control_db, "710"), sorted_items(control_db, "710")
    assert promote(control_db, "710", ("Walmart 12", "A", "x"), ("Shell Oil", "A", "x")).resolved == 2
    done = undo(control_db, "710")
    assert (done.former, done.version, done.reopened) == (2, 1, 2)
    assert open_items(control_db, "710") == before
    assert sorted_items(control_db, "710") == sorted_before
    assert active(control_db, "710") == [("Starbucks", "A")]
    assert undo(control_db, "710").version == 0
    assert len(open_items(control_db, "710")) == len(TEXTS)
    assert active(control_db, "710") == []
    with pytest.raises(Refused, match="nothing to undo"):
        undo(control_db, "710")


def test_undo_treats_what_came_meanwhile_as_if_the_version_had_never_been(control_db):
    """A match by an undone rule is open; one by an inherited rule stays; a changed target changes back."""
    promote(control_db, "710", ("Starbucks", "A", "x"), ("Shell Oil", "A", "x"))
    promote(control_db, "710", ("Starbucks", "B", "y"), ("Metro 7", "B", "y"))
    slice_ = [staged("710", text, text) for text in ("STARBUCKS", "Shell Oil", "Metro 7")]
    assert ingest(control_db, slice_) == {("710", 1): (3, 0, 2)}
    assert undo(control_db, "710").reopened == 1
    found = {row.txn_uid: row.description for row in slice_}
    assert {found[uid] for uid in open_items(control_db, "710")} == {"Metro 7"}
    assert {found[uid]: to for uid, to in sorted_items(control_db, "710").items()} == {
        "STARBUCKS": ("A", "x"),
        "Shell Oil": ("A", "x"),
    }


def test_an_undone_rule_is_not_promoted_by_itself_again(control_db):
    """The next promotion leaves it out; proposed and approved anew it makes a version of its own number."""
    promote(control_db, "710", ("Starbucks", "A", "x"))
    undo(control_db, "710")
    assert promote(control_db, "710").version == 0
    with pytest.raises(Conflict, match="1 was undone"), control_db.transaction() as tx:
        proposals.approve(tx, "710", [1], "t")
    again = promote(control_db, "710", ("Starbucks", "A", "x"))
    assert (again.former, again.version) == (0, 2)


# Proposals.


def test_proposals_are_numbered_and_a_repeat_is_the_same(control_db):
    """Numbers are a company's own; an open proposal is found again by its meaning; two for one source conflict."""
    with control_db.transaction() as tx:
        first, new = proposals.propose(tx, "710", [Rule("Shell", "A", "x"), Rule("SHELL!", "A", "x")], "ann")
        assert ([each.proposal for each in first], new) == ([1, 1], 1)
        assert proposals.propose(tx, "710", [Rule("shell", "A", "x")], "bob") == ([first[0]], 0)
        proposals.propose(tx, "710", [Rule("Shell", "B", "x")], "bob")
        proposals.propose(tx, "711", [Rule("Shell", "A", "x")], "bob")
        with pytest.raises(Conflict, match="1, 2 are for one source"):
            proposals.approve(tx, "710", [1, 2], "ann")
        assert [each.state for each in proposals.approve(tx, "710", [1], "ann")] == ["approved"]
        with pytest.raises(Conflict, match="1, 2 are for one source"):
            proposals.approve(tx, "710", [2], "ann")
        assert proposals.withdraw(tx, "710", [1])[0].state == "withdrawn"
        assert proposals.approve(tx, "710", [2, 2], "ann")[0].approved_by == "ann"
        with pytest.raises(Refused, match="no proposal 3"):
            proposals.approve(tx, "710", [3], "ann")
        with pytest.raises(Conflict, match="1 was withdrawn"):
            proposals.approve(tx, "710", [1], "ann")


def test_a_preview_says_what_the_promotion_does(control_db):
    """The number of items and the rules are those of the promotion that follows; looking changes nothing."""
    ingest(control_db, [staged("710", f"t{n}", text) for n, text in enumerate([*TEXTS, "Shell oil"])])
    with control_db.transaction() as tx:
        company_state.lock(tx, ["710"])
        made, _ = proposals.propose(tx, "710", [Rule("Shell Oil", "A", "x"), Rule("nothing", "A", "x")], "t")
        proposals.approve(tx, "710", [each.proposal for each in made], "t")
        seen = rules.preview(tx, "710")
    assert (seen.version, len(seen.added), seen.would_resolve) == (0, 2, 2)
    assert promote(control_db, "710").resolved == 2
    with control_db.transaction() as tx:
        assert rules.preview(tx, "710")[1:] == ([], 0)


# Many at once.


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["ingest", "promote", "undo"]), st.lists(st.sampled_from(TEXTS), max_size=3)),
        max_size=8,
    ),
    st.integers(0, 10**9),
)
def test_sql_and_pure_functions_say_the_same(control_db, steps, company_number):
    """Any sequence of ingest, promotion and undo in the database equals the pure model after each step."""
    company = f"p{company_number}-{time.monotonic_ns()}"
    texts: dict[object, str] = {}
    versions: list[list[Rule]] = [[]]
    for number, (kind, what) in enumerate(steps):
        if kind == "ingest":
            slice_ = [staged(company, f"t{number}-{n}", text, number + 1) for n, text in enumerate(what)]
            texts |= {row.txn_uid: row.description_norm for row in slice_}
            found = ingest(control_db, slice_).get((company, number + 1), (0, 0, 0))
            matched, unmatched = triage(
                {row.txn_uid: row.description_norm for row in slice_}, rules_in_force(versions[-1])
            )
            assert found[:2] == (len(matched), len(unmatched))
        elif kind == "promote":
            new = [Rule(text, "A", f"h{number}") for text in what]
            done = promote(control_db, company, *rules_in_force(new).values())
            if done.version != done.former:
                versions.append([*versions[-1], *new])
        elif len(versions) > 1:
            undo(control_db, company)
            versions.pop()
        matched, unmatched = triage(texts, rules_in_force(versions[-1]))
        assert open_items(control_db, company) == unmatched
        assert sorted_items(control_db, company).keys() == matched.keys()


@pytest.mark.parametrize("seed", range(3))
def test_no_matching_transaction_stays_pending_when_all_run_at_once(control_db, seed):
    """Ingest, promotion and replay from several connections at once: the end is that of some serial order."""
    assert _run_at_once(control_db, seed) == set()


def test_a_promotion_waits_for_the_triage_before_it(control_db):
    """While a slice is being triaged by the old rules, the promotion stands still, and then resolves what it left."""
    done: list[rules.Promotion] = []
    thread = threading.Thread(target=lambda: done.append(promote(control_db, "710", ("Starbucks", "A", "x"))))
    with control_db.transaction() as tx:
        pending.triage(tx, [staged("710", "t1", "STARBUCKS")])
        thread.start()
        _until_somebody_waits_for(tx)
        assert done == []
    thread.join(60)
    assert [each.resolved for each in done] == [1]
    assert open_items(control_db, "710") == set()


def test_without_the_company_lock_a_transaction_slips_through(control_db, monkeypatch):
    """The planted fault: a triage that only reads the version leaves an item open that the new rules match."""
    lock = company_state.lock

    def unlocked(tx, companies):
        monkeypatch.setattr(company_state, "lock", lock)
        promote(control_db, "710", ("Starbucks", "A", "x"))
        return dict.fromkeys(companies, 0)

    monkeypatch.setattr(company_state, "lock", unlocked)
    ingest(control_db, [staged("710", "t1", "STARBUCKS")])
    assert len(open_items(control_db, "710")) == 1


def test_a_stricter_isolation_is_no_way_around_the_lock(control_db):
    """A reader whose snapshot is older than a promotion is told to try again, instead of using old rules."""
    with control_db.transaction() as tx:
        company_state.lock(tx, ["710"])
    with pytest.raises(Transient, match="PostgreSQL asks to wait"), control_db.transaction() as tx:
        tx.execute("set transaction isolation level repeatable read")
        tx.execute("select 1")
        promote(control_db, "710", ("Starbucks", "A", "x"))
        pending.triage(tx, [staged("710", "t1", "STARBUCKS")])


def test_fifty_thousand_transactions_against_five_thousand_rules(control_db):
    """Set-based: the time grows with the rows, not with rows times rules, whatever the planner knows."""
    promote(control_db, "710", *[(f"shop {n}", "A", "x") for n in range(5000)])
    small = [staged("710", f"s{n}", f"SHOP #{n % 10_000}", 1) for n in range(5_000)]
    large = [staged("710", f"t{n}", f"SHOP #{n % 10_000}", 2) for n in range(50_000)]
    started = time.perf_counter()
    ingest(control_db, small)
    between = time.perf_counter()
    assert ingest(control_db, large) == {("710", 2): (25_000, 25_000, 1)}
    ratio = (time.perf_counter() - between) / (between - started)
    print(f"ten times the rows took {ratio:.1f} times as long")
    assert ratio < 60
    assert promote(control_db, "710", *[(f"shop {n}", "A", "x") for n in range(5000, 10_000)]).resolved == 25_000
    assert undo(control_db, "710").reopened == 25_000


def test_triage_and_replay_take_as_many_statements_for_many_as_for_few(control_db, monkeypatch):
    """Rows and rules travel in sets: a hundred times as many of both cost not one statement more."""
    asked: list[str] = []
    for name in ("execute", "copy"):
        monkeypatch.setattr(psycopg.Cursor, name, _counted(getattr(psycopg.Cursor, name), asked))
    monkeypatch.setattr(psycopg.Cursor, "executemany", lambda *_a, **_k: pytest.fail("one statement for each row"))
    took = []
    for company, transactions, sources in (("710", 40, 10), ("711", 4_000, 1_000)):
        promote(control_db, company, *[(f"shop {n}", "A", "x") for n in range(sources)])
        slice_ = [staged(company, f"t{n}", f"SHOP #{n % (2 * sources)}") for n in range(transactions)]
        asked.clear()
        assert ingest(control_db, slice_) == {(company, 1): (transactions // 2, transactions // 2, 1)}
        triage_took = len(asked)
        new = [(f"shop {n}", "A", "x") for n in range(sources, 2 * sources)]
        asked.clear()
        assert promote(control_db, company, *new).resolved == transactions // 2
        took.append((triage_took, len(asked)))
    print(f"statements of a triage and of a promotion: {took}")
    assert took[0] == took[1]


def _counted(method, asked):
    def count(self, query, *given, **named):
        asked.append(str(query))
        return method(self, query, *given, **named)

    return count


def _until_somebody_waits_for(tx):
    ask = "select exists (select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid)))"
    until = time.monotonic() + 60
    while tx.execute(ask).fetchone() != (True,):
        assert time.monotonic() < until, "nobody waits"


def _run_at_once(control_db, seed):
    """Two ingesters and two promoters on one company; what matches the rules in force and is open in the end."""
    dice = random.Random(seed)
    texts = [f"shop {seed} {n}" for n in range(12)]
    slices = [[staged("710", f"{seed}-{b}-{n}", text, b) for n, text in enumerate(texts)] for b in (1, 2, 3, 4)]
    new = [(text, "A", "x") for text in texts]
    dice.shuffle(new)
    begin = threading.Barrier(4)
    failed: list[Exception] = []

    def run(work):
        try:
            begin.wait(30)
            for step in work:
                step()
        except (KyloError, psycopg.Error) as error:
            failed.append(error)

    ingests = [[lambda rows=part: ingest(control_db, rows) for part in half] for half in (slices[:2], slices[2:])]
    promotes = [[lambda rule=rule: promote(control_db, "710", rule) for rule in half] for half in (new[:4], new[4:8])]
    threads = [threading.Thread(target=run, args=(work,)) for work in (*ingests, *promotes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    with control_db.transaction() as tx:
        sources = {rule.source_norm for rule in rules.in_force(tx, "710").rules}
    ask = "select txn_uid, description_norm from kylo.pending_txns where company_id = '710' and status = 'open'"
    stuck = {uid for uid, norm in rows(control_db, ask) if norm in sources}
    assert sources >= {text for text, _, _ in new[:8]}, "a promotion lost a rule"
    assert len(open_items(control_db, "710") | sorted_items(control_db, "710").keys()) == len(texts) * 4
    return stuck


def _history(database):
    with database.transaction() as tx:
        return rules.history(tx, "710")


def _proposals(database):
    with database.transaction() as tx:
        return proposals.listed(tx, "710")
