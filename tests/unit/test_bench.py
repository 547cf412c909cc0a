"""The bench's own arithmetic and what it shows: a wrong figure would be believed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from scripts.bench import registry, suite
from scripts.bench.benches import road
from scripts.bench.figures import Figure, Goal, Result, percentile, ratios, result_from, shown
from scripts.bench.peers import installed
from scripts.bench.report import chart, docs, page
from scripts.bench.rounds import interleaved
from scripts.bench.stage import ROOT, BenchFailed, Options
from scripts.bench.workers import writer

AT_LEAST = Goal("P1", 0.7)
AT_MOST = Goal("P6", 1.5, at_least=False)


def stored(*figures, failure=""):
    """A run as it lies in its JSON file."""
    result = Result("drain", "Backlog drain", "the command", list(figures), 12.0, failure)
    busy = {"load 1 min": 0.1}
    return json.loads(
        json.dumps(
            {
                "suite": "relay",
                "begun": "2026-01-01T00:00:00+00:00",
                "rounds": 3,
                "scale": 1.0,
                "full": False,
                "machine": {"processor": "two cores"},
                "load_before": busy,
                "load_after": busy,
                "results": [asdict(result)],
            }
        )
    )


def test_a_figure_is_judged_by_its_median_and_shows_its_extremes():
    """One lucky or unlucky round decides nothing and is not hidden."""
    figure = Figure("ratio", "x", (0.9, 0.69, 0.71), AT_LEAST)
    assert (figure.median, figure.low, figure.high) == (0.71, 0.69, 0.9)
    assert figure.verdict == "reached"
    assert Figure("ratio", "x", (0.9, 0.69, 0.6), AT_LEAST).verdict == "not reached"


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [(AT_LEAST, 0.7, True), (AT_LEAST, 0.699, False), (AT_MOST, 1.5, True), (AT_MOST, 1.501, False)],
)
def test_the_bound_itself_reaches_the_goal(goal, value, reached):
    """A goal says at least or at most."""
    assert goal.reached(value) is reached


def test_what_was_not_measured_is_neither_reached_nor_missed():
    """The reason stands in place of a value."""
    figure = Figure("lanes", "x", goal=AT_LEAST, missing="no lanes yet")
    assert (figure.verdict, figure.text, figure.reached) == ("not measured", "-", None)


@pytest.mark.parametrize("wrong", [{}, {"values": (1.0,), "missing": "why"}, {"values": (float("nan"),)}])
def test_a_figure_without_values_and_without_a_reason_cannot_be_made(wrong):
    """Nothing can be shown that was neither measured nor explained."""
    with pytest.raises(ValueError, match="ratio"):
        Figure("ratio", "x", **wrong)


def test_ratios_are_paired_round_by_round():
    """Both of a round met the same machine; a round more on one side is a mistake."""
    assert ratios([10.0, 30.0], [20.0, 30.0]) == (0.5, 1.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_percentile_is_one_of_the_values():
    """No value is invented between two."""
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0712, "0.0712"), (0.333333, "0.333"), (1.5, "1.50"), (12.345, "12.3"), (123456.7, "123,457")],
)
def test_numbers_have_three_digits(value, text):
    """More would pretend to a precision that no round has."""
    assert shown(value) == text


def test_rounds_are_interleaved_and_the_warm_up_does_not_count():
    """A, B, A, B: whoever comes second in a noisy minute does so in each round."""
    order: list[str] = []

    def measure(name):
        order.append(name)
        return len(order)

    found = interleaved(2, {"a": lambda: measure("a"), "b": lambda: measure("b")}, warm_up=True)
    assert order == ["a", "b"] * 3
    assert found == {"a": [3, 5], "b": [4, 6]}


def test_a_single_round_is_for_looking():
    """It has no warm-up, so that trying something out is quick."""
    assert interleaved(1, {"a": lambda: 7}, warm_up=True) == {"a": [7]}


def test_a_run_comes_back_from_its_file():
    """The page and the docs are made from what lies in the file."""
    found = stored(Figure("ratio", "x", (0.8, 0.9), AT_LEAST, "a note"), Figure("lanes", "x", missing="none"))
    result = result_from(found["results"][0])
    assert result.figures[0] == Figure("ratio", "x", (0.8, 0.9), AT_LEAST, "a note")
    assert result.figures[1].missing == "none"


def test_the_page_needs_no_network_and_hides_no_missed_goal(tmp_path):
    """One file: figures, goals, reasons, machine; texts are escaped."""
    found = stored(
        Figure("bad <b>", "x", (0.1, 0.2, 0.3), AT_LEAST),
        Figure("good", "ms", (1.0,), AT_MOST),
        Figure("lanes", "x", goal=AT_LEAST, missing="no lanes yet"),
        failure="it fell over",
    )
    text = page.write(found, tmp_path / "page.html").read_text(encoding="utf-8")
    for wanted in ("not reached", "not measured", "no lanes yet", "it fell over", "two cores", "0.100 to 0.300"):
        assert wanted in text
    assert "<svg" in text
    assert "bad &lt;b&gt;" in text
    assert "bad <b>" not in text
    assert "http" not in text


def test_a_chart_has_one_unit_and_a_mark_for_each_goal():
    """Figures of one unit share a scale; the others get a chart of their own."""
    figures = [Figure("a", "x", (1.0,), AT_LEAST), Figure("b", "ms", (2.0,)), Figure("c", "x", missing="why")]
    grouped = chart.groups(figures)
    assert [(unit, [each.name for each in some]) for unit, some in grouped] == [("x", ["a"]), ("ms", ["b"])]
    drawn = chart.draw(*grouped[0])
    assert drawn.count('class="goal"') == 1
    assert drawn.count("<circle") == 1


def test_the_docs_get_the_figures_between_their_marks_and_keep_the_rest(tmp_path):
    """Written twice it is the same: no figure is typed by hand and none of an older run stays."""
    path = tmp_path / "performance.md"
    path.write_text("before\n<!-- bench relay: begin -->\nold figures\n<!-- bench relay: end -->\nafter\n")
    found = stored(Figure("ratio", "x", (0.8,), AT_LEAST, "a | note"))
    docs.write([found], path)
    once = path.read_text()
    docs.write([found], path)
    assert path.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old figures" not in once
    assert "| ratio<br>a \\| note | 0.800 x | 0.800 to 0.800 | P1: at least 0.700 | reached |" in once
    assert "`the command`" in once


def test_of_several_runs_the_docs_show_each_bench_as_the_last_one_found_it(tmp_path):
    """Each bench under its own run; what the machines have in common stands once, a run that shows nothing nowhere."""
    path = tmp_path / "performance.md"
    path.write_text("<!-- bench relay: begin -->\n<!-- bench relay: end -->\n")
    first, second, third = (stored(Figure("ratio", "x", (value,), AT_LEAST)) for value in (0.1, 0.8, 0.9))
    second["begun"], third["begun"] = "2026-02-02T00:00:00+00:00", "2026-03-03T00:00:00+00:00"
    third["results"][0]["bench"] = "peers"
    third["machine"]["kylo-outbox"] = "commit abc"
    docs.write([first, second, third], path)
    text = path.read_text()
    assert text.count("- processor: two cores") == 1
    assert "- kylo-outbox, 2026-03-03T00:00:00+00:00: commit abc" in text
    assert "2026-01-01" not in text
    assert "0.100 x" not in text
    [_, drain, peers] = text.split("### Backlog drain")
    assert "2026-02-02" in drain
    assert "0.800 x" in drain
    assert "2026-03-03" in peers
    assert "0.900 x" in peers
    assert "2 goals reached, 0 not reached" in text


def test_runs_of_different_suites_are_not_shown_as_one(tmp_path):
    """A figure never lands in a section that is not its own."""
    other = {**stored(), "suite": "projector"}
    with pytest.raises(ValueError, match="projector and relay"):
        docs.write([stored(), other], tmp_path / "performance.md")


def test_docs_without_marks_are_left_alone(tmp_path):
    """Nothing is guessed about where figures belong."""
    path = tmp_path / "performance.md"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        docs.write([stored()], path)
    assert path.read_text() == "no marks"


def test_the_command_beside_a_figure_repeats_it():
    """Scale, peers and length are part of what was measured."""
    options = Options(full=True, peers=frozenset({"faststream", "debezium"}))
    assert suite.command("relay", "peers", rounds=5, scale=0.5, options=options) == (
        "python3 scripts/dev.py bench relay --only peers --rounds 5 --scale 0.5 --full --with debezium,faststream"
    )
    assert suite.command("relay", "drain", rounds=3, scale=1, options=Options()) == (
        "python3 scripts/dev.py bench relay --only drain --rounds 3"
    )


def test_every_bench_of_the_registry_can_be_run():
    """A name without a module would be found only after half an hour."""
    for benches in registry.SUITES.values():
        for bench in benches:
            assert callable(bench.load())
            assert bench.title


def test_benches_are_chosen_by_name():
    """A typing error is told, with the names that there are."""
    assert [bench.name for bench in registry.chosen("relay", ["peers", "drain"], full=False)] == ["drain", "peers"]
    with pytest.raises(ValueError, match="no bench drian; there are drain"):
        registry.chosen("relay", ["drian"], full=False)


def test_a_peer_that_is_not_installed_says_how(monkeypatch, tmp_path):
    """And a name that nobody knows is told as well."""
    monkeypatch.setenv("KYLO_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="--install debezium"):
        installed.require(["debezium"])
    with pytest.raises(ValueError, match="no peer sequin"):
        installed.require(["sequin"])
    (installed.folder("debezium")).mkdir(parents=True)
    (installed.folder("debezium") / "installed").touch()
    assert installed.require(["debezium"]) == ["debezium"]


def test_moments_survive_their_file_and_the_first_of_a_repeat_counts(tmp_path):
    """A record that was acknowledged twice was there after the first time."""
    path = tmp_path / "moments"
    writer.save(str(path), [(1, 100), (2, 200), (1, 300)])
    assert writer.load(path) == {1: 100, 2: 200}


def test_a_payload_carries_its_number_and_has_its_size():
    """Commit and acknowledgement are matched by it."""
    text = writer.payload(12_345).encode()
    assert writer.number_of(text) == 12_345
    assert len(text) == 500
    assert json.loads(text)["n"] == 12_345


def test_a_lag_that_grows_is_told_from_one_that_does_not():
    """Events a second, the lag as seconds of writing, and its slope in a minute."""
    flat = road.judged([(float(at), 1_000 * at, 1_000 * at - 50 - at % 2) for at in range(20)])
    assert flat.rate == pytest.approx(1_000, rel=0.01)
    assert round(flat.p50, 2) == 0.05
    assert flat.growth < 0.05
    grows = road.judged([(float(at), 1_000 * at, 900 * at) for at in range(20)])
    assert (grows.rate, round(grows.growth, 1)) == (900, 6.0)
    with pytest.raises(BenchFailed, match="nothing was written"):
        road.judged([(0.0, 5, 5), (1.0, 5, 5)])


def test_the_page_of_figures_has_a_place_for_each_suite(tmp_path):
    """A suite writes between its own marks and leaves the others' alone."""
    page = tmp_path / "performance.md"
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for suite_name in registry.SUITES:
        page.write_text(text, encoding="utf-8")
        docs.write([stored(Figure("ratio", "x", (1.0,))) | {"suite": suite_name}], page)
        others = [name for name in registry.SUITES if name != suite_name]
        written = page.read_text(encoding="utf-8")
        assert f"<!-- bench {suite_name}: begin -->\nRun of " in written
        assert all(f"<!-- bench {name}: begin -->" in written for name in others)
