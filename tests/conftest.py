"""Shared fixtures: the real model and the real data, where they are at hand."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def real_model():
    """The folder of SmolLM2-135M-Instruct, named by RRM_SMOLLM2 (tests/smollm2.py makes one)."""
    folder = os.environ.get("RRM_SMOLLM2")
    if not folder:
        pytest.skip("RRM_SMOLLM2 names no model folder: python tests/smollm2.py FOLDER makes one")
    return Path(folder)
