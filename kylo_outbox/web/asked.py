"""What routes that change something ask of a request: its body, its key, and who sends it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request  # noqa: TC002 - FastAPI reads annotations at run time

from kylo_outbox.model.bodies import read_json
from kylo_outbox.model.errors import Refused
from kylo_outbox.model.transactions import shown


async def _json_body(request: Request) -> Any:
    return read_json(await request.body())


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise Refused(["Idempotency-Key: given more than once"])
    return keys[0] if keys else None


def _caller(request: Request) -> str:
    return f"api {getattr(request.state, 'caller', '')}".strip()


JsonBody = Annotated[Any, Depends(_json_body)]
Key = Annotated[str | None, Depends(_idempotency_key)]
By = Annotated[str, Depends(_caller)]


def fields(body: Any, *accepted: str) -> dict[str, Any]:
    """A body as an object with no other fields than `accepted`; none at all is an empty one.

    Raises:
        Refused: it is something else, or has unknown fields.
    """
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise Refused([f"the body: must be an object{' with ' + ', '.join(accepted) if accepted else ''}"])
    unknown = [name for name in body if name not in accepted]
    if unknown:
        known = ", ".join(accepted) or "none"
        raise Refused([f"{shown(name)[1:-1]}: unknown field; accepted: {known}" for name in unknown])
    return body
