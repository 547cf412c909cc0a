"""Statements are shown without what is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.statements import without_values


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("select * from t where id = 4711", "select * from t where id = ?"),
        ("alter role kylo password 'hunter2'", "alter role kylo password ?"),
        ("select 'it''s', x1 from \"my table\"  -- secret\n where a=$1", 'select ?, x1 from "my table" where a=$1'),
        ("select E'it\\'s a secret' , 1", "select E? ..."),
        ("select 'it\\'s a secret' , 'x'", "select ? ..."),
        ("do $$ begin secret(); end $$", "do ?"),
        ("do $body$ secret $$ secret $body$ language plpgsql", "do ? language plpgsql"),
        ("insert into t values ('cut off here and sec", "insert into t values (?"),
        ("do $x$ cut off secret", "do ?"),
        ("select /* a /* b */ secret */ 1", "select ? ..."),
        ("select /* secret */ 1.5e10, 0x1F, -3", "select ?, ?, -?"),
        ("", ""),
    ],
)
def test_values_are_left_out(sql, shown):
    """Strings of every form, numbers and comments; also where the server cut the statement off."""
    assert without_values(sql) == shown


def test_it_is_one_short_line():
    """However long the statement is."""
    assert len(without_values("select\n a\n" * 1000)) < 130


@given(st.text(alphabet=st.sampled_from("abc '\"$\\-/*\n1"), max_size=40))
def test_nothing_makes_it_fall(text):
    """Whatever comes before it, a literal shows only where it is part of a quoted name."""
    assert "4711" not in without_values(text + " '4711'") or '"' in text
