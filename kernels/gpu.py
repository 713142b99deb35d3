"""Whether Triton works on this machine's GPU: what needs it asks here first."""

import functools

import torch

from cli import note


@functools.cache
def triton_works(device):
    """Whether Triton can run a kernel on a GPU. Without a C compiler it cannot; a note says so."""
    try:
        from kernels.logprob_triton import rows_forward

        logits, target = torch.zeros(1, 8, device=device), torch.zeros(1, device=device).long()
        rows_forward(logits, target, 1.0, *torch.zeros(4, 1, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        note(f"Triton does not work here, so PyTorch's slower operations run: {reason[0]}")
        return False
    return True
