"""Log lines: where they go, their shape, and that no password is in them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from kylo_outbox.telemetry.logs import redact, set_up_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t-p4ss"


@pytest.fixture
def _own_root() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {
        name: logging.getLogger(name).level for name in ("apscheduler", "googleapiclient", "uvicorn.access", "alembic")
    }
    quiet["apscheduler.scheduler"] = logging.getLogger("apscheduler.scheduler").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in quiet.items():
        logging.getLogger(name).setLevel(former)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://kylo:{SECRET}@db:5432/books",
        f"connecting to postgresql://kylo:{SECRET}@db/books failed",
        f"postgresql+psycopg://kylo:{SECRET}@db/books",
        f"http://user:{SECRET}@proxy:3128",
        f"host=db password={SECRET} user=kylo",
        f"host=db PASSWORD = {SECRET}",
        f"password='{SECRET} with blanks'",
        f"password='it\\'s {SECRET}'",
        f"sslpassword={SECRET}",
        f"postgresql://db/books?user=kylo&password={SECRET}",
        f"postgresql://:{SECRET}@db/books",
    ],
)
def test_passwords_are_taken_out(text: str):
    """A password is recognised by its shape, wherever the line comes from."""
    assert SECRET not in redact(text)
    assert "***" in redact(text)


def test_an_unencoded_at_sign_ends_no_password():
    """The last @ before the next blank ends it: with an unencoded one the rest of the password would be shown."""
    assert SECRET not in redact(f"postgresql://kylo:half@{SECRET}@db:5432/books")


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/livez",
        "mail a@b.example: 12:30",
        "topic a:b@c",
        "password must not be empty",
        "x" * 10_000,
    ],
)
def test_everything_else_stays(text: str):
    """Lines without a secret are not changed."""
    assert redact(text) == text


def test_known_secrets_are_taken_out():
    """Tokens have no shape; they are known from the settings."""
    assert redact(f"token {SECRET} refused", [SECRET]) == "token *** refused"


@pytest.mark.usefixtures("_own_root")
@pytest.mark.parametrize("fmt", ["text", "json"])
def test_no_secret_in_a_line(capsys: pytest.CaptureFixture[str], fmt: str):
    """Neither in the text nor in its arguments nor in the stack of an exception."""
    set_up_logs(level="DEBUG", fmt=fmt, part="relay", secrets=["tok-123456"])
    try:
        int(f"postgresql://kylo:{SECRET}@db")
    except ValueError:
        logging.getLogger("any").exception("failed for %s with %s", f"host=h password={SECRET}", "tok-123456")
    told = capsys.readouterr()
    assert told.out == ""
    assert "ValueError" in told.err
    assert SECRET not in told.err
    assert "tok-123456" not in told.err


@pytest.mark.usefixtures("_own_root")
def test_json_lines(capsys: pytest.CaptureFixture[str]):
    """One document a line, with the part, so that machines need no pattern."""
    set_up_logs(level="INFO", fmt="json", part="api")
    logging.getLogger("kylo_outbox.x").warning("line one\nline two")
    logging.getLogger("kylo_outbox.x").debug("not told")
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"], found["part"]) == ("WARNING", "kylo_outbox.x", "api")
    assert found["message"] == "line one\nline two"
    assert found["at"]


@pytest.mark.usefixtures("_own_root")
def test_setting_up_twice_tells_once(capsys: pytest.CaptureFixture[str]):
    """A second set-up replaces the first."""
    for part in ("first", "second"):
        set_up_logs(level="INFO", fmt="text", part=part)
    logging.getLogger("any").info("hello")
    assert capsys.readouterr().err.count("hello") == 1
