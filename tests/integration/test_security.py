"""TLS and SASL on a real broker, with certificates and users of the test: what works, and what a wrong one says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kylo_outbox import emit
from kylo_outbox.kafka.client import KafkaAddress, KafkaFault
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.kafka.contact import BrokerContact
from kylo_outbox.kafka.fenced import FencedPublisher
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.kafka.tail import tail
from kylo_outbox.kafka.topics import Topics
from kylo_outbox.model.errors import Misconfigured, Unreachable
from kylo_outbox.model.topics import DAY_MS, Topic
from kylo_outbox.runtime.loop import Pulse, run
from kylo_outbox.runtime.stop import Stop
from tests.helpers.broker import first_appearances, outbox_rows, read_all
from tests.helpers.secure_broker import KEY_PASSWORD, PASSWORD, USER, SecureBroker

if TYPE_CHECKING:
    from kylo_outbox.model.delivery import Delivery

WRONG = "wrong-secret"


@pytest.fixture(scope="module")
def broker(module_folder):
    """One broker with all its listeners for the tests of this file."""
    made = SecureBroker(module_folder)
    made.start()
    return made


@pytest.fixture(scope="module")
def ways(broker):
    """Every way in, by name."""
    certificate, key = broker.authority.sign("relay", KEY_PASSWORD)
    ca = str(broker.authority.ca)
    tls = KafkaAddress(
        broker.at("SSL"),
        security_protocol="SSL",
        ssl_cafile=ca,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_key_password=KEY_PASSWORD,
    )
    plain = KafkaAddress(
        broker.at("SASL_SSL"),
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username=USER,
        sasl_password=PASSWORD,
        ssl_cafile=ca,
    )
    return {
        "TLS with a client certificate": tls,
        "PLAIN": plain,
        "SCRAM-SHA-256": replace(plain, sasl_mechanism="SCRAM-SHA-256"),
        "SCRAM-SHA-512": replace(plain, sasl_mechanism="SCRAM-SHA-512"),
    }


@pytest.mark.parametrize("way", ["TLS with a client certificate", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_every_client_of_ours_works_through(ways, way):
    """Topics are applied, records published with and without fencing, consumed, looked at, and their lag is told."""
    address, topic = ways[way], f"t-{uuid.uuid4().hex[:10]}"
    [change] = Topics(address, 60).apply([Topic(topic, partitions=2, retention_ms=DAY_MS)])
    assert change.what == "topic"
    contact = BrokerContact(address)
    assert contact.ask(20)
    assert contact.partitions([topic]) == {topic: 2}

    plain, fenced = Publisher(address, "s"), FencedPublisher(address, f"s{way[-3:]}")
    patiently(lambda: plain.exists(topic))
    sent = plain.send(outbox_rows(topic, [b"a", b"b"]))
    assert plain.drain(30) == 0
    committed = patiently(lambda: fenced.send(outbox_rows(topic, [b"c"], start=3)))
    assert fenced.drain(30) == 0
    assert sent.done
    assert committed.done
    plain.close()
    fenced.close()

    group = f"g-{topic}"
    member = Subscription(address, group, [topic])
    taken: list[Delivery] = []
    until = time.monotonic() + 60
    while len(taken) < 3 and time.monotonic() < until:
        taken += member.take(100, 0.5)
    member.commit(taken)
    member.close()
    assert {delivery.event.outbox_id for delivery in taken} == {1, 2, 3}

    lag = Lag(address)
    parts = lag.of({group: [topic]})
    lag.close()
    # The mark that ends the transaction is nothing to read.
    assert [(part.messages, part.seconds) for part in parts] == [(0, 0.0)] * 2
    assert len(list(tail(address, topic, from_beginning=True, max_n=None))) == 3


def patiently(call):
    """The answer of a call that may be too early."""
    until = time.monotonic() + 60
    while True:
        try:
            return call()
        except KafkaFault:
            assert time.monotonic() < until


def environment(address):
    """The settings of an address, as a process finds them."""
    named = {
        "KAFKA_BROKERS": address.brokers,
        "KAFKA_SECURITY_PROTOCOL": address.security_protocol,
        "KAFKA_SASL_MECHANISM": address.sasl_mechanism,
        "KAFKA_SASL_USERNAME": address.sasl_username,
        "KAFKA_SASL_PASSWORD": address.sasl_password,
        "KAFKA_SSL_CAFILE": address.ssl_cafile,
        "KAFKA_SSL_CERTFILE": address.ssl_certfile,
        "KAFKA_SSL_KEYFILE": address.ssl_keyfile,
        "KAFKA_SSL_KEY_PASSWORD": address.ssl_key_password,
    }
    return {name: value for name, value in named.items() if value is not None}


def wrong_ones(broker, ways):
    """(case, address, error, setting that is named)."""
    return [*wrong_certificates(broker, ways), *wrong_logins(broker, ways), *wrong_protocols(broker, ways)]


def wrong_certificates(broker, ways):
    """What TLS refuses, on either side."""
    tls, scram = ways["TLS with a client certificate"], ways["SCRAM-SHA-512"]
    certificate, key = broker.stranger.sign("stranger")
    return [
        ("another authority", replace(scram, ssl_cafile=str(broker.stranger.ca)), Unreachable, "KAFKA_SSL_CAFILE"),
        ("no authority", replace(scram, ssl_cafile=None), Unreachable, "KAFKA_SSL_CAFILE"),
        (
            "a stranger's certificate",
            replace(tls, ssl_certfile=str(certificate), ssl_keyfile=str(key), ssl_key_password=None),
            Unreachable,
            "KAFKA_SSL_CERTFILE",
        ),
        (
            "no certificate",
            replace(tls, ssl_certfile=None, ssl_keyfile=None, ssl_key_password=None),
            Unreachable,
            "KAFKA_SSL_CERTFILE",
        ),
        ("a key of another certificate", replace(tls, ssl_keyfile=str(key)), Misconfigured, "KAFKA_SSL_KEYFILE"),
        ("a wrong key password", replace(tls, ssl_key_password=WRONG), Misconfigured, "KAFKA_SSL_KEY_PASSWORD"),
        ("no such file", replace(tls, ssl_cafile="/nowhere/ca.pem"), Misconfigured, "KAFKA_SSL_CAFILE"),
        (
            "another host name",
            replace(scram, brokers=scram.brokers.replace("127.0.0.1", "localhost")),
            Unreachable,
            "KAFKA_BROKERS",
        ),
    ]


def wrong_logins(broker, ways):
    """What SASL refuses."""
    scram = ways["SCRAM-SHA-512"]
    return [
        ("a wrong SCRAM password", replace(scram, sasl_password=WRONG), Unreachable, "KAFKA_SASL_PASSWORD"),
        ("a wrong PLAIN password", replace(ways["PLAIN"], sasl_password=WRONG), Unreachable, "KAFKA_SASL_PASSWORD"),
        ("an unknown user", replace(scram, sasl_username="nobody"), Unreachable, "KAFKA_SASL_USERNAME"),
        (
            "a mechanism that is not offered",
            replace(scram, brokers=broker.at("SASL_PLAINTEXT"), security_protocol="SASL_PLAINTEXT"),
            Unreachable,
            "KAFKA_SASL_MECHANISM",
        ),
        ("a mechanism nobody knows", replace(scram, sasl_mechanism="FOO"), Misconfigured, "KAFKA_SASL_MECHANISM"),
        ("no mechanism", replace(scram, sasl_mechanism=None), Misconfigured, "KAFKA_SASL_MECHANISM"),
        ("no user", replace(scram, sasl_username=None, sasl_password=None), Misconfigured, "KAFKA_SASL_USERNAME"),
    ]


def wrong_protocols(broker, ways):
    """Listeners that speak something else."""
    tls, scram = ways["TLS with a client certificate"], ways["SCRAM-SHA-512"]
    return [
        ("no TLS where it is asked for", KafkaAddress(broker.at("SSL")), Unreachable, "KAFKA_SECURITY_PROTOCOL"),
        (
            "TLS where there is none",
            replace(tls, brokers=broker.at("PLAINTEXT")),
            Unreachable,
            "KAFKA_SECURITY_PROTOCOL",
        ),
        (
            "a login where there is none",
            replace(scram, brokers=broker.at("PLAINTEXT"), security_protocol="SASL_PLAINTEXT"),
            Unreachable,
            "KAFKA_SECURITY_PROTOCOL",
        ),
    ]


def command(database, address, *words):
    """Run the command as somebody with these settings would; (exit code, lines on stderr)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "KYLO_", "PG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "kylo_outbox", *words],
        env=clean | environment(address) | {"PG_DSN_RW": database.dsn},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.strip().splitlines()


