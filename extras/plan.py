"""Memory and time of a training on many GPUs, by calculation.

    python -m extras.bench plan --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --gpus 8,64,1024
    python -m extras.bench plan --rates gpu.jsonl ...     with what `extras.bench gpu` has measured

A judge as reward runs on other GPUs: `vllm serve JUDGE`, and for the training `--reward judge
--judge_model JUDGE@http://HOST:8000/v1`. The time of its judgments is not included here.

Memory of P parameters on W GPUs: 16 P / W + 2 P + keys and values + activations, in bytes. Every
GPU holds the whole bf16 model while it samples, and keys and values take half of what is free then.
So 7B is the largest size that trains well on 80 GB: 32B takes 66 GB before the first key is stored,
and wants 32 GPUs of 141 GB.

The time of a rollout is that of its longest completion: rows that end leave a GPU with less work,
but a step still reads all weights.
"""

import heapq
import math
from dataclasses import dataclass, replace

from checkpoint import check_model_folder, resolve_model
from cli import BadInput, read_json_lines

PEAK = 989e12  # operations a second of an H100 or H200 in bf16, as published


@dataclass(frozen=True)
class Rates:
    """What a GPU does in a second, and how much of it this code reaches.

    rate          value            source
    products      790e12           measured with PyTorch alone on an H200 (large bf16 products);
                                   by --rates
    bandwidth     3.0e12, 4.3e12   measured with PyTorch alone on an H100 of 80 GB, on an H200;
                                   by --rates
    decoding      0.65             assumed: the share of the roofline that a step of decoding
                                   reaches; by --rates
    launch        1.3e-6           published: seconds of a kernel in a CUDA graph (Hazy Research)
    kernels       16, 42           counted: in a decoding step, of a layer and beside the layers
    training      0.25             assumed: of the peak, with many short completions (0.35 with long
                                   ones); by --rates
    inside        300e9            assumed: bytes a second of a collective within a node of 8
    between       40e9             assumed: the same between nodes
    """

    products: float = 790e12
    bandwidth: float = 3.0e12
    decoding: float = 0.65
    launch: float = 1.3e-6
    kernels: tuple = (16, 42)
    training: float = 0.25
    inside: float = 300e9
    between: float = 40e9


NODE = 8  # GPUs
CHUNK = 2**30  # bytes of one chunk of logits (kernels/logprob.py)
USABLE = 0.95e9  # bytes of each GB of memory that may be filled
MOST_ROWS = 256  # that the sampler runs at once


