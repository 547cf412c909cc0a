"""Tests marked `alone` have the machine for themselves, in one run of pytest with several workers.

A pytest plugin: register it beside `kylo_outbox.testing.servers`. Such tests come last; each waits
until no other worker runs a test, and the others wait for it. So one closing line counts all tests.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kylo_outbox.local.locks import exclusive
from kylo_outbox.testing.servers import run_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that need the machine for themselves at the end; the order is otherwise kept."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


# Outermost, so that waiting for the others does not count against the time limit of a test.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold this worker's lock while a test runs; a test that must be alone holds the locks of all workers."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return (yield)
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    alone = item.get_closest_marker("alone") is not None
    # Always in the same order: two tests that both want all of them cannot wait for each other.
    names = [f"gw{number}" for number in range(count)] if alone else [worker]
    folder = run_folder() / "alone"
    with ExitStack() as held:
        for name in names:
            held.enter_context(exclusive(folder / f"{name}.lock"))
        return (yield)
