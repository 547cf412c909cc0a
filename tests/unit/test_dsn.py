"""Connection strings: references, faults without the value, and the form that people may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.store.dsn import resolve, shown

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cr3t-p4ss"
GOOD = f"postgresql://kylo:{SECRET}@db.example:5433/books"

# Each has a fault that libpq sees and would tell with the text around it.
UNREADABLE = [
    f"postgresql://kylo:{SECRET}@[::1/books",
    f"postgresql://kylo:{SECRET}%zz@db/books",
    f"postgresql://kylo:{SECRET}@db/books?nonsense={SECRET}",
    f"postgresql://kylo:{SECRET}@db/books?x",
    f"postgresql://kylo:{SECRET}\ud800@db/books",
    f"postgres:/kylo:{SECRET}@db/books",
    f"mysql://kylo:{SECRET}@db/books",
    f"http://kylo:{SECRET}@db/books",
    f"host=db password='{SECRET}",
    f"host=db pass word={SECRET}",
    f"host=db pasword={SECRET}",
    f"host=db password={SECRET} port",
    f"=password={SECRET}",
    f"password {SECRET}",
    SECRET,
]
# libpq reads these, with a part of the password in the place of a host or a port.
MISREAD = [
    f"postgresql://kylo:half@{SECRET}@db:5432/books",
    f"postgresql://kylo:{SECRET}/books",
    f"postgresql://kylo:{SECRET}\x00@db/books",
]


@pytest.mark.parametrize("dsn", UNREADABLE)
def test_an_unreadable_string_is_named_without_its_text(dsn: str):
    """The error has the place where it was written and the remedy, and neither it nor its chain has the password."""
    with pytest.raises(Misconfigured, match=r"^PG_DSN_RW: not a PostgreSQL connection string") as caught:
        resolve(dsn, {}, "PG_DSN_RW")
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("dsn", UNREADABLE)
def test_an_unreadable_string_is_not_shown(dsn: str):
    """Lists and logs say that it cannot be read and nothing of it."""
    assert shown(dsn) == "(unreadable connection string)"


@pytest.mark.parametrize("dsn", MISREAD)
def test_a_misread_password_is_not_shown(dsn: str):
    """A password that libpq takes for a host or a port is no host and no port for people."""
    assert SECRET not in shown(dsn)


@pytest.mark.parametrize(
    "dsn", [f"host=db password={SECRET} port=1 dbname=d user=u", GOOD, f"{GOOD}?password={SECRET}"]
)
def test_a_readable_string_is_shown_without_password(dsn: str):
    """Host, port, database and user are for people; the password and options are not."""
    assert SECRET not in shown(dsn)
    assert "host=db" in shown(dsn)


def test_what_is_shown_of_a_url():
    """The form is libpq's own, so that it can be pasted (and completed with a password)."""
    assert set(shown(GOOD).split()) == {"host=db.example", "port=5433", "dbname=books", "user=kylo"}


def test_references_are_shown_as_they_are():
    """They hold no secret, and tell where to look."""
    assert shown("env:PG_DSN_710") == "env:PG_DSN_710"
    assert shown("file:/run/secrets/dsn") == "file:/run/secrets/dsn"


def test_a_reference_to_the_environment():
    """`env:NAME` is what the name holds."""
    assert resolve("env:PG_DSN_710", {"PG_DSN_710": GOOD}, "company 710") == GOOD


def test_a_reference_to_a_file(tmp_path: Path):
    """`file:PATH` is what the file holds, without its last newline."""
    (tmp_path / "dsn").write_text(f"{GOOD}\n")
    assert resolve(f"file:{tmp_path / 'dsn'}", {}, "company 710") == GOOD


def test_a_reference_to_nothing(tmp_path: Path):
    """The message names the place where the reference stands and what it refers to."""
    with pytest.raises(Misconfigured, match=r"company 710: the environment variable PG_DSN_710 .* is not set"):
        resolve("env:PG_DSN_710", {}, "company 710")
    with pytest.raises(Misconfigured, match=r"company 710: the file .*absent .* cannot be read"):
        resolve(f"file:{tmp_path / 'absent'}", {}, "company 710")


def test_a_bad_string_behind_a_reference(tmp_path: Path):
    """A reference protects no better than the place itself: the text behind it is not told either."""
    (tmp_path / "dsn").write_text(UNREADABLE[0].encode("utf-8", "replace").decode())
    for reference, environ in ((f"file:{tmp_path / 'dsn'}", {}), ("env:X", {"X": UNREADABLE[0]})):
        with pytest.raises(Misconfigured) as caught:
            resolve(reference, environ, "company 710")
        assert SECRET not in str(caught.value)


def test_sqlalchemy_urls_are_understood():
    """People paste what their SQLAlchemy program uses."""
    assert resolve(GOOD.replace("postgresql:", "postgresql+psycopg:"), {}, "PG_DSN_RW") == GOOD
