"""The only door to Google Sheets, and a local server that can stand in for it.

Here live: the transport that never sends twice, the gateway (official client), the errors that say whether a write
took effect, the planner (a pure diff of a tab, one batch of sub-requests), and `standin`, the local server.
Here may not live: SQL, Kafka, decisions about what belongs in a tab, waiting and retrying (flows and runtime decide).
"""
