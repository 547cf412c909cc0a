"""The stand-in as people run it: a process, its disk, its pages and its command."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.cli import sheets as verbs
from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.standin.background import running
from kylo_outbox.sheets.standin.server import listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """
import pathlib, sys
from kylo_outbox.sheets.standin.server import run
run("127.0.0.1", 0, pathlib.Path(sys.argv[1]))
"""


@contextlib.contextmanager
def process(directory: Path, before: str = "") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A stand-in in a process of its own, which runs `before` first; yields the URL that it prints."""
    started = subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, str(directory)], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert started.stderr is not None
    try:
        found = re.search(r"http://\S+", started.stderr.readline())
        assert found is not None
        yield found[0], started
    finally:
        started.kill()
        started.wait()
        started.stderr.close()


def text_of(url: str) -> str:
    """Body of a page."""
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def note(text: str) -> dict[str, Any]:
    """A sub-request that appends one row."""
    row = {"values": [{"userEnteredValue": {"stringValue": text}}]}
    return {"appendCells": {"sheetId": 0, "rows": [row], "fields": "userEnteredValue"}}


def test_what_was_answered_survives_kill_9(tmp_path):
    """Rows, tabs, shapes and markers of every answered batch are there after the process was killed, twice."""
    tab = {"sheetId": 9, "title": "T", "gridProperties": {"rowCount": 9, "columnCount": 3, "frozenRowCount": 1}}
    marker = {
        "metadataKey": "kylo.post",
        "metadataValue": "1.x",
        "visibility": "DOCUMENT",
        "location": {"sheetId": 9},
    }
    written: list[str] = []
    for turn in range(3):
        with process(tmp_path) as (url, started), contextlib.closing(GoogleSheets(url)) as sheets:
            assert sheets.column("b", "Sheet1") == written
            if turn == 0:
                requests: list[dict[str, Any]] = [
                    {"addSheet": {"properties": tab}},
                    {"createDeveloperMetadata": {"developerMetadata": marker}},
                ]
                sheets.batch_update("b", requests)
            for number in range(5):
                written.append(f"{turn}-{number}")
                sheets.batch_update("b", [note(written[-1])])
            sheets.batch_update("b", [{"deleteDimension": {"range": {"dimension": "ROWS", "endIndex": 1}}}])
            del written[0]
            started.kill()
    with running(tmp_path) as url, contextlib.closing(GoogleSheets(url)) as sheets:
        assert sheets.column("b", "Sheet1") == written
        found = sheets.tabs("b")["T"]
        assert (found.sheet_id, found.row_count, found.frozen_rows) == (9, 9, 1)
        assert sheets.find_marker("b", "1.x")


def test_sigterm_ends_it_cleanly(tmp_path):
    """SIGTERM closes everything and exits 0."""
    with process(tmp_path) as (url, started):
        text_of(url)
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=20) == 0


def test_two_processes_never_share_a_directory(tmp_path):
    """A second stand-in on the same directory is refused: each would answer from its own memory."""
    with process(tmp_path), pytest.raises(OSError, match="another sheets-emulator"), running(tmp_path):
        pass


def test_it_listens_on_this_machine_only():
    """There are no credentials, so no other address is allowed."""
    with pytest.raises(Misconfigured, match="this machine only"):
        listen("0.0.0.0", 0)


def test_a_foreign_host_name_is_refused(tmp_path):
    """A page from elsewhere that points its own name at this machine gets nothing."""
    with running(tmp_path) as url:
        request = urllib.request.Request(url, headers={"host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        refused.value.close()
        assert refused.value.code == 400


def test_pages_show_the_tabs_and_escape_what_people_typed(tmp_path):
    """The list names the workbook, its page shows the cells as text, and no cell can become markup."""
    with running(tmp_path) as url, contextlib.closing(GoogleSheets(url)) as sheets:
        sheets.batch_update("b", [note("<script>alert(1)</script>"), note("second")])
        assert 'href="/sheets/b"' in text_of(url)
        page = text_of(f"{url}sheets/b")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<script>alert" not in page
        assert "second" in page
        assert "prefers-color-scheme: dark" in text_of(f"{url}_standin/static/page.css")
        assert "refresh" in text_of(f"{url}_standin/static/refresh.js")


def test_a_tab_is_there_as_json(tmp_path):
    """Programs read the tabs as plain values."""
    with running(tmp_path) as url, contextlib.closing(GoogleSheets(url)) as sheets:
        sheets.batch_update("b", [note("x")])
        held = json.loads(text_of(f"{url}_standin/sheets/b.json"))
        assert (held["tabs"][0]["title"], held["tabs"][0]["values"]) == ("Sheet1", [["x"]])
        assert json.loads(text_of(f"{url}_standin/sheets.json"))["workbooks"] == [{"spreadsheetId": "b", "title": "b"}]


def test_looking_makes_no_workbook(tmp_path):
    """A page of an unknown workbook is 404; only the API makes one on first use."""
    with running(tmp_path) as url:
        with pytest.raises(urllib.error.HTTPError) as refused:
            text_of(f"{url}sheets/b")
        refused.value.close()
        assert refused.value.code == 404
        assert "No workbook yet" in text_of(url)


def test_the_command_tells_a_taken_port_and_shows_an_example(tmp_path):
    """The verb has an example in its help and says in one line why it cannot start, with exit code 2."""
    app = typer.Typer()
    app.callback()(lambda: None)
    verbs.register(app)
    assert "Example: kylo-outbox sheets-emulator" in CliRunner().invoke(app, ["sheets-emulator", "--help"]).output
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["sheets-emulator", "--port", port, "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "cannot be listened on" in done.output


NO_SORTING = """
from kylo_outbox.sheets.standin import requests_dimensions as other
other._sort_key = lambda cell, *, falling: (0, 0)
"""


def conformance(url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[dict[str, Any]]]:
    """Run `sheets conformance --live` with a stand-in in the place of Google: exit code and differences."""
    monkeypatch.setenv("PG_DSN_RW", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("KYLO_SHEETS_ENDPOINT", url)
    done = CliRunner().invoke(app, ["sheets", "conformance", "--live", "--spreadsheet", "live", "--json"])
    return done.exit_code, json.loads(done.stdout)["differences"]


def test_conformance_finds_what_the_other_side_does_differently(tmp_path, monkeypatch):
    """Against another stand-in nothing differs; against one that leaves rows unsorted exactly that is told."""
    with process(tmp_path / "equal") as (url, _):
        assert conformance(url, monkeypatch) == (0, [])
    with process(tmp_path / "other", NO_SORTING) as (url, _):
        code, found = conformance(url, monkeypatch)
    assert code == 1
    assert [(one["case"], one["field"]) for one in found] == [("sorting moves cells", "values")]
    assert [row[0] for row in found[0]["google"] if row] == ["b", "a"]
    assert [row[0] for row in found[0]["standin"] if row] == ["a", "b"]
