"""Proof in production: the outbox against the log, positions and effects, with every difference named by key and ids.

`log`, `positions`, `effects` each compare one thing; `one_store` puts them together for a store, `run` for all of
them. The comparisons themselves are pure: `model/appearances.py`, `model/verifying.py`.
"""

from kylo_outbox.flows.verify.one_store import StoreVerdict
from kylo_outbox.flows.verify.run import Verdict, Verify

__all__ = ["StoreVerdict", "Verdict", "Verify"]
