"""Bodies of an ingest: JSON, NDJSON and CSV into rows, and what is refused before a row is looked at."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model import bodies
from kylo_outbox.model.bodies import BrokenBody, Format, UnknownFormat, format_of, guess_format, read_rows
from kylo_outbox.model.errors import KyloError, Refused

HEADER = b"id,company_id,date,amount,description\n"


@pytest.mark.parametrize(
    "data", [b'{"transactions":[{"amount":1.10}]}', b'[{"amount":1.10}]', b'\xef\xbb\xbf[{"amount":1.10}]']
)
def test_json_keeps_amounts_exact(data):
    """Both forms of the body are read, and a fraction never becomes a binary float."""
    assert read_rows(data, "json").rows == [{"amount": Decimal("1.10")}]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[1,]", b"\xff", b"[NaN]", b"[-Infinity]", b"[" * 100_000, b'{"a":' * 100_000),
        *(b"[" + b"1" * 5000 + b"]", b"[1e99999999999999999999]", b'[{"id":1,"id":2}]', b"[]]", b"\x00"),
    ],
)
def test_broken_json_is_told_as_such(data):
    """Whatever is no JSON, or JSON with two meanings, is broken; nothing else escapes."""
    with pytest.raises(BrokenBody):
        read_rows(data, "json")


@pytest.mark.parametrize("data", [b"5", b"null", b'"x"', b"{}", b'{"transactions":{}}', b'{"transactions":[],"x":1}'])
def test_json_without_a_list_is_refused(data):
    """JSON that holds no list of transactions is refused with the path of what is wrong."""
    with pytest.raises(Refused, match="transactions"):
        read_rows(data, "json")


def test_ndjson_skips_blank_lines_and_knows_lines():
    """One object a line; a separator inside a text is no line end."""
    found = read_rows('\n{"id":"a\u2028b"}\r\n\n{"id":2}'.encode(), "ndjson")
    assert found.rows == [{"id": "a\u2028b"}, {"id": 2}]
    assert found.lines == [2, 4]
    with pytest.raises(BrokenBody, match="line 2"):
        read_rows(b"{}\n{", "ndjson")


def test_csv_has_its_columns_in_any_order():
    """Quoted fields with line ends and commas arrive whole; each row knows its line."""
    found = read_rows(
        b'amount,id,company_id,description,date\r\n1.5,t1,710,"a,\n""b""",2025-01-01\r\n\r\n2,t2,711,,x\r\n', "csv"
    )
    assert found.rows == [
        {"amount": "1.5", "id": "t1", "company_id": "710", "description": 'a,\n"b"', "date": "2025-01-01"},
        {"amount": "2", "id": "t2", "company_id": "711", "description": "", "date": "x"},
    ]
    assert found.lines == [2, 5]


def test_csv_rows_that_do_not_fit_the_header_show_their_faults_later():
    """A short row lacks fields, a long one has an unknown one: both are faults with a path."""
    assert read_rows(HEADER + b"1,2\n1,2,3,4,5,6\n", "csv").rows == [
        {"id": "1", "company_id": "2"},
        {"id": "1", "company_id": "2", "date": "3", "amount": "4", "description": "5", "(column 6)": ""},
    ]


def test_csv_headers_are_checked():
    """Missing, unknown and doubled columns are all named."""
    with pytest.raises(Refused) as refused:
        read_rows(b"id,id,amount,date,what\n", "csv")
    assert [fault.split(";")[0] for fault in refused.value.faults] == [
        "header: column company_id is missing",
        "header: column description is missing",
        "header: 'what' is no known column",
        "header: column id stands twice",
    ]
    with pytest.raises(BrokenBody):
        read_rows(b"", "csv")
    with pytest.raises(BrokenBody):
        read_rows(HEADER + b'"open', "csv")


def test_too_many_rows_are_refused(monkeypatch):
    """A request has a limit of rows in every format."""
    monkeypatch.setattr(bodies, "MAX_ROWS", 2)
    cases: dict[Format, bytes] = {"json": b"[1,2,3]", "ndjson": b"1\n2\n3", "csv": HEADER + b"1\n2\n3\n"}
    for kind, data in cases.items():
        with pytest.raises(Refused, match="more than 2"):
            read_rows(data, kind)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (None, "json"),
        ("", "json"),
        ("application/json", "json"),
        ('Application/JSON; charset="UTF-8"', "json"),
        ("application/x-ndjson", "ndjson"),
        ("text/csv; header=present", "csv"),
    ],
)
def test_content_types(content_type, kind):
    """The declared type decides."""
    assert format_of(content_type) == kind


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json; charset=latin-1", "multipart/form-data", ";"]
)
def test_other_types_are_refused(content_type):
    """What is not read is refused, with the types that are."""
    with pytest.raises(UnknownFormat, match="application/json"):
        format_of(content_type)


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"", "x.CSV", "csv"),
        (b"", "x.jsonl", "ndjson"),
        (b"[", "-", "json"),
        (b'\xef\xbb\xbf {"transactions":[]}', "-", "json"),
        (b'{\n"transactions":[]}', "-", "json"),
        (b'{"id":1}\n{"id":2}', "-", "ndjson"),
        (b"id,amount", "-", "csv"),
        (b"", "-", "csv"),
    ],
)
def test_formats_of_files_are_guessed(data, name, kind):
    """A file's suffix decides, else its first character."""
    assert guess_format(data, name) == kind


@given(st.binary(max_size=200), st.sampled_from(["json", "ndjson", "csv"]))
def test_no_bytes_break_the_readers(data, kind):
    """Any bytes give rows or an error of ours."""
    try:
        read_rows(data, kind)
    except KyloError as error:
        str(error).encode("ascii", "backslashreplace")
