"""How long to wait: longer after each failure with jitter, and adaptively while there is nothing to do."""

from __future__ import annotations

from tenacity import RetryCallState, wait_random_exponential


class Backoff:
    """Full-jitter exponential waiting after failures in a row, up to `longest` seconds; a success starts over."""

    def __init__(self, *, longest: float = 1.0, first: float = 0.05) -> None:
        self._wait = wait_random_exponential(multiplier=first, max=longest)
        self._state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        self.failures = 0

    def failed(self) -> float:
        """Count a failure; seconds to wait before the next try."""
        self.failures += 1
        self._state.attempt_number = self.failures
        return self._wait(self._state)

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0


class Idling:
    """Adaptive polling: `shortest` seconds after work, doubling up to `longest` while there is none."""

    def __init__(self, *, shortest: float = 0.001, longest: float = 0.02) -> None:
        self._shortest, self._longest = shortest, longest
        self._next = shortest

    def pause(self, *, worked: bool) -> float:
        """Seconds until the next look."""
        self._next = self._shortest if worked else min(self._next * 2, self._longest)
        return self._next
