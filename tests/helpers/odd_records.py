"""Records as nobody should write them, generated: odd bytes, wrong types, broken headers, huge and deep values."""

from __future__ import annotations

import json

from hypothesis import strategies as st

BAD = b'{"poison": true}'

octets = st.binary(max_size=40)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
nested = st.integers(1, 5000).map(lambda depth: b"[" * depth + b"]" * depth)
huge = st.integers(1, 5000).map(lambda digits: b'{"n": ' + b"9" * digits + b"}")
values = st.none() | octets | json_like | nested | huge | st.sampled_from([b"{}", BAD, b'{"poison": "\\ud800"}'])
origins = st.builds(
    lambda version, store, generation, number, event_id, kind: (
        f"{version};{store};{generation};{number};{event_id};{kind}".encode("utf-8", "surrogateescape")
    ),
    st.sampled_from(["1", "1", "1", "2", ""]),
    st.sampled_from(["aaaabbbbcccc", "", "a;b", "\x00", "x" * 100]),
    st.sampled_from(["1", "2", "-1", "99999999999", "x", "٣"]),
    st.integers(-5, 2**70).map(str),
    st.uuids().map(str) | st.just("no-uuid"),
    st.text(max_size=5) | st.just("T"),
)
headers = st.lists(
    st.tuples(st.sampled_from(["kylo", "ce_type", "a", "", "n\x00"]), st.none() | octets | origins), max_size=4
)
records = st.fixed_dictionaries(
    {
        "key": st.none() | octets | st.sampled_from([b"k", b"710", b"\xff\x00", b"k" * 5000]),
        "value": values,
        "headers": headers,
        "partition": st.integers(0, 3),
    }
)
