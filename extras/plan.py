"""Memory and time of a training on many GPUs, by calculation: nothing here is measured.

    python -m extras.bench plan --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --gpus 8,64,1024

A judge as reward runs on other GPUs: `vllm serve JUDGE`, and for the training `--reward judge
--judge_base_url http://HOST:8000/v1 --judge_model JUDGE`. The time of its judgments is not included
here.

Memory of P parameters on W GPUs: 16 P / W + 2 P + keys and values + activations, in bytes. The
assumed rates are the constants below; replace them by what `extras.bench` measures on your machine.
"""

import math
from dataclasses import dataclass

from checkpoint import check_model_folder, resolve_model
from cli import BadInput

# One H200 in bf16
PEAK = 989e12  # operations a second
PRODUCTS = 790e12  # measured in large products
BANDWIDTH = 4.3e12  # bytes a second, read
# Assumed efficiency: of the peak in training, of the roofline in decoding
TRAINING, DECODING = 0.40, 0.65
# Bytes a second and GPU that a collective moves, within a node and between nodes; GPUs of a node
INSIDE, BETWEEN, NODE = 300e9, 40e9, 8
CHUNK = 2**30  # bytes of one chunk of logits (kernels/logprob.py)
USABLE = 0.95e9  # bytes of each GB of memory that may be filled


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
    hidden, intermediate = raw["hidden_size"], raw["intermediate_size"]
    layers, heads = raw["num_hidden_layers"], raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or hidden // heads
    query_width, kv_width = heads * head_dim, (raw.get("num_key_value_heads") or heads) * head_dim
    body = layers * (2 * hidden * query_width + 2 * hidden * kv_width + 3 * hidden * intermediate)
    small = hidden + layers * 2 * hidden  # the norms
    if raw["model_type"] == "qwen2":
        small += layers * (query_width + 2 * kv_width)  # biases of queries, keys and values
    if raw["model_type"] == "qwen3":
        small += layers * 2 * head_dim  # norms of queries and keys
    head = raw["vocab_size"] * hidden
    parameters = body + small + head * (1 if raw.get("tie_word_embeddings") else 2)
    return Sizes(parameters, body, head, layers, hidden, intermediate, query_width, kv_width)


def kv_bytes(sizes):
    """Of one token in bf16: keys and values of every layer."""
    return 2 * 2 * sizes.layers * sizes.kv_width


def activation_bytes(sizes, tokens, keys, gradient_checkpointing=False, itemsize=2):
    """What the backward pass of `tokens` packed tokens needs, without the chunk of logits.

    A block keeps for each token:
    - the inputs and outputs of its norms (4 hidden);
    - queries, the output of attention, and the same in the order of the pack (3 query_width);
    - gate, its SiLU, up and their product (4 intermediate).
    It also keeps the key and value of each of `keys` keys (2 kv_width); a shared prompt counts once
    for every completion. PyTorch's norms on a CPU keep one more fp32 tensor each; on a GPU they are
    fused.
    """
    per_token = 4 * sizes.hidden + 3 * sizes.query_width + 4 * sizes.intermediate
    block = tokens * per_token + keys * 2 * sizes.kv_width
    if gradient_checkpointing:
        return itemsize * (sizes.layers * tokens * sizes.hidden + block)
    return itemsize * sizes.layers * block


def memory(sizes, gpus, micro_batch_tokens, keys_per_token=1.0, gradient_checkpointing=False):
    """Bytes a GPU, by part.

    states: fp32 weights, gradients and two moments, sharded. weights: bf16, unsharded for sampling.
    gathered: what FSDP holds unsharded in training: embedding and head (bf16 weights and gradients,
    fp32 to exchange) and two blocks.
    """
    keys = micro_batch_tokens * keys_per_token
    activations = activation_bytes(sizes, micro_batch_tokens, keys, gradient_checkpointing)
    gathered = 0
    if gpus > 1:
        gathered = 8 * (sizes.parameters - sizes.body) + 16 * sizes.body / sizes.layers
    return {
        "states": 16 * sizes.parameters / gpus,
        "weights": 2 * sizes.parameters,
        "gathered": gathered,
        "activations": activations + CHUNK,
    }


