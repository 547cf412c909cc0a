"""The gateway, through the official client and a real socket, against the stand-in and against servers that break."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import httplib2
import pytest
from googleapiclient import discovery
from googleapiclient.errors import HttpError

from kylo_outbox.model.errors import Misconfigured, Poison, Transient, UnknownOutcome
from kylo_outbox.model.tabs import PENDING_COLUMNS, PendingRow
from kylo_outbox.sheets import errors
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.planner import plan_pending
from kylo_outbox.sheets.reading import quoted
from kylo_outbox.sheets.standin.background import running
from kylo_outbox.sheets.transport import OnceHttp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.sheets.plan import PostPlan

BOOK = "book-1"
TITLE = "710 Pending"
ROWS = [PendingRow(f"uid-{i}", "2025-01-31", "=1+1", "710", 100 * i) for i in range(3)]


@pytest.fixture
def url(tmp_path) -> Iterator[str]:
    """A stand-in on a free port."""
    with running(tmp_path / "sheets") as address:
        yield address


@pytest.fixture
def seen() -> list[tuple[str, str]]:
    """What the gateway told its metrics hook."""
    return []


@pytest.fixture
def sheets(url, seen) -> Iterator[GoogleSheets]:
    """A gateway with a short time-out on the stand-in."""
    gateway = GoogleSheets(url, timeout=0.5, on_request=lambda kind, code: seen.append((kind, code)))
    yield gateway
    gateway.close()


def post(url: str, path: str, body: Any) -> None:
    """Send JSON to the stand-in's own desk."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def counts(url: str) -> dict[str, int]:
    """Counts of the stand-in, batchUpdate only."""
    with urllib.request.urlopen(url + "_standin/requests") as answer:
        held = json.load(answer)
    return {kind: held[kind].get("spreadsheets.batchUpdate", 0) for kind in ("received", "applied")}


def plan(sheets: GoogleSheets, ordinal: int = 1, wanted: list[PendingRow] = ROWS) -> PostPlan | None:
    """Read the tab and plan, as the poster does."""
    tab = sheets.tabs(BOOK).get(TITLE)
    contents = sheets.contents(BOOK, TITLE) if tab is not None else None
    return plan_pending(company_id="710", title=TITLE, ordinal=ordinal, tab=tab, contents=contents, wanted=wanted)


def must_plan(sheets: GoogleSheets, ordinal: int = 1, wanted: list[PendingRow] = ROWS) -> PostPlan:
    """Plan a post that is needed."""
    found = plan(sheets, ordinal, wanted)
    assert found is not None
    return found


def test_a_post_reads_back_as_it_was_planned(sheets):
    """What a post writes is what tabs, contents, column and rows show, texts as texts and numbers as numbers."""
    found = must_plan(sheets)
    sheets.batch_update(BOOK, found.requests)
    tab = sheets.tabs(BOOK)[TITLE]
    assert (tab.sheet_id, tab.frozen_rows, tab.column_count) == (found.sheet_id, 1, 11)
    assert [held.covers(column) for column, held in zip((0, 10), tab.protections, strict=True)] == [True, True]
    assert [held.value for held in tab.markers] == [found.marker]
    contents = sheets.contents(BOOK, TITLE)
    assert contents.header == PENDING_COLUMNS
    assert contents.hashes == found.hashes == ("uid-0", "uid-1", "uid-2")
    assert sheets.column(BOOK, TITLE) == ["Row_Hash", *contents.hashes]
    assert sheets.column(BOOK, TITLE, "E") == ["Amount", "0", "1", "2"]
    assert sheets.rows(BOOK, TITLE)[1] == ["uid-0", "2025-01-31", "=1+1", "710", 0, "", "", "", False]


def test_a_second_post_of_the_same_rows_is_no_post(sheets):
    """After a post the same rows need none; one more row is one call that appends it alone."""
    sheets.batch_update(BOOK, must_plan(sheets).requests)
    assert plan(sheets, ordinal=2) is None
    more = must_plan(sheets, 2, [*ROWS, PendingRow("uid-9", "2025-02-01", "x", "710", 5)])
    assert len(more.requests) == 2
    sheets.batch_update(BOOK, more.requests)
    assert sheets.column(BOOK, TITLE)[-2:] == ["uid-2", "uid-9"]


