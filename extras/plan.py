"""Memory and time of a training on many GPUs, by calculation alone: nothing here is measured, and no GPU is needed.

    python -m extras.bench plan --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --gpus 8,64,1024

A judge as reward runs on GPUs of its own, `vllm serve JUDGE`, with `--reward judge --judge_base_url http://HOST:8000/v1 --judge_model JUDGE`
for the training; its judgments of a step come on top of the times here. The memory formula is the one that the scripts in runs/ state:
16 P / W + 2 P + keys and values + activations, for P parameters on W GPUs. The rates assumed stand below: replace them by what
`extras.bench` measures on your machine.
"""

import math
from dataclasses import dataclass

from checkpoint import check_model_folder, resolve_model
from cli import BadInput

# Of one H200 in bf16: peak (1e12 operations a second), its measured share in large products, read bandwidth (1e9 bytes a second)
PEAK, PRODUCTS, BANDWIDTH = 989e12, 790e12, 4.3e12
TRAINING, DECODING = (
    0.40,
    0.65,
)  # what is assumed to be reached: of the peak in training, of the roofline in decoding
INSIDE, BETWEEN, NODE = (
    300e9,
    40e9,
    8,
)  # bytes a second and GPU that a collective moves: in a node, between nodes; GPUs of a node
CHUNK = 2**30  # one chunk of logits (kernels/logprob.py)


@dataclass(frozen=True)
class Sizes:
    """What the plan needs of a config.json."""

    parameters: int
    body: int  # parameters in the products of all blocks
    head: int  # of the output projection
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    kv_width: int


