"""Finding the refused record among innocent ones, by halving what is sent at once."""

from __future__ import annotations

import pytest

from kylo_outbox.flows.relay.caution import Caution


def rows(*ids):
    """Rows as the relay reads them; only the id matters here."""
    return [(number, "t", b"k", "T", b"", None, "", 0.0) for number in ids]


def send(caution, waiting, refuses):
    """Send until nothing is left; (ids that passed, ids that were found guilty, whether the batches were too large)."""
    passed, guilty, too_large = [], [], False
    while waiting:
        batch = waiting[: caution.rows]
        if not refuses(batch):
            passed += batch
            too_large = caution.passed(rows(*batch)) or too_large
        elif caution.refused(rows(*batch)):
            guilty += batch
            caution.kept_back(rows(*batch), [])
        else:
            continue
        waiting = waiting[len(batch) :]
    return passed, guilty, too_large


def test_the_guilty_record_is_found_and_its_neighbours_pass():
    """Of 1,000 rows the one that is refused stands alone in the end; no limit is blamed for it."""
    passed, guilty, too_large = send(Caution(1000), list(range(1000)), lambda batch: 617 in batch)
    assert (guilty, too_large) == ([617], False)
    assert passed == [number for number in range(1000) if number != 617]


@pytest.mark.parametrize("bad", [0, 1, 2, 5, 617, 999])
def test_the_guilty_record_is_found_though_everything_goes_again_after_each_refusal(bad):
    """Late rows have no cursor of their own: each refusal begins with the first of them again."""
    caution, sent, at = Caution(1000), 0, 0
    while True:
        batch = range(at, min(at + caution.rows, 1000))
        sent += 1
        assert sent < 5000
        if bad not in batch:
            caution.passed(rows(*batch))
            at = batch.stop
        elif caution.refused(rows(*batch)):
            break
        else:
            at = 0
    assert list(batch) == [bad]


def test_several_guilty_records_are_found():
    """Neighbours, first and last ones included."""
    bad = {0, 1, 500, 999}
    passed, guilty, _ = send(Caution(1000), list(range(1000)), lambda batch: bool(bad & set(batch)))
    assert set(guilty) == bad
    assert len(passed) == 996


def test_batches_that_are_too_large_blame_no_record():
    """When every row of a refused batch passes with fewer neighbours, the batches were at fault."""
    passed, guilty, too_large = send(Caution(1000), list(range(2000)), lambda batch: len(batch) > 300)
    assert (len(passed), guilty, too_large) == (2000, [], True)


def test_doubt_sends_one_batch_at_a_time_and_ends():
    """A refusal that nobody can place makes careful for a while, and blames nobody."""
    caution = Caution(1000)
    caution.doubt()
    careful = caution.active
    assert (careful, caution.passed(rows(*range(500))), caution.active) == (True, False, False)
