"""The stand-in against the discovery document, with jsonschema as a second opinion on requests and answers."""

from __future__ import annotations

import functools
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from kylo_outbox.model.tabs import PendingRow
from kylo_outbox.sheets.planner import plan_pending
from kylo_outbox.sheets.standin import api, schema
from kylo_outbox.sheets.standin.background import running
from kylo_outbox.sheets.standin.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

AREA = {"sheetId": 0, "startRowIndex": 0, "endRowIndex": 1, "startColumnIndex": 0, "endColumnIndex": 1}
LINE = {"sheetId": 0, "dimension": "ROWS", "startIndex": 0, "endIndex": 1}
LOOKUP = {"developerMetadataLookup": {"metadataKey": "k"}}
ALL_KINDS: list[dict[str, Any]] = [
    {"addSheet": {"properties": {"sheetId": 5, "title": "T", "gridProperties": {"frozenRowCount": 1}}}},
    {"updateSheetProperties": {"properties": {"sheetId": 5, "title": "U"}, "fields": "title"}},
    {"updateCells": {"range": AREA, "rows": [{"values": [{"note": "n"}]}], "fields": "*"}},
    {"appendCells": {"rows": [{"values": [{"userEnteredValue": {"formulaValue": "=1"}}]}], "fields": "*"}},
    {"repeatCell": {"range": AREA, "cell": {"userEnteredValue": {"numberValue": 1.5}}, "fields": "userEnteredValue"}},
    {"setDataValidation": {"range": AREA, "rule": {"condition": {"type": "BOOLEAN"}, "strict": True}}},
    {"addProtectedRange": {"protectedRange": {"protectedRangeId": 3, "range": AREA, "description": "d"}}},
    {"updateProtectedRange": {"protectedRange": {"protectedRangeId": 3, "description": "e"}, "fields": "description"}},
    {"addConditionalFormatRule": {"rule": {"ranges": [AREA], "booleanRule": {"condition": {"type": "BLANK"}}}}},
    {"autoResizeDimensions": {"dimensions": LINE}},
    {"appendDimension": {"sheetId": 0, "dimension": "COLUMNS", "length": 1}},
    {"insertDimension": {"range": LINE}},
    {"moveDimension": {"source": LINE, "destinationIndex": 3}},
    {"sortRange": {"range": AREA, "sortSpecs": [{"dimensionIndex": 0, "sortOrder": "ASCENDING"}]}},
    {"duplicateSheet": {"sourceSheetId": 0, "newSheetId": 6, "newSheetName": "Twin"}},
    {
        "createDeveloperMetadata": {
            "developerMetadata": {
                "metadataId": 4,
                "metadataKey": "k",
                "metadataValue": "v",
                "visibility": "DOCUMENT",
                "location": {"sheetId": 0},
            }
        }
    },
    {
        "updateDeveloperMetadata": {
            "dataFilters": [LOOKUP],
            "developerMetadata": {"metadataValue": "w"},
            "fields": "metadataValue",
        }
    },
]


