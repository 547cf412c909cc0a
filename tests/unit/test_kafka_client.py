"""The common ground of Kafka clients: settings, classification, and the guarded door with the trap it is there for."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from kylo_outbox.kafka.client import (
    KafkaAddress,
    KafkaFatal,
    KafkaFault,
    build,
    classify,
    client_config,
    guarded,
)
from kylo_outbox.model.errors import Misconfigured, Refused, Transient
from tests.helpers.mock_broker import PRODUCE, MockBroker

OUT_OF_ORDER = 45


@pytest.fixture
def mock():
    """A mock cluster of this test alone."""
    cluster = MockBroker()
    yield cluster
    cluster.close()


def raise_no_exception() -> None:
    """Raise a KafkaError itself, which is no exception: what the client's C code does on Python 3.11."""
    restore = ctypes.pythonapi.PyErr_Restore
    restore.restype = None
    restore.argtypes = (ctypes.py_object, ctypes.py_object, ctypes.c_void_p)
    error = KafkaError(KafkaError._FATAL, "fatal while callbacks run", True)
    for each in (KafkaError, error):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    restore(KafkaError, error, None)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer interpreters refuse to raise what is no exception")
def test_object_that_is_no_exception_escapes_except_base_exception():
    """The trap is real: the widest exception clause misses it, only a bare except sees it."""
    seen = []
    try:
        try:
            raise_no_exception()
        except BaseException:  # noqa: BLE001
            seen.append("base")
    except:  # noqa: E722
        seen.append("bare")
    assert seen == ["bare"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer interpreters refuse to raise what is no exception")
def test_guarded_turns_what_is_no_exception_into_fatal():
    """Whatever comes out of the client leaves as a normal exception with a normal context."""
    for _ in range(100):
        with pytest.raises(KafkaFatal, match="fatal while callbacks run") as caught:
            guarded(raise_no_exception)
        assert caught.value.code == "_FATAL"
        assert caught.value.__context__ is None


def test_naive_loop_dies_and_guarded_loop_lives(mock):
    """A worker that catches KafkaException is gone after a fatal error under callbacks; ours goes on."""
    mock.topic("t")
    lived: list[str] = []
    assert _run(_worker(mock, lambda call, *args: call(*args), KafkaException, lived)) == ["SystemError"]
    assert lived == []
    assert _run(_worker(mock, guarded, KafkaFatal, lived)) == []
    assert lived == ["KafkaFatal"] * 2


@pytest.mark.parametrize("how", ["the running client", "a client that raises its error object"])
def test_loop_that_catches_everything_dies_of_what_is_no_exception(mock, how, record_property):
    """`except BaseException` is not everything on Python 3.11; where this client hides the fault, the test says so."""
    mock.topic("t")
    lived: list[str] = []

    def naive(call, *args):
        done = call(*args)
        if how != "the running client":
            raise_no_exception()
        return done

    died = _run(_worker(mock, naive, BaseException, lived))
    if died == ["no exception at all"]:
        found = "kills a loop with `except BaseException`"
    else:
        found = f"is seen by `except BaseException` as {lived[0]}"
    print(f"{how}: confluent-kafka {confluent_kafka.__version__} on Python {sys.version.split()[0]}: {found}")
    record_property(how, found)
    if how != "the running client" and sys.version_info < (3, 12):
        assert died == ["no exception at all"]
    else:
        assert died in ([], ["no exception at all"])

    lived.clear()
    assert _run(_worker(mock, lambda call, *args: guarded(naive, call, *args), KafkaFatal, lived)) == []
    assert lived == ["KafkaFatal"] * 2


def _worker(mock, door, caught, lived):
    """A loop that sends, meets a fatal error, catches what it knows and goes on: twice."""

    def worker():
        while len(lived) < 2:
            try:
                producer = Producer(client_config(KafkaAddress(mock.bootstrap)) | {"enable.idempotence": True})
                _fatal_flush(mock, producer, door)
            except caught as error:
                lived.append(type(error).__name__)

    return worker


def _fatal_flush(mock, producer, door) -> None:
    reports: list[object] = []

    def report(error, message):
        reports.append((error, message))

    producer.produce("t", b"first", on_delivery=report)
    assert door(producer.flush, 10) == 0
    mock.fail(PRODUCE, OUT_OF_ORDER, OUT_OF_ORDER)
    producer.produce("t", b"second", on_delivery=report)
    door(producer.flush, 10)


def _run(worker) -> list[str]:
    """Run a worker in a thread; the names of what it died of."""
    died: list[str] = []

    def body():
        try:
            worker()
        except:  # noqa: E722 - the point
            seen = sys.exc_info()[1]
            died.append(type(seen).__name__ if isinstance(seen, BaseException) else "no exception at all")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return died


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._TRANSPORT, "broker"),
        (KafkaError._ALL_BROKERS_DOWN, "broker"),
        (KafkaError._MSG_TIMED_OUT, "broker"),
        (KafkaError._PURGE_QUEUE, "broker"),
        (KafkaError.NOT_ENOUGH_REPLICAS, "broker"),
        (KafkaError.LEADER_NOT_AVAILABLE, "broker"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "broker"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "record"),
        (KafkaError.RECORD_LIST_TOO_LARGE, "record"),
        (KafkaError.INVALID_RECORD, "record"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "record"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "record"),
        (KafkaError._UNKNOWN_TOPIC, "record"),
        (KafkaError._FATAL, "fatal"),
        (KafkaError._FENCED, "fatal"),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "fatal"),
        (KafkaError.INVALID_PRODUCER_EPOCH, "fatal"),
        (9999, "fatal"),
    ],
)
def test_classify(code, kind):
    """An outage waits, a refused record is set aside, a broken client (or an unknown code) is built anew."""
    assert classify(KafkaError(code)) == kind


