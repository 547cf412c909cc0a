"""What one company's tabs lack, as posts. Pure: it decides from what was read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kylo_outbox.model.marks import Marks
from kylo_outbox.model.tabs import CUT_NOTE, PendingRow, is_cut
from kylo_outbox.sheets import repairing
from kylo_outbox.sheets.plan_active import plan_active
from kylo_outbox.sheets.planner import plan_pending

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from kylo_outbox.flows.post_sheet.looking import Look, TabLook
    from kylo_outbox.sheets.plan import PostPlan
    from kylo_outbox.sheets.tab import Fix
    from kylo_outbox.store.pending import OpenRow
    from kylo_outbox.store.sheet_posts import Claim


@dataclass(frozen=True)
class Post:
    """A plan and whose it is. `claim` is given for a post that was begun before; `upto` is stored with a new one."""

    look: Look
    part: TabLook
    plan: PostPlan
    claim: Claim | None = None
    upto: int | None = None
    version: int | None = None

    @property
    def company_id(self) -> str:
        """Whose tab it is."""
        return self.look.company.company_id


def posts_of(look: Look, *, repair: bool = False, emptied: Collection[int] = ()) -> tuple[list[Post], list[Claim]]:
    """Plan the posts of one company.

    Args:
        look: What was read.
        repair: Empty untouched second lines too, and write an Active tab that differs again.
        emptied: Columns of the Pending tab in which cells were emptied a moment ago.

    Returns:
        (posts, claims of former posts that cannot be made again as they were and are to be withdrawn)
    """
    gone: list[Claim] = []
    posts: list[Post] = []
    for part, plan in ((look.pending, _pending), (look.active, _active)):
        if part.claim is not None:
            again = plan(look, repair=repair, emptied=(), again=True)
            if again is not None and again.plan.signature == part.claim.signature:
                posts.append(replace(again, claim=part.claim))
                continue
            gone.append(part.claim)
        post = plan(look, repair=repair, emptied=emptied, again=False)
        if post is not None:
            posts.append(post)
    return posts, gone


def wanted_marks(look: Look) -> dict[str, Marks]:
    """What the system columns of each line of ours should say; the rest of the lines are not ours."""
    cut = {row.txn_uid for row in look.open_rows if is_cut(row.description)}
    wanted: dict[str, Marks] = {}
    for line, resolved in look.states.items():
        said = look.marks.get(line, Marks())
        if resolved is not None:
            said = Marks(said.match_notes, said.rule_id or resolved.rule_id, said.processed_at or resolved.processed_at)
        elif line in cut and not said.match_notes:
            said = replace(said, match_notes=CUT_NOTE)
        wanted[line] = said
    return wanted


def pending_rows(look: Look, rows: Iterable[OpenRow]) -> list[PendingRow]:
    """Open items as lines of the tab."""
    own = look.company.company_id
    return [
        PendingRow(row.txn_uid, row.occurred_at.isoformat(), row.description, own, row.amount_cents) for row in rows
    ]


def _pending(look: Look, *, repair: bool, emptied: Collection[int], again: bool) -> Post | None:
    part = look.pending
    fixes: dict[tuple[int, int], Fix] = {}
    if part.contents is not None and not again:
        found = [*repairing.mark_fixes(part.contents, wanted_marks(look)), *repairing.strays(part.contents)]
        if repair:
            found += repairing.doubles(part.contents)[0]
        # Last: what people typed goes before everything of ours.
        found += repairing.restores(part.contents, look.guards, emptied)
        fixes = {(fix.row, fix.column): fix for fix in found}
    plan = plan_pending(
        company_id=look.company.company_id,
        title=part.title,
        ordinal=part.ordinal,
        tab=part.tab,
        contents=part.contents,
        wanted=pending_rows(look, look.claimed_rows if again else look.open_rows),
        fixes=list(fixes.values()),
    )
    if plan is None:
        return None
    return Post(look, part, plan, upto=None if plan.remaining else look.newest)


def _active(look: Look, *, repair: bool, emptied: Collection[int], again: bool) -> Post | None:  # noqa: ARG001
    part = look.active
    version = look.version or 0
    if not again and (look.posted_version or 0) == version and not (repair and active_differs(look)):
        return None
    plan = plan_active(
        company_id=look.company.company_id,
        title=part.title,
        ordinal=part.ordinal,
        tab=part.tab,
        header=part.contents.header if part.contents else (),
        rows=look.rules,
        version=version,
    )
    return Post(look, part, plan, version=version)


def active_differs(look: Look) -> bool:
    """Whether the Active tab shows something else than the rules in force; true while there is no tab for rules."""
    if look.active.contents is None:
        return look.version is not None
    shown = [tuple(line) for line in look.active.contents.lines]
    while shown and not any(cell != "" for cell in shown[-1]):
        shown.pop()
    return shown != [_as_read(row.cells()) for row in look.rules]


def _as_read(cells: Iterable[object]) -> tuple[object, ...]:
    """Cells as Google gives them back: empty ones as "", those at the end not at all."""
    line = ["" if cell is None else cell for cell in cells]
    while line and line[-1] == "":
        line.pop()
    return tuple(line)