@functools.cache
def json_schema(name: str) -> Draft202012Validator:
    """A type of the discovery document as a JSON Schema that allows no unknown keys."""

    def convert(spec: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in spec:
            return {"$ref": f"#/$defs/{spec['$ref']}"}
        kind = spec.get("type")
        if kind == "any":
            return {}
        found: dict[str, Any] = {"type": kind}
        if kind == "array":
            found["items"] = convert(spec["items"])
        if kind == "object":
            found["properties"] = {key: convert(value) for key, value in spec.get("properties", {}).items()}
            found["additionalProperties"] = convert(spec.get("additionalProperties", {"type": "any"}))
            if "properties" in spec or "additionalProperties" not in spec:
                found["additionalProperties"] = False
        if "enum" in spec:
            found["enum"] = spec["enum"]
        return found

    types = {key: convert(spec) for key, spec in schema.document()["schemas"].items()}
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": types})


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """A stand-in with a workbook on which every kind of sub-request was used."""
    with running(tmp_path_factory.mktemp("sheets")) as address:
        yield address


def ask(url: str, path: str, body: Any = None) -> Any:
    """Ask the stand-in without the client library and return its JSON, whatever the status."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return json.load(refusal)


def test_every_answer_is_what_the_document_promises(url):
    """Each method's answer, with every kind of sub-request used, validates as the type that the document names."""
    asked = {
        "sheets.spreadsheets.create": ("v4/spreadsheets", {"properties": {"title": "New"}}),
        "sheets.spreadsheets.batchUpdate": (
            "v4/spreadsheets/b:batchUpdate",
            {"requests": ALL_KINDS, "includeSpreadsheetInResponse": True, "responseIncludeGridData": True},
        ),
        "sheets.spreadsheets.get": ("v4/spreadsheets/b?includeGridData=true", None),
        "sheets.spreadsheets.values.get": ("v4/spreadsheets/b/values/Sheet1!A:B", None),
        "sheets.spreadsheets.values.batchGet": ("v4/spreadsheets/b/values:batchGet?ranges=A:A&ranges=U", None),
        "sheets.spreadsheets.values.batchGetByDataFilter": (
            "v4/spreadsheets/b/values:batchGetByDataFilter",
            {"dataFilters": [{"gridRange": {"sheetId": 0, "endRowIndex": 2}}], "majorDimension": "ROWS"},
        ),
        "sheets.spreadsheets.developerMetadata.get": ("v4/spreadsheets/b/developerMetadata/4", None),
        "sheets.spreadsheets.developerMetadata.search": (
            "v4/spreadsheets/b/developerMetadata:search",
            {"dataFilters": [LOOKUP]},
        ),
    }
    assert set(asked) == {method.id for method in api.METHODS}
    for method in api.METHODS:
        answer = ask(url, *asked[method.id])
        assert "error" not in answer, answer
        assert answer
        json_schema(method.response).validate(answer)
        if method.request is not None:
            json_schema(method.request).validate(asked[method.id][1])


def test_methods_and_paths_are_those_of_the_document():
    """What the stand-in speaks is a part of what Google speaks: same ids, same verbs, same paths, same types."""
    known = schema.method_paths()
    for method in api.METHODS:
        assert known[method.id] == (method.http, method.path)


@pytest.mark.parametrize(
    "body",
    [
        {"requests": ALL_KINDS},
        {"requests": [{"addSheet": {"properties": {"sheetType": "GRIDS"}}}]},
        {"requests": [{"addSheet": {"props": {}}}]},
        {"requests": [{"addSheet": {"properties": {"title": 1}}}]},
        {"requests": [{"appendCells": {"rows": [{"values": {}}]}}]},
        {"requests": "all"},
        {"requests": [{"repeatCell": {"cell": {"userEnteredValue": {"boolValue": "TRUE"}}}}]},
    ],
)
def test_the_judge_and_jsonschema_agree(body):
    """Our walker over the document and jsonschema accept and refuse the same bodies."""
    try:
        json_schema("BatchUpdateSpreadsheetRequest").validate(body)
        right = True
    except ValidationError:
        right = False
    if right:
        schema.check("BatchUpdateSpreadsheetRequest", body)
    else:
        with pytest.raises(ApiError):
            schema.check("BatchUpdateSpreadsheetRequest", body)


def test_what_the_planner_sends_is_valid():
    """A first post with all its shaping validates."""
    wanted = [PendingRow(f"u{i}", "2025-01-31", "text", "710", i) for i in range(20)]
    found = plan_pending(company_id="710", title="T", ordinal=1, tab=None, contents=None, wanted=wanted)
    assert found is not None
    json_schema("BatchUpdateSpreadsheetRequest").validate({"requests": list(found.requests)})


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("v4/spreadsheets/b:batchUpdate", {"requests": [{"nonsense": {}}]}, 400, "Unknown name"),
        ("v4/spreadsheets/b?fields=nonsense", None, 400, "cannot find field"),
        ("v4/spreadsheets/b/values/Nope!A1", None, 400, "Unable to parse range"),
        ("v4/spreadsheets/b/values/A1?valueRenderOption=X", None, 400, "valueRenderOption"),
        ("v4/spreadsheets/b/developerMetadata/77", None, 404, "Requested entity was not found."),
        ("v4/spreadsheets/not%20an%20id", None, 404, "Requested entity was not found."),
        ("v4/spreadsheets", {"sheets": []}, 400, "empty workbooks only"),
    ],
)
def test_refusals_have_googles_shape(url, path, body, code, text):
    """A refusal is an error object with code, message and status."""
    error = ask(url, path, body)["error"]
    assert error["code"] == code
    assert text in error["message"]
    assert error["status"] == {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[code]


def test_the_quota_answer_is_googles(url):
    """The 429 carries the machine-readable reason and limit of Google's own."""
    ask(url, "_standin/faults", {"mode": 429})
    error = ask(url, "v4/spreadsheets/b")["error"]
    assert error["status"] == "RESOURCE_EXHAUSTED"
    assert error["details"][0]["reason"] == "RATE_LIMIT_EXCEEDED"
    assert error["details"][0]["metadata"]["quota_limit"] == "WriteRequestsPerMinutePerUser"


@pytest.mark.parametrize(
    "order", [{}, [], {"mode": "explode"}, {"mode": "close", "when": "never"}, {"mode": "close", "count": 0}]
)
def test_orders_to_fail_are_checked(url, order):
    """A fault that cannot be understood is refused instead of being ignored."""
    assert ask(url, "_standin/faults", order)["error"]["code"] == 400
    assert "error" in ask(url, "_standin/faults", {"mode": "429", "when": "after"})
