"""Operations written out by hand because the plain PyTorch form needs too much memory or time.

logprob.py            log-probs and entropies without all logits
logprob_triton.py     its row operation in Triton
packed_attention.py   attention in a Pack, piece by piece
paged_triton.py       attention of new tokens to keys and values in pages, in Triton
cpu.py                faster versions for bf16 on a CPU
gpu.py                whether Triton works on this GPU

cpu.py may be deleted: then the plain lines that its operations equal run, and only the speed drops.
"""

from pathlib import Path

HAS_CPU_KERNELS = Path(__file__).with_name("cpu.py").exists()
