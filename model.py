"""A decoder for Llama, Qwen2 and Qwen3 checkpoints: weights from safetensors, packed training attention, KV cache.

Tokens always come flat, without a batch dimension: (tokens,). How they may look at each other is decided by the `attend` function
that the caller passes in, so training and sampling run the same blocks, and the same arithmetic:

    packed_attention(layout)     prompts and completions side by side, every completion sees its group's prompt and itself
    KVCache.prefill_attention    whole prompts, keys and values kept (kv_cache.py)
    KVCache.decode_attention     one token a row, against the keys kept

The names of modules and parameters are those of the Hugging Face checkpoints, so loading and saving need no table.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention.bias import causal_lower_right

from cli import BadInput, check_model_folder, resolve_model
from kernels.logprob import token_logprobs
from lora import base_parameters, is_adapter, load_adapter, read_adapter_config

MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Config:
    """The part of a Hugging Face config.json that shapes the network; `raw` is the file itself, written back by save_pretrained."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: dict  # rope_theta, rope_type and, for Llama 3, its four scaling numbers
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    raw: dict

    @staticmethod
    def from_dict(raw):
        """Reads both spellings of RoPE: `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling` (most folders on the hub)."""
        rope = {"rope_type": "default", "rope_theta": raw.get("rope_theta", 10000.0)}
        rope |= raw.get("rope_scaling") or {}
        rope |= raw.get("rope_parameters") or {}
        rope["rope_type"] = rope.get("type", rope["rope_type"])  # the oldest spelling
        attention_bias = bool(raw.get("attention_bias", False))
        return Config(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            num_kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope=rope,
            qkv_bias=raw["model_type"] == "qwen2" or attention_bias,
            output_bias=raw["model_type"] != "qwen2" and attention_bias,
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=raw["model_type"] == "qwen3",
            tied=bool(raw.get("tie_word_embeddings", False)),
            raw=raw,
        )


