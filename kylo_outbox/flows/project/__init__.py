"""Projecting: records to effects, each exactly once, in order per key.

`settle` is the life of one message, `release` what becomes of it after a hold, `aside` waits for a database that is
away, `circuit` refuses to bury most of a topic, `deaths`, `retries` and `beside` find the record that kills the
process, `gaps` fills in what left the log unread, `ahead` reads the next batch meanwhile, `worker` is the loop.
May not live here: SQL, clients, operators' verbs.
"""

from kylo_outbox.flows.project.aside import Aside
from kylo_outbox.flows.project.beside import Beside
from kylo_outbox.flows.project.deaths import Deaths
from kylo_outbox.flows.project.gaps import Gaps
from kylo_outbox.flows.project.preview import Preview, preview
from kylo_outbox.flows.project.settle import Projection
from kylo_outbox.flows.project.worker import Project, ProjectTurn

__all__ = ["Aside", "Beside", "Deaths", "Gaps", "Preview", "Project", "ProjectTurn", "Projection", "preview"]
