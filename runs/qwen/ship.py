"""Makes the adapter that is published: in bf16, without optimizer, with its base's name on the hub.

    python runs/qwen/ship.py out/qwen/format/checkpoint-10 adapters/qwen2.5-coder-1.5b-gsm8k \\
        Qwen/Qwen2.5-Coder-1.5B-Instruct

`judge.py --model BASE --adapter FOLDER` and peft load it.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command  # noqa: E402

from lora import PREFIX, WEIGHTS, read_adapter  # noqa: E402


def main(checkpoint, folder, base):
    folder = Path(folder)
    folder.mkdir(parents=True)
    adapter = read_adapter(Path(checkpoint))
    adapter.config["base_model_name_or_path"] = base
    weights = {}
    for key, tensor in load_file(Path(checkpoint) / WEIGHTS).items():
        weights[key.removeprefix(PREFIX).removesuffix(".weight")] = tensor.to(torch.bfloat16)
    adapter.save(folder, weights, json.loads((Path(checkpoint) / "config.json").read_text()))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
