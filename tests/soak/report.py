"""A run told to people: figures, differences, one verdict line in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.verifier import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.outcome import Outcome, Wanted

_EXAMPLES = 3


def first_line(wanted: Wanted) -> str:
    """What is run, and how to run the same again."""
    more = [("--faults", wanted.faults), ("--events", wanted.events), ("--plant", wanted.plant)]
    words = "".join(f" {name} {value}" for name, value in more if value)
    again = f"python3 scripts/dev.py soak --seconds {wanted.seconds:g} --seed {wanted.seed}{words}"
    planted = f", {wanted.plant} planted" if wanted.plant else ""
    return f"seed {wanted.seed}{planted}; the same again: {again}"


def lines(wanted: Wanted, outcome: Outcome) -> Iterator[str]:
    """The report; its last line is the verdict."""
    verdict = outcome.verdict
    yield ""
    yield f"{'':<20}" + "".join(f"{name:>10}" for name in ("expected", "seen", "repeats", *KINDS))
    for part in verdict.parts:
        figures = (part.expected, part.seen, part.repeats, *(len(getattr(part, kind)) for kind in KINDS))
        yield f"{part.name:<20}" + "".join(f"{figure:>10}" for figure in figures)
    yield ""
    yield f"{'recovery, s':<48}{'faults':>8}{'measured':>10}{'median':>8}{'worst':>8}  until"
    for each in outcome.recoveries:
        times = f"{each.median:>8.2f}{each.worst:>8.2f}  {each.until} again" if each.measured else ""
        yield f"{each.kind:<48}{each.faults:>8}{each.measured:>10}{times}"
    yield ""
    absorbed = ", ".join(f"{name} {count}" for name, count in verdict.absorbed.items())
    yield f"repeats absorbed by projectors: {outcome.repeats} ({absorbed})"
    yield (
        f"transactions: {outcome.rolled_back} rolled back, {outcome.interrupted} cut off; "
        f"dead letters: {outcome.released} cured and released, {outcome.discarded} given up"
    )
    yield "seconds: " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in outcome.parts.items())
    yield from _differences(outcome)
    yield ""
    yield _verdict(wanted, outcome)


def _differences(outcome: Outcome) -> Iterator[str]:
    verdict = outcome.verdict
    for part in verdict.parts:
        for kind in KINDS:
            found = getattr(part, kind)
            yield from (f"{part.name}: {kind}: {each}" for each in found[:_EXAMPLES])
            if len(found) > _EXAMPLES:
                yield f"{part.name}: {kind}: ... {len(found)} in all"
    yield from (f"still waiting: {name}: {count}" for name, count in verdict.stuck.items())
    yield from (f"owned twice: {each}" for each in verdict.owned_twice[:_EXAMPLES])
    yield from outcome.broken
    if not outcome.settled:
        yield "it was still moving when it was judged: what is told as lost may only be late"
    if not outcome.repeats:
        yield "no repeat was absorbed: this run proves nothing"


def _verdict(wanted: Wanted, outcome: Outcome) -> str:
    verdict = outcome.verdict
    figures = ", ".join(f"{kind} {verdict.count(kind)}" for kind in KINDS)
    what = f"{outcome.committed} events, {len(outcome.faults)} faults in {outcome.under_fire:.0f} s: {figures}"
    planted = f"with {wanted.plant} planted, " if wanted.plant else ""
    if outcome.good:
        return f"GOOD: {planted}{what}; {outcome.repeats} repeats absorbed (seed {wanted.seed})"
    others = [f"stuck {sum(verdict.stuck.values())}"] if verdict.stuck else []
    others += [f"owned twice {len(verdict.owned_twice)}"] if verdict.owned_twice else []
    others += [f"broken {len(outcome.broken)}"] if outcome.broken else []
    more = "".join(f", {each}" for each in others)
    return f"DIFFERENT after {outcome.seconds:.0f} s: {planted}{what}{more} (seed {wanted.seed})"