def test_what_people_did_meanwhile_stays(sheets):
    """Rows typed, inserted and edited between reading and posting are all there after the post."""
    sheets.batch_update(BOOK, must_plan(sheets).requests)
    late = must_plan(sheets, 2, [*ROWS, PendingRow("uid-9", "2025-02-01", "x", "710", 5)])
    tab = sheets.tabs(BOOK)[TITLE].sheet_id
    typed = {"values": [{}, {}, {"userEnteredValue": {"stringValue": "a person's own row"}}]}
    start = {"sheetId": tab, "rowIndex": 4, "columnIndex": 0}
    place = {"sheetId": tab, "dimension": "ROWS", "startIndex": 2, "endIndex": 3}
    sheets.batch_update(
        BOOK,
        [
            {"updateCells": {"start": start, "rows": [typed], "fields": "userEnteredValue"}},
            {"insertDimension": {"range": place}},
        ],
    )
    sheets.batch_update(BOOK, late.requests)
    assert sheets.column(BOOK, TITLE) == ["Row_Hash", "uid-0", "", "uid-1", "uid-2", "", "uid-9"]
    assert sheets.column(BOOK, TITLE, "C")[5] == "a person's own row"


@pytest.mark.parametrize(
    ("fault", "error", "applied", "code"),
    [
        ({"mode": "close", "when": "after"}, errors.WriteUnknown, 1, "dropped"),
        ({"mode": "close", "when": "before"}, errors.WriteUnknown, 0, "dropped"),
        ({"mode": "stall", "when": "after"}, errors.WriteUnknown, 1, "timeout"),
        ({"mode": "stall", "when": "before"}, errors.WriteUnknown, 0, "timeout"),
        ({"mode": "503", "when": "after"}, errors.WriteUnknown, 1, "503"),
        ({"mode": "503", "when": "before"}, errors.WriteUnknown, 0, "503"),
        ({"mode": "429", "retry_after": 7}, errors.QuotaExceeded, 0, "429"),
    ],
)
def test_each_fault_sends_once_and_tells_the_truth(url, sheets, seen, fault, error, applied, code):
    """Whatever breaks, one request went out, the error class says what is known, and the marker settles the rest."""
    found = must_plan(sheets)
    post(url, "_standin/faults", {**fault, "method": "batchUpdate"})
    with pytest.raises(error) as raised:
        sheets.batch_update(BOOK, found.requests)
    assert counts(url) == {"received": 1, "applied": applied}
    assert isinstance(raised.value, UnknownOutcome if error is errors.WriteUnknown else Transient)
    assert seen[-1] == ("write", code)
    assert sheets.find_marker(BOOK, found.marker) is bool(applied)
    if isinstance(raised.value, errors.QuotaExceeded):
        assert raised.value.retry_after == 7


def test_the_plain_client_applies_a_dropped_answer_twice(url, sheets):
    """Why the transport exists: the same fault with plain httplib2 reports success and has written every row twice."""
    sheets.batch_update(BOOK, must_plan(sheets, wanted=ROWS[:1]).requests)
    tab = sheets.tabs(BOOK)[TITLE].sheet_id
    row = {"values": [{"userEnteredValue": {"stringValue": "twice"}}]}
    append = {"requests": [{"appendCells": {"sheetId": tab, "rows": [row], "fields": "userEnteredValue"}}]}
    http = httplib2.Http()
    plain = discovery.build("sheets", "v4", http=http, static_discovery=True, client_options={"api_endpoint": url})
    post(url, "_standin/faults", {"mode": "close", "when": "after", "method": "batchUpdate"})
    plain.spreadsheets().batchUpdate(spreadsheetId=BOOK, body=append).execute(num_retries=0)
    http.close()
    assert sheets.column(BOOK, TITLE).count("twice") == 2
    post(url, "_standin/faults", {"mode": "close", "when": "after", "method": "batchUpdate"})
    row["values"][0]["userEnteredValue"]["stringValue"] = "once"
    with pytest.raises(errors.WriteUnknown):
        sheets.batch_update(BOOK, append["requests"])
    assert sheets.column(BOOK, TITLE).count("once") == 1


