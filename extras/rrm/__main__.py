"""`torchrun --nproc_per_node 8 -m rrm train_grpo ...`, and `python -m rrm`."""

from rrm import main

main()
