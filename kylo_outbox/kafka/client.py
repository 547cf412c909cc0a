"""What every Kafka client of ours has in common: address, security, and the one door for calls that may raise.

`KafkaFault` means wait and try again with the same client; `KafkaFatal` means throw the client away and build a new
one from what is known to be acknowledged or stored.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, ParamSpec, TypeVar

from confluent_kafka import KafkaError, KafkaException

from kylo_outbox.kafka.reasons import in_our_words
from kylo_outbox.model.errors import KyloError, Misconfigured, Transient

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["broker", "record", "fatal"]

_QUIET_SECONDS: Final = 10.0


class KafkaFault(Transient):
    """Kafka did not do it this time; the client stays usable. `kind` and `code` say what librdkafka meant.

    `kind` is `broker` (an outage or a move: wait) or `record` (what was asked for is refused: topic, size, rights).
    `aborts`: the transaction that was open can only be aborted.
    """

    def __init__(self, text: str, kind: Kind, code: str, *, aborts: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
        self.aborts = aborts


class KafkaFatal(KyloError):  # noqa: N818 - the name says what to do with the client
    """The client is beyond use: close it, build a new one, and send again what was not acknowledged."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """Where the brokers are and how to speak to them. Secrets stay out of `repr`.

    `brokers` is `host:port[,host:port...]`. File names are paths of PEM files. What is None is left to librdkafka.
    """

    brokers: str
    client_id: str = "kylo-outbox"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)


class _Quiet(logging.Filter):
    """Lets one line of a kind and client pass every ten seconds: an outage is one fact, not one line a reconnect."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[Any, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if "No `bootstrap.servers` configured" in record.getMessage():
            return False  # said before the addresses are read; they are always given
        args = record.args if isinstance(record.args, tuple) else (record.msg,)
        kind, now = args[:2], time.monotonic()
        if now - self._last.get(kind, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return False
        if len(self._last) > 1000:  # noqa: PLR2004 - names of clients that are long gone
            self._last.clear()
        self._last[kind] = now
        return True


_log = logging.getLogger("kylo_outbox.kafka.librdkafka")
_log.addFilter(_Quiet())


def client_config(address: KafkaAddress) -> dict[str, Any]:
    """Return the librdkafka settings that producers, consumers and admin clients of ours share.

    Log lines of the client go to logging; they appear while somebody polls it. Nothing is connected yet.
    """
    optional = {
        "sasl.mechanism": address.sasl_mechanism,
        "sasl.username": address.sasl_username,
        "sasl.password": address.sasl_password,
        "ssl.ca.location": address.ssl_cafile,
        "ssl.certificate.location": address.ssl_certfile,
        "ssl.key.location": address.ssl_keyfile,
        "ssl.key.password": address.ssl_key_password,
    }
    return {
        "bootstrap.servers": address.brokers,
        "client.id": address.client_id,
        "security.protocol": address.security_protocol,
        **{name: value for name, value in optional.items() if value is not None},
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "socket.connection.setup.timeout.ms": 5000,
        # A broker that comes back is met again within a second.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # A typing error must not become a topic with one partition and no retention of ours.
        "allow.auto.create.topics": False,
        "logger": _log,
    }


def build(factory: Callable[[dict[str, Any]], T], config: dict[str, Any]) -> T:
    """Make a client (`Producer`, `Consumer`, `AdminClient`) from its settings.

    Raises:
        Misconfigured: librdkafka cannot follow them (unknown mechanism, missing certificate file, no address).
    """
    caught = None
    try:
        return factory(config)
    except (KafkaException, ValueError, TypeError) as refused:
        caught = refused
    error = error_of(caught)
    raise Misconfigured(f"Kafka settings cannot be followed: {in_our_words(error.str() if error else str(caught))}")


def guarded(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: RET503 - ends in NoReturn
    """Call poll, flush, consume, commit and the like; whatever is wrong leaves as a normal exception.

    On Python 3.11 a fatal producer error met while callbacks run makes confluent-kafka raise an object that is not an
    exception at all: `except BaseException` does not see it and the thread dies without a word. Only a bare `except`
    catches it. The object must not become the context of another exception (the interpreter would follow pointers
    that it does not have), so nothing is raised before the except clause has ended.

    Raises:
        KafkaFault: an outage, or the thing asked for is refused; the client stays usable.
        KafkaFatal: the client must be built anew.
        Exception: errors of our own (`KyloError`) and mistakes of the caller pass unchanged, as do
            KeyboardInterrupt, SystemExit and GeneratorExit.
    """
    caught: object
    try:
        return call(*args, **kwargs)
    except:  # noqa: E722 - see above
        caught = sys.exc_info()[1]
    _raise_as_ours(caught)


def classify(error: KafkaError) -> Kind:
    """Tell what an error asks for.

    Returns:
        `broker`: the cluster is away, moving or refusing everybody: wait, spend no attempt.
        `record`: this record or its topic is refused; others may pass. A refused batch is refused as a whole, so one
            of several records must be sent again alone before it is blamed.
        `fatal`: this client can do no more: build a new one. Codes nobody knows are fatal as well: a new client is
            the one remedy that harms nothing, because it starts behind what is acknowledged.
    """
    if error.fatal() or error.code() in _FATAL_CODES:
        return "fatal"
    if error.code() in _RECORD_CODES:
        return "record"
    if error.retriable() or error.code() in _BROKER_CODES:
        return "broker"
    return "fatal"


def record_errors() -> frozenset[str]:
    """Texts by which librdkafka names the errors that are about a record or its topic."""
    return frozenset(KafkaError(code).str() for code in _RECORD_CODES)


def error_of(raised: object) -> KafkaError | None:
    """The KafkaError inside an exception (or the bare object that Python 3.11 gets to see), if there is one."""
    if isinstance(raised, KafkaError):
        return raised
    if isinstance(raised, KafkaException) and raised.args and isinstance(raised.args[0], KafkaError):
        return raised.args[0]
    return None


def raise_for(error: KafkaError, doing: str = "Kafka") -> NoReturn:
    """Raise the error of ours that stands for `error`; `doing` begins the message.

    Raises:
        KafkaFault: for `broker` and `record`.
        KafkaFatal: for `fatal`.
    """
    kind, text = classify(error), f"{doing}: {error.name()}: {error.str()}"
    if kind == "fatal":
        raise KafkaFatal(text, error.name())
    raise KafkaFault(text, kind, error.name(), aborts=error.txn_requires_abort())


def _raise_as_ours(caught: object) -> NoReturn:
    error = error_of(caught)
    if error is not None:
        raise_for(error)
    if isinstance(caught, (SystemError, RuntimeError)):
        # SystemError: an error set behind the interpreter's back. RuntimeError: the client is closed.
        raise KafkaFatal(f"Kafka: {type(caught).__name__}: {caught}", "_STATE") from caught
    if isinstance(caught, BaseException):
        raise caught.with_traceback(caught.__traceback__)
    raise KafkaFatal(f"Kafka: the client raised {type(caught).__name__}, which is no exception", "_FATAL")


def _codes(*names: str) -> frozenset[int]:
    # Old clients do not know every name; a code that cannot come needs no entry.
    return frozenset(code for name in names if isinstance(code := getattr(KafkaError, name, None), int))


_FATAL_CODES: Final = _codes(
    *("_FATAL", "_FENCED", "_STATE", "_GAPLESS_GUARANTEE", "_INCONSISTENT", "_DESTROY", "_INVALID_ARG", "_CONFLICT"),
    *("OUT_OF_ORDER_SEQUENCE_NUMBER", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "UNKNOWN_PRODUCER_ID"),
    *("INVALID_PRODUCER_ID_MAPPING", "INVALID_TXN_STATE", "TRANSACTION_COORDINATOR_FENCED", "FENCED_INSTANCE_ID"),
)
_RECORD_CODES: Final = _codes(
    *("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG", "INVALID_MSG_SIZE", "INVALID_RECORD"),
    *("INVALID_TIMESTAMP", "TOPIC_EXCEPTION", "TOPIC_AUTHORIZATION_FAILED", "UNKNOWN_TOPIC_OR_PART"),
    *("_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "POLICY_VIOLATION", "UNSUPPORTED_FOR_MESSAGE_FORMAT"),
    *("UNSUPPORTED_COMPRESSION_TYPE", "_INVALID_DIFFERENT_RECORD", "_BAD_MSG"),
)
_BROKER_CODES: Final = _codes(
    *("_TRANSPORT", "_RESOLVE", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_MSG_TIMED_OUT", "_SSL"),
    *("_AUTHENTICATION", "_QUEUE_FULL", "_ISR_INSUFF", "_WAIT_COORD", "_IN_PROGRESS", "_PREV_IN_PROGRESS", "_RETRY"),
    *("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_DESTROY_BROKER", "_CRIT_SYS_RESOURCE", "_INTR", "_WAIT_CACHE", "_FAIL"),
    *("_NO_OFFSET", "_ASSIGNMENT_LOST", "_MAX_POLL_EXCEEDED", "_AUTO_OFFSET_RESET", "_PARTITION_EOF", "_NODE_UPDATE"),
    *("_LOG_TRUNCATION", "_UNKNOWN_BROKER", "_PARTIAL", "_NOOP", "_UNKNOWN_GROUP", "_BAD_COMPRESSION", "_OUTDATED"),
    *("LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT", "BROKER_NOT_AVAILABLE"),
    *("REPLICA_NOT_AVAILABLE", "STALE_CTRL_EPOCH", "NETWORK_EXCEPTION", "COORDINATOR_LOAD_IN_PROGRESS"),
    *("COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
    *("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "OFFSET_OUT_OF_RANGE", "NOT_CONTROLLER"),
    *("KAFKA_STORAGE_ERROR", "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNKNOWN"),
    *("GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"),
    *("SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE", "SECURITY_DISABLED"),
    *("THROTTLING_QUOTA_EXCEEDED", "UNSTABLE_OFFSET_COMMIT", "CONCURRENT_TRANSACTIONS", "MEMBER_ID_REQUIRED"),
    *("FENCED_MEMBER_EPOCH", "STALE_MEMBER_EPOCH", "UNRELEASED_INSTANCE_ID", "GROUP_MAX_SIZE_REACHED"),
    *("UNKNOWN_TOPIC_ID", "INCONSISTENT_TOPIC_ID", "REASSIGNMENT_IN_PROGRESS", "PREFERRED_LEADER_NOT_AVAILABLE"),
    *("REBOOTSTRAP_REQUIRED", "GROUP_ID_NOT_FOUND", "_EXISTING_SUBSCRIPTION", "DUPLICATE_SEQUENCE_NUMBER"),
)