def inverse_frequencies(config):
    """RoPE's rotation per position, (head_dim / 2,) in fp32; Llama 3 stretches the long wavelengths (its release, `apply_scaling`)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope["rope_theta"] ** exponents
    if config.rope["rope_type"] != "llama3":
        return frequencies
    rope = config.rope
    rotations = rope["original_max_position_embeddings"] * frequencies / (2 * torch.pi)  # full turns within the original context
    smooth = (rotations - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    smooth = smooth.clamp(0, 1)  # 0: stretched whole, 1: left alone
    return (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies


def rotate(x, cos, sin):
    """Rotary position embedding in the half-split layout of Hugging Face checkpoints; cos and sin are (tokens, 1, head_dim / 2)."""
    first, second = x.chunk(2, dim=-1)  # (tokens, heads, head_dim / 2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x, cos, sin, layer, attend):
        queries = self.q_proj(x).view(len(x), -1, self.head_dim)  # (tokens, heads, head_dim)
        keys = self.k_proj(x).view(len(x), -1, self.head_dim)  # (tokens, kv_heads, head_dim)
        values = self.v_proj(x).view(len(x), -1, self.head_dim)
        if self.q_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        attended = attend(layer, rotate(queries, cos, sin), rotate(keys, cos, sin), values)  # (tokens, heads, head_dim)
        return self.o_proj(attended.reshape(len(x), -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x, cos, sin, layer, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """The network. Parameter names equal the checkpoint's, less its leading `model.`."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._frequencies = None  # RoPE, made on first use: a model built on the meta device has no numbers yet

    @property
    def head_weight(self):
        """(vocab_size, hidden_size): the output projection, which is the embedding where the checkpoint ties them."""
        return self.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def device(self):
        return self.embed_tokens.weight.device

    def rope_tables(self, positions, dtype):
        """cos and sin at integer positions (tokens,): two (tokens, 1, head_dim / 2). Angles in fp32, as transformers has them."""
        if self._frequencies is None or self._frequencies.device != positions.device:
            self._frequencies = inverse_frequencies(self.config).to(positions.device)
        angles = positions[:, None].float() * self._frequencies
        return angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]

    def forward(self, tokens, positions, attend, predictors=None, targets=None, temperature=1.0):
        """tokens, positions (tokens,) -> hidden states (tokens, hidden_size) after the last norm.

        With `targets` (targets,) it returns (logprobs, entropy), both (targets,) in fp32: those of the next token after the positions
        `predictors` (targets,). The head stands inside forward so that sharded parameters are whole when it reads them.
        """
        x = self.embed_tokens(tokens)
        cos, sin = self.rope_tables(positions, x.dtype)
        for index, block in enumerate(self.layers):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, cos, sin, index, attend, use_reentrant=False)
            else:
                x = block(x, cos, sin, index, attend)
        x = self.norm(x)
        if targets is None:
            return x
        return token_logprobs(x[predictors], self.head_weight, targets, temperature)

    @staticmethod
    def from_pretrained(name_or_folder, device="cpu", dtype=torch.bfloat16, adapter=None):
        """Loads a Hugging Face folder or hub name (single or sharded safetensors). Raises BadInput for what it cannot run.

        `adapter`: a folder in PEFT's format, put on top. The folder of an adapter is a model as well: its base is loaded with it.
        """
        folder = resolve_model(name_or_folder)
        if is_adapter(folder):
            if adapter is not None:
                raise BadInput(f"--adapter: {folder} is an adapter itself: give its base model, {base_folder(folder)}")
            folder, adapter = base_folder(folder), folder
        config = Config.from_dict(check_model_folder(folder))
        with torch.device("meta"):
            model = Model(config)
        loaded = {name: nn.Parameter(tensor.to(device=device, dtype=dtype)) for name, tensor in read_weights(model, folder)}
        model.load_state_dict(loaded, assign=True)
        return model if adapter is None else load_adapter(model, adapter)

    def save_pretrained(self, folder, state=None, config_changes=None):
        """Writes config.json and (sharded) safetensors that transformers and vLLM load.

        `state` replaces the model's own tensors (fp32 masters, gathered shards); `config_changes` are added to config.json.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shards, shard_bytes = [{}], 0
        for name, tensor in (self.state_dict() if state is None else state).items():
            if shards[-1] and shard_bytes + tensor.nbytes > MAX_SHARD_BYTES:
                shards.append({})
                shard_bytes = 0
            name = name if name.startswith("lm_head.") else "model." + name
            shards[-1][name] = tensor.detach().cpu().contiguous()
            shard_bytes += tensor.nbytes
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        if len(shards) == 1:
            names = ["model.safetensors"]
        else:
            index = {"metadata": {}, "weight_map": {key: name for name, shard in zip(names, shards) for key in shard}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        for name, shard in zip(names, shards):
            save_file(shard, folder / name, metadata={"format": "pt"})
        dtype = str(next(iter(shards[0].values())).dtype).removeprefix("torch.")
        raw = {key: value for key, value in self.config.raw.items() if key != "torch_dtype"} | {"dtype": dtype} | (config_changes or {})
        (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")


def base_folder(folder):
    """The folder of the whole weights: that of the base model where `folder` holds an adapter, else `folder` itself."""
    return resolve_model(read_adapter_config(folder)["base_model_name_or_path"]) if is_adapter(folder) else Path(folder)


def read_weights(model, folder):
    """Yields (parameter name, tensor) of a folder's safetensors; BadInput unless they are exactly the parameters of `model`."""
    wanted, seen = base_parameters(model), set()
    index = Path(folder) / "model.safetensors.index.json"
    paths = sorted(Path(folder).glob("*.safetensors"))
    if index.exists():
        paths = [Path(folder) / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    elif (Path(folder) / "model.safetensors").exists():  # not the adapters and second copies that may lie beside it
        paths = [Path(folder) / "model.safetensors"]
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    name = key.removeprefix("model.")
                    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and name not in wanted):
                        continue  # old folders store RoPE, some store a tied head a second time
                    shape, expected = tuple(file.get_slice(key).get_shape()), wanted.get(name, torch.empty(0)).shape
                    if name not in wanted:
                        raise BadInput(f"{path}: unexpected tensor {key!r}: the weights are not those of the architecture in config.json")
                    if shape != tuple(expected):
                        raise BadInput(f"{path}: tensor {key!r} is {shape}, config.json asks for {tuple(expected)}: they do not match")
                    seen.add(name)
                    yield name, file.get_tensor(key)
        except SafetensorError as error:
            raise BadInput(f"{path}: not a whole safetensors file ({error}): download it again") from error
    missing = sorted(wanted.keys() - seen)
    if missing:
        raise BadInput(f"{folder}: tensor {missing[0]!r} and {len(missing) - 1} more are missing: download the folder again")


