"""Why no broker answers, in the words of our settings: what librdkafka heard, and which setting to look at."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import KafkaError

_RUNNING: Final = "Is a broker running there, and are KAFKA_BROKERS and KAFKA_SECURITY_PROTOCOL right?"

# (what the client says, what it means, where to look); the first that fits is told.
_MEANINGS: Final = (
    (
        r"certificate verify failed",
        "its certificate is not signed by an authority that we trust, or names another host",
        "Check KAFKA_SSL_CAFILE, and the host names in KAFKA_BROKERS",
    ),
    (
        r"alert .*certificate|alert .*unknown ca|alert handshake failure",
        "it does not accept our certificate",
        "Check KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
    ),
    (
        r"SSL handshake failed|SSL connection closed|wrong version number",
        "the TLS handshake fails; perhaps it does not speak TLS on this port",
        "Check KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_* and the port in KAFKA_BROKERS",
    ),
    (
        r"SASL (?P<ours>\S+) mechanism handshake failed.*supported mechanisms: (?P<theirs>\S.*)",
        "it does not take the login mechanism {ours}, only {theirs}",
        "Check KAFKA_SASL_MECHANISM",
    ),
    (
        r"mechanism handshake failed",
        "it asks for no login on this port",
        "Check KAFKA_SECURITY_PROTOCOL and the port in KAFKA_BROKERS",
    ),
    (
        r"SASL authentication|Authentication failed",
        "it refuses the user or the password",
        "Check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM",
    ),
    (r"Failed to resolve", "its name cannot be resolved", "Check KAFKA_BROKERS"),
    (r"Connection refused", "nobody listens there", _RUNNING),
)

_OURS: Final = {
    "bootstrap.servers": "KAFKA_BROKERS",
    "security.protocol": "KAFKA_SECURITY_PROTOCOL",
    "sasl.mechanisms": "KAFKA_SASL_MECHANISM",
    "sasl.mechanism": "KAFKA_SASL_MECHANISM",
    "SASL mechanism": "KAFKA_SASL_MECHANISM",
    "sasl.username": "KAFKA_SASL_USERNAME",
    "sasl.password": "KAFKA_SASL_PASSWORD",
    "ssl.ca.location": "KAFKA_SSL_CAFILE",
    "ssl.certificate.location": "KAFKA_SSL_CERTFILE",
    "ssl.key.location": "KAFKA_SSL_KEYFILE (or KAFKA_SSL_KEY_PASSWORD)",
    "ssl.key.password": "KAFKA_SSL_KEY_PASSWORD",
}


class Heard:
    """What a client reports of its connections; `settings` go among its own. Notes are taken while it is polled."""

    def __init__(self) -> None:
        self._errors: deque[KafkaError] = deque(maxlen=100)
        # The callback only appends: anything raised in it would come out of another call. What is explained in one
        # line need not fill the log as well.
        self.settings: dict[str, Any] = {"error_cb": self._errors.append, "log_level": 0}

    def clear(self) -> None:
        """Forget it: somebody has answered."""
        self._errors.clear()

    def why(self) -> tuple[str, str]:
        """(why nobody answers, which setting to look at), of what was heard since the last answer."""
        return meaning(error.str() for error in self._errors)


def meaning(said: Iterable[str]) -> tuple[str, str]:
    """(what the client's words mean, where to look); words that mean nothing to us are left out.

    None of them holds a secret: the client names addresses, mechanisms and the broker's answer.
    """
    words = list(said)
    for pattern, means, look in _MEANINGS:
        for text in words:
            found = re.search(pattern, text.partition(" (after ")[0])
            if found:
                return means.format(**found.groupdict()), look
    return "no answer", _RUNNING


def in_our_words(text: str) -> str:
    """A refusal of the client's settings, with the names under which people know them."""
    text = re.sub(r"^Failed to create [\w ]+: ", "", text)
    for theirs, ours in _OURS.items():
        text = text.replace(theirs, ours)
    return text.partition(": recompile ")[0]
