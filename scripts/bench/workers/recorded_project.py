"""`kylo-outbox project`, the command itself, with a note of the moment at which each event was applied.

The moment is when the transaction has come back: just before the offsets are handed to Kafka. Nothing else differs.

Usage: recorded_project FILE WORDS. FILE gets lines `n nanoseconds-since-1970`, n from the payload's `{"n":...`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench.workers.recorded_relay import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.model.delivery import Delivery


def main() -> None:
    """Put the recorder in, then be the command."""
    recorder = Recorder(Path(sys.argv[1]))
    from kylo_outbox.cli import main as command  # noqa: PLC0415 - as the recorder of the relay does
    from kylo_outbox.kafka.consumer import Subscription  # noqa: PLC0415

    commit = Subscription.commit

    def recorded(self: Subscription, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            recorder.note(delivery.event.raw)
        commit(self, deliveries)

    Subscription.commit = recorded  # type: ignore[method-assign]
    sys.argv = ["kylo-outbox", *sys.argv[2:]]
    command()


if __name__ == "__main__":
    main()