def test_every_known_code_has_one_kind():
    """No code is in two lists, so that the order of the questions does not matter."""
    from kylo_outbox.kafka import client  # noqa: PLC0415

    lists = (client._FATAL_CODES, client._RECORD_CODES, client._BROKER_CODES)
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


def test_fatal_flag_wins():
    """A fatal error is fatal whatever its code."""
    assert classify(KafkaError(KafkaError._TRANSPORT, "gone", True)) == "fatal"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Refused(["x"]), ValueError("mine")])
def test_guarded_passes_what_is_not_kafkas(error):
    """Signals, errors of ours and mistakes of the caller pass unchanged."""

    def call():
        raise error

    with pytest.raises(type(error)) as caught:
        guarded(call)
    assert caught.value is error


def test_guarded_returns_the_answer():
    """Nothing is added to a call that works."""
    assert guarded(max, 3, 7) == 7


def test_closed_client_is_fatal():
    """A client that was closed must be built anew."""

    def call():
        raise RuntimeError("Consumer closed")

    with pytest.raises(KafkaFatal):
        guarded(call)


def test_outage_is_a_fault_that_waits():
    """No answer in time is Transient, with the code for those who ask."""
    producer = Producer(client_config(KafkaAddress("127.0.0.1:1")))
    with pytest.raises(KafkaFault) as caught:
        guarded(producer.list_topics, timeout=0.2)
    assert isinstance(caught.value, Transient)
    assert caught.value.kind == "broker"


def test_settings_of_security_reach_the_client():
    """TLS and SASL hold for every client; what is not set is left to librdkafka."""
    address = KafkaAddress(
        "a:1,b:2", "me", "SASL_SSL", "SCRAM-SHA-512", "user", "secret", "/ca", "/cert", "/key", "pass"
    )
    config = client_config(address)
    assert config["security.protocol"] == "SASL_SSL"
    assert (config["sasl.mechanism"], config["sasl.username"], config["sasl.password"]) == (
        "SCRAM-SHA-512",
        "user",
        "secret",
    )
    assert (config["ssl.ca.location"], config["ssl.key.password"]) == ("/ca", "pass")
    assert config["allow.auto.create.topics"] is False
    assert "sasl.password" not in client_config(KafkaAddress("a:1"))


def test_address_keeps_secrets_out_of_repr():
    """What is logged by accident holds no password."""
    text = repr(KafkaAddress("a:1", sasl_password="secret", ssl_key_password="pass-phrase"))
    assert "secret" not in text
    assert "pass-phrase" not in text


def test_settings_that_cannot_be_followed_are_named():
    """A missing certificate file is a matter of settings, said in one line."""
    address = KafkaAddress("a:1", security_protocol="SSL", ssl_cafile="/nowhere/ca.pem")
    with pytest.raises(Misconfigured, match="KAFKA_SSL_CAFILE"):
        build(Producer, client_config(address))


def test_an_outage_is_one_log_line(caplog):
    """Reconnecting twenty times a second does not fill the log."""
    with caplog.at_level(logging.ERROR, "kylo_outbox.kafka.librdkafka"):
        producer = Producer(client_config(KafkaAddress("127.0.0.1:1", "quiet")))
        producer.poll(1.0)
    assert len([record for record in caplog.records if "FAIL" in record.getMessage()]) == 1
