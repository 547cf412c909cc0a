from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from kylo_outbox.local import jars
from kylo_outbox.local.jars import Jar
from kylo_outbox.model.errors import Unreachable


def jar(name: str) -> Jar:
    """Pin a jar whose bytes are its own name."""
    return Jar("org.example", name, "1.0", hashlib.sha256(name.encode()).hexdigest())


class Repository:
    """Brings the right bytes, except for what it was told to spoil; counts what it was asked for."""

    def __init__(self, *spoiled: str) -> None:
        self.asked: list[str] = []
        self._spoiled = list(spoiled)

    def __call__(self, wanted: Jar, into: Path) -> Path:
        """Stand in for jgo."""
        self.asked.append(wanted.artifact)
        into.mkdir()
        path = into / wanted.name
        if wanted.artifact in self._spoiled:
            self._spoiled.remove(wanted.artifact)
            path.write_bytes(b"half a j")
        else:
            path.write_bytes(wanted.artifact.encode())
        return path


TWO = [jar("one"), jar("two")]


def test_full_cache_asks_nothing_of_the_network(tmp_path):
    """With every jar in place and right, nothing is fetched."""
    jars.class_path(tmp_path, jars=TWO, fetch=Repository())
    again = Repository()
    paths = jars.class_path(tmp_path, jars=TWO, fetch=again)
    assert again.asked == []
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]


def test_damaged_file_in_the_cache_is_fetched_again(tmp_path):
    """A file whose bytes are not the pinned ones is replaced, and only that one."""
    _, second = jars.class_path(tmp_path, jars=TWO, fetch=Repository())
    second.write_bytes(b"tw")
    again = Repository()
    jars.class_path(tmp_path, jars=TWO, fetch=again)
    assert again.asked == ["two"]
    assert second.read_bytes() == b"two"


def test_wrong_bytes_are_fetched_once_more(tmp_path):
    """A partial download is repaired by a second try."""
    repository = Repository("one")
    jars.class_path(tmp_path, jars=TWO, fetch=repository)
    assert sorted(repository.asked) == ["one", "one", "two"]


def test_bytes_that_are_wrong_twice_are_refused(tmp_path):
    """Bytes without the pinned sum never reach the class path; what was right is kept."""
    with pytest.raises(Unreachable, match=r"one-1\.0\.jar does not have its pinned checksum"):
        jars.class_path(tmp_path, jars=TWO, fetch=Repository("one", "one"))
    names = [path.name for path in (tmp_path / "kafka-jars").rglob("*.jar")]
    assert "one-1.0.jar" not in names


def test_unreachable_repository_is_named(tmp_path):
    """No connection is one line with a remedy."""

    def refuse(wanted, into):
        raise OSError("no route")

    with pytest.raises(Unreachable, match=r"Maven repository is not reachable.*Check the connection"):
        jars.class_path(tmp_path, jars=TWO, fetch=refuse)


def test_two_at_once_fetch_once(tmp_path):
    """Of two first starts at the same time one fetches and the other waits for it."""
    repository = Repository()
    runs = [
        threading.Thread(target=jars.class_path, args=(tmp_path,), kwargs={"jars": TWO, "fetch": repository})
        for _ in range(4)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(repository.asked) == ["one", "two"]


def test_leftovers_of_a_killed_fetch_are_removed(tmp_path):
    """The folder of a fetch that was killed does not stay for ever."""
    stale = tmp_path / "kafka-jars" / "fetch-old" / "half.jar"
    stale.parent.mkdir(parents=True)
    stale.touch()
    jars.class_path(tmp_path, jars=TWO, fetch=Repository())
    assert not stale.parent.exists()


def test_pinned_list_is_whole():
    """Every jar is pinned by a full sum and has a file name of its own."""
    pinned = jars.pinned()
    assert len({each.name for each in pinned}) == len(pinned) == 46
    assert all(len(each.sha256) == 64 for each in pinned)
    assert {"kafka_2.13-4.2.0.jar", "slf4j-simple-1.7.36.jar"} <= {each.name for each in pinned}
    assert Path(jars.PINS).suffix == ".sha256"
