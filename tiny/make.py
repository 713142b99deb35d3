"""Makes what lies in this folder: tokenizer, random weights, pairs, rows to learn from. runs/tiny.sh chains it with train_sft.py.

python tiny/make.py pairs                          train.jsonl, test.jsonl: for GRPO
python tiny/make.py init FOLDER                    a random model of 0.9 M parameters and its tokenizer
python tiny/make.py rows thinker|mixed|guesser|solver COUNT FILE      conversations for train_sft.py
python tiny/make.py store CHECKPOINT FOLDER        the weights as bf16, half the size, ready to be committed
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import world  # noqa: E402

FOLDER = Path(__file__).parent
THINKING = {
    "thinker": 1.0,
    "mixed": 0.5,
    "guesser": 0.0,
    "solver": None,
}  # share of judgments that are thought through
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def write_lines(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_pairs():
    for name, count, held_out in (("train", 8000, False), ("test", 1000, True)):
        write_lines(FOLDER / f"{name}.jsonl", world.pairs(name, count, held_out, levels=(2, 3)))


def make_tokenizer():
    """Byte-level BPE in which a digit is a token, and so is every word of this world; anything else falls apart into bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [
        *world.WORDS,
        *map(str.capitalize, world.WORDS),
        *world.LABELS,
        *world.KINDS,
        *"plus minus times first second better".split(),
    ]
    corpus = [space + word for space in ("", " ") for word in words] * 10 + [
        *world.VERDICTS,
        "Assistant",
    ] * 10
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=5,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(
        [
            AddedToken(f"<|{name}|>", special=True, normalized=False)
            for name in ("system", "user", "assistant", "end")
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")]
    )
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
    model = Model(Config.from_dict(raw))
    for name, weight in model.named_parameters():
        if (
            weight.dim() == 2
        ):  # what writes into the residual stream starts smaller, the deeper the model (GPT-2)
            std = (
                0.02
                if "embed" in name
                else 0.06 / (2 * layers) ** 0.5
                if "o_proj" in name or "down_proj" in name
                else 0.06
            )
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
    commands[command](*arguments) if command in commands else print(__doc__)
