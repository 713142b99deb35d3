"""Small model folders, made in a second, with tokenizer, template and files as real ones have."""

import math
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from model import Config, Model

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
CORPUS = [
    "system user assistant The answer to the question is 42, the other answer is not.\n\n",
    "Compare the two responses.\n",
] * 20
VERDICTS = "\\boxed{Assistant 1}", "\\boxed{Assistant 2}"
# For make_scripted_folder: a judge that thinks for a while, then throws a coin; one verdict in five
# is missing.
COIN = {
    "": {"<think>": 1},
    "<think>": {" hm": 1},
    " hm": {" hm": 0.5, "</think>": 0.5},
    "</think>": {VERDICTS[0]: 0.4, VERDICTS[1]: 0.4, " nothing é🙂": 0.2},
}
SIZES = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)


def make_tokenizer(words=()):
    """Byte-level BPE with ChatML; <think>, </think> and `words` are single tokens, none special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, show_progress=False, initial_alphabet=alphabet)
    )
    tokenizer.add_tokens(
        [
            AddedToken(name, special=True, normalized=False)
            for name in ("<|im_start|>", "<|im_end|>")
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(name, special=False, normalized=False)
            for name in ("<think>", "</think>", *words)
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHATML, eos_token="<|im_end|>"
    )


def make_model_folder(path, model_type="llama", words=(), **config_overrides):
    """Writes a model with random weights (seed 0) and its tokenizer; returns the folder."""
    tokenizer = make_tokenizer(words)
    ends = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None)
    config = AutoConfig.for_model(
        model_type, **(SIZES | ends | {"vocab_size": len(tokenizer)} | config_overrides)
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def make_scripted_folder(path, script, **config_overrides):
    """A model that writes what `script` says, {word: {next word: probability}}.

    "" is the beginning, and a word without an entry ends the text: COIN is an example. Blocks add
    nothing and embeddings are one-hot, so the head is a table of log-probs (next word, word).
    """
    words = sorted(
        {word for following in script.values() for word in following} - {"<think>", "</think>"}
    )
    size = len(make_tokenizer(words))
    sizes = dict(hidden_size=size + size % 2, num_hidden_layers=1, tie_word_embeddings=False)
    folder = make_model_folder(path, words=words, **(sizes | config_overrides))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), make_tokenizer(words)
    start = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], add_generation_prompt=True, return_dict=False
    )[-1]
    width = model.config.hidden_size
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        table = torch.full((size, width), -60.0)
        table[tokenizer.eos_token_id] = 0.0
        for word, following in script.items():
            column = tokenizer.convert_tokens_to_ids(word) if word else start
            table[:, column] = -60.0
            for next_word, probability in following.items():
                table[tokenizer.convert_tokens_to_ids(next_word), column] = math.log(probability)
        model.lm_head.weight.copy_(
            table / math.sqrt(width)
        )  # the last norm makes a one-hot row sqrt(width) long
    model.save_pretrained(folder)
    return folder


def random_model(model_type, dtype=torch.float32, **changes):
    """A Model of a few thousand random weights, large enough that its greedy tokens differ."""
    config = dict(
        model_type=model_type,
        vocab_size=211,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = Model(Config(config | changes))
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name else 0.0, std=0.15)
    return model.to(dtype)
