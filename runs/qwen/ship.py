"""Makes the adapter that is published: bf16, without optimizer and tokenizer, naming its base on the hub.

    python runs/qwen/ship.py out/qwen/run-0/checkpoint-30 adapters/qwen2.5-coder-1.5b-judge

The folder is for `judge.py --model BASE --adapter FOLDER`, and for `peft`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HUB = "Qwen/Qwen2.5-Coder-1.5B-Instruct"


def main(checkpoint, folder):
    checkpoint, folder = Path(checkpoint), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    write(folder / "adapter_config.json", config | {"base_model_name_or_path": HUB})
    write(folder / "config.json", json.loads((checkpoint / "config.json").read_text()))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


def write(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
