"""The benches by suite and name. A new one is a module with `run` and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.bench.figures import Figure
    from scripts.bench.stage import Stage

Run: TypeAlias = "Callable[[Stage, int, float], list[Figure]]"


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: `scripts/bench/benches/<name>.py` has `run(stage, rounds, scale)`."""

    name: str
    title: str
    full_only: bool = False

    def load(self) -> Run:
        """Its function; imported only when it is needed."""
        found: Run = import_module(f"scripts.bench.benches.{self.name}").run
        return found

    def run(self, stage: Stage, rounds: int, scale: float) -> list[Figure]:
        """Measure; every figure it promises comes back, with values or with the reason why it has none."""
        return self.load()(stage, rounds, scale)


SUITES: dict[str, tuple[Bench, ...]] = {
    "relay": (
        Bench("drain", "Backlog drain against a raw producer"),
        Bench("roundtrip", "A broker two milliseconds away"),
        Bench("peers", "The same backlog, other relays"),
        Bench("latency", "From commit to acknowledgement"),
        Bench("rivals", "From commit to the broker's log, other relays"),
        Bench("cost", "What the relay costs the database"),
        Bench("writers", "Writers beside the relay"),
        Bench("emit", "Emit beside a plain insert"),
        Bench("history", "A claim with history behind it"),
        Bench("lanes", "Order and throughput of several lanes"),
        Bench("fairness", "One company behind another's backlog"),
    ),
    "projector": (
        Bench("apply", "Read, applied and noted, against a plain COPY"),
        Bench("consume", "Catching up, against the client's own settings"),
        Bench("applied", "From commit to applied"),
        Bench("road", "The whole road at a pace"),
    ),
    "business": (
        Bench("triage", "Many transactions against many rules"),
        Bench("tabs", "Tables to tabs through the official client"),
    ),
}


def chosen(suite: str, only: list[str], *, full: bool) -> list[Bench]:
    """The benches of a suite that a command asks for, in the suite's order.

    Raises:
        ValueError: a name that the suite does not have.
    """
    benches = SUITES[suite]
    unknown = sorted(set(only) - {bench.name for bench in benches})
    if unknown:
        raise ValueError(f"no bench {', '.join(unknown)}; there are {', '.join(bench.name for bench in benches)}")
    if only:
        return [bench for bench in benches if bench.name in only]
    return [bench for bench in benches if full or not bench.full_only]
