"""The whole chain checked: one small function a check, each answering with findings, none of which can stop another.

`finding` is what a check says; `store`, `processes`, `kafka` and `sheets` are the checks by what they look at.
"""

from kylo_outbox.flows.doctor.finding import Finding, Level, Report

__all__ = ["Finding", "Level", "Report"]
