"""What a check says, and a report that collects it: an exception of a check is a finding as well."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from kylo_outbox.model.errors import KyloError, Refused, Transient
from kylo_outbox.telemetry.logs import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

Level = Literal["away", "error", "warning", "note"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is worth knowing.

    `away`: something does not answer. `error`: events do not flow, or will not. `warning`: worth a look. `note`: as it
    was chosen, and good to remember.
    """

    level: Level
    check: str
    subject: str
    cause: str
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """What was checked and what was found."""

    checked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def worst(self, *levels: Level) -> bool:
        """Whether anything of these levels was found."""
        return any(finding.level in levels for finding in self.findings)

    def look(self, check: str, subject: str, looks: Callable[[], Iterable[Finding]]) -> bool:
        """Run a check; whether it could be run to its end."""
        answered, findings = self._run(check, subject, lambda: list(looks()))
        self.findings += findings or []
        return answered

    def ask(self, check: str, subject: str, question: Callable[[], T]) -> T | None:
        """Ask for something that further checks need; None, with a finding, if there is no answer."""
        return self._run(check, subject, question)[1]

    def _run(self, check: str, subject: str, question: Callable[[], T]) -> tuple[bool, T | None]:
        self.checked.append(f"{check} {subject}".strip())
        try:
            return True, question()
        except KyloError as failed:
            level: Level = "away" if isinstance(failed, Transient) else "error"
            lines = failed.faults if isinstance(failed, Refused) else (str(failed),)
            self.findings += [Finding(level, check, subject, line) for line in lines]
        except Exception as unexpected:
            # Whatever a check meets, the others go on.
            log.debug("check %s", check, exc_info=unexpected)
            first = redact((str(unexpected).splitlines() or [""])[0])
            cause = f"the check itself failed: {type(unexpected).__name__}: {first}"
            self.findings.append(Finding("error", check, subject, cause, "-v shows where"))
        return False, None
