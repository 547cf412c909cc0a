"""Posts under faults, renames and people's edits: no row twice, none missing, nothing of anybody's overwritten."""

from __future__ import annotations

import os

import pytest

from kylo_outbox.sheets.standin import background
from tests.helpers.sheets_soak import Report, soak


def check(report: Report) -> None:
    """What must hold after any soak; the report is shown where it does not."""
    print(report)
    assert report.wrong() == []
    assert report.happened["set aside"]
    assert report.happened["WriteUnknown"]


@pytest.mark.timeout(600)
def test_a_short_time_at_the_office(control_db, tmp_path):
    """150 posts of eight companies in two workbooks."""
    with background.running(tmp_path) as url:
        check(soak(control_db, url, seed=int(os.environ.get("SOAK_SEED", "1")), posts=150, companies=8, books=2))


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_thousand_posts(control_db, tmp_path):
    """10,000 posts of sixty companies in three workbooks; `SOAK_SEED` and `SOAK_POSTS` change the run."""
    posts = int(os.environ.get("SOAK_POSTS", "10000"))
    with background.running(tmp_path) as url:
        report = soak(control_db, url, seed=int(os.environ.get("SOAK_SEED", "1")), posts=posts, companies=60, books=3)
    check(report)
    assert report.posts >= posts
