"""Fault runs of the Sheets road with a seed: `python3 scripts/dev.py soak --sheets [--seed S] [--posts N]`.

Posts of many companies into a stand-in that fails, while people rename, copy, sort, insert, delete and type; the quota
runs on a virtual clock. The same seed does the same again. It ends what it started.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from kylo_outbox.local.paths import free_port
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.model.errors import KyloError
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import fixtures
from tests.helpers.sheets_soak import Report, soak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.store.engine import Database

_A_BOOK = 20
_TEMPLATE, _DATABASE = "kylo_template", "soak"
_TELL_EVERY = 10.0

talk = Console(stderr=True, highlight=False)


def main() -> int:
    """Run one soak; 0 when nothing was doubled, lost, overwritten or over the quota, 1 when something was."""
    words = _words()
    talk.print(f"seed {words.seed}: {words.posts} posts of {words.companies} companies ...", markup=False)
    begun = time.monotonic()
    try:
        with _folder() as folder, _database(folder) as database, background.running(folder / "standin") as url:
            books = max(1, words.companies // _A_BOOK)
            report = soak(
                database,
                url,
                seed=words.seed,
                posts=words.posts,
                companies=words.companies,
                books=books,
                tell=_Progress(words.posts),
            )
    except KyloError as error:
        talk.print(str(error), style="red", markup=False)
        return 1
    wrong = report.wrong()
    if words.json:
        print(json.dumps(vars(report) | {"wrong": wrong}, indent=1))
    else:
        _show(report, wrong, time.monotonic() - begun)
    return 1 if wrong else 0


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py soak --sheets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python3 scripts/dev.py soak --sheets --seed 7 --posts 2000",
        allow_abbrev=False,
    )
    parser.add_argument("--sheets", action="store_true", required=True, help="the road from tables to tabs")
    parser.add_argument("--seed", type=int, help="what happens, and when; by default another one each time")
    parser.add_argument("--posts", type=int, default=1_000, help="confirmed posts (some five a second)")
    parser.add_argument("--companies", type=int, default=60, help=f"in workbooks of {_A_BOOK}")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    words = parser.parse_args()
    if words.posts < 1 or words.companies < 1:
        parser.error("--posts and --companies must be above 0")
    if words.seed is None:
        words.seed = secrets.randbelow(2**31)
    return words


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of this run alone; not below a closed one, because PostgreSQL may run as an account of its own."""
    with tempfile.TemporaryDirectory(prefix="kylo-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def _database(folder: Path) -> Iterator[Database]:
    """A fresh database on a PostgreSQL of this run alone."""
    server = LocalPostgres(folder / "postgres", free_port(), log_file=folder / "postgres.log")
    try:
        server.start()
        fixtures.ensure_template(server.dsn("postgres"), server.dsn(_TEMPLATE), _TEMPLATE)
        database = fixtures.clone(server.dsn("postgres"), server.dsn(_DATABASE), _TEMPLATE, _DATABASE)
        try:
            yield database
        finally:
            database.close()
    finally:
        server.stop()


class _Progress:
    """Says now and then how far it has come."""

    def __init__(self, posts: int) -> None:
        self._posts, self._told = posts, time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            talk.print(f"  {done} of {self._posts}", markup=False)


def _show(report: Report, wrong: list[str], seconds: float) -> None:
    show = Console(highlight=False)
    show.print(f"seed {report.seed}: {report.posts} posts, {report.rows} rows in tabs, {seconds:.0f} s", markup=False)
    show.print(
        f"double {report.double}, missing {report.missing}, overwritten {report.overwritten}, "
        f"formulas {report.formulas}, differences {report.differences}",
        markup=False,
    )
    show.print("most in a minute: " + ", ".join(f"{n} {kind}s" for kind, n in report.busiest.items()), markup=False)
    show.print("happened: " + ", ".join(f"{what} {n}" for what, n in report.happened.most_common()), markup=False)
    for line in wrong:
        show.print(line, style="red", markup=False)


if __name__ == "__main__":
    sys.exit(main())
