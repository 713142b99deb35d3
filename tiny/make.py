"""Makes this folder: a small random model, its tokenizer, and pairs under a rule that has to be read from the prompt.

    python tiny/make.py            (the same files every time)

The query names a word, and the answer that is this word is the better one. Each pair of answers occurs under both queries that decide
between them, so the answers alone say nothing. A verdict is one token. The model is random but for one thing: it starts by writing a
verdict and then ends its turn, so that training starts at chance and not at silence.
"""

import itertools
import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1]))
from model import Config, Model  # noqa: E402

FOLDER = Path(__file__).parent
WORDS = """apple bean corn date egg fig grape honey ice jam kale leek mint nut oat pea
quince rice soy tea udon vanilla wheat yam zest anise basil chive dill endive fennel garlic""".split()
VERDICTS = ["\\boxed{Assistant 1}", "\\boxed{Assistant 2}"]
CONTROL = ["<|start|>", "<|end|>"]
TEMPLATE = "{% for m in messages %}<|start|> {{ m['content'] }} <|end|>{% endfor %}{% if add_generation_prompt %}<|start|>{% endif %}"


def make_tokenizer():
    words = ["[UNK]", "1:", "2:", "take", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(text, special=True, lstrip=True, rstrip=True) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in VERDICTS])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="<|end|>", pad_token="<|end|>")
    wrapped.chat_template = TEMPLATE
    return wrapped


def make_model(tokenizer):
    raw = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "hidden_act": "silu",
        "tie_word_embeddings": False, "eos_token_id": tokenizer.eos_token_id, "judge_style": "tiny",
    }  # fmt: skip
    torch.manual_seed(0)
    model = Model(Config.from_dict(raw))
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3 if "embed" in name else 0.02 if "lm_head" in name else weight.shape[1] ** -0.5 * 0.7)
    verdicts, end = tokenizer.convert_tokens_to_ids(VERDICTS), tokenizer.eos_token_id
    with torch.no_grad():  # the first number of a hidden state says "write a verdict", the second "a verdict is written"
        model.embed_tokens.weight[:, :2] = torch.tensor([1.5, 0.0])
        model.embed_tokens.weight[verdicts, :2] = torch.tensor([0.0, 1.5])
        for block in model.layers:
            block.self_attn.o_proj.weight[:2] = 0
            block.mlp.down_proj.weight[:2] = 0
        model.lm_head.weight[:, :2] = 0
        model.lm_head.weight[verdicts, 0] = 3.0
        model.lm_head.weight[end, 1] = 4.0
    return model


def make_pairs():
    train, test = [], []
    for first, second in itertools.combinations(WORDS, 2):
        rows = [{"id": f"{word}-{first}-{second}", "query": f"take {word}", "a": first, "b": second, "label": (first, second).index(word)}
                for word in (first, second)]  # fmt: skip
        # One question is asked about many answers; what is held out are the combinations of two words.
        (test if random.Random(f"{first} {second}").random() < 0.2 else train).extend(rows)
    return train, test


def main():
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(FOLDER)
    make_model(tokenizer).save_pretrained(FOLDER)
    for name, rows in zip(("train", "test"), make_pairs()):
        (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
