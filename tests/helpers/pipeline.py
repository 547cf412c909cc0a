"""A whole pipeline of real processes for one test, and independent looks at what it did."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Pipeline(Stack):
    """The local stack with settings of a test's own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder, isolated=True)
        self.extra = settings

    def env(self) -> dict[str, str]:
        """The stack's settings and the test's."""
        return super().env() | self.extra

    def ok(self, *words: str) -> str:
        """Run a command that must succeed; what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout

    def post(self, transactions: list[dict[str, Any]], path: str = "/webhook/txns.ingest") -> dict[str, Any]:
        """Post once; raises what urllib raises."""
        request = urllib.request.Request(
            self.env()["KYLO_API_URL"] + path,
            data=json.dumps({"transactions": transactions}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def post_until_taken(self, transactions: list[dict[str, Any]]) -> dict[str, Any]:
        """Post the same body until the API answers with success, as a client with retries would."""
        until = time.monotonic() + 120
        while True:
            try:
                return self.post(transactions)
            except urllib.error.HTTPError as refused:
                refused.close()
                if refused.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
            except OSError:
                pass
            assert time.monotonic() < until
            time.sleep(0.1)

    def get(self, path: str) -> Any:
        """A JSON answer of the API, whatever its status."""
        try:
            with urllib.request.urlopen(self.env()["KYLO_API_URL"] + path, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as status:
            with status:
                return json.load(status)

    def rows(self, sql: str, database: str = "kylo") -> list[tuple[Any, ...]]:
        """The answer of one query, on a connection of its own."""
        with psycopg.connect(self.postgres().dsn(database)) as connection:
            return connection.execute(sql).fetchall()

    def tell(self) -> None:
        """Print the ends of all logs; pytest shows it where a test failed."""
        for part in ("api", "relay", "projectors", "sheets"):
            lines = self.log_file(part).read_text(errors="replace").splitlines()
            print(f"== {part}", *lines[-40:], sep="\n")

    def tab(self, spreadsheet: str, title: str) -> list[list[Any]]:
        """The rows of a tab below its header; [] while there is no such tab."""
        address = f"{self.env()['KYLO_SHEETS_ENDPOINT']}/_standin/sheets/{spreadsheet}.json"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                tabs = json.load(answer)["tabs"]
        except urllib.error.HTTPError as missing:
            missing.close()
            if missing.code != HTTPStatus.NOT_FOUND:
                raise
            return []
        return next((tab["values"][1:] for tab in tabs if tab["title"] == title), [])


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Look again and again until it holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def transaction(number: int, company: str, **changes: Any) -> dict[str, Any]:
    """A transaction of the runbook's form."""
    return {
        "id": f"t{number}",
        "company_id": company,
        "date": "2025-08-26",
        "amount": round(number / 100, 2),
        "description": f"SHOP {number}",
    } | changes
