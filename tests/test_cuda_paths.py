"""Every path that only a GPU takes, executed without one (cuda_paths.py), in a process of its own.

PyTorch asks for GPUs while it is imported, and this process has imported it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: test_gpu.py uses it")
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing")
def test_every_path_of_a_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-rA", str(TESTS / "cuda_paths.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout)  # launches of a decode step, registers of each kernel
