"""Shared fixtures: the real model, where it is at hand, and servers on the loopback."""

import os
import signal
import threading
from pathlib import Path

import pytest
from loopback import Server

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as cli.run does, before torch computes
# A shell starts a job in the background with Ctrl-C ignored, and the tests of Ctrl-C would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_model():
    """The folder of SmolLM2-135M-Instruct, named by RRM_SMOLLM2.

    `python -m extras.fetch smollm2-135m` makes one.
    """
    folder = os.environ.get("RRM_SMOLLM2")
    if not folder:
        pytest.skip("RRM_SMOLLM2 names no model folder: python -m extras.fetch smollm2-135m")
    return Path(folder)


@pytest.fixture
def start():
    """start(server) -> its port; the server runs in a thread until the test ends."""
    servers = []

    def begin(server):
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve(start):
    """serve(behave) starts a `loopback.Server`."""

    def begin(behave):
        server = Server(behave)
        start(server)
        return server

    return begin
