"""The official Google client behind nine plain calls; each sends one request, once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import google.auth.exceptions
import google_auth_httplib2
from googleapiclient import discovery
from googleapiclient.errors import HttpError

from kylo_outbox.sheets import credentials, failures, reading
from kylo_outbox.sheets.errors import QuotaExceeded, ReadFailed, Rejected, TabProblem, WriteUnknown
from kylo_outbox.sheets.tab import MARKER_KEY, GridArea, TabContents, TabInfo
from kylo_outbox.sheets.transport import NoAnswer, NoConnection, OnceHttp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.model.errors import KyloError
    from kylo_outbox.store.quota import Kind


class Pace(Protocol):
    """Who decides when a call may be made (`sheets.pacing.Pacer`)."""

    def before(self, kind: Kind) -> None: ...  # noqa: D102
    def refused(self, kind: Kind, seconds: float) -> None: ...  # noqa: D102


class GoogleSheets:
    """Google Sheets as the flows see it; safe to share between threads (each gets its own connection).

    Nothing is ever sent twice by itself and nothing is waited for: every failure is one of the errors of
    `kylo_outbox.sheets.errors`, and the caller decides. A call takes as long as the transport's time-out at most a
    few times over (connect, send, receive).

    Args:
        endpoint: Base URL of a stand-in; then no credentials are used. None means Google itself.
        credentials_file: Path of a service account key; None means the application default credentials.
        timeout: Seconds without progress before a call is given up.
        on_request: Called after each request with the kind ("read" or "write") and its code: the HTTP status, or
            "unreachable", "unauthorised", "timeout", "dropped".
        pace: Asked before each call and told of each refusal for too many; None calls at once.

    Raises:
        Misconfigured: The credentials cannot be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        credentials_file: str | None = None,
        timeout: float = 60.0,
        on_request: Callable[[str, str], None] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._endpoint = endpoint.rstrip("/") + "/" if endpoint else None
        self._timeout = timeout
        self._on_request = on_request
        self.pace = pace
        self._credentials = credentials.load(self._endpoint, credentials_file)
        self._signing_in = threading.Lock()
        self._threads = threading.local()
        self._open: weakref.WeakSet[OnceHttp] = weakref.WeakSet()
        # The document comes with the client library: building needs no network.
        self._service = discovery.build(
            "sheets",
            "v4",
            http=self._http(),
            static_discovery=True,
            cache_discovery=False,
            client_options={"api_endpoint": self._endpoint} if self._endpoint else None,
        )

    @property
    def quota_account(self) -> str:
        """Who calls, as Google counts calls: project and account, or the stand-in's address."""
        if self._endpoint is not None:
            return self._endpoint
        return f"{getattr(self._credentials, 'project_id', None) or '-'}/{self.account or '-'}"

    @property
    def account(self) -> str | None:
        """E-mail address that workbooks must be shared with; None with a stand-in or an unknown kind of account."""
        return credentials.address(self._credentials)

    def tabs(self, spreadsheet_id: str) -> dict[str, TabInfo]:
        """Return the tabs by title, in the order people see them. One read.

        Raises:
            SheetUnavailable: No such workbook, or not shared with us.
            NotSent, NotAuthorised, QuotaExceeded, ReadFailed: Read again later.
        """
        call = self._service.spreadsheets().get(spreadsheetId=spreadsheet_id, fields=reading.TAB_FIELDS)
        answer = self._send(call, write=False, spreadsheet_id=spreadsheet_id)
        found = [reading.tab_info(sheet) for sheet in answer.get("sheets", ())]
        return {tab.title: tab for tab in sorted(found, key=lambda tab: tab.index)}

    def contents(self, spreadsheet_id: str, title: str) -> TabContents:
        """Return the header row and column A of a tab. One read; errors as `column`."""
        name = reading.quoted(title)
        answer = self._ranges(spreadsheet_id, title, [f"{name}!1:1", f"{name}!A:A"])
        header = answer[0][0] if answer[0] else []
        return TabContents(tuple(map(reading.text, header)), reading.first_of_each(answer[1])[1:])

    def column(self, spreadsheet_id: str, title: str, column: str = "A") -> list[str]:
        """Return one column from row 1 down as texts, empty cells as "". One read.

        Raises:
            TabProblem: There is no tab of this title (any more).
            SheetUnavailable, NotSent, NotAuthorised, QuotaExceeded, ReadFailed: As `tabs`.
        """
        return list(
            reading.first_of_each(
                self._ranges(spreadsheet_id, title, [f"{reading.quoted(title)}!{column}:{column}"])[0]
            )
        )

    def rows(self, spreadsheet_id: str, title: str) -> list[list[Any]]:
        """Return the whole tab as it stands, row 1 first: texts, numbers, truth values; "" for empty.

        Rows are as long as their last filled cell. One read; errors as `column`.
        """
        return self._ranges(spreadsheet_id, title, [reading.quoted(title)])[0]

    def grids(self, spreadsheet_id: str, areas: Sequence[GridArea]) -> list[list[list[Any]]]:
        """Return the values of some areas, tabs named by their ids, in the order asked. One read.

        Each is a list of rows; empty cells are "", and what is empty at the end of rows and areas is left out.

        Raises:
            ReadFailed: A tab went or shrank since it was listed: list the tabs again.
            SheetUnavailable, NotSent, NotAuthorised, QuotaExceeded: As `tabs`.
        """
        filled = [area for area in areas if area.top < area.bottom and area.left < area.right]
        if not filled:
            return [[] for _ in areas]
        body = {
            "dataFilters": [{"gridRange": reading.grid_range(area)} for area in filled],
            "valueRenderOption": "UNFORMATTED_VALUE",
        }
        call = self._service.spreadsheets().values().batchGetByDataFilter(spreadsheetId=spreadsheet_id, body=body)
        try:
            answer = self._send(call, write=False, spreadsheet_id=spreadsheet_id)
        except Rejected as error:
            raise ReadFailed(f"the workbook changed meanwhile ({error.message})") from error
        found = reading.by_area(answer)
        return [found.get(area, []) for area in areas]

    def find_markers(self, spreadsheet_id: str, markers: Sequence[str]) -> dict[str, set[int]]:
        """Return the ids of the tabs on which each of the markers lies; posts without one were not applied. One read.

        Not found right after a time-out is no proof yet: the request may still be on its way. Look twice, a second
        apart, before sending again. Errors as `tabs`.
        """
        lookups = [{"metadataKey": MARKER_KEY, "metadataValue": marker} for marker in markers]
        body = {"dataFilters": [{"developerMetadataLookup": lookup} for lookup in lookups]}
        call = self._service.spreadsheets().developerMetadata().search(spreadsheetId=spreadsheet_id, body=body)
        answer = self._send(call, write=False, spreadsheet_id=spreadsheet_id)
        return reading.marked_tabs(answer)

    def find_marker(self, spreadsheet_id: str, marker: str) -> bool:
        """Tell whether the post that carries this marker was applied. One read; as `find_markers`."""
        return marker in self.find_markers(spreadsheet_id, [marker])

    def batch_update(self, spreadsheet_id: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Apply all sub-requests or none, in order, and return their replies. One write.

        Raises:
            Rejected: Nothing applied; Google's reason, with the position of the faulty sub-request when named.
            WriteUnknown: Applied or not; `find_marker` tells.
            NotSent, NotAuthorised, QuotaExceeded: Nothing applied; send again later.
            SheetUnavailable: Nothing applied; no such workbook, or not shared with us.
        """
        body = {"requests": list(requests)}
        call = self._service.spreadsheets().batchUpdate(spreadsheetId=spreadsheet_id, body=body)
        replies: list[dict[str, Any]] = self._send(call, write=True, spreadsheet_id=spreadsheet_id).get("replies", [])
        if len(replies) != len(requests):
            # Something between us and Google answered in its place; Google sends one reply for each sub-request.
            raise WriteUnknown(f"{len(replies)} replies came for {len(requests)} sub-requests")
        return replies

    def create(self, title: str) -> str:
        """Make a new workbook and return its id. One write, without a marker: after `WriteUnknown` look by hand."""
        call = self._service.spreadsheets().create(body={"properties": {"title": title}}, fields="spreadsheetId")
        return str(self._send(call, write=True, spreadsheet_id=None)["spreadsheetId"])

    def close(self) -> None:
        """Close every thread's connection; call it when nobody is in a call. The object stays usable."""
        for http in list(self._open):
            http.close()

    def _ranges(self, spreadsheet_id: str, title: str, ranges: list[str]) -> list[list[list[Any]]]:
        call = (
            self._service.spreadsheets()
            .values()
            .batchGet(spreadsheetId=spreadsheet_id, ranges=ranges, valueRenderOption="UNFORMATTED_VALUE")
        )
        try:
            answer = self._send(call, write=False, spreadsheet_id=spreadsheet_id)
        except Rejected as error:
            if "Unable to parse range" not in error.message:
                raise
            raise TabProblem(
                f"Workbook {spreadsheet_id} has no tab named {title!r}",
                "It was renamed or deleted meanwhile; name it as the company's settings say, or change those.",
            ) from error
        return [part.get("values", []) for part in answer["valueRanges"]]

    def _send(self, call: Any, *, write: bool, spreadsheet_id: str | None) -> dict[str, Any]:
        """Send one request and name what came of it: the one place where outcomes are told apart."""
        kind: Kind = "write" if write else "read"
        http = self._http()
        failure: KyloError
        try:
            self._sign_in(http)
            if self.pace is not None:
                self.pace.before(kind)
            answer = _executed(call, http)
        except NoConnection as error:
            code, failure = "unreachable", failures.of_connection(error)
        except NoAnswer as error:
            code, failure = error.code, failures.of_silence(error, write=write)
        except google.auth.exceptions.GoogleAuthError as error:
            code = "unauthorised"
            failure = failures.of_credentials(type(error).__name__, retryable=bool(getattr(error, "retryable", False)))
        except HttpError as error:
            code = str(error.resp.status)
            failure = failures.of_answer(error, write=write, spreadsheet_id=spreadsheet_id, account=self.account)
        except ValueError:
            code, failure = "200", failures.of_garbage(write=write)
        else:
            self._count(kind, "200")
            return answer
        self._count(kind, code)
        if isinstance(failure, QuotaExceeded) and self.pace is not None:
            self.pace.refused(kind, failure.retry_after)
        # Without "from": the causes quote addresses, headers and bodies, and end up in logs.
        raise failure from None

    def _sign_in(self, http: Any) -> None:
        """Fetch a token before the request, so that a failure here is known to have sent nothing."""
        if self._credentials.valid:
            return
        with self._signing_in:
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(google_auth_httplib2.Request(http.http))
                except NoAnswer as error:
                    raise NoConnection(f"signing in: {error}") from error

    def _http(self) -> Any:
        if not hasattr(self._threads, "http"):
            plain = OnceHttp(self._timeout, direct=self._endpoint is not None)
            self._open.add(plain)
            self._threads.http = google_auth_httplib2.AuthorizedHttp(self._credentials, http=plain)
        return self._threads.http

    def _count(self, kind: Kind, code: str) -> None:
        if self._on_request is not None:
            self._on_request(kind, code)


def _executed(call: Any, http: Any) -> dict[str, Any]:
    answer = call.execute(http=http, num_retries=0)
    if not isinstance(answer, dict):
        # The client hands out a body that is no JSON as a text instead of complaining.
        raise ValueError("no JSON object")  # noqa: TRY004 - the same case as a body that cannot be decoded
    return answer
