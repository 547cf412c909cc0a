"""Plugins of the test run; fixtures live in `kylo_outbox.testing` and beside their tests."""

from __future__ import annotations

pytest_plugins = ["kylo_outbox.testing.servers", "kylo_outbox.testing.databases", "kylo_outbox.testing.alone"]
