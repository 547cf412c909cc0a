"""The relay: committed outbox rows to Kafka, in commit order per key, moving a cursor over what Kafka acknowledged.

`worker` is one turn of one lane; `track` what is in flight on one cursor; `caution` how a refused record is found among
innocent ones; `holding` the keys that wait; `away` brokers and partitions that do not answer; `fairness` the side lanes
of keys with a long backlog. Nothing here knows SQL or the Kafka client.
"""

from kylo_outbox.flows.relay.state import Direct, Outlet, RelayState, RelayTurn
from kylo_outbox.flows.relay.worker import Relay

__all__ = ["Direct", "Outlet", "Relay", "RelayState", "RelayTurn"]
