"""Samples of several processes as one: what happened adds up, what is the case is taken once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kylo_outbox.telemetry.metrics import Sample

_ADDED: Final = frozenset({"counter", "histogram", "summary"})


def add_up(groups: Iterable[Iterable[Sample]]) -> list[Sample]:
    """Merge samples of equal family, name and labels: counters and histograms by sum, gauges by the largest.

    The largest is right for what our gauges say: whether anyone leads, when anyone last succeeded, how far behind.
    The order of first appearance is kept.
    """
    merged: dict[tuple[str, str, tuple[tuple[str, str], ...]], Sample] = {}
    for group in groups:
        for family, kind, text, name, labels, value in group:
            key = (family, name, tuple(sorted(labels.items())))
            former = merged.get(key)
            if former is not None:
                value = former[5] + value if kind in _ADDED else max(former[5], value)  # noqa: PLW2901
            merged[key] = (family, kind, text, name, labels, value)
    return list(merged.values())


def only_added(samples: Iterable[Sample]) -> list[Sample]:
    """The samples that keep their meaning when their process has ended: counters and histograms."""
    return [sample for sample in samples if sample[1] in _ADDED]


def lasting(samples: Iterable[Sample]) -> list[Sample]:
    """What a dead process may go on saying: counts, and when it last succeeded (alerts look at that age).

    Its other gauges are of the moment: a dead relay must not go on claiming that it leads.
    """
    return [sample for sample in samples if sample[1] in _ADDED or sample[0].endswith("_timestamp_seconds")]