def compute_dtype(name, device):
    """auto: bf16 where the hardware multiplies it fast (a GPU, or a CPU with AVX512-BF16 or AMX), else fp32."""
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a packed row of groups. One group: [prompt | completion 1 | ... | completion G]."""

    tokens: torch.Tensor  # (tokens,) each completion without its last token, which predicts nothing
    positions: torch.Tensor  # (tokens,) every completion continues from its prompt
    predictors: torch.Tensor  # (targets,) index of the token whose hidden state predicts the target
    targets: torch.Tensor  # (targets,) all completion tokens, completion after completion
    sequence_ids: torch.Tensor  # (targets,) which completion a target belongs to, counted over the whole pack
    spans: list  # per group: (prompt start, prompt end, [(start, end) of each completion's tokens])


def pack_groups(groups, device="cpu"):
    """[(prompt, [completion, ...]), ...] of token ids -> Layout: each prompt stands once, however many completions share it.

    A completion's first token is predicted by the last token of the shared prompt, so that hidden state is read G times:

        pack_groups([([5, 6], [[7, 8], [9]])])
        tokens 5 6 7    positions 0 1 2    targets 7 8 9    predictors 1 2 1    sequence_ids 0 0 1

    Padded training would compute G * (prompt + longest completion) tokens; this computes prompt + sum of completions.
    """
    tokens, positions, predictors, targets, sequence_ids, spans = [], [], [], [], [], []
    sequence = 0
    for prompt, completions in groups:
        start = len(tokens)
        tokens += prompt
        positions += range(len(prompt))
        prompt_end, pieces = len(tokens), []
        for completion in completions:
            first = len(tokens)
            tokens += completion[:-1]
            positions += range(len(prompt), len(prompt) + len(completion) - 1)
            predictors += [prompt_end - 1, *range(first, len(tokens))]
            targets += completion
            sequence_ids += [sequence] * len(completion)
            sequence += 1
            if len(tokens) > first:
                pieces.append((first, len(tokens)))
        spans.append((start, prompt_end, pieces))
    columns = [torch.tensor(column, dtype=torch.long, device=device) for column in (tokens, positions, predictors, targets, sequence_ids)]
    return Layout(*columns, spans)


def packed_attention(layout):
    """The `attend` function of a Layout. It equals attention under the mask

        allowed[i, j] = same group and j <= i and (j in the prompt, or i and j in the same completion)

    taken piece by piece, so that no completion is computed against another: a prompt against itself, a completion against both. Pieces
    of similar length are computed together, filled up at the right: thousands of short ones would cost more in calls than in arithmetic.
    """
    device, places = layout.tokens.device, [0] * len(layout.tokens)
    # a piece (start, end, first, last): tokens first:last see the keys start:end and, up to themselves, their own
    prompts = [(start, start, start, end) for start, end, _ in layout.spans]
    completions = [(start, end, first, last) for start, end, pieces in layout.spans for first, last in pieces]
    shapes, masks, query_index, key_index = [], [], [], []
    for batch in [*similar(prompts, device), *similar(completions, device)]:
        count, height, width = len(batch), max(last - first for _, _, first, last in batch), max(map(num_keys, batch))
        for start, end, first, last in batch:  # token 0 fills them up at the right: what it gives there is never read
            places[first:last] = range(len(query_index), len(query_index) + last - first)
            query_index += [*range(first, last), *[0] * (height - last + first)]
            key_index += [*range(start, end), *range(first, last), *[0] * (width - (end - start + last - first))]
        if height == width:
            masks.append({"is_causal": True})  # prompts
        elif device.type == "cuda" and count == 1:  # flash attention knows this mask by name, and takes no other
            masks.append({"attn_mask": causal_lower_right(height, width)})
        else:
            seen = torch.tensor([end - start for start, end, _, _ in batch])[:, None, None, None] + torch.arange(height)[:, None]
            masks.append({"attn_mask": (torch.arange(width) <= seen).to(device)})  # (count, 1, height, width)
        shapes.append((count, height, width))
    query_index, key_index, places = (torch.tensor(index, device=device) for index in (query_index, key_index, places))

    def attend(layer, queries, keys, values):  # (tokens, heads, head_dim), (tokens, kv_heads, head_dim) twice
        rows = [count * height for count, height, _ in shapes], *[[count * width for count, _, width in shapes]] * 2
        parts = (rows_at(x, index).split(sizes) for x, index, sizes in zip((queries, keys, values), (query_index, key_index, key_index), rows))
        outputs = []
        for (count, _, _), options, *part in zip(shapes, masks, *parts):
            part = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in part)  # (count, heads, height or width, head_dim)
            outputs.append(attention(*part, **options).transpose(1, 2).flatten(0, 1))
        return rows_at(torch.cat(outputs), places)  # (tokens, heads, head_dim)

    return attend


def num_keys(piece):
    start, end, first, last = piece
    return end - start + last - first


def similar(pieces, device):
    """Cuts pieces into batches in which none has more than 1.5 times the keys of the shortest. On a GPU each stays alone."""
    batches = []
    for piece in sorted(pieces, key=num_keys):
        if device.type == "cpu" and batches and num_keys(piece) <= 1.5 * num_keys(batches[-1][0]) and len(batches[-1]) * num_keys(piece) < 2**14:
            batches[-1].append(piece)
        else:
            batches.append([piece])
    return batches


def rows_at(x, index):
    """x[index] for x (tokens, heads, head_dim). As an embedding, because its gradient adds whole rows: that of indexing is far slower on a CPU."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


def attention(queries, keys, values, **options):
    """Scaled dot-product attention, (batch, heads, tokens, head_dim); fewer key heads than query heads are shared (GQA)."""
    return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=keys.shape[1] != queries.shape[1], **options)