def rates_of(settings):
    """The Rates of a GPU with --gpu_memory, and those that the file --rates has measured."""
    rates = Rates(bandwidth=3.0e12 if settings.gpu_memory < 100 else 4.3e12)
    if settings.rates is None:
        return rates
    shares = []
    for _, line in read_json_lines(settings.rates, "--rates"):
        if "gflops" in line:
            products, bandwidth = line["gflops"] * 1e9, line["read_gb_per_second"] * 1e9
            rates = replace(rates, products=products, bandwidth=bandwidth)
        if "update_mfu" in line:
            rates = replace(rates, training=line["update_mfu"])
        if line.get("part") == "decode" and "of_limit" in line and line["rows"] > 1:
            shares.append(line["of_limit"])
    if shares:  # what kernels take to start is in them
        rates = replace(rates, decoding=min(shares), launch=0.0)
    return rates


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
    mean_tokens, micro_batch_tokens, gradient_checkpointing, reference (a model for the KL term),
    rates. Raises BadInput where the weights do not fit.
    """
    sizes, prompts, rates = sizes_of(raw), settings.prompts or max(128, gpus), rates_of(settings)
    own_prompts = math.ceil(prompts / gpus)  # of one GPU
    # Packed tokens of a group, and the keys that each of them looks at
    group_tokens = settings.prompt_tokens + settings.generations * settings.mean_tokens
    keys = settings.generations * (settings.prompt_tokens + settings.mean_tokens)
    keys_per_token = (settings.prompt_tokens + keys) / group_tokens
    parts = memory(
        sizes, gpus, settings.micro_batch_tokens, keys_per_token, settings.gradient_checkpointing
    )
    parts["reference"] = 2 * sizes.parameters / gpus if settings.reference else 0
    # Rows take memory as they grow: counted is the whole completion, of mean length
    row_bytes = kv_bytes(sizes) * (
        settings.mean_tokens + settings.prompt_tokens / settings.generations
    )
    room = room_for_rows(parts, row_bytes, gpus, settings)
    rows = int(max(1, min(own_prompts * settings.generations, MOST_ROWS, room // row_bytes)))
    rollout, tail = rollout_seconds(sizes, own_prompts, rows, settings, rates)
    update = update_seconds(sizes, own_prompts, group_tokens, settings, rates)
    # Collectives: bf16 weights are gathered once a rollout; in training for forward and backward of
    # every micro-batch, and gradients are scattered in fp32. A reference model is gathered as well.
    sent = sizes.parameters * (gpus - 1) / gpus / (rates.inside if gpus <= NODE else rates.between)
    micro_batches = math.ceil(own_prompts * group_tokens / settings.micro_batch_tokens)
    gather, exchange = 2 * sent, micro_batches * (10 if settings.reference else 8) * sent
    step = gather + rollout + max(update, exchange)  # the exchange overlaps with the arithmetic
    return {
        "gpus": gpus,
        **{f"{name}_gb": size / 1e9 for name, size in parts.items()},
        "kv_gb": rows * row_bytes / 1e9,
        "rows": rows,
        "gather_s": gather,
        "rollout_s": rollout,
        "tail_s": tail,
        "update_s": update,
        "exchange_s": exchange,
        "step_s": step,
        "rollout_share": rollout / step,
        "idle_prompts": gpus * own_prompts - prompts,
    }


def room_for_rows(parts, row_bytes, gpus, settings):
    """Bytes that sampling may fill with keys and values: it keeps nothing for a backward pass."""
    fixed = parts["states"] + parts["weights"] + parts["reference"]
    training = parts["states"] + parts["reference"] + parts["gathered"] + parts["activations"]
    if gpus == 1:
        training += parts["weights"]
    room = USABLE * settings.gpu_memory - fixed
    if room < row_bytes or training > USABLE * settings.gpu_memory:
        needed = max(training, fixed + row_bytes) / 1e9
        advice = "more GPUs, --gradient_checkpointing or a lower --micro_batch_tokens"
        if parts["weights"] + row_bytes > USABLE * settings.gpu_memory:
            advice = "GPUs with more memory, because each of them holds all weights in bf16"
        raise BadInput(
            f"--gpus {gpus}: needs {needed:.0f} GB a GPU of {settings.gpu_memory} GB: {advice}"
        )
    return max(row_bytes, room / 2)  # the sampler takes half of what is free (paged_cache.py)


def lengths_of(count, mean, longest):
    """`count` lengths of completions in mixed order: exponential, cut off at `longest`.

    Many are short and a few long, as those of a judge that thinks. The largest one is `longest`.
    """
    scale = mean
    while scale * (1 - math.exp(-longest / scale)) < mean and scale < 100 * longest:
        scale *= 1.02  # cutting off lowers the mean
    shares = [(index * 0.618034) % 1 for index in range(count)]  # evenly spread, in mixed order
    lengths = [max(1, min(longest, round(-scale * math.log(1 - share)))) for share in shares]
    lengths[lengths.index(max(lengths))] = longest
    return lengths


def rollout_seconds(sizes, own_prompts, rows, settings, rates):
    """(seconds of a rollout, seconds of them in which less than half of the rows still run).

    The completions of one GPU, `rows` at once; where one ends, the next begins.
    """
    lengths = lengths_of(
        own_prompts * settings.generations, settings.mean_tokens, settings.new_tokens
    )
    running = [(length, 0) for length in lengths[:rows]]  # (step at which it ends, its start)
    heapq.heapify(running)
    now, seconds, tail = 0, 0.0, 0.0
    for waiting in [*lengths[rows:], *[None] * len(running)]:
        end, _ = running[0]
        own_tokens = sum((now + end) / 2 - start for _, start in running)
        shared = math.ceil(len(running) / settings.generations) * settings.prompt_tokens
        took = (end - now) * decode_seconds(sizes, len(running), own_tokens + shared, rates)
        seconds += took
        tail += took if len(running) < rows / 2 else 0.0
        now = end
        if waiting is None:
            heapq.heappop(running)
        else:
            heapq.heapreplace(running, (now + waiting, now))
    return seconds, tail


def decode_seconds(sizes, rows, keys, rates):
    """One decoding step: weights and keys are read, products computed, kernels started."""
    a_layer, beside = rates.kernels
    reading = 2 * (sizes.body + sizes.head) / rates.bandwidth
    products = 2 * rows * (sizes.body + sizes.head) / rates.products
    work = max(reading, products) + keys * kv_bytes(sizes) / rates.bandwidth
    return work / rates.decoding + (sizes.layers * a_layer + beside) * rates.launch


def update_seconds(sizes, own_prompts, group_tokens, settings, rates):
    """The prompt is computed once a group, and the head over completions alone.

    Attention: causal, 4 operations a pair of tokens, forward once and backward twice. A reference
    model adds a forward pass.
    """
    new_tokens = settings.generations * settings.mean_tokens  # of a group
    pairs = settings.prompt_tokens**2 / 2
    pairs += new_tokens * (settings.prompt_tokens + settings.mean_tokens / 2)
    forward = 2 * sizes.body * group_tokens + 2 * sizes.head * new_tokens
    forward += 4 * sizes.layers * sizes.query_width * pairs
    passes = 4 if settings.gradient_checkpointing else 3
    if settings.reference:
        passes += 1
    return own_prompts * passes * forward / (rates.training * PEAK)


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
        f"--micro_batch_tokens {settings.micro_batch_tokens} --keep 2",
    ]
    if settings.gradient_checkpointing:
        words.append("--gradient_checkpointing")
    if settings.reference:
        words.append("--beta 0.001")
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
