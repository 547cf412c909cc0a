"""Making way for others where the machine is full."""

from __future__ import annotations

_MOST = 0.02


def rest(took: float, *, times: float, free: float) -> float:
    """Seconds to leave to others after something that took so many.

    What takes long tells that others need the machine; whoever comes later finds more at once, and a look or a
    transaction costs the same for a few as for many.

    Args:
        took: Seconds it took.
        times: How many times as long as it was late.
        free: What it takes where nobody else is working; costs no rest.
    """
    return min(_MOST, times * max(0.0, took - free))
