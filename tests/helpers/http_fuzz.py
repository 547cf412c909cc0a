"""Requests made from the description of the API: right ones, nearly right ones and nonsense, for every operation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

Header = tuple[bytes, bytes]
METHODS = frozenset({"get", "post", "put", "patch", "delete"})
FORMATS = (
    None,
    "application/json",
    "application/x-ndjson",
    "text/csv",
    "text/csv; charset=x",
    "multipart/form-data",
    "é",
)
ODD_TEXTS = ("", "0", "-1", "00", "%00", "..", "../711", "a/b", "=1+1", "' or 1=1 --", "\x00", "é😀", "١٢", "x" * 300)
ODD_NUMBERS = (0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 2**70, 1.5)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it goes over the wire."""

    method: str
    path: str
    headers: tuple[Header, ...]
    content: bytes


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(method, path) of everything that the description has."""
    return [(method.upper(), path) for path, held in document["paths"].items() for method in held if method in METHODS]


def requests(
    document: dict[str, Any], method: str, path: str, known: dict[str, list[str]]
) -> st.SearchStrategy[Request]:
    """Requests of one operation.

    Args:
        document: The description.
        method: Of the operation, in capitals.
        path: Its path, with the names of its parameters in braces.
        known: Values that exist, by the name of the parameter or field; they are taken more often than others.
    """
    operation = document["paths"][path][method.lower()]
    asked: dict[str, dict[str, st.SearchStrategy[Any]]] = {"path": {}, "query": {}, "header": {}}
    for each in operation.get("parameters", []):
        asked[each["in"]][each["name"]] = _values(document, each["schema"], known.get(each["name"], []))
    odd = st.dictionaries(_text(), _text(), max_size=2)
    return st.builds(
        lambda at, query, keys, body: Request(method, _address(path, at, query), (*body[0], *keys), body[1]),
        st.fixed_dictionaries(asked["path"]),
        st.one_of(st.fixed_dictionaries({}, optional=asked["query"]), odd),
        _keys(),
        _bodies(document, operation, known) if method != "GET" else st.sampled_from([((), b""), ((), b"{}")]),
    )


def _address(path: str, places: dict[str, Any], query: dict[str, Any]) -> str:
    for name, value in places.items():
        path = path.replace("{" + name + "}", quote(str(value).encode("utf-8", "surrogatepass"), safe=""))
    return path + ("?" + urlencode({k: str(v) for k, v in query.items()}, errors="replace") if query else "")


def _text() -> st.SearchStrategy[str]:
    return st.sampled_from(ODD_TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _values(document: dict[str, Any], schema: dict[str, Any], known: list[str]) -> st.SearchStrategy[Any]:
    values = st.one_of(of_schema(document, schema, {}), _text(), st.sampled_from(ODD_NUMBERS))
    return _mostly(known, values)


def _mostly(known: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    if not known:
        return values
    return st.sampled_from([True, True, True, False]).flatmap(lambda use: st.sampled_from(known) if use else values)


def _keys() -> st.SearchStrategy[list[Header]]:
    text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
    sent = text.map(lambda key: (b"idempotency-key", key.encode("latin-1")))
    return st.one_of(st.just([]), st.lists(sent, max_size=2))


def _kind(name: str | None) -> list[Header]:
    return [(b"content-type", name.encode("latin-1"))] if name else []


def _bodies(
    document: dict[str, Any], operation: dict[str, Any], known: dict[str, list[str]]
) -> st.SearchStrategy[tuple[list[Header], bytes]]:
    described = operation.get("requestBody", {}).get("content") or {"application/json": {"schema": {}}}
    right = {
        name: _lines(known.get(name, []))
        if held["schema"].get("type") == "string"
        else of_schema(document, held["schema"], known)
        for name, held in described.items()
    }
    matching = [st.tuples(st.just(_kind(name)), values.map(_encoded)) for name, values in right.items()]
    bent = [st.tuples(st.just(_kind(name)), values.flatmap(_bent).map(_encoded)) for name, values in right.items()]
    odd = st.tuples(
        st.sampled_from(FORMATS).map(_kind),
        st.one_of(JSON.map(_encoded), st.binary(max_size=40), *right.values()).map(_encoded),
    )
    return st.one_of(matching[0], *matching, *bent, odd)


def _lines(known: list[str]) -> st.SearchStrategy[str]:
    """Text bodies: something that is known, and then characters that mean something there."""
    return st.builds("".join, st.tuples(_mostly(known, st.just("")), st.text(',;"\n\r\t{}[]:=710né\x00', max_size=30)))


def _encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


def _bent(value: Any) -> st.SearchStrategy[Any]:
    """A right body with one thing changed: a field gone, added, or of another kind; a list doubled."""
    if isinstance(value, list):
        return st.sampled_from([value * 2, [value], value[:1]]) | st.lists(JSON, max_size=2).map(
            lambda more: [*value, *more]
        )
    if not isinstance(value, dict) or not value:
        return JSON
    name = st.sampled_from(sorted(value))
    return st.one_of(
        name.map(lambda gone: {key: held for key, held in value.items() if key != gone}),
        st.tuples(name, JSON).map(lambda new: value | {new[0]: new[1]}),
        st.tuples(_text(), JSON).map(lambda new: value | {new[0]: new[1]}),
        name.flatmap(lambda inner: _bent(value[inner]).map(lambda bent: value | {inner: bent})),
    )


def of_schema(document: dict[str, Any], schema: dict[str, Any], known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Values that a schema of the description allows; of what it does not bound, small ones."""
    if "$ref" in schema:
        return of_schema(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], known)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "object")
    choices = schema.get("oneOf") or schema.get("anyOf")
    if isinstance(kinds, list):
        choices = [{**schema, "type": kind} for kind in kinds]
    if choices:
        return st.one_of([of_schema(document, each, known) for each in choices])
    if kinds == "object":
        return _object(document, schema, known)
    if kinds == "array":
        items = of_schema(document, schema.get("items", {}), known)
        some = st.lists(items, min_size=max(1, schema.get("minItems", 0)), max_size=4)
        return some if schema.get("minItems") else st.one_of(some, some, st.just([]))
    return _scalar(kinds, schema)


def _object(document: dict[str, Any], schema: dict[str, Any], known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    fields = {}
    for name, held in schema.get("properties", {}).items():
        fields[name] = _mostly(known.get(name, []), of_schema(document, held, known))
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: held for name, held in fields.items() if name in required},
        optional={name: held for name, held in fields.items() if name not in required},
    )


def _scalar(kind: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if schema.get("format") == "date":
        return st.dates().map(str)
    made: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "string": lambda: st.text(min_size=schema.get("minLength", 0), max_size=20),
        "integer": lambda: st.integers(schema.get("minimum"), schema.get("maximum")),
        "number": lambda: st.decimals(-(10**9), 10**9, places=2).map(float),
        "boolean": st.booleans,
        "null": st.none,
    }
    return made[kind]()
