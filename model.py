"""A decoder for Llama, Qwen2 and Qwen3 checkpoints, and packs of groups to train it on.

Tokens are flat, without a batch dimension: (tokens,). The caller passes an `attend` function that
decides which tokens see each other. Apart from that, training and sampling run the same blocks:

    packed_attention(pack)       groups side by side: a completion sees its prompt and itself
    KVCache.prefill_attention    prompts, whose keys and values are kept (kv_cache.py)
    KVCache.decode_attention     one token per row, which sees the keys in the cache

    attend(layer, queries, keys, values) -> (tokens, heads, head_dim)
    queries: (tokens, heads, head_dim), keys and values: (tokens, kv_heads, head_dim)

Modules and parameters have the names of Hugging Face checkpoints.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from checkpoint import (
    check_model_folder,
    read_weights,
    resolve_model,
    rope_parameters,
    save_model_folder,
    with_adapter,
)
from cli import BadInput
from kernels.logprob import token_logprobs
from kernels.packed_attention import packed_attention


class Config:
    """The fields of a Hugging Face config.json that shape the network."""

    def __init__(self, raw):
        self.raw = raw  # the file itself, for save_pretrained
        self.vocab_size = raw["vocab_size"]
        self.hidden_size = raw["hidden_size"]
        self.intermediate_size = raw["intermediate_size"]
        self.num_layers = raw["num_hidden_layers"]
        self.num_heads = raw["num_attention_heads"]
        self.num_kv_heads = raw.get("num_key_value_heads") or self.num_heads
        is_qwen2 = raw["model_type"] == "qwen2"
        self.qk_norm = raw["model_type"] == "qwen3"
        default_head_dim = 128 if self.qk_norm else self.hidden_size // self.num_heads
        self.head_dim = raw.get("head_dim") or default_head_dim
        self.norm_eps = raw.get("rms_norm_eps", 1e-6)
        self.rope = rope_parameters(raw)  # rope_theta, rope_type; for Llama 3 its scaling numbers
        attention_bias = bool(raw.get("attention_bias", False))
        self.qkv_bias = is_qwen2 or attention_bias
        self.output_bias = attention_bias and not is_qwen2
        self.mlp_bias = bool(raw.get("mlp_bias", False))
        self.tied = bool(raw.get("tie_word_embeddings", False))


def inverse_frequencies(config):
    """RoPE's rotations in radians per position, (head_dim / 2,) in fp32 (arXiv 2104.09864, 3.2).

    Llama 3 stretches the long wavelengths (`apply_scaling` in its reference code).
    """
    rope, dimensions = config.rope, torch.arange(0, config.head_dim, 2, device="cpu")
    frequencies = 1.0 / rope["rope_theta"] ** (dimensions.float() / config.head_dim)
    if rope["rope_type"] != "llama3":
        return frequencies
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * torch.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)  # of the frequency that is not stretched
    return (1 - share) * frequencies / rope["factor"] + share * frequencies


def rotate(x, cos, sin):
    """Rotary position embedding of x (tokens, heads, head_dim), as Hugging Face arranges it.

    The two numbers of a pair are head_dim / 2 apart. cos and sin: from Model.rope_tables.
    """
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x, cos, sin, layer, attend):
        queries = self.q_proj(x).view(len(x), -1, self.head_dim)  # (tokens, heads, head_dim)
        keys = self.k_proj(x).view(len(x), -1, self.head_dim)  # (tokens, kv_heads, head_dim)
        values = self.v_proj(x).view(len(x), -1, self.head_dim)
        if self.q_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if cos is not None:
            queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        attended = attend(layer, queries, keys, values)  # (tokens, heads, head_dim)
        return self.o_proj(attended.reshape(len(x), -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(*sizes, bias=config.mlp_bias)
        self.up_proj = nn.Linear(*sizes, bias=config.mlp_bias)
        self.down_proj = nn.Linear(*reversed(sizes), bias=config.mlp_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x, cos, sin, layer, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """The network. Parameters are named as in the checkpoint, without the leading `model.`."""

    def __init__(self, config, adapter=None):
        super().__init__()
        self.config = config
        self.adapter = adapter  # a lora.Adapter, or None
        self.gradient_checkpointing = False
        self.fp32_head = None  # set by kernels/cpu.py
        self.frequencies = inverse_frequencies(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if adapter:
            adapter.add_to(self)

    @property
    def head_weight(self):
        """The output projection (vocab_size, hidden_size): the embedding, if they are tied."""
        return self.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def device(self):
        return self.embed_tokens.weight.device

    def rope_tables(self, positions, dtype):
        """cos and sin at positions (tokens,), each (tokens, 1, head_dim), computed in fp32."""
        self.frequencies = self.frequencies.to(positions.device)
        angles = positions[:, None, None].float() * self.frequencies
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        # a pair (a, b) becomes (a cos - b sin, b cos + a sin)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def forward(self, tokens, positions, attend):
        """tokens, positions (tokens,) -> hidden states (tokens, hidden_size), after the norm.

        Without positions `attend` must rotate queries and keys itself.
        """
        x = self.embed_tokens(tokens)
        cos, sin = (None, None) if positions is None else self.rope_tables(positions, x.dtype)
        for index, block in enumerate(self.layers):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(
                    block, x, cos, sin, index, attend, use_reentrant=False
                )
            else:
                x = block(x, cos, sin, index, attend)
        return self.norm(x)

    def logprobs(self, pack, temperature=1.0):
        """Log-probs and entropies of the targets of a Pack -> two tensors (targets,), fp32, nats.

        They belong to softmax(logits / temperature) and are differentiable (kernels/logprob.py).
        """
        # forward, not self(...): FSDP has gathered the weights for this method, and would again
        hidden = self.forward(pack.tokens, pack.positions, packed_attention(pack))
        return token_logprobs(hidden[pack.predictors], self.head_weight, pack.targets, temperature)

    @staticmethod
    def without_values(name_or_folder, adapter=None):
        """(a Model on the meta device, the folder of its weights). Raises BadInput."""
        folder = resolve_model(name_or_folder)
        config = Config(check_model_folder(folder))
        base, adapter = with_adapter(folder, adapter)
        with torch.device("meta"):
            return Model(config, adapter), base

    @staticmethod
    def from_pretrained(name_or_folder, device="cpu", dtype=torch.bfloat16, adapter=None):
        """Loads the safetensors of a Hugging Face folder or hub name. Raises BadInput.

        adapter: the folder of a LoRA adapter. Its own weights are fp32, whatever the dtype.
        """
        model, base = Model.without_values(name_or_folder, adapter)
        weights = {}
        for name, tensor in read_weights(model, base):
            kept = torch.float32 if ".lora_" in name else dtype
            weights[name] = tensor.to(device, kept, copy=True)  # aligned, unlike in the file
        model.load_state_dict(weights, assign=True)
        return model

    def with_weights(self, weights):
        """A Model like this one on other weights, {parameter name: tensor}."""
        with torch.device("meta"):
            model = Model(self.config, self.adapter)
        model.load_state_dict(weights, assign=True)
        return model

    def save_pretrained(self, folder):
        """Writes config.json and (sharded) safetensors that transformers and vLLM load."""
        save_model_folder(folder, self.state_dict(), self.config.raw, adapter=self.adapter)


def choose_device(name):
    """auto or None: a GPU if there is one. Raises BadInput for a GPU that is not there."""
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no GPU: use cpu, or install its CUDA build")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a slow plan for each length of a prompt
    return device


def compute_dtype(name, device):
    """The torch dtype for --dtype bfloat16, float32 or auto.

    auto is bf16 where the hardware multiplies it fast: a GPU, or a CPU with AVX512-BF16 or AMX.
    """
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else torch.float32


@dataclass(frozen=True)
class Pack:
    """Groups in one flat sequence. Each group is [prompt | completion 1 | ... | completion G]."""

    tokens: torch.Tensor  # (tokens,) without the last token of each completion: it predicts nothing
    positions: torch.Tensor  # (tokens,) every completion continues from its prompt
    predictors: torch.Tensor  # (targets,) index of the token whose hidden state predicts the target
    targets: torch.Tensor  # (targets,) all completion tokens, completion after completion
    sequence_ids: torch.Tensor  # (targets,) the completion of a target, counted over all groups
    pieces: list  # of each prompt and completion: (tokens, index of the piece that is its prompt)


def pack_groups(groups, device="cpu"):
    """Packs [(prompt, [completion, ...]), ...], lists of token ids -> Pack.

    A prompt is stored once, however many completions share it. Its last hidden state predicts the
    first token of each of them:

        pack_groups([([5, 6], [[7, 8], [9]])])
        tokens 5 6 7    positions 0 1 2    targets 7 8 9    predictors 1 2 1    sequence_ids 0 0 1

    Padded training computes G * (prompt + longest completion) tokens for a group of G completions;
    this computes prompt + sum of completions.
    """
    tokens, positions, predictors, targets, sequence_ids, pieces = [], [], [], [], [], []
    num_sequences = 0
    for prompt, completions in groups:
        prompt_piece = len(pieces)
        pieces.append((len(prompt), prompt_piece))
        tokens += prompt
        positions += range(len(prompt))
        prompt_end = len(tokens)
        for completion in completions:
            first = len(tokens)
            tokens += completion[:-1]
            positions += range(len(prompt), len(prompt) + len(completion) - 1)
            predictors += [prompt_end - 1, *range(first, len(tokens))]
            targets += completion
            sequence_ids += [num_sequences] * len(completion)
            num_sequences += 1
            if len(completion) > 1:
                pieces.append((len(completion) - 1, prompt_piece))
    columns = [
        torch.tensor(column, dtype=torch.long, device=device)
        for column in (tokens, positions, predictors, targets, sequence_ids)
    ]
    return Pack(*columns, pieces)


def split_by_budget(items, size, budget):
    """Yields lists of consecutive items whose sizes sum to at most `budget` (one item at least)."""
    batch, total = [], 0
    for item in items:
        if batch and total + size(item) > budget:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
