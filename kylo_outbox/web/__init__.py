"""The HTTP door. It asks flows and shows what they answer: no query, no rule of its own.

Every refusal is `application/problem+json`; no answer carries a secret or a stack trace.
"""