def refusal(call):
    """What a call raises."""
    with pytest.raises((Unreachable, Misconfigured)) as caught:
        call()
    return caught.value


def test_whatever_is_wrong_is_one_line_that_names_the_setting(broker, ways):
    """The admin verbs and every starting process say the same: what is wrong, where to look, and no secret."""
    cases = wrong_ones(broker, ways)
    with ThreadPoolExecutor(len(cases)) as at_once:
        admin = at_once.map(lambda case: refusal(lambda: Topics(case[1]).describe()), cases)
        start = at_once.map(lambda case: refusal(lambda: BrokerContact(case[1]).require()), cases)
        for (case, _, kind, setting), one, other in zip(cases, admin, start, strict=True):
            print(case, one, sep=": ")
            assert type(one) is type(other) is kind, case
            assert str(one) == str(other), case
            assert setting in str(one), case
            assert "\n" not in str(one), case
            assert not any(secret in str(one) for secret in (PASSWORD, WRONG, KEY_PASSWORD)), case


@pytest.mark.parametrize("case", ["another authority", "a wrong SCRAM password", "a mechanism nobody knows"])
def test_commands_end_with_that_line_alone(broker, ways, control_db, case):
    """`topics verify` and a starting `relay` print one line and leave with the code for it."""
    [(_, address, kind, setting)] = [each for each in wrong_ones(broker, ways) if each[0] == case]
    for words in (("topics", "verify"), ("relay",)):
        code, lines = command(control_db, address, *words)
        assert code == (3 if kind is Unreachable else 2), lines
        assert len(lines) == 1, lines
        assert setting in lines[0]


