"""Makes the files of this folder: tokenizer, random weights, pairs, conversations.

    python tiny/make.py pairs                      train.jsonl and test.jsonl, for GRPO
    python tiny/make.py init FOLDER                a random model (0.9 M parameters), its tokenizer
    python tiny/make.py rows KIND COUNT FILE       conversations for train_sft.py
    python tiny/make.py store CHECKPOINT FOLDER    the weights in bf16, to be committed

KIND is thinker, mixed, guesser or solver. runs/tiny.sh uses these commands and train_sft.py.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import world  # noqa: E402

FOLDER = Path(__file__).parent
# KIND: the share of judgments with thinking
THINKING = {"thinker": 1.0, "mixed": 0.5, "guesser": 0.0, "solver": None}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_lines(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_pairs():
    for name, count, held_out in (("train", 8000, False), ("test", 1000, True)):
        write_lines(FOLDER / f"{name}.jsonl", world.pairs(name, count, held_out, levels=(2, 3)))


def make_tokenizer():
    """Byte-level BPE: a token is a digit or a word of this world; other text becomes bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = world.WORDS + [word.capitalize() for word in world.WORDS] + world.LABELS + world.KINDS
    words += "plus minus times first second better".split()
    corpus = words + [f" {word}" for word in words]
    corpus = corpus * 10 + [*world.VERDICTS, "Assistant"] * 10
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=5,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    for name in ("system", "user", "assistant", "end"):
        tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False)])
    for name in ("<think>", "</think>"):
        tokenizer.add_tokens([AddedToken(name, special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=TEMPLATE, eos_token="<|end|>", pad_token="<|end|>"
    )


def make_init(folder, width=128, layers=4, heads=4):
    import torch

    from model import Config, Model

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "judge_style": "tiny",
    }
    torch.manual_seed(0)
    model = Model(Config(raw))
    for name, weight in model.named_parameters():
        if weight.dim() != 2:
            continue
        std = 0.06
        if "embed" in name:
            std = 0.02
        elif "o_proj" in name or "down_proj" in name:
            # What writes into the residual stream starts smaller in deeper models (GPT-2).
            std = 0.06 / (2 * layers) ** 0.5
        torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder)


def make_rows(kind, count, path):
    rows = itertools.islice(world.rows(kind, THINKING[kind]), int(count))
    write_lines(path, ({"messages": messages} for messages in rows))


def store(checkpoint, folder):
    import torch

    from model import Model

    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    Model.from_pretrained(checkpoint, "cpu", torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(checkpoint) / name, folder / name)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["help"]
    commands = {"pairs": make_pairs, "init": make_init, "rows": make_rows, "store": store}
    if command in commands:
        commands[command](*arguments)
    else:
        print(__doc__)
