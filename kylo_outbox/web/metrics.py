"""/metrics: what every process counted (from the heartbeats) and the state of the tables, as one scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest

from kylo_outbox import __version__
from kylo_outbox.model.stalls import KINDS
from kylo_outbox.telemetry.samples import add_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kylo_outbox.flows.overview import Snapshot
    from kylo_outbox.telemetry.metrics import Sample

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(snapshot: Snapshot, own: Iterable[Sample]) -> bytes:
    """The text of a scrape.

    Args:
        snapshot: From `Overview`; the heartbeats in it must not be of this process.
        own: Samples of this process.
    """
    registry = CollectorRegistry()
    registry.register(_Once(add_up([snapshot.samples(), own, table_gauges(snapshot)])))
    return generate_latest(registry)


def table_gauges(snapshot: Snapshot) -> list[Sample]:
    """Gauges that are computed at the scrape. A store that does not answer shows 0 in `kylo_store_up` and no counts."""
    samples = [
        _gauge("build_info", "Which release this is.", 1, version=__version__),
        _gauge("outbox_oldest_pending_age_seconds", "Age of the oldest unpublished event.", snapshot.lag_seconds),
    ]
    for store in snapshot.stores:
        samples.append(_gauge("store_up", "1 if the store answers.", 0 if store.error else 1, store=store.name))
        if not store.error:
            age = store.backlog.oldest_transaction_age
            samples.append(
                _gauge(
                    "oldest_transaction_age_seconds", "Age of the oldest open transaction.", age, database=store.name
                )
            )
    read = [store.backlog for store in snapshot.stores if not store.error]
    for name, text, counts in (
        ("outbox_pending_events", "Events that Kafka has not acknowledged.", [one.unprocessed for one in read]),
        ("held_keys", "Keys held behind a refused event.", [one.held_keys for one in read]),
        ("dlq_messages", "Dead letters that nobody has settled.", [one.dead_letters for one in read]),
    ):
        samples += [_gauge(name, text, number, topic=topic) for topic, number in _summed(counts).items()]
    open_items, unposted = sum(one.open_pending for one in read), sum(one.unposted for one in read)
    samples.append(_gauge("pending_open_transactions", "Transactions that no rule matches yet.", open_items))
    samples.append(_gauge("sheets_unposted_rows", "Open rows that their tab does not hold yet.", unposted))
    stuck = Counter(stall.kind for stall in snapshot.stuck())
    samples += [_gauge("stalls", "What stands still, by kind.", stuck[kind], kind=kind) for kind in KINDS]
    ages: dict[str, float] = {}
    for beat in snapshot.running():
        ages[beat.part] = min(beat.age, ages.get(beat.part, beat.age))
    samples += [
        _gauge("heartbeat_age_seconds", "Since a part last spoke.", age, stage=part) for part, age in ages.items()
    ]
    return samples


class _Once:
    """A collector of given samples."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        # A counter's family is named without its _total, so a gauge and a counter may share a name.
        families: dict[tuple[str, str], Metric] = {}
        for family, kind, text, name, labels, value in self._samples:
            metric = families.setdefault((family, kind), Metric(family, text, kind))
            metric.add_sample(name, labels, value)
        yield from families.values()


def _gauge(name: str, text: str, value: float, **labels: str) -> Sample:
    return f"kylo_{name}", "gauge", text, f"kylo_{name}", labels, float(value)


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return total
