"""Log lines for people or for machines, and the filter that keeps secrets out of both."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable

# user:password@ of a URL, and password=... of a key/value connection string.
_URL_PASSWORD = re.compile(r"(?P<head>\w+://[^\s:/@]*):[^\s]*@")
_KEY_PASSWORD = re.compile(
    r"(?P<head>\b(?:password|sslpassword|passfile)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with known secrets and anything shaped like a password replaced by `***`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _KEY_PASSWORD.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>:***@", text))


class _Redacting(logging.Filter):
    """Rewrites a record before any handler formats it, its exception text included."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self._secrets), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text, record.exc_info = redact(record.exc_text, self._secrets), None
        return True


def set_up_logs(*, level: str, fmt: str, part: str, secrets: Iterable[str] = ()) -> None:
    """Send every log line to stderr (stdout belongs to data), named after the process' part."""
    handler = logging.StreamHandler(sys.stderr)
    if fmt == "json":
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
                static_fields={"part": part},
            )
        )
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {part} %(message)s"))
    handler.addFilter(_Redacting(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("apscheduler", "googleapiclient", "uvicorn.access", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns each second that a supervised loop is still running, which is what such a loop is for.
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
