"""The guards of the HTTP door one by one: tokens, signatures, problems, limits of bodies."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.bodies import BrokenBody, UnknownFormat
from kylo_outbox.model.errors import Conflict, KyloError, Misconfigured, NotReady, Refused, Transient, Unreachable
from kylo_outbox.web.auth import is_loopback, read_tokens, require_tokens
from kylo_outbox.web.limits import BodyLimits, Limits
from kylo_outbox.web.problems import Denied, of_error, problem
from kylo_outbox.web.signature import TOLERANCE, Signatures, sign

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
OTHER = "another plain secret text"
NOW = 1_800_000_000


def headers(secret: str = SECRET, body: bytes = b"{}", at: int = NOW, message_id: str = "msg_1") -> dict[str, str]:
    """What a sender with `secret` sends."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(secret, message_id, at, body),
    }


@pytest.fixture
def signatures():
    """Two active keys and a clock that stands."""
    return Signatures([SECRET, OTHER], clock=lambda: NOW)


def test_either_active_key_signs(signatures):
    """While a key is exchanged, messages signed with the old and with the new one pass."""
    signatures.check(headers(SECRET), b"{}")
    signatures.check(headers(OTHER), b"{}")
    both = {**headers(), "webhook-signature": "v1,AAAA " + sign(OTHER, "msg_1", NOW, b"{}")}
    signatures.check(both, b"{}")


def test_the_signature_is_the_standard_one():
    """The form of the signature is pinned, because senders elsewhere compute it."""
    assert sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    ) == ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook-id": ""},
        {"webhook-id": "msg.1"},
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": str(NOW + TOLERANCE + 1)},
        {"webhook-timestamp": str(NOW - TOLERANCE - 1)},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,é"},
        {"webhook-signature": sign("a secret nobody knows", "msg_1", NOW, b"{}")},
    ],
)
def test_what_does_not_fit_is_denied(signatures, wrong):
    """Id, time and signature must all fit; the answer shows no part of a key."""
    with pytest.raises(Denied) as denied:
        signatures.check({**headers(), **wrong}, b"{}")
    assert denied.value.status == 401
    assert SECRET[6:] not in str(denied.value)
    assert OTHER not in str(denied.value)


def test_a_changed_or_shifted_body_is_denied(signatures):
    """Every byte is signed, and no part of the body can pass as time stamp or id."""
    for body in (b"{ }", b"", b"{}\n"):
        with pytest.raises(Denied):
            signatures.check(headers(), body)


def test_keys_that_cannot_be_used_are_named_by_place():
    """A broken secret stops the start and is not shown."""
    with pytest.raises(Misconfigured, match="entry 2") as fault:
        Signatures([SECRET, "whsec_%%%"])
    assert "%%%" not in str(fault.value)
    assert not Signatures([]).required


def test_tokens_are_read():
    """Named tokens have their role, bare ones are operators; only digests are kept."""
    named, bare = read_tokens(["prom:reader:0123456789abcdef:x", "fedcba9876543210"])
    assert (named.name, named.role, bare.role) == ("prom", "reader", "operator")
    assert "0123456789abcdef" not in repr(named)


@pytest.mark.parametrize("word", ["a:admin:0123456789abcdef", "a:0123456789abcdef", "a:reader:", "::"])
def test_tokens_with_two_readings_are_refused(word):
    """A mistyped token entry stops the start and is not shown."""
    with pytest.raises(Misconfigured, match="entry 1") as fault:
        read_tokens([word])
    assert "0123456789abcdef" not in str(fault.value)


