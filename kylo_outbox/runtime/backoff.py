"""How long to wait after failures: longer after each one, with jitter."""

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
