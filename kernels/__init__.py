"""Operations written out by hand because the plain PyTorch form needs too much memory or time.

logprob.py            log-probs and entropies without all logits
logprob_triton.py     its row operation in Triton
packed_attention.py   attention in a Pack, piece by piece
paged_triton.py       attention of new tokens to keys and values in pages, in Triton
cpu.py                faster versions for a CPU
gpu.py                whether Triton works on this GPU
"""

import importlib.util

CPU_KERNELS_EXIST = importlib.util.find_spec("kernels.cpu") is not None


def cpu_kernels(device):
    """Returns the module kernels/cpu.py for a CPU, and None for a GPU.

    Each operation in cpu.py is an alternative to plain lines elsewhere. Those lines ask first:

        fast = cpu_kernels(x.device)
        if fast:
            return fast.same_operation(x)

    Without the file cpu.py this returns None. The plain lines then run on a CPU as well: greedy
    tokens stay the same, log-probs change by rounding alone, and only the speed drops.
    """
    if device.type != "cpu" or not CPU_KERNELS_EXIST:
        return None
    from kernels import cpu

    return cpu
