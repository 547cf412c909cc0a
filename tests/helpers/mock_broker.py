"""librdkafka's own mock cluster, driven through the client's library: for errors that no real broker gives on demand.

It keeps 5 MiB a partition, does not fence and does not check sequence numbers: claims about those need the real broker.
"""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PRODUCE = 0
METADATA = 3
OFFSET_COMMIT = 8


class MockBroker:
    """A cluster of one broker inside this process, with topics made on first use."""

    def __init__(self) -> None:
        self._library = _library()
        text = ctypes.create_string_buffer(512)
        configuration = self._library.rd_kafka_conf_new()
        self._client = self._library.rd_kafka_new(0, configuration, text, len(text))
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def fail(self, request: int, *codes: int) -> None:
        """Answer the next requests of a kind (API key) with these errors, one each."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, request)
        errors = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(codes), errors)

    def topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def close(self) -> None:
        """End the cluster."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _library() -> Any:
    """The copy of librdkafka that confluent-kafka itself has loaded."""
    found = find_spec("confluent_kafka")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    folders = [package.parent / "confluent_kafka.libs", package / ".dylibs", package]
    pattern = re.compile(r"(lib)?rdkafka[^+]*\.(so|dylib|dll)", re.IGNORECASE)
    path = next(
        path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if pattern.search(path.name)
    )
    __import__("confluent_kafka")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()),
        ("rd_kafka_new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("rd_kafka_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, number)),
        ("rd_kafka_mock_cluster_destroy", None, (pointer,)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_clear_request_errors", None, (pointer, ctypes.c_int16)),
        ("rd_kafka_mock_push_request_errors_array", None, (pointer, ctypes.c_int16, ctypes.c_size_t, pointer)),
        ("rd_kafka_mock_topic_create", number, (pointer, text, number, number)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
