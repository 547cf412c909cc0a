"""What demo and bench share: companies added, transactions posted, tabs read back, on a running local stack."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from kylo_outbox.local import parts
from kylo_outbox.local.processes import tail_of
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.local.stack import Stack

Row = list[Any]

WEBHOOK = "/webhook/txns.ingest"
API = "/v1/transactions"

_ANSWER_SECONDS = 120.0
_LOOK_SECONDS = 0.05


def add_companies(stack: Stack, companies: Iterable[str], *, workbook: str) -> None:
    """Add companies, each with a schema `app_<id>` and the workbook `<workbook>-<id>`.

    Raises:
        Unreachable: the command refused; what it said is in the message.
    """
    for company in companies:
        done = stack.run(
            "company", "add", company, "--spreadsheet", f"{workbook}-{company}", "--schema", f"app_{company}"
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise Unreachable("company add", said, f"Logs are in {stack.log_file('api').parent}.")


def post(stack: Stack, transactions: list[dict[str, Any]], *, door: str = WEBHOOK) -> dict[str, Any]:
    """Post transactions to the API and return its answer.

    Raises:
        Unreachable: the API did not answer with success; its problem is in the message.
    """
    return call(stack, door, {"transactions": transactions})


def call(stack: Stack, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the API, with POST when there is a body, and return the JSON of its answer.

    Raises:
        Unreachable: it did not answer with success.
    """
    request = urllib.request.Request(  # noqa: S310 - the stack's own address
        stack.env()["KYLO_API_URL"] + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            answered: dict[str, Any] = json.load(answer)
            return answered
    except urllib.error.HTTPError as refused:
        detail = f"{path} answered {refused.code}: {refused.read(500).decode(errors='replace')}"
    except OSError as error:
        detail = f"{path}: {error}"
    log = stack.log_file("api")
    raise Unreachable("API", detail + tail_of(log), f"The whole log: {log}.")


def tab(stack: Stack, spreadsheet_id: str, title: str) -> list[Row]:
    """Return the rows of a tab in the stand-in, its first row included; none when there is no such tab yet."""
    body = parts.get(f"{stack.env()['KYLO_SHEETS_ENDPOINT']}/_standin/sheets/{spreadsheet_id}.json")
    tabs = json.loads(body)["tabs"] if body else []
    return next((each["values"] for each in tabs if each["title"] == title), [])


def writes(stack: Stack) -> int:
    """Return how many changes the stand-in has applied since its start."""
    body = parts.get(f"{stack.env()['KYLO_SHEETS_ENDPOINT']}/_standin/requests")
    return sum(json.loads(body)["applied"].values()) if body else 0


def wait_for(stack: Stack, reached: Callable[[], bool], *, what: str, timeout: float) -> None:
    """Wait until `reached()`; meanwhile every part must go on running.

    Raises:
        Unreachable: a part ended (it is named, with its log), or it took longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not reached():
        for state in stack.status():
            if state.state not in {"running", "external"}:
                log = stack.log_file(state.name)
                raise Unreachable(parts.title(state.name), f"it ended{tail_of(log)}", f"The whole log: {log}.")
        if time.monotonic() > deadline:
            log = stack.log_file("projectors")
            raise Unreachable("the flow", f"{what} did not happen within {timeout:.0f} s", f"Logs: {log.parent}.")
        time.sleep(_LOOK_SECONDS)
