"""A database that tests can take away and give back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Unreachable
from kylo_outbox.store.engine import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa


class Switch(Database):
    """A database that can be taken away; `refused` counts who asked meanwhile."""

    away = False
    refused = 0

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Refuse while away."""
        if self.away:
            self.refused += 1
            raise Unreachable("PostgreSQL", "no answer", "Wait")
        with super().begin() as connection:
            yield connection
