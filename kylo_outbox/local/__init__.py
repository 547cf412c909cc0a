"""The local stack: real PostgreSQL, real Kafka and the pipeline's processes on this machine, for people and tests.

Lives here: where its files lie (`paths`), detached processes and locks (`processes`, `locks`), the two servers
(`postgres`, `kafka`, `jars`), and the whole of it (`stack`). Needs the extra `kylo-outbox[local]`.

May not live here: SQL, Kafka clients, anything a deployed pipeline needs. Nothing here is meant for production.
Whatever is started is remembered as pid and creation time, and nothing else is ever signalled.
"""