def test_the_same_batch_sent_again_is_refused_whole(sheets):
    """The marker's id is unique in the workbook, so that even a batch repeated by mistake adds nothing."""
    sheets.batch_update(BOOK, must_plan(sheets, wanted=ROWS[:1]).requests)
    found = must_plan(sheets, 2)
    sheets.batch_update(BOOK, found.requests)
    with pytest.raises(errors.Rejected, match="already exists"):
        sheets.batch_update(BOOK, found.requests)
    assert sheets.column(BOOK, TITLE) == ["Row_Hash", "uid-0", "uid-1", "uid-2"]


def test_a_refused_batch_names_its_faulty_part_and_applies_nothing(url, sheets):
    """A 400 in the second of two sub-requests leaves the first unapplied and tells the position."""
    requests = [
        {"addSheet": {"properties": {"title": "new"}}},
        {"addSheet": {"properties": {"title": "Sheet1"}}},
    ]
    with pytest.raises(errors.Rejected) as raised:
        sheets.batch_update(BOOK, requests)
    assert raised.value.index == 1
    assert isinstance(raised.value, Poison)
    assert raised.value.message == (
        'Invalid requests[1].addSheet: A sheet with the name "Sheet1" already exists. Please enter another name.'
    )
    assert counts(url) == {"received": 1, "applied": 0}
    assert list(sheets.tabs(BOOK)) == ["Sheet1"]


@pytest.mark.parametrize("mode", ["close", "stall", "503", "429"])
def test_a_failed_read_can_simply_be_repeated(url, sheets, seen, mode):
    """The same faults on a read are transient, with a time to wait, and never an unknown outcome."""
    post(url, "_standin/faults", {"mode": mode})
    with pytest.raises(Transient) as raised:
        sheets.tabs(BOOK)
    assert isinstance(raised.value, errors.ReadFailed | errors.QuotaExceeded)
    assert raised.value.retry_after > 0
    assert seen[-1][0] == "read"
    assert list(sheets.tabs(BOOK)) == ["Sheet1"]


def test_an_unknown_workbook_says_what_to_do(tmp_path):
    """A strict stand-in answers 404 as Google does, and the error names the workbook and the remedy."""
    with running(tmp_path, strict=True) as url, contextlib.closing(GoogleSheets(url)) as sheets:
        with pytest.raises(errors.SheetUnavailable, match=r"no workbook nowhere.*Share it with") as raised:
            sheets.tabs("nowhere")
        assert isinstance(raised.value, Poison)
        made = sheets.create("Rules")
        assert list(sheets.tabs(made)) == ["Sheet1"]


def test_a_renamed_tab_is_the_companys_problem(sheets):
    """Reading a tab that is gone sets the company aside instead of stopping everything."""
    with pytest.raises(errors.TabProblem, match=r"no tab named .*renamed or deleted"):
        sheets.column(BOOK, "O'Brien: 1!A:A")


def test_any_title_can_be_read(sheets):
    """Titles with quotes, marks and slashes are found by their name."""
    titles = ["O'Brien", "a!b", "A1", "x/y", "50% ü", "'quoted'"]
    sheets.batch_update(BOOK, [{"addSheet": {"properties": {"title": title}}} for title in titles])
    assert [sheets.column(BOOK, title) for title in titles] == [[]] * len(titles)
    assert quoted("O'Brien") == "'O''Brien'"