def test_without_tokens_only_loopback_is_listened_on():
    """Listening elsewhere needs a token; every form of loopback does not."""
    for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"):
        require_tokens(host, ())
    for host in ("0.0.0.0", "::", "10.0.0.1", "kylo.example.com", ""):
        with pytest.raises(Misconfigured, match="KYLO_API_TOKENS"):
            require_tokens(host, ())
        require_tokens(host, read_tokens(["0123456789abcdef"]))
    assert not is_loopback("localhost.example.com")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BrokenBody("b"), 400),
        (UnknownFormat("u"), 415),
        (Refused(["a: b"]), 422),
        (Conflict(["a: b"]), 409),
        (Transient("t"), 503),
        (Unreachable("PostgreSQL", "no answer", "Look"), 503),
        (NotReady("n"), 503),
        (Denied(401, "d"), 401),
        (Denied(403, "d"), 403),
        (KyloError("postgresql://u:secret@h"), 500),
    ],
)
def test_errors_become_problems(error, status):
    """Each error of ours has its status and says what a caller needs; an unexpected one says nothing."""
    answer = of_error(error)
    assert answer.status_code == status
    assert answer.media_type == "application/problem+json"
    body = json.loads(bytes(answer.body))
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert ("errors" in body) == (status in {409, 422})
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret" not in bytes(answer.body).decode()


@given(st.text(), st.lists(st.text()))
def test_any_text_can_be_answered(detail, errors):
    """Whatever a sender wrote can stand in an answer."""
    assert json.loads(bytes(problem(422, detail + "\ud800", errors=errors).body))["errors"] == errors


def post(limits: Limits, content: Any, extra: dict[str, str] | None = None) -> tuple[httpx.Response, list[int]]:
    """Send a body through the limits to an application that tells its length; also how many bytes were taken."""
    taken: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = len((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    async def pieces() -> Any:
        for piece in content:
            taken.append(len(piece))
            yield piece
            await asyncio.sleep(0)

    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(BodyLimits(app, limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            sent = content if isinstance(content, bytes) else pieces()
            return await client.post("/", content=sent, headers=extra)

    return asyncio.run(story()), taken


def test_a_body_within_the_limit_arrives_whole():
    """Up to the very limit, in one piece or in many, the body is handed on."""
    assert post(Limits(body=10), b"x" * 10)[0].text == "10"
    assert post(Limits(body=10), [b"xx"] * 5)[0].text == "10"
    assert post(Limits(body=10), b"")[0].text == "0"


def test_a_declared_length_over_the_limit_is_refused_unread():
    """With a Content-Length over the limit no byte of the body is taken."""
    answer, taken = post(Limits(body=10), [b"x"] * 11, {"content-length": "11"})
    assert (answer.status_code, taken) == (413, [])
    assert post(Limits(body=10), [b"x"], {"content-length": "9" * 5000})[0].status_code == 413
    assert post(Limits(body=10), [b"x"], {"content-length": "-1"})[0].status_code == 400


def test_a_body_that_grows_over_the_limit_is_refused_on_the_way():
    """Without a length the body is read no further than the limit."""
    answer, taken = post(Limits(body=10), [b"xxx"] * 1000)
    assert answer.status_code == 413
    assert sum(taken) <= 15


def test_compressed_bodies_are_refused():
    """A small compressed body could be a huge one: none is accepted."""
    assert post(Limits(), b"x", {"content-encoding": "gzip"})[0].status_code == 415
    assert post(Limits(), b"x", {"content-encoding": "identity"})[0].status_code == 200


def test_all_bodies_together_are_bounded():
    """When too much is in work at a time, the caller is asked to come again."""
    answer, _ = post(Limits(all_bodies=5), b"x" * 6)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_a_body_that_does_not_come_is_given_up():
    """A sender that stops in the middle is answered instead of waited for."""

    async def story() -> list[Any]:
        sent: list[Any] = []

        async def silent() -> Any:
            await asyncio.sleep(30)

        async def send(message: Any) -> None:
            sent.append(message)

        async def app(*_: Any) -> None:
            raise AssertionError

        guard = BodyLimits(app, Limits(idle_seconds=0.05))
        await guard({"type": "http", "method": "POST", "headers": []}, silent, send)
        return sent

    assert asyncio.run(story())[0]["status"] == 408
