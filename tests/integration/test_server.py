"""The server process on a real socket: refusals in the middle of a body, drain at SIGTERM, ports that are taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from fastapi import FastAPI

from kylo_outbox.model.errors import NotReady
from kylo_outbox.web.server import run

PROGRAM = """
import sys, time
from fastapi import FastAPI
from kylo_outbox.web.limits import BodyLimits, Limits
from kylo_outbox.web.server import run

app = FastAPI()

@app.get("/slow")
def slow() -> str:
    time.sleep(1)
    return "done"

@app.post("/")
def post() -> str:
    return "taken"

app.add_middleware(BodyLimits, limits=Limits(body=1000))
run(app, "127.0.0.1", int(sys.argv[1]), on_stop=lambda: print("stopped", flush=True))
"""


@pytest.fixture
def port():
    """A free port."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@pytest.fixture
def server(port):
    """The program above, listening."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], stdout=subprocess.PIPE, text=True)
    for _ in range(200):
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to drain at")
def test_sigterm_finishes_what_is_in_work(server, port):
    """A request that runs when SIGTERM comes is answered; then the process leaves with 0 and gives things back."""
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/slow")))
    asking.start()
    time.sleep(0.3)
    server.send_signal(signal.SIGTERM)
    asking.join(10)
    out, _ = server.communicate(timeout=10)
    assert answers[0].json() == "done"
    assert (server.returncode, out.strip()) == (0, "stopped")


def test_a_long_body_is_answered_while_it_still_comes(server, port):
    """With only the headers of a too long body sent, 413 is there already, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\nx")
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer
    assert server.poll() is None


def test_a_port_that_is_taken_is_told_with_the_remedy(port):
    """One line with the name to change, and what was opened is given back."""
    closed: list[bool] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(NotReady, match="KYLO_HTTP_PORT"):
            run(FastAPI(), "127.0.0.1", port, on_stop=lambda: closed.append(True))
    assert closed == [True]
