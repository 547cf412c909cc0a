"""Is it alive, is it ready, do events flow: for supervisors, Prometheus and the load scripts.

Liveness asks nobody: an outage of PostgreSQL or Kafka is no reason to restart this process; it fails only when a loop
of this very process hangs. Readiness asks what this process itself needs, and tells what stands still anywhere.
`/health/kafka` tells of the relay, from its heartbeat row and the tables.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.responses import Response

from kylo_outbox.model.errors import KyloError, NotReady
from kylo_outbox.model.stalls import PATIENCE
from kylo_outbox.web import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kylo_outbox.flows.overview import Overview, Snapshot
    from kylo_outbox.store.standing import Standing
    from kylo_outbox.telemetry.metrics import Sample

_PUBLISHER_GROUP = "kafka-publisher"
# Seconds. Whatever is asked has a shorter limit of its own.
_HANGS = 60.0


def routes(
    overview: Overview, checks: Mapping[str, Callable[[], object]], own_samples: Callable[[], Iterable[Sample]]
) -> APIRouter:
    """Build the routes.

    Args:
        overview: Snapshots of stores and heartbeats.
        checks: What readiness needs, by name; a check passes by returning and fails by raising a `KyloError`.
        own_samples: Metric samples of this process.
    """
    router = APIRouter(tags=["health"])
    started: set[bool] = set()

    @router.get("/livez", summary="The process runs")
    @router.get("/healthz", summary="The old name of /livez")
    async def livez() -> Response:
        if overview.silent() > _HANGS:
            return JSONResponse({"status": "stuck", "ok": False}, 503)
        return JSONResponse({"status": "alive", "ok": True})

    @router.get("/readyz", summary="What this process needs is there")
    def readyz() -> Response:
        return _checked({**checks, "watching": lambda: _watches(overview)}, told(overview.recent()))

    @router.get("/startupz", summary="It has been ready once")
    def startupz() -> Response:
        if True in started:
            return JSONResponse({"status": "started"})
        answer = _checked(checks)
        if answer.status_code == 200:  # noqa: PLR2004 - HTTP's own number
            started.add(True)
        return answer

    @router.get("/metrics", summary="Prometheus")
    def scrape() -> Response:
        return Response(metrics.render(overview.snapshot(), own_samples()), media_type=metrics.MEDIA_TYPE)

    @router.get("/health/kafka", summary="Do events flow")
    def kafka() -> Response:
        snapshot = overview.snapshot()
        return JSONResponse(health(snapshot), 503 if snapshot.status == "unhealthy" else 200)

    @router.get("/health/kafka/stats", summary="The same with figures")
    def stats() -> Response:
        return JSONResponse(statistics(overview.snapshot()))

    return router


def health(snapshot: Snapshot) -> dict[str, Any]:
    """The shape of `/health/kafka`: `unprocessedEvents` sums the stores that answer, `lagMs` is an age."""
    found: dict[str, Any] = {
        "status": snapshot.status,
        "producer": {"connected": snapshot.relay.connected},
        "publisher": {
            "isRunning": snapshot.relay.publishing,
            "unprocessedEvents": snapshot.unprocessed,
            "lagMs": round(snapshot.lag_seconds * 1000),
        },
        "timestamp": _iso(snapshot.at),
    }
    unreachable = [store.name for store in snapshot.stores if store.error]
    if unreachable:
        found["unreachableStores"] = unreachable
    return found


def statistics(snapshot: Snapshot) -> dict[str, Any]:
    """`/health/kafka/stats`: the same, with totals of all relays, lag per group, and each store and process."""
    samples = snapshot.samples()
    success = max(
        (value for *_, name, _, value in samples if name == "kylo_relay_last_success_timestamp_seconds"), default=0
    )
    lag: dict[str, float] = {_PUBLISHER_GROUP: snapshot.unprocessed}
    for *_, name, labels, value in samples:
        if name == "kylo_consumer_lag_messages":
            lag[labels.get("group", "")] = lag.get(labels.get("group", ""), 0) + value
    found = health(snapshot)
    found["publisher"] |= {
        "published": _total(samples, "kylo_outbox_published_total"),
        "failed": _total(samples, "kylo_outbox_publish_failures_total"),
        "lastSuccess": _iso(datetime.fromtimestamp(success, UTC)) if success else None,
        "exact": all(store.backlog.exact for store in snapshot.stores),
    }
    found["lag"] = lag
    found["stores"] = [
        {
            "store": store.name,
            "reachable": store.error is None,
            "unprocessedEvents": store.backlog.unprocessed,
            "heldKeys": store.backlog.held_keys,
            "deadLetters": store.backlog.dead_letters,
            "lanes": [_lane(lane) for lane in store.lanes],
        }
        for store in snapshot.stores
    ]
    found["oldTransactions"] = [holder._asdict() for holder in snapshot.holders]
    found["stuck"] = [asdict(one) for one in snapshot.stuck()]
    found["processes"] = [
        {"part": beat.part, "instance": beat.instance, "alive": beat.alive, "ageSeconds": round(beat.age, 1)}
        for beat in snapshot.running()
    ]
    return found


def told(snapshot: Snapshot | None) -> dict[str, Any]:
    """What `/readyz` tells beside its checks; none of it makes this process unready.

    The path is open to everybody: neither users nor statements nor keys are shown here, `/health/kafka/stats` and
    `kylo-outbox doctor` have them.
    """
    if snapshot is None:
        return {}
    stuck = [
        {"kind": one.kind, "subject": one.subject, "text": one.text, "remedy": one.remedy} for one in snapshot.stuck()
    ]
    return {"stuck": stuck, "details": details(snapshot)}


def details(snapshot: Snapshot) -> dict[str, Any]:
    """Figures of the whole system for `/readyz`."""
    return {
        "relay": snapshot.status,
        "lanesWithoutLeader": sum(not lane.led for store in snapshot.stores for lane in store.lanes),
        "oldestPendingSeconds": round(snapshot.lag_seconds, 1),
        "heldKeys": sum(sum(store.backlog.held_keys.values()) for store in snapshot.stores),
        "oldTransactions": [
            {"kind": one.kind, "pid": one.pid, "database": one.database, "state": one.state, "ageSeconds": one.age}
            for one in snapshot.holders
        ],
    }


def _lane(lane: Standing) -> dict[str, Any]:
    return {
        "lane": lane.lane,
        "slots": [lane.slot_from, lane.slot_to],
        "holder": lane.holder if lane.led else None,
        "epoch": lane.epoch,
        "leaseLeftSeconds": round(lane.lease_left, 3),
        "cursor": lane.high_water,
        "acknowledged": lane.acknowledged,
    }


def _checked(checks: Mapping[str, Callable[[], object]], more: Mapping[str, Any] | None = None) -> Response:
    results: dict[str, str] = {}
    ready = True
    for name, check in checks.items():
        try:
            check()
            results[name] = "ok"
        except KyloError as failed:
            ready = False
            results[name] = str(failed)
    status = "ready" if ready else "not ready"
    return JSONResponse({"status": status, "checks": results, **(more or {})}, 200 if ready else 503)


def _watches(overview: Overview) -> None:
    seconds = overview.silent()
    if seconds > PATIENCE:
        raise NotReady(f"looking at the stores has hung for {seconds:.0f} s: what stands still is not seen from here")


def _total(samples: Iterable[Sample], name: str) -> int:
    return int(sum(sample[5] for sample in samples if sample[3] == name))


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