def test_nobody_listens_is_known_to_be_not_sent(url, seen):
    """A refused connection is safe to send again: nothing reached anybody."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gateway = GoogleSheets(f"http://127.0.0.1:{port}", on_request=lambda kind, code: seen.append((kind, code)))
    with pytest.raises(errors.NotSent, match="not reachable") as raised:
        gateway.batch_update(BOOK, [{"addSheet": {}}])
    assert not isinstance(raised.value, UnknownOutcome)
    assert raised.value.retry_after > 0
    assert seen == [("write", "unreachable")]


def test_a_connection_closed_while_idle_is_opened_anew(tmp_path):
    """A server restart between two calls costs nothing: the dead connection is seen before anything is sent."""
    with running(tmp_path) as url:
        sheets = GoogleSheets(url)
        sheets.tabs(BOOK)
        port = int(url.rstrip("/").rsplit(":", 1)[1])
    with running(tmp_path, port=port), contextlib.closing(sheets):
        sheets.batch_update(BOOK, [{"addSheet": {"properties": {"title": "after"}}}])
        assert list(sheets.tabs(BOOK)) == ["Sheet1", "after"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{", errors.WriteUnknown),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", errors.WriteUnknown),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", errors.WriteUnknown),
        (b"garbage\r\n\r\n", errors.WriteUnknown),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", errors.WriteUnknown),
        (b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n", errors.WriteUnknown),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", errors.Rejected),
        (b"HTTP/1.1 303 See\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", errors.Rejected),
        (b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n", errors.Rejected),
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", errors.NotAuthorised),
        (b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", errors.SheetUnavailable),
    ],
)
def test_broken_and_odd_answers_are_never_taken_for_success(answer, error):
    """Half an answer, no JSON, redirects and refusals each get their class, from a single request."""
    with (
        broken_server(answer) as (url, requests),
        contextlib.closing(GoogleSheets(url, timeout=2)) as sheets,
        pytest.raises(error),
    ):
        sheets.batch_update(BOOK, [{"addSheet": {}}])
    assert len(requests) == 1


def test_403_for_the_quota_is_the_quota():
    """Google also says "too many requests" with 403 and a reason; that is not a workbook that is not shared."""
    body = json.dumps({"error": {"message": "slow down", "errors": [{"reason": "userRateLimitExceeded"}]}}).encode()
    head = b"HTTP/1.1 403 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with (
        broken_server(head + body) as (url, _),
        contextlib.closing(GoogleSheets(url)) as sheets,
        pytest.raises(errors.QuotaExceeded, match="slow down"),
    ):
        sheets.tabs(BOOK)


def test_threads_have_their_own_connections(sheets):
    """Calls from several threads at once do not mix their answers."""
    found: dict[str, list[str]] = {}

    def read(book: str) -> None:
        found[book] = list(sheets.tabs(book))

    for number in range(8):
        name = f"book-{number}"
        sheets.batch_update(name, [{"addSheet": {"properties": {"title": name}}}])
    threads = [threading.Thread(target=read, args=(f"book-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {f"book-{number}": ["Sheet1", f"book-{number}"] for number in range(8)}


def test_unusable_credentials_name_the_path_and_hide_the_key(tmp_path):
    """A missing file, a file that is no key and a broken key are each told without showing what is inside."""
    broken = tmp_path / "key.json"
    with pytest.raises(Misconfigured, match=r"key\.json cannot be read"):
        GoogleSheets(credentials_file=str(broken))
    broken.write_text("no json: s3cret", encoding="utf-8")
    with pytest.raises(Misconfigured, match="is not a JSON key file") as first:
        GoogleSheets(credentials_file=str(broken))
    key = {"type": "service_account", "private_key": "s3cret", "client_email": "a@b.c", "token_uri": "https://x.y"}
    broken.write_text(json.dumps(key), encoding="utf-8")
    with pytest.raises(Misconfigured, match="not a usable service account key") as second:
        GoogleSheets(credentials_file=str(broken))
    assert "s3cret" not in str(first.value) + str(second.value)


def test_certificates_are_verified():
    """The transport keeps certificate checks on and follows no redirect."""
    http = OnceHttp(1.0)
    assert http.disable_ssl_certificate_validation is False
    assert http.follow_redirects is False


def test_plain_client_errors_are_not_what_the_flows_see(sheets):
    """No error of the client library leaves the gateway, not even as a cause that a log would print."""
    with pytest.raises(errors.Rejected) as raised:
        sheets.batch_update(BOOK, [])
    assert not isinstance(raised.value, HttpError)
    assert raised.value.__cause__ is None


@contextlib.contextmanager
def broken_server(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answer every connection with these bytes and close it; yields the URL and the requests received."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    received = connection.recv(65536)
                    if not received:
                        return
                    requests.append(received)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        yield f"http://127.0.0.1:{port}/", requests
        with socket.create_connection(("127.0.0.1", port)):
            pass
        thread.join()
