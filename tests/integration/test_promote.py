"""Flow 2: a request for promotion from its door to rules in force, resolved items and events for the tabs."""

from __future__ import annotations

import json

import pytest

from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.promote import Promote
from kylo_outbox.flows.rules import Rules
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.delivery import from_outbox
from kylo_outbox.model.errors import Conflict, NotFound, Refused, Transient
from kylo_outbox.model.events import Origin
from kylo_outbox.model.messages import PromoteRules, TabsChanged
from kylo_outbox.model.topics import dead_letter_name
from tests.helpers.rules import ingest, open_items, rows, staged

TOPIC = "rules.promote.requests"
RULE = {"source": "STARBUCKS", "target_sheet": "PETTY CASH", "target_header": "Coffee"}
KNOWN = ("710", "711")


@pytest.fixture
def flow(control_db):
    """What people do with the rules of 710 and 711."""
    return Rules(
        control_db,
        TOPIC,
        lambda company_id: new_company(company_id, "book") if company_id in KNOWN else None,
        lambda _company_id: control_db,
    )


@pytest.fixture
def deliver(control_db):
    """Apply what lies in the outbox, as a relay and the projector would; again and again changes nothing."""
    projector = Promote(topic=TOPIC, group="g", is_known=KNOWN.__contains__)
    projection = Projection(projector, lambda _delivery: control_db, dead_letter_name)

    def run():
        found = rows(
            control_db,
            "select id, key, type, payload, event_id, created_at from kylo.outbox_log where topic = %s order by id",
            TOPIC,
        )
        projection.handle(
            [
                from_outbox(
                    origin=Origin("s", 1, number, event_id, kind), topic=TOPIC, key=key, payload=raw, headers={}, at=at
                )
                for number, key, kind, raw, event_id, at in found
            ]
        )

    return run


def emitted(database, topic="tabs.changed"):
    """(company, tab) of the events for the tabs, in order."""
    found = rows(database, "select payload from outbox where topic = %s order by id", topic)
    return [(json.loads(raw)["company_id"], json.loads(raw)["tab"]) for (raw,) in found]


def approve(flow, company="710", **changes):
    """Propose and approve one rule."""
    made, _ = flow.propose(company, [RULE | changes], "ann")
    return flow.approve(company, [made[0].proposal], "ann")[0]


def test_from_a_proposal_to_resolved_items(control_db, flow, deliver):
    """Propose, look, approve, ask, promote: the rule holds, what matches is resolved, both tabs are told."""
    ingest(
        control_db, [staged("710", "t1", "Starbucks"), staged("710", "t2", "other"), staged("711", "t1", "Starbucks")]
    )
    assert approve(flow).state == "approved"
    assert flow.preview("710").would_resolve == 1
    asked = flow.request("710", "ann")
    assert flow.outcome(asked) is None
    deliver()
    done = flow.outcome(asked)
    assert (done.former, done.version, done.rules, done.resolved, done.asked_by) == (0, 1, 1, 1, "ann")
    assert [rule.target_header for rule in flow.active("710").rules] == ["Coffee"]
    assert [row.description for row in flow.open_items("710")] == ["other"]
    assert len(open_items(control_db, "711")) == 1
    assert emitted(control_db) == [("710", "active"), ("710", "pending")]
    assert flow.history("710") == [done]


def test_everything_twice_is_once(control_db, flow, deliver):
    """A repeat of each step, with a key or delivered again, changes nothing and is answered alike."""
    ingest(control_db, [staged("710", "t1", "Starbucks")])
    assert approve(flow) == approve(flow)
    assert flow.request("710", "ann", key="k") == flow.request("710", "ann", key="k")
    deliver()
    deliver()
    assert flow.request("710", "ann", key="k") == flow.request("710", "ann", key="k")
    assert [each.resolved for each in flow.history("710")] == [1]
    assert len(emitted(control_db)) == 2
    # Replayed by an operator: another delivery of the same event, whose position was forgotten.
    with control_db.transaction() as tx:
        tx.execute("delete from kylo.positions")
    deliver()
    assert len(flow.history("710")) == 1


def test_a_request_with_nothing_approved_only_replays(control_db, flow, deliver):
    """No version is made and no tab is told; the history says that somebody asked."""
    ingest(control_db, [staged("710", "t1", "Starbucks")])
    asked = flow.request("710", "ann")
    deliver()
    assert (flow.outcome(asked).version, flow.outcome(asked).resolved) == (0, 0)
    assert emitted(control_db) == []