def plan(raw, gpus, settings):
    """One row for W = `gpus`. Times in seconds, memory in 1e9 bytes a GPU.

    settings: gpu_memory (1e9 bytes), prompts, generations, prompt_tokens, new_tokens (longest),
    mean_tokens, micro_batch_tokens, gradient_checkpointing. Raises BadInput where the weights do
    not fit.
    """
    sizes, prompts = sizes_of(raw), settings.prompts or max(128, gpus)
    own_prompts = math.ceil(prompts / gpus)  # of one GPU
    # Packed tokens of a group, and the keys that each of them looks at
    group_tokens = settings.prompt_tokens + settings.generations * settings.mean_tokens
    keys = settings.generations * (settings.prompt_tokens + settings.mean_tokens)
    keys_per_token = (settings.prompt_tokens + keys) / group_tokens
    parts = memory(
        sizes, gpus, settings.micro_batch_tokens, keys_per_token, settings.gradient_checkpointing
    )
    row_bytes = kv_bytes(sizes) * (
        settings.new_tokens + settings.prompt_tokens * 2 / settings.generations
    )
    room = room_for_rows(parts, row_bytes, gpus, settings)
    # sampler.py takes half of what is free, and at most 256 rows.
    own_rows = own_prompts * settings.generations
    rows = int(max(1, min(own_rows, 256, room // 2 // row_bytes)))
    rollout = sampling_seconds(sizes, own_rows, rows, settings)
    update = update_seconds(sizes, own_prompts, group_tokens, settings)
    # Collectives: bf16 weights are gathered once a rollout; in training for forward and backward of
    # every micro-batch, and gradients are scattered in fp32.
    link = INSIDE if gpus <= NODE else BETWEEN
    sent = sizes.parameters * (gpus - 1) / gpus / link
    micro_batches = math.ceil(own_prompts * group_tokens / settings.micro_batch_tokens)
    gather, exchange = 2 * sent, micro_batches * 8 * sent
    step = gather + rollout + max(update, exchange)  # the exchange overlaps with the arithmetic
    return {
        "gpus": gpus,
        "states_gb": parts["states"] / 1e9,
        "weights_gb": parts["weights"] / 1e9,
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
        "idle_prompts": gpus * own_prompts - prompts,
    }


def room_for_rows(parts, row_bytes, gpus, settings):
    """Bytes that sampling may fill with keys and values: it keeps nothing for a backward pass."""
    fixed = parts["states"] + parts["weights"]
    training = parts["states"] + parts["gathered"] + parts["activations"]
    if gpus == 1:
        training += parts["weights"]
    room = USABLE * settings.gpu_memory - fixed
    if room < row_bytes or training > USABLE * settings.gpu_memory:
        needed = max(training, fixed + row_bytes) / 1e9
        raise BadInput(
            f"--gpus {gpus}: needs {needed:.0f} GB a GPU of {settings.gpu_memory} GB: more GPUs, "
            "--gradient_checkpointing or a lower --micro_batch_tokens"
        )
    return room


def sampling_seconds(sizes, own_rows, rows, settings):
    """Sampling of `own_rows` completions, `rows` at once: where one ends, another begins."""
    rounds = max(1, own_rows * settings.mean_tokens / rows / settings.new_tokens)
    weights = 2 * (sizes.body + sizes.head) / BANDWIDTH
    products = 2 * rows * (sizes.body + sizes.head) / PRODUCTS
    # Tokens whose keys and values a step reads
    context = rows * settings.mean_tokens / 2
    context += math.ceil(rows / settings.generations) * settings.prompt_tokens
    step = max(weights, products) + context * kv_bytes(sizes) / BANDWIDTH
    return settings.new_tokens * rounds * step / DECODING


def update_seconds(sizes, own_prompts, group_tokens, settings):
    """The prompt is computed once a group, and the head over completions alone.

    Attention: causal, 4 operations a pair of tokens, forward once and backward twice.
    """
    new_tokens = settings.generations * settings.mean_tokens  # of a group
    pairs = settings.prompt_tokens**2 / 2
    pairs += new_tokens * (settings.prompt_tokens + settings.mean_tokens / 2)
    operations = 6 * sizes.body * group_tokens + 6 * sizes.head * new_tokens
    operations += 12 * sizes.layers * sizes.query_width * pairs
    operations *= own_prompts
    if settings.gradient_checkpointing:
        operations *= 4 / 3
    return operations / (TRAINING * PEAK)


def command(settings, gpus):
    """The command that starts it."""
    if gpus > NODE and gpus % NODE:
        raise BadInput(
            f"--gpus {gpus}: more than one node of {NODE} needs complete nodes: give a multiple of "
            f"{NODE}"
        )
    nodes = max(1, gpus // NODE)
    words = ["torchrun"]
    if nodes > 1:
        words += [f"--nnodes {nodes} --rdzv_backend c10d --rdzv_endpoint HOST:29500"]
    words += [
        f"--nproc_per_node {min(NODE, gpus)} train_grpo.py",
        f"--model {settings.random_shape or settings.model} --train_data PAIRS",
        f"--prompts_per_step {settings.prompts or max(128, gpus)}",
        f"--num_generations {settings.generations}",
        f"--max_completion_length {settings.new_tokens}",
        f"--micro_batch_tokens {settings.micro_batch_tokens}",
    ]
    if settings.gradient_checkpointing:
        words.append("--gradient_checkpointing")
    return " ".join(words)


def rows_for(settings, shapes):
    """The rows that `extras.bench plan` prints: for each number of GPUs its plan and command."""
    if settings.random_shape:
        raw = {"model_type": "qwen2"} | shapes[settings.random_shape]
    else:
        raw = check_model_folder(resolve_model(settings.model))
    rows = []
    for gpus in map(int, settings.gpus.split(",")):
        rows.append(plan(raw, gpus, settings) | {"command": command(settings, gpus)})
    return rows