def test_a_login_that_is_refused_later_is_waited_out(broker, ways, control_db, make_relay):
    """The password is changed at the broker while the relay runs: nothing is lost or held, it goes on by itself."""
    address, topic = ways["SCRAM-SHA-256"], f"t-{uuid.uuid4().hex[:10]}"
    Topics(address, 60).apply([Topic(topic, partitions=2, retention_ms=DAY_MS)])
    relay, stop = make_relay(open_publisher=lambda store: Publisher(address, store)), Stop()
    worker = threading.Thread(target=run, args=(relay, stop, Pulse()))
    worker.start()
    try:
        add(control_db, topic)
        wait(lambda: relay.state.published == 1, worker)
        broker.set_scram_password("another-password")
        broker.server.kill()
        broker.server.start()
        add(control_db, topic)
        contact = BrokerContact(address)
        wait(lambda: not contact.ask(0.5) and "refuses the user" in contact._heard.why()[0], worker)
        assert relay.state.published == 1
        broker.set_scram_password(PASSWORD)
        wait(lambda: relay.state.published == 2, worker)
    finally:
        broker.set_scram_password(PASSWORD)
        stop.set()
        worker.join(60)
    assert not worker.is_alive()
    assert relay.state.held_keys == set()
    assert [record.outbox_id for record in read_all(broker.at("PLAINTEXT"), topic)] == [1, 2]


def test_a_topic_that_may_not_be_written_holds_its_own_keys(broker, ways, control_db, make_relay, patiently):
    """An ACL of the broker forbids one topic: its events are held with that reason, the others arrive."""
    forbidden, allowed = f"t-{uuid.uuid4().hex[:10]}", f"t-{uuid.uuid4().hex[:10]}"
    address = ways["SCRAM-SHA-512"]
    Topics(address, 60).apply([Topic(name, partitions=2, retention_ms=DAY_MS) for name in (forbidden, allowed)])
    broker.forbid_writing(forbidden)
    relay = make_relay(open_publisher=lambda store: Publisher(address, store))
    for topic in (forbidden, allowed, forbidden, allowed):
        add(control_db, topic)
    patiently(relay, lambda: relay.state.published >= 2 and relay.state.held_keys)
    assert relay.state.held_keys == {(forbidden, b"k")}
    assert [record.outbox_id for record in first_appearances(read_all(broker.at("PLAINTEXT"), allowed))] == [2, 4]
    assert read_all(broker.at("PLAINTEXT"), forbidden) == []
    with control_db.transaction() as tx:
        reasons = tx.execute("select reason from kylo.outbox_held order by id").fetchall()
    assert "Topic authorization failed" in reasons[0][0]


def add(database, topic):
    """One event more."""
    with database.transaction() as tx:
        emit(tx, topic=topic, key="k", type="T", payload={})


def wait(holds, worker):
    """Look again and again until it holds, as long as the worker lives."""
    until = time.monotonic() + 120
    while not holds():
        assert worker.is_alive(), "the relay's loop died"
        assert time.monotonic() < until
        time.sleep(0.05)
