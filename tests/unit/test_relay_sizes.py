"""What was refused for its size lately: what is surely as large is known, everything else is asked for."""

from __future__ import annotations

import pytest

from kylo_outbox.flows.relay.sizes import TRUSTED, Sizes


class _Clock:
    now = 0.0

    def __call__(self):
        return self.now


def row(number, payload, *, topic="t", key=b"k", kind="T", headers=None):
    """A row as the relay reads it."""
    return (number, topic, key, kind, b"x" * payload, headers, "", 0.0, 1)


@pytest.fixture
def clock():
    """A clock that stands until it is set."""
    return _Clock()


@pytest.fixture
def sizes(clock):
    """Topic t has refused row 10 with a payload of 1,000 bytes."""
    made = Sizes(clock)
    made.refused(row(10, 1000))
    return made


@pytest.mark.parametrize(("number", "payload"), [(11, 1000), (10, 1000), (5000, 90_000)])
def test_what_is_as_large_is_known(sizes, number, payload):
    """The reason names the topic and what it refused."""
    assert "t has just refused a record with a payload of 1000 bytes" in sizes.reason(row(number, payload))


@pytest.mark.parametrize(
    "other",
    [
        row(11, 999),
        row(9, 1000),
        row(11, 1000, topic="u"),
        row(11, 1000, key=b""),
        row(11, 1000, kind=""),
    ],
    ids=["smaller", "shorter id", "another topic", "shorter key", "shorter type"],
)
def test_whatever_might_be_smaller_is_asked_for(sizes, other):
    """Nothing is taken for refused that could fit."""
    assert sizes.reason(other) is None


def test_headers_must_be_the_same(sizes):
    """Only where the refused record had none they do not matter."""
    assert sizes.reason(row(11, 1000, headers='{"a": "b"}'))
    sizes.refused(row(12, 500, headers='{"a": "b"}'))
    assert sizes.reason(row(13, 500, headers='{"a": "b"}'))
    assert sizes.reason(row(13, 500, headers='{"a": "c"}')) is None


def test_the_smallest_refused_counts(sizes):
    """A larger one that is refused later teaches nothing."""
    sizes.refused(row(11, 2000))
    sizes.refused(row(12, 700))
    assert sizes.reason(row(13, 700))


def test_it_is_asked_again_after_a_while(sizes, clock):
    """A limit may have been raised."""
    clock.now = TRUSTED + 1
    assert (sizes.reason(row(11, 5000)), sizes.known) == (None, False)


def test_one_that_passes_proves_a_new_limit(sizes):
    """Somebody raised it and let a held event go."""
    sizes.passed([row(9, 5000), row(11, 1000)])
    assert not sizes.known
