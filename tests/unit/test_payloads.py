"""Payloads given as JSON text: kept byte for byte, and refused with the path of what cannot travel."""

from __future__ import annotations

import pytest

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.payloads import MAX_DEPTH, MAX_KEY_BYTES, faults_of_event, to_bytes

DEEP = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (r'{"a": ["x", "\u0000"]}', "payload.a[1]: holds a NUL"),
        (r'{"\u0000": 1}', "payload: the name"),
        (r'{"a": "\ud800"}', "payload.a: holds a lone surrogate"),
        (r'{"a": "\uDFFF"}', "payload.a: holds a lone surrogate"),
        ('{"a": "\ud800"}', "payload.a: holds a lone surrogate"),
        ('{"a": "\ud800", "a": 1}', "payload: holds a lone surrogate"),
        ('{"a": "\x00"}', "payload: not JSON"),
        ('{"a": NaN}', "payload: NaN is no JSON number"),
        ('{"a": -Infinity}', "payload: -Infinity is no JSON number"),
        ('{"a": ' + DEEP + "}", "nested deeper than 128 levels"),
        ("[" * 100_000, "nested deeper than 128 levels"),
        ('{"a": 1', "payload: not JSON"),
        ("", "payload: not JSON"),
    ],
)
def test_a_text_that_cannot_travel_is_refused_with_its_place(text, says):
    """What PostgreSQL, Kafka or a reader of JSON would refuse later is refused now."""
    with pytest.raises(Refused) as refused:
        to_bytes(text)
    assert says in refused.value.faults[0]


@pytest.mark.parametrize(
    "text",
    [
        r'{"a": "\ud83d\ude00"}',
        r'{"a": "\\u0000 and \\ud800 as letters"}',
        '{"a": "[[[[{{{{"}',
        '{ "a":\t1e400,\n"b": 123456789012345678901234567890 }',
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        '{"a": "' + "[" * 200 + '"}',
    ],
)
def test_a_text_that_only_looks_faulty_travels_byte_for_byte(text):
    """Escaped pairs, letters that spell an escape, brackets in a text, large numbers, spaces."""
    assert to_bytes(text) == text.encode()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a b", "k", "T"), "topic: must be"),
        (("t", "", "T"), "key: must be a text that is not empty"),
        (("t", "k\x00", "T"), "key: holds a NUL"),
        (("t", "k" * (MAX_KEY_BYTES + 1), "T"), "key: 1025 bytes"),
        (("t", "k" * 100_000, "T"), "key: 100000 bytes"),
        (("t", "k", "T" * 201), "type: must be"),
        ((["t"], "k", "T"), "topic: must be"),
        (("t", 1, "T"), "key: must be a text"),
        (("t", "k", None), "type: must be"),
    ],
)
def test_faults_of_names_are_the_same_each_time(names, says):
    """The answer is remembered, also for what cannot be remembered."""
    for _ in range(2):
        topic, key, kind = names
        [fault] = faults_of_event(topic, key, kind, {})
        assert fault.startswith(says)


def test_what_is_remembered_of_names_says_nothing_of_headers():
    """The same names with a header that is taken."""
    assert faults_of_event("t", "k", "T", {}) == []
    assert faults_of_event("t", "k", "T", {"kylo": "x"}) == ["headers['kylo']: this name is taken"]
    assert faults_of_event("t", "k", "T", {}) == []
