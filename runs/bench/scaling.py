"""How cost grows with the work: tokens a second of the sampler and of a training step, and the memory formula beside what is measured.

    python runs/bench/scaling.py MODEL | tee runs/bench/scaling.log        (SmolLM2-135M: about ten minutes on one thread)

Processor time on a CPU (other work disturbs it less), wall time on a GPU; one run each after a warm-up. kept: what the
backward pass needs; formula: what extras/plan.py calculates for it on a GPU (a CPU's norms keep an fp32 copy more).
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from checkpoint import resolve_model  # noqa: E402
from extras.bench import SHAPES, model_folder  # noqa: E402
from extras.peers import measure, random_prompts  # noqa: E402
from extras.plan import activation_bytes, sizes_of  # noqa: E402
from model import Model, compute_dtype, pack_groups  # noqa: E402
from sampler import generate  # noqa: E402

SHAPES["qwen2-0.5b"] = dict(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
PROMPT = 300
# prompts, generations, tokens of a prompt, new tokens
ROWS = [
    (1, 1, PROMPT, 64),
    (1, 4, PROMPT, 64),
    (2, 8, PROMPT, 64),
    (8, 8, PROMPT, 64),
    (32, 8, PROMPT, 64),
]
CONTEXTS = [(2, 8, length, 32) for length in (128, 512, 2048, 6000)]
LENGTHS = [(2, 8, PROMPT, new) for new in (32, 128, 512)]
GROUPS = [(16 // generations, generations, 1024, 32) for generations in (1, 2, 4, 8, 16)]
TRAINING = [
    (1, 8, PROMPT, 32),
    (1, 8, PROMPT, 128),
    (1, 8, PROMPT, 512),
    (1, 8, 1024, 256),
]  # groups of one pack


def seconds(measured, device):
    return measured["cpu_seconds" if device.type == "cpu" else "seconds"]


def prompts_of(model, prompts, prompt_tokens, seed=0):
    return random_prompts(
        SimpleNamespace(seed=seed, prompts=prompts, prompt_tokens=prompt_tokens),
        model.config.vocab_size,
    )


def sample(model, prompts, generations, prompt_tokens, new_tokens):
    """The prompts alone (one new token), then all: what is left over is the decoding."""
    texts = prompts_of(model, prompts, prompt_tokens)
    short, whole = (
        measure(lambda new=new: generate(model, texts, generations, new), model.device)
        for new in (1, new_tokens + 1)
    )
    prefill, decode = (
        seconds(short, model.device),
        seconds(whole, model.device) - seconds(short, model.device),
    )
    rows = prompts * generations
    print(
        f"{prompts:7} {generations:11} {prompt_tokens:13} {new_tokens:10} {sum(map(len, texts)) / prefill:17.0f} {rows * new_tokens / decode:16.0f}"
        f" {1000 * decode / new_tokens:10.1f}",
        flush=True,
    )


def kept_bytes(model, forward):
    """What autograd keeps of a forward pass for the backward pass, weights aside."""
    kept, weights = {}, {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (
            tensor  # held, so that no other tensor comes to lie there
        )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )


def train(model, prompts, generations, prompt_tokens, new_tokens):
    texts, completions = (
        prompts_of(model, prompts, prompt_tokens),
        prompts_of(model, generations, new_tokens, seed=1),
    )
    layout = pack_groups([(text, completions) for text in texts], model.device)

    def forward():
        return model.logprobs(layout)[0]

    kept = kept_bytes(model, forward)  # and a warm-up
    ahead = measure(forward, model.device)
    back = measure(lambda: ahead["result"].sum().backward(), model.device)
    model.zero_grad()
    tokens, keys = (
        len(layout.tokens),
        sum(
            end - start + sum(last - first + end - start for first, last in pieces)
            for start, end, pieces in layout.spans
        ),
    )
    whole, itemsize = (
        seconds(ahead, model.device) + seconds(back, model.device),
        model.embed_tokens.weight.element_size(),
    )
    formula = activation_bytes(sizes_of(model.config.raw), tokens, keys, itemsize=itemsize)
    print(
        f"{prompts:7} {generations:11} {prompt_tokens:13} {new_tokens:10} {tokens:13} {tokens / whole:15.0f} {seconds(back, model.device) / whole:14.2f}"
        f" {kept / 2**20:9.0f} {formula / 2**20:11.0f}",
        flush=True,
    )


def main(name):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype("auto", device)
    place = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {place}, {str(dtype)[6:]}, {Path(name).name}")
    model = Model.from_pretrained(resolve_model(name), device, dtype)
    generate(model, [[5, 6, 7]], 2, 2)  # a warm-up
    head = f"{'prompts':>7} {'generations':>11} {'prompt_tokens':>13} {'new_tokens':>10}"
    sampled = f"{head} {'prompt tokens/s':>17} {'new tokens/s':>16} {'ms a step':>10}"
    for title, shapes in (
        ("rows", ROWS),
        ("context", CONTEXTS),
        ("new tokens", LENGTHS),
        ("how a prompt is shared, 16 rows", GROUPS),
    ):
        print(f"\nsampler: {title}\n{sampled}")
        for shape in shapes:
            sample(model, *shape)
    print(
        f"\ntraining, forward and backward of one pack\n{head} {'packed tokens':>13} {'packed tokens/s':>15} {'backward share':>14} {'kept MiB':>9} {'formula MiB':>11}"
    )
    for shape in TRAINING:
        train(model, *shape)
    print(
        f"\nsampler: size of the model (0.9M: tiny; 494M: random weights of Qwen2's shape)\nparameters {sampled}"
    )
    for other in (str(ROOT / "tiny/judge"), name, "qwen2-0.5b"):
        with tempfile.TemporaryDirectory() as scratch:
            shape = other if other in SHAPES else None
            folder = model_folder(
                SimpleNamespace(
                    model=name if shape else other, random_shape=shape, layers=None, seed=0
                ),
                scratch,
            )
            model = Model.from_pretrained(folder, device, dtype)
        print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:9.1f}M ", end="")
        sample(model, 2, 8, PROMPT, 32)


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else print(__doc__)
