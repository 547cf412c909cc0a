"""faststream-outbox with its Kafka door, run by the interpreter of its own environment (see `faststream`).

Set up as its documents tell for throughput: many workers, large fetches, deletes in batches; the bytes are passed on
without being read.

Usage: faststream_relay.py create|run DSN [BROKERS TOPIC]
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

from faststream import Context, FastStream  # type: ignore[import-not-found]
from faststream.confluent import KafkaBroker, KafkaResponse  # type: ignore[import-not-found]
from faststream_outbox import OutboxBroker, make_outbox_table  # type: ignore[import-not-found]
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

QUEUE = "bench"


async def main() -> None:
    """Make the table, or relay until SIGTERM."""
    what, dsn = sys.argv[1:3]
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="faststream_outbox")
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=40)
    if what == "create":
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()
        return
    brokers, topic = sys.argv[3:5]
    kafka = KafkaBroker(brokers, acks="all", enable_idempotence=True)
    outbox = OutboxBroker(engine, outbox_table=table)

    async def decode(message: Any) -> Any:
        return message.body

    @kafka.publisher(topic)  # type: ignore[untyped-decorator]
    @outbox.subscriber(  # type: ignore[untyped-decorator]
        QUEUE,
        max_workers=32,
        fetch_batch_size=1000,
        min_fetch_interval=0.005,
        max_fetch_interval=0.05,
        terminal_flush_batch_size=100,
        decoder=decode,
    )
    async def relay(body: bytes, message: Annotated[Any, Context("message")]) -> KafkaResponse:
        return KafkaResponse(body, key=message.headers["key"].encode())

    await FastStream(outbox, on_startup=[kafka.start]).run()


if __name__ == "__main__":
    asyncio.run(main())
