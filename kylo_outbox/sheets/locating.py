"""Which tab of a workbook is a company's own: by Google's id once it is known; titles are people's to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kylo_outbox.model.tabs import PENDING_COLUMNS
from kylo_outbox.sheets.errors import TabProblem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kylo_outbox.sheets.tab import TabContents, TabInfo


class Known(NamedTuple):
    """The tab that was written last time."""

    sheet_id: int
    title: str


def locate(tabs: Mapping[str, TabInfo], *, company_id: str, title: str, known: Known | None) -> TabInfo | None:
    """Return the tab, or None when it is to be made.

    A tab that was moved among the others is still the same. The first time, a tab of the right title is taken.

    Args:
        tabs: What `GoogleSheets.tabs` shows.
        company_id: For the remedy.
        title: What the company's settings say.
        known: The tab that was written last time; None before the first time.

    Raises:
        TabProblem: It was renamed or deleted; the remedy is a verb.
    """
    if known is None:
        return tabs.get(title)
    tab = next((tab for tab in tabs.values() if tab.sheet_id == known.sheet_id), None)
    if tab is None:
        if title in tabs:
            raise TabProblem(
                f"Tab {title!r} is another one than before: the former tab was deleted",
                f"`kylo-outbox sheets adopt {company_id}` goes on with this one.",
            )
        raise TabProblem(
            f"Tab {known.title!r} was deleted",
            f"Bring it back in Google (File > Version history), or `kylo-outbox sheets recreate {company_id}` makes a "
            "new one with every open row; what people typed in the old one is then gone.",
        )
    if tab.title != title:
        raise TabProblem(
            f"Tab {title!r} is now called {tab.title!r}",
            f"Rename it back, or `kylo-outbox sheets adopt {company_id}` takes the new name.",
        )
    return tab


def may_be_copies(tabs: Mapping[str, TabInfo], tab: TabInfo) -> list[TabInfo]:
    """Return the other tabs whose titles hold this one's, as "Copy of ..." does in every language."""
    return [other for other in tabs.values() if other.sheet_id != tab.sheet_id and tab.title in other.title]


def check_copies(
    company_id: str, tab: TabInfo, contents: TabContents, others: Iterable[tuple[TabInfo, TabContents]]
) -> None:
    """Refuse to go on beside a copy: people might be working in it, and nobody would read what they approve there.

    Raises:
        TabProblem: Another tab has our header and at least one of our rows.
    """
    own = set(contents.hashes) - {""}
    for other, held in others:
        if held.header[: len(PENDING_COLUMNS)] == PENDING_COLUMNS and own & set(held.hashes):
            raise TabProblem(
                f"Tab {other.title!r} is a copy of {tab.title!r}",
                f"Delete the one that nobody works in; `kylo-outbox sheets adopt {company_id} --tab "
                f'"{other.title}"` goes on with the copy.',
            )
