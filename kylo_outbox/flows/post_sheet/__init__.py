"""Tables to tabs and back: posting what is missing, reading approvals, comparing, and what people do when tabs change.

`posting` is one turn at a workbook: `looking` reads tables and tabs, `planning` says what is missing, `sending` claims,
sends once and confirms. `projector` runs turns for the events of the road, `desk` for people, `approvals` reads what
people approved. No call to Google happens inside a transaction, and no write without a claim.
"""

from __future__ import annotations

from kylo_outbox.flows.post_sheet.announce import AnnounceUnposted
from kylo_outbox.flows.post_sheet.approvals import ReadApprovals, TakeApprovals
from kylo_outbox.flows.post_sheet.desk import SheetsDesk
from kylo_outbox.flows.post_sheet.looking import Gateway
from kylo_outbox.flows.post_sheet.posting import Posting
from kylo_outbox.flows.post_sheet.projector import PostSheet

__all__ = [
    "AnnounceUnposted",
    "Gateway",
    "PostSheet",
    "Posting",
    "ReadApprovals",
    "SheetsDesk",
    "TakeApprovals",
]