def sizes_of(raw):
    """The Sizes of a config.json (a dict): Llama, Qwen2 or Qwen3."""
    hidden, intermediate, layers, heads = (
        raw[name]
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    head_dim = raw.get("head_dim") or hidden // heads
    query_width, kv_width = heads * head_dim, (raw.get("num_key_value_heads") or heads) * head_dim
    body = layers * (2 * hidden * query_width + 2 * hidden * kv_width + 3 * hidden * intermediate)
    small = hidden + layers * 2 * hidden  # the norms
    small += layers * (query_width + 2 * kv_width) * (
        raw["model_type"] == "qwen2"
    ) + layers * 2 * head_dim * (raw["model_type"] == "qwen3")
    head = raw["vocab_size"] * hidden
    parameters = body + small + head * (1 if raw.get("tie_word_embeddings") else 2)
    return Sizes(parameters, body, head, layers, hidden, intermediate, query_width, kv_width)


def kv_bytes(sizes):
    """Of one token in bf16: keys and values of every layer."""
    return 2 * 2 * sizes.layers * sizes.kv_width


def activation_bytes(sizes, tokens, keys, gradient_checkpointing=False, itemsize=2):
    """What the backward pass of `tokens` packed tokens needs, without the chunk of logits. A block keeps for each token: the inputs and outputs
    of its norms (4 hidden); queries, what was attended, and that in the pack's order (3 query); gate, its SiLU, up and their product
    (4 intermediate); and for each of `keys` keys: key and value, which a shared prompt has once for every completion (2 kv).
    PyTorch's norms on a CPU keep one more fp32 tensor each; a GPU's are fused."""
    block = (
        tokens * (4 * sizes.hidden + 3 * sizes.query_width + 4 * sizes.intermediate)
        + keys * 2 * sizes.kv_width
    )
    return itemsize * (
        sizes.layers * tokens * sizes.hidden + block
        if gradient_checkpointing
        else sizes.layers * block
    )


def memory(sizes, gpus, micro_batch_tokens, keys_per_token=1.0, gradient_checkpointing=False):
    """Bytes a GPU, by part. states: fp32 weights, gradients and two moments, sharded; whole: bf16 weights, which sampling needs as a whole;
    gathered: what FSDP holds whole in training, embedding and head (bf16 weights and gradients, fp32 to exchange) and two blocks."""
    activations = (
        activation_bytes(
            sizes, micro_batch_tokens, micro_batch_tokens * keys_per_token, gradient_checkpointing
        )
        + CHUNK
    )
    gathered = (8 * (sizes.parameters - sizes.body) + 16 * sizes.body / sizes.layers) * (gpus > 1)
    return {
        "states": 16 * sizes.parameters / gpus,
        "whole": 2 * sizes.parameters,
        "gathered": gathered,
        "activations": activations,
    }


def plan(raw, gpus, settings):
    """One row for W = `gpus`. settings: gpu_memory (1e9 bytes), prompts, generations, prompt_tokens, new_tokens (longest), mean_tokens,
    micro_batch_tokens, gradient_checkpointing. Times in seconds, memory in 1e9 bytes a GPU. Raises BadInput where the weights do not fit."""
    sizes, prompts = sizes_of(raw), settings.prompts or max(128, gpus)
    group = (
        settings.prompt_tokens + settings.generations * settings.mean_tokens
    )  # packed tokens of a group, and the keys that they look at
    keys_per_token = (
        settings.prompt_tokens
        + settings.generations * (settings.prompt_tokens + settings.mean_tokens)
    ) / group
    parts = memory(
        sizes, gpus, settings.micro_batch_tokens, keys_per_token, settings.gradient_checkpointing
    )
    room = (
        0.95e9 * settings.gpu_memory - parts["states"] - parts["whole"]
    )  # while it samples nothing is kept for a backward pass
    training = (
        parts["states"] + parts["gathered"] + parts["activations"] + parts["whole"] * (gpus == 1)
    )
    row_bytes = kv_bytes(sizes) * (
        settings.new_tokens + settings.prompt_tokens * 2 / settings.generations
    )
    if room < row_bytes or training > 0.95e9 * settings.gpu_memory:
        raise BadInput(
            f"--gpus {gpus}: needs {max(training, parts['states'] + parts['whole'] + row_bytes) / 1e9:.0f} GB a GPU of {settings.gpu_memory} GB: "
            "more GPUs, --gradient_checkpointing or a lower --micro_batch_tokens"
        )
    # rollout: rows of whole groups, in rounds of what the keys and values leave room for (sampler.py takes half of what is free, at most 256)
    own = math.ceil(prompts / gpus) * settings.generations
    rows = int(max(1, min(own, 256, room // 2 // row_bytes)))
    rounds = (
        own * settings.mean_tokens / rows / settings.new_tokens
    )  # a row that ends makes room for another
    steps = settings.new_tokens * max(1, rounds)
    weights, products = (
        2 * (sizes.body + sizes.head) / BANDWIDTH,
        2 * rows * (sizes.body + sizes.head) / PRODUCTS,
    )
    context = (
        rows * settings.mean_tokens / 2
        + math.ceil(rows / settings.generations) * settings.prompt_tokens
    )  # tokens read a step
    rollout = steps * (max(weights, products) + context * kv_bytes(sizes) / BANDWIDTH) / DECODING
    # update: a prompt once a group; the head over completions alone; attention: causal, 4 operations a pair of tokens, forward once, backward twice
    tokens = math.ceil(prompts / gpus) * group
    pairs = math.ceil(prompts / gpus) * (
        settings.prompt_tokens**2 / 2
        + settings.generations
        * settings.mean_tokens
        * (settings.prompt_tokens + settings.mean_tokens / 2)
    )
    operations = (
        6 * sizes.body * tokens
        + 6 * sizes.head * own * settings.mean_tokens
        + 12 * sizes.layers * sizes.query_width * pairs
    )
    update = operations * (1 + settings.gradient_checkpointing / 3) / (TRAINING * PEAK)
    # collectives: bf16 weights gathered once a rollout; in training for forward and backward of every micro-batch, gradients scattered in fp32
    link, share = INSIDE if gpus <= NODE else BETWEEN, (gpus - 1) / gpus
    micro_batches = math.ceil(tokens / settings.micro_batch_tokens)
    gather, exchange = (
        2 * sizes.parameters * share / link,
        micro_batches * 8 * sizes.parameters * share / link,
    )
    step = gather + rollout + max(update, exchange)  # the exchange runs beside the arithmetic
    return {
        "gpus": gpus,
        "states_gb": parts["states"] / 1e9,
        "weights_gb": parts["whole"] / 1e9,
        "gathered_gb": parts["gathered"] / 1e9,
        "activations_gb": parts["activations"] / 1e9,
        "kv_gb": rows * row_bytes / 1e9,
        "rows": rows,
        "gather_s": gather,
        "rollout_s": rollout,
        "update_s": update,
        "exchange_s": exchange,
        "step_s": step,
        "rollout_share": rollout / step,
        "idle_prompts": gpus * math.ceil(prompts / gpus) - prompts,
    }


def command(settings, gpus):
    """The command that starts it."""
    if gpus > NODE and gpus % NODE:
        raise BadInput(
            f"--gpus {gpus}: more than one node of {NODE} needs whole nodes: give a multiple of {NODE}"
        )
    nodes, each = max(1, gpus // NODE), min(NODE, gpus)
    where = (
        f"torchrun --nnodes {nodes} --rdzv_backend c10d --rdzv_endpoint HOST:29500"
        if nodes > 1
        else "torchrun"
    )
    flags = (
        f"--micro_batch_tokens {settings.micro_batch_tokens}"
        + " --gradient_checkpointing" * settings.gradient_checkpointing
    )
    return (
        f"{where} --nproc_per_node {each} train_grpo.py --model {settings.random_shape or settings.model} --train_data PAIRS "
        f"--prompts_per_step {settings.prompts or max(128, gpus)} --num_generations {settings.generations} "
        f"--max_completion_length {settings.new_tokens} {flags}"
    )


def rows_for(settings, shapes):
    """The rows that `extras.bench plan` prints: for each number of GPUs its plan, or what does not fit, and the command."""
    if settings.random_shape:
        raw = {"model_type": "qwen2"} | shapes[settings.random_shape]
    else:
        raw = check_model_folder(resolve_model(settings.model))
    return [
        plan(raw, gpus, settings) | {"command": command(settings, gpus)}
        for gpus in map(int, settings.gpus.split(","))
    ]
