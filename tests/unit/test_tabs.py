"""Rows, columns and signatures of the two tabs."""

from __future__ import annotations

from dataclasses import replace

from kylo_outbox.model import tabs

ROW = tabs.PendingRow("uid-1", "2025-01-31", "Starbucks*1234", "710", -1999)


def test_pending_cells_follow_the_columns():
    """A fresh row has its hash, date, source, company, amount, an unticked box and nothing that people own."""
    named = dict(zip(tabs.PENDING_COLUMNS, ROW.cells(), strict=True))
    assert named == {
        "Row_Hash": "uid-1",
        "Date": "2025-01-31",
        "Source": "Starbucks*1234",
        "Company_ID": "710",
        "Amount": -19.99,
        "Target_Sheet": None,
        "Target_Header": None,
        "Match_Notes": None,
        "Approved": False,
        "Rule_ID": None,
        "Processed_At": None,
    }


def test_active_cells_follow_the_columns():
    """An active rule fills its eight columns in their order."""
    row = tabs.ActiveRow(3, "2025-02-01T00:00:00Z", "710", "starbucks 1234", "PETTY CASH", "Coffee", "", "2025-01-31")
    assert len(row.cells()) == len(tabs.ACTIVE_COLUMNS) == 8
    assert row.cells()[:4] == (3.0, "2025-02-01T00:00:00Z", "710", "starbucks 1234")


def test_every_cent_survives_as_a_number():
    """An amount of any cents up to a million is the number with those two decimals."""
    for cents in [*range(-2_000, 2_000), 114, 115, 1_998, 1_999, 99_999_999, 2**53 - 1]:
        amount = replace(ROW, amount_cents=cents).cells()[4]
        assert isinstance(amount, float)
        assert round(amount * 100) == cents


def test_a_text_over_the_limit_is_cut_in_the_open():
    """A source over 50,000 characters is cut with an ellipsis, and Match_Notes says where the whole text is."""
    cells = replace(ROW, source="😀" * 30_000).cells()
    assert isinstance(cells[2], str)
    assert tabs.text_units(cells[2]) <= tabs.MAX_CELL_UNITS
    assert cells[2].endswith("😀…")
    assert "app.pending_txns" in str(cells[7])


def test_a_long_text_within_the_limit_stays_whole():
    """A thousand accented characters arrive as they were, without a note."""
    cells = replace(ROW, source="é" * 1_000).cells()
    assert cells[2] == "é" * 1_000
    assert cells[7] is None


def test_signature_tells_posts_apart_by_everything_that_matters():
    """Company, tab, ordinal, rows and rule version each change the signature; the order of rows does not."""
    base = tabs.batch_signature("710", "710 Pending", 1, ["a", "b"])
    assert base == tabs.batch_signature("710", "710 Pending", 1, ["b", "a"])
    others = {
        tabs.batch_signature("711", "710 Pending", 1, ["a", "b"]),
        tabs.batch_signature("710", "other", 1, ["a", "b"]),
        tabs.batch_signature("710", "710 Pending", 2, ["a", "b"]),
        tabs.batch_signature("710", "710 Pending", 1, ["a,b"]),
        tabs.batch_signature("710", "710 Pending", 1, ["a", "b"], ruleset_version=1),
    }
    assert len(others) == 5
    assert base not in others
    assert len(base) == 32


def test_marker_tells_its_ordinal_and_foreign_text_does_not():
    """The ordinal can be read back from our marker; any other text has none."""
    assert tabs.marker_ordinal(tabs.post_marker(12, "abc")) == 12
    assert [tabs.marker_ordinal(text) for text in ("", "12", "x.abc", "12.", "-1.abc", "²2.a")] == [None] * 6


def test_tab_names():
    """The tabs of a company carry its id."""
    assert (tabs.pending_tab("710"), tabs.active_tab("710")) == ("710 Pending", "710 Active")
