"""docs/settings.md against the code: the same names, the same defaults, examples that can be followed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kylo_outbox.settings import Settings, known_names, load

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in row)
    for row in re.findall(r"^\| (`[A-Z].*?) \|(.*)\|(.*)\|(.*)\|$", DOCS, re.MULTILINE)
]
TABLE = {name.strip("`"): (meaning, default.strip("`"), example.strip("`")) for name, meaning, default, example in ROWS}


def test_the_same_names():
    """The tables and `settings.known_names()` list the same names, each once."""
    assert len(ROWS) == len(TABLE)
    assert set(TABLE) == known_names()


def test_every_name_is_explained():
    """Each row has a meaning and a default."""
    assert [name for name, (meaning, default, _) in TABLE.items() if not meaning or not default] == []


def test_the_defaults_are_those_of_the_code(tmp_path: Path):
    """What the table calls the default gives the settings that nothing gives."""
    given = {
        name: default for name, (_, default, _) in TABLE.items() if default not in {"unset", "empty", "the system's"}
    }
    aside = {"environ"}
    assert load(given, tmp_path / "absent").model_dump(exclude=aside) == load({}, tmp_path / "absent").model_dump(
        exclude=aside
    )


def test_nothing_with_a_default_is_called_unset():
    """A name that the table calls unset or empty has no default in the code."""
    for field in Settings.model_fields.values():
        name = field.alias
        if name in TABLE and TABLE[name][1] in {"unset", "empty", "the system's"}:
            assert not field.default, name


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_examples_can_be_followed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Each example loads, without a warning."""
    load({name: TABLE[name][2]}, tmp_path / "absent")
    assert not caplog.records
