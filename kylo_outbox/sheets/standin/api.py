"""The methods of Sheets v4 that the stand-in speaks: one function each, from a read request to the answer's body."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.sheets.standin import masks, metadata, render, schema, values
from kylo_outbox.sheets.standin.errors import Refusal, invalid, not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kylo_outbox.sheets.standin.books import Books
    from kylo_outbox.sheets.standin.state import Workbook


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read: path parameters, query parameters (each a list), JSON body, and the server's own address."""

    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    body: Any
    base_url: str

    def one(self, name: str, otherwise: str) -> str:
        """Return a query parameter, the last one when given twice."""
        found = self.query.get(name)
        return found[-1] if found else otherwise

    def choice(self, name: str, otherwise: str, allowed: Sequence[str]) -> str:
        """Return a query parameter that is an enum.

        Raises:
            ApiError: 400, not one of its values.
        """
        found = self.one(name, otherwise)
        if found not in allowed:
            raise invalid(f"Invalid value at '{name}', \"{found}\"")
        return found


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the discovery document: its id and path there, the types of body and answer, who does it."""

    id: str
    http: str
    path: str
    request: str | None
    response: str
    run: Callable[[Books, Call], dict[str, Any]]
    writes: bool = False


def answer(method: Method, books: Books, call: Call) -> dict[str, Any]:
    """Check the body, run the method, and cut the answer to `fields`.

    Raises:
        ApiError: As Google would; nothing was changed.
    """
    tree: masks.Tree = {}
    if "fields" in call.query:
        tree = masks.parse(call.one("fields", "*"))
        masks.check_answer(tree, method.response)
    if method.request is not None:
        schema.check(method.request, call.body)
    projected: dict[str, Any] = masks.project(method.run(books, call), tree)
    return projected


def read_body(raw: bytes) -> Any:
    """Return the JSON of a body; an empty one is an empty object.

    Raises:
        ApiError: 400, no JSON (NaN and infinities are none).
    """
    try:
        return json.loads(raw or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"Invalid JSON payload received. {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"Unexpected token: {name}")


def _book(books: Books, call: Call) -> Workbook:
    return books.get(call.path["spreadsheetId"])


def _create(books: Books, call: Call) -> dict[str, Any]:
    unknown = set(call.body) - {"properties"}
    if unknown:
        raise invalid(f"the local stand-in makes empty workbooks only; not understood: {', '.join(sorted(unknown))}")
    book = books.create(call.body.get("properties", {}).get("title", ""))
    return render.spreadsheet(book, call.base_url, [], grid_data=False)


def _get(books: Books, call: Call) -> dict[str, Any]:
    masked = "data" in masks.parse(call.one("fields", "*")).get("sheets", {})
    asked = call.one("includeGridData", "false").lower() == "true" and "fields" not in call.query
    ranges = list(call.query.get("ranges", ()))
    return render.spreadsheet(_book(books, call), call.base_url, ranges, grid_data=masked or asked)


def _batch_update(books: Books, call: Call) -> dict[str, Any]:
    spreadsheet_id = call.path["spreadsheetId"]
    replies = books.update(spreadsheet_id, call.body.get("requests", []))
    done: dict[str, Any] = {"spreadsheetId": spreadsheet_id, "replies": replies}
    if call.body.get("includeSpreadsheetInResponse"):
        grid = bool(call.body.get("responseIncludeGridData"))
        ranges = call.body.get("responseRanges", [])
        done["updatedSpreadsheet"] = render.spreadsheet(_book(books, call), call.base_url, ranges, grid_data=grid)
    return done


def _values_get(books: Books, call: Call) -> dict[str, Any]:
    return values.value_range(_book(books, call), call.path["range"], **_rendering(call))


def _values_batch_get(books: Books, call: Call) -> dict[str, Any]:
    book, how = _book(books, call), _rendering(call)
    found = [values.value_range(book, text, **how) for text in call.query.get("ranges", ())]
    answered: dict[str, Any] = {"spreadsheetId": book.spreadsheet_id}
    return {**answered, "valueRanges": found} if found else answered


def _values_by_filter(books: Books, call: Call) -> dict[str, Any]:
    book, body = _book(books, call), call.body
    how = {
        "render": body.get("valueRenderOption", "FORMATTED_VALUE"),
        "dimension": body.get("majorDimension", "ROWS"),
    }
    found = [
        {"valueRange": values.filtered(book, one, **how), "dataFilters": [one]} for one in body.get("dataFilters", ())
    ]
    answered: dict[str, Any] = {"spreadsheetId": book.spreadsheet_id}
    return {**answered, "valueRanges": found} if found else answered


def _rendering(call: Call) -> dict[str, str]:
    options = ("FORMATTED_VALUE", "UNFORMATTED_VALUE", "FORMULA")
    return {
        "render": call.choice("valueRenderOption", "FORMATTED_VALUE", options),
        "dimension": call.choice("majorDimension", "ROWS", ("ROWS", "COLUMNS")),
    }


def _metadata_get(books: Books, call: Call) -> dict[str, Any]:
    text = call.path["metadataId"]
    found = _book(books, call).metadata.get(int(text)) if text.isdecimal() else None
    if found is None:
        raise not_found()
    return found


def _metadata_search(books: Books, call: Call) -> dict[str, Any]:
    book = _book(books, call)
    matched: dict[int, dict[str, Any]] = {}
    try:
        for one in call.body.get("dataFilters", ()):
            for item in metadata.matching(book, metadata.lookup_of(one)):
                found = matched.setdefault(item["metadataId"], {"developerMetadata": item, "dataFilters": []})
                found["dataFilters"].append(one)
    except Refusal as refusal:
        raise invalid(str(refusal)) from refusal
    return {"matchedDeveloperMetadata": list(matched.values())} if matched else {}


_BOOK = "v4/spreadsheets/{spreadsheetId}"

METHODS = (
    Method("sheets.spreadsheets.create", "POST", "v4/spreadsheets", "Spreadsheet", "Spreadsheet", _create, writes=True),
    Method("sheets.spreadsheets.get", "GET", _BOOK, None, "Spreadsheet", _get),
    Method(
        "sheets.spreadsheets.batchUpdate",
        "POST",
        f"{_BOOK}:batchUpdate",
        "BatchUpdateSpreadsheetRequest",
        "BatchUpdateSpreadsheetResponse",
        _batch_update,
        writes=True,
    ),
    Method(
        "sheets.spreadsheets.values.batchGet",
        "GET",
        f"{_BOOK}/values:batchGet",
        None,
        "BatchGetValuesResponse",
        _values_batch_get,
    ),
    Method(
        "sheets.spreadsheets.values.batchGetByDataFilter",
        "POST",
        f"{_BOOK}/values:batchGetByDataFilter",
        "BatchGetValuesByDataFilterRequest",
        "BatchGetValuesByDataFilterResponse",
        _values_by_filter,
    ),
    Method("sheets.spreadsheets.values.get", "GET", f"{_BOOK}/values/{{range}}", None, "ValueRange", _values_get),
    Method(
        "sheets.spreadsheets.developerMetadata.get",
        "GET",
        f"{_BOOK}/developerMetadata/{{metadataId}}",
        None,
        "DeveloperMetadata",
        _metadata_get,
    ),
    Method(
        "sheets.spreadsheets.developerMetadata.search",
        "POST",
        f"{_BOOK}/developerMetadata:search",
        "SearchDeveloperMetadataRequest",
        "SearchDeveloperMetadataResponse",
        _metadata_search,
    ),
)
