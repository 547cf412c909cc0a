"""The bench on real servers at its smallest size: every figure comes from something that happened."""

from __future__ import annotations

import pytest

from scripts.bench import latency, pace, projectors, relays, rows
from scripts.bench.benches import applied, drain
from scripts.bench.peers import contenders
from scripts.bench.stage import BenchFailed, Options, stage
from scripts.bench.workers import writer

COUNT = 60_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A stage of its own, as a run has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KYLO_DATA_DIR", str(tmp_path_factory.mktemp("bench")))
        with stage(Options(), print) as made:
            yield made


def test_the_drain_measures_what_the_broker_really_got(scene):
    """The relay's own count is the broker's count, and every figure has a value."""
    figures = {figure.name: figure for figure in drain.run(scene, 1, 0.01)}
    assert all(figure.low > 0 for figure in figures.values() if not figure.name.startswith("CPU"))
    relay, raw = figures["relay"].median, figures["raw producer, same header"].median
    assert figures["relay / raw producer, same header"].median == pytest.approx(relay / raw)
    with scene.database() as database, scene.topic() as topic, pace.consumer(scene) as look:
        found = relays.drain_backlog(scene, database, topic, COUNT)
        assert pace.records(look, topic) == COUNT
        assert 0 < found.rows <= COUNT


def test_a_relay_that_does_not_relay_has_no_figure(scene):
    """Neither a broker that is away nor a dead process may end as a number."""
    with scene.database() as database, scene.topic() as topic:
        rows.fill(database, topic, 1_000)
        with relays.running(scene, database, brokers="127.0.0.1:1") as relay:
            with pytest.raises(BenchFailed, match="0 of 1000 rows"):
                relays.drain(relay, 1_000, begun=0, seconds=3.0)
            relay.process.kill()
            relay.process.wait()
            with pytest.raises(BenchFailed, match="the relay ended"):
                relays.drain(relay, 1_000, begun=0)


@pytest.mark.parametrize(
    "relay", [contenders.BATCHED, contenders.BEST, contenders.TEXTBOOK], ids=lambda each: each.style
)
def test_the_reference_relays_send_everything_once_and_mark_it(scene, relay):
    """A straw man would make our figures worthless: they are complete."""
    count = 3000
    with scene.database() as database, scene.topic() as topic, pace.consumer(scene) as look:
        relay.prepare(scene, database, topic)
        relay.fill(database, topic, count)
        with relay.running(scene, database, topic) as check:
            pace.grow(scene, topic, count, check, longest=120)
            relay.warm(scene, database, topic, check)
        assert pace.records(look, topic) == count + 1
        with rows.connect(database) as connection:
            assert connection.execute(
                "select count(*) from public.bench_outbox where published_at is null"
            ).fetchone() == (0,)


def test_latency_matches_each_commit_with_its_own_acknowledgement(scene):
    """By the number in the payload; as many as were written, none from before its commit was asked for."""
    acks = scene.folder / "acks"
    acks.write_text("")
    with scene.database() as database, scene.topic() as topic, pace.consumer(scene) as look:
        with relays.running(scene, database, acks=acks) as relay:
            relay.wait_until_leading()
            found = latency.paced(scene, database, topic, 50, 2.0, lambda: writer.load(acks))
        assert pace.records(look, topic) == len(writer.load(acks)) == 100
    assert found.p50 <= found.p99
    assert found.p99 > 0


def test_a_catch_up_is_measured_by_what_was_really_applied(scene):
    """Each event once in the table; the plain COPY copies the very same rows; one that cannot end has no figure."""
    with scene.database() as source, scene.topic() as topic:
        relays.drain_backlog(scene, source, topic, COUNT)
        found = projectors.catch_up(scene, topic, COUNT)
        assert 0 < found.events <= COUNT
        with scene.database() as database:
            projectors.prepare(database)
            words = {"dsn": database.dsn, "source": source.dsn, "brokers": scene.kafka.bootstrap, "topic": topic}
            assert scene.worker("project_by_hand", **words, way="copy")["events"] == COUNT
            with rows.connect(database) as connection:
                assert connection.execute("select count(*) from bench_ledger").fetchone() == (COUNT,)
        with pytest.raises(BenchFailed, match=f"{COUNT} of {COUNT + 1} events"):
            projectors.catch_up(scene, topic, COUNT + 1, seconds=20.0)


def test_applied_and_acknowledged_are_of_the_same_events(scene):
    """Nothing is applied before it was acknowledged."""
    [ratio, *_] = applied.run(scene, 1, 0.5)
    assert ratio.median > 1
