"""Asking every store the same question; one that is away is told on stderr and stops no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from kylo_outbox.cli.output import say
from kylo_outbox.model.errors import KyloError
from kylo_outbox.store import identity
from kylo_outbox.wiring.parts import require_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.cli.context import Context

T = TypeVar("T")


def ask_all(context: Context, question: Callable[[Any], T]) -> tuple[list[tuple[str, T]], bool]:
    """Ask every store, in a transaction each.

    Args:
        context: Of the verb.
        question: Gets an open connection (a function of `store/` takes it) and answers.

    Returns:
        (store id, answer) of each store that answered, the control store first, and whether all did.

    Raises:
        Unreachable, NotReady: the control database is away or not migrated.
    """
    require_schema(context.parts)
    answers = []
    complete = True
    for store in context.parts.directory.stores():
        problem = store.problem
        if problem is None:
            try:
                with store.database.begin() as connection:
                    answers.append((identity.identity(connection).store.store_id, question(connection)))
            except KyloError as away:
                problem = str(away)
        if problem is not None:
            say(f"{problem} (companies {', '.join(store.companies) or '-'})")
            complete = False
    return answers, complete