def test_undo_is_asked_for_by_version_and_answered_twice_alike(control_db, flow, deliver):
    """A repeat does not undo a second version; the tabs are told."""
    ingest(control_db, [staged("710", "t1", "Starbucks")])
    for source in ("STARBUCKS", "Walmart"):
        approve(flow, source=source)
        flow.request("710", "ann")
        deliver()
    done = flow.undo("710", "ann", 2)
    assert flow.undo("710", "bob", 2) == done
    assert flow.active("710").version == 1
    flow.undo("710", "ann", 1)
    with pytest.raises(Conflict, match="2 is not in force, none is"):
        flow.undo("710", "ann", 2)
    with pytest.raises(Refused, match="nothing to undo"):
        flow.undo("710", "ann")
    assert emitted(control_db)[-2:] == [("710", "active"), ("710", "pending")]


def test_what_is_no_request_is_a_dead_letter(control_db, deliver):
    """Another company's key, an unknown company and a broken message are set aside with their reasons."""
    with control_db.transaction() as tx:
        for key, company in (("711", "710"), ("999", "999")):
            payload = {"event_type": "PROMOTE_RULES", "version": 1, "company_id": company}
            payload["created_at"] = "2026-11-21T00:00:00Z"
            tx.execute("select kylo.emit(%s, %s, 'PROMOTE_RULES', %s::jsonb)", (TOPIC, key, json.dumps(payload)))
        tx.execute("select kylo.emit(%s, '710', 'PROMOTE_RULES', '{}'::jsonb)", (TOPIC,))
    deliver()
    reasons = [row[0] for row in rows(control_db, "select reason from kylo.dead_letters order by outbox_id")]
    assert "key is '711'" in reasons[0]
    assert "company add" in reasons[1]
    assert "event_type" in reasons[2]
    assert rows(control_db, "select count(*) from kylo.promotions") == [(0,)]


def test_messages_have_the_promised_shape():
    """Names that other programs read; no routing, no secret; unknown fields are refused."""
    payload = {"event_type": "PROMOTE_RULES", "version": 1, "company_id": "710", "created_at": "2026-11-21T00:00:00Z"}
    assert PromoteRules.parse(json.dumps(payload)).payload() == payload | {"created_at": "2026-11-21T00:00:00.000Z"}
    with pytest.raises(Exception, match="routing: Extra inputs"):
        PromoteRules.parse(json.dumps(payload | {"routing": {"db_dsn_rw": "postgresql://u:p@h/d"}}))
    changed = {**payload, "event_type": "TABS_CHANGED", "tab": "active"}
    assert TabsChanged.parse(json.dumps(changed)).tab == "active"


def test_every_company_at_once(control_db, flow, deliver):
    """One request each, in one transaction; a repeated key adds none."""
    with control_db.transaction() as tx:
        for company in KNOWN:
            tx.execute(
                "insert into control.company_config values (%s, 'env:PG_DSN_RW', 'app_' || %s, 'S', %s || ' P', 'A')",
                (company, company, company),
            )
    first = flow.request_all("n8n", key="night 1")
    assert [each.company_id for each in first] == ["710", "711"]
    assert flow.request_all("n8n", key="night 1") == first
    approve(flow, "711")
    deliver()
    assert [flow.active(company).version for company in KNOWN] == [0, 1]


def test_unknown_companies_and_targets(flow):
    """An unknown company is not found anywhere; a target that is not on the list is refused with the list."""
    for ask in (flow.active, flow.proposals, flow.history, flow.open_items, flow.preview, flow.targets):
        with pytest.raises(NotFound, match="'999' is unknown"):
            ask("999")
    with pytest.raises(NotFound):
        flow.request("999", "ann")
    assert flow.change_targets("710", add=[("BALANCE", "Fuel"), ("PETTY CASH", "")]) == {
        ("BALANCE", "Fuel"),
        ("PETTY CASH", ""),
    }
    flow.propose("710", [RULE], "ann")
    with pytest.raises(Refused, match="unknown Target_Sheet 'BLANCE'; known: 'BALANCE', 'PETTY CASH'"):
        flow.propose("710", [RULE | {"target_sheet": "BLANCE"}], "ann")
    flow.propose("711", [RULE | {"target_sheet": "BLANCE"}], "ann")
    assert flow.change_targets("710", remove=[("BALANCE", "Fuel")]) == {("PETTY CASH", "")}


def test_a_failure_in_the_middle_of_a_promotion_leaves_nothing(control_db, flow, deliver, monkeypatch):
    """Rules, resolved items, history, position and events are one transaction."""
    ingest(control_db, [staged("710", "t1", "Starbucks")])
    approve(flow)
    flow.request("710", "ann")

    def fail(*_):
        raise Transient("the database goes away now")

    with monkeypatch.context() as broken, pytest.raises(Transient):
        broken.setattr("kylo_outbox.flows.promote.emit_many", fail)
        deliver()
    assert flow.active("710").version == 0
    assert flow.history("710") == []
    assert len(open_items(control_db, "710")) == 1
    assert rows(control_db, "select count(*) from kylo.positions") == [(0,)]
    deliver()
    assert flow.active("710").version == 1
