"""What is to be sent for one tab, and how several of them share one batch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.sheets.tab import Fix

MAX_BYTES = 1_900_000
"""Size of what one batch carries: Google advises 2 MB for a body; the rest of a batch is a few kilobytes."""

MAX_CELLS = 10_000_000
"""Google's limit of a workbook, empty cells included."""


@dataclass(frozen=True, slots=True)
class PostPlan:
    """What one post writes to one tab, for `GoogleSheets.batch_update`, and what it stands for.

    `hashes` are the rows it appends, in order; `remaining` counts rows that are missing too and did not fit (plan
    again after this one is confirmed). `fixes` are cells that it writes by their place: look again afterwards.
    `marker` is what `GoogleSheets.find_markers` is asked for when the outcome is not known. The marker's metadata id
    is made from the signature and unique in the workbook: while this marker is among the kept ones, Google refuses the
    same batch sent a second time as a whole.

    `before` are batches to be sent first, each harmless when repeated; only a set of rules over `MAX_BYTES` has some.
    `grown` is the number of cells by which the workbook grows.
    """

    requests: tuple[dict[str, Any], ...]
    hashes: tuple[str, ...]
    remaining: int
    ordinal: int
    signature: str
    marker: str
    sheet_id: int
    fixes: tuple[Fix, ...] = ()
    before: tuple[tuple[dict[str, Any], ...], ...] = ()
    grown: int = 0

    @property
    def size(self) -> int:
        """Bytes of the requests as the client will encode them."""
        return len(json.dumps(self.requests))


def batches(sized: Sequence[tuple[int, bool]]) -> Iterator[list[int]]:
    """Return which posts share a batch, as positions: small ones first, so that nobody waits behind a large one.

    Args:
        sized: For each post: its size in bytes, and whether it must be alone in its batch.
    """
    taken: list[int] = []
    room = MAX_BYTES
    for position in sorted(range(len(sized)), key=lambda position: sized[position]):
        size, alone = sized[position]
        if taken and (alone or size > room):
            yield taken
            taken, room = [], MAX_BYTES
        taken.append(position)
        room = 0 if alone else room - size
    if taken:
        yield taken


def position_of(lengths: Sequence[int], index: int) -> int | None:
    """Return which post the sub-request at `index` of a merged batch belongs to; None beyond the last one."""
    for position, length in enumerate(lengths):
        if index < length:
            return position
        index -= length
    return None
