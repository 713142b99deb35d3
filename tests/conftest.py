"""Shared fixtures: the real model, where it is at hand, and servers on the loopback."""

import os
from pathlib import Path

import pytest
from loopback import Server

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as cli.run does, before torch computes


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
def serve():
    """serve(behave) starts a `loopback.Server`; it ends with the test."""
    servers = []

    def start(behave):
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
