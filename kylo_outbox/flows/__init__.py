"""What the system does, one file a verb. Flows do not know each other: they meet through tables and topics.

A flow gets its collaborators in its constructor and decides; how a table is written or a record is sent is below it.
"""
