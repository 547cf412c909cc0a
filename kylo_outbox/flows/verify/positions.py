"""Positions against the outbox: up to its position a projector took each event of a key once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.verifying import NONE, Finding, Source, Standing, Totals, base_of, compare_position
from kylo_outbox.store import findings, verify_positions, verify_state
from kylo_outbox.store.verify_positions import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.verify_positions import Name
    from kylo_outbox.store.verify_state import State

_CHUNK = 10_000


@dataclass(slots=True)
class PositionFigures:
    """What was compared.

    Attributes:
        positions: Positions that were compared.
        behind: Positions too far behind to be compared now.
        assumed: Positions whose beginning had left, taken for right at the first look.
    """

    positions: int = 0
    behind: int = 0
    assumed: int = 0

    def add(self, other: PositionFigures) -> None:
        """The same over several databases."""
        self.positions += other.positions
        self.behind += other.behind
        self.assumed += other.assumed


class PositionCheck:
    """Positions of one database over the events of one store, in one pass.

    Read before the boundary of the pass is drawn, so that a position is never ahead of what it is compared with.
    """

    def __init__(self, home: Database, home_id: str, store: Database, state: State, *, everything: bool) -> None:
        self._reader, self._everything = f"positions in {home_id}", everything
        with store.transaction() as tx:
            since = None if everything else verify_positions.read_up_to(tx, self._reader)
            open_ones = [each.finding for each in findings.still_open(tx) if each.finding.part == "positions"]
        names = {(each.projector, each.topic, each.key) for each in open_ones}
        with home.transaction() as tx:
            changed, self._up_to = verify_positions.changed(tx, state.store_id, since)
            again = verify_positions.of_keys(tx, state.store_id, names)
        self._standing = list({name_of(each): each for each in (*changed, *again)}.values())
        self.figures = PositionFigures()
        self.findings: list[Finding] = []
        self.compared: set[Name] = set()

    def compare(self, tx: Any, state: State, new: str) -> None:
        """Compare, in the transaction of the whole pass on the store; `new` is its boundary."""
        for start in range(0, len(self._standing), _CHUNK):
            self._compare(tx, state, new, self._standing[start : start + _CHUNK])
        if not self._everything:
            verify_positions.set_read(tx, self._reader, self._up_to)

    def _compare(self, tx: Any, state: State, new: str, part: Sequence[Standing]) -> None:
        keys = {(each.topic, each.key) for each in part}
        if self._everything:
            sources = verify_state.stored_sources(tx, state, new, keys)
        else:
            sources = verify_state.sources(tx, keys)
        nothing = Source(NONE, (-1, -1))
        both = [(each, sources.get((each.topic, each.key), nothing)) for each in part]
        beyond = self._beyond(tx, state, new, [each for each, source in both if each.at < source.newest])
        bases = verify_positions.bases(tx, [name_of(each) for each in part])
        made: dict[Name, Totals] = {}
        for each, source in both:
            name = name_of(each)
            behind = beyond.get(name) if each.at < source.newest else NONE
            if behind is None:
                self.figures.behind += 1
                continue
            self.figures.positions += 1
            self.compared.add(name)
            era, base = bases.get(name, (None, NONE))
            forgiven = False
            if era != state.era:
                # The first look, or one at a position that somebody accepted as it is.
                forgiven = state.uncounted or era is not None
                base = made[name] = base_of(each, source, behind, uncounted=forgiven)
                self.figures.assumed += base != NONE
            # Ahead of everything: taken in a life of the store that was given up, and nothing since.
            if each.at > source.newest and (forgiven or each.taken.minus(source.all) == base != NONE):
                continue
            if (found := compare_position(each, source, behind, base)) is not None:
                self.findings.append(found)
        verify_positions.set_bases(tx, state.era, made)

    def _beyond(self, tx: Any, state: State, new: str, lagging: Sequence[Standing]) -> Mapping[Name, Totals]:
        if not lagging:
            return {}
        # Ids of another life of the store may be lower than those before it.
        near = verify_positions.newest_id(tx) - verify_positions.LOOK_BACK
        within = [each for each in lagging if each.at[0] == state.generation and each.at[1] >= near]
        lowest = min((each.at[1] for each in within), default=0)
        return verify_positions.beyond(tx, state, new, within, lowest, all_gaps=self._everything)
