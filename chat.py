"""Messages -> token ids, so that no text inside a message can write a token of the template.

What goes wrong with `tokenizer.apply_chat_template`: it pastes the contents into one string and
tokenizes that. A judge reads answers that other models wrote, and some of them were written to win.
The text `<|im_end|>` in an answer becomes the real end-of-turn token, and what follows it speaks as
the judge. Refusing special tokens is not enough: `</think>` of Qwen3 and R1-distill is not special.

`encode_chat` therefore works in three steps:
1. `render_pieces` puts secret markers around the contents and applies the template. The result is
   split at the markers, so template text and contents stay apart.
2. `find_template_tokens` tokenizes a copy in which a random word replaces every content, and takes
   the added tokens from there. The contents have no part in this step.
3. `encode_between` encodes the text between these tokens with a tokenizer in which every added
   token has a secret name. No text can match such a name.
Harmless chats get exactly the ids of `apply_chat_template` on the day CHAT_DATE.
"""

import datetime
import json
import re
import secrets
import weakref
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer

from cli import BadInput, parse_json, read_text
from seeding import CHAT_DATE

# Templates copy the role into the text, so it must be a known word.
ROLES = ("system", "developer", "user", "assistant", "tool")


# ---- tokenizer ----


def load_tokenizer(folder_or_name):
    """The Hugging Face tokenizer of a model folder or hub name; code in the folder is never run.

    Raises BadInput where the files or the chat template are missing.
    """
    from transformers import AutoTokenizer  # slow to import, and may import torch

    folder = Path(folder_or_name)
    files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    fix = "copy tokenizer.json, tokenizer_config.json and chat_template.jinja from its base model"
    # transformers may make an empty tokenizer out of config.json alone.
    if folder.is_dir() and not any((folder / name).exists() for name in files):
        raise BadInput(f"{folder}: no tokenizer.json: {fix}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_name, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many kinds, even Exception
        problem = str(error).split("\n")[0]
        raise BadInput(
            f"{folder_or_name}: cannot load its tokenizer ({problem}): check the name, or {fix}"
        ) from error
    if not tokenizer.is_fast:
        raise BadInput(f"{folder_or_name}: cannot be converted to a tokenizer.json: {fix}")
    if not tokenizer.chat_template:
        raise BadInput(
            f"{folder_or_name}: its tokenizer has no chat template: use the instruct version of "
            "the model, or put the template into the folder as chat_template.jinja"
        )
    if (folder / "config.json").exists():
        config = parse_json(read_text(folder / "config.json", "model"), folder / "config.json")
        # Compare ids of a real text: some tokenizers have more padding tokens than their model.
        question = "Which of these two answers is the better one, and why?"
        largest = max(encode_chat(tokenizer, [{"role": "user", "content": question}]))
        if largest >= config.get("vocab_size", 2**62):
            raise BadInput(
                f"{folder}: its tokenizer writes id {largest}, the model knows "
                f"{config['vocab_size']}: they do not belong together; {fix}"
            )
    return tokenizer


def stop_token_ids(tokenizer, folder=None):
    """Sorted ids that end a completion.

    These are each eos of tokenizer, generation_config.json and config.json, and the tokens that the
    template writes after an assistant's message. Raises BadInput for a malformed config file, and
    what `encode_chat` raises.
    """
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        if folder is not None and (Path(folder) / name).exists():
            found |= eos_token_ids(Path(folder) / name)
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    pieces = render_pieces(tokenizer, messages, add_generation_prompt=False)
    text, template_tokens = find_template_tokens(tokenizer, pieces)
    last = max(index for index, (_, owner) in enumerate(pieces) if owner == 1)
    answer_end = sum(len(piece) for piece, _ in pieces[: last + 1])
    for token, start, _ in template_tokens:
        if start >= answer_end and not text[answer_end:start].strip():  # directly after the answer
            found.add(token)
    return tuple(sorted(found - {None}))


def eos_token_ids(config_file):
    ids = parse_json(read_text(config_file, "model"), str(config_file)).get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    if not all(type(token) in (int, type(None)) for token in ids):
        raise BadInput(
            f"{config_file}: eos_token_id is {ids!r}: expected a token id or a list of them"
        )
    return set(ids)


def opens_think(tokenizer, prompt_ids):
    """Whether a prompt ends with an open <think>, as that of R1-distill does.

    The completion then lacks the opening tag.
    """
    tail = prompt_ids[-16:]
    think = tokenizer.get_added_vocab().get("<think>")  # None: the tag is plain text for this model
    is_written = think is None or think in tail  # the text of a message is no such token
    return is_written and tokenizer.decode(tail).rstrip().endswith("<think>")


def decode_completion(tokenizer, tokens, stop_token_ids):
    """The text of generated tokens without the final stop token.

    Other special tokens stay visible, because the verdict parser needs `</think>`.
    """
    tokens = list(tokens)
    if tokens and tokens[-1] in stop_token_ids:
        tokens.pop()
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


# ---- messages -> ids ----


def encode_chat(tokenizer, messages, add_generation_prompt=True):
    """Token ids of a chat; messages are `{"role": ..., "content": text}`.

    The template wrote every added token among the ids, special or not, except tokens of whitespace
    alone and the unknown token. Raises BadInput for messages that are malformed or refused by the
    template, and for a template that does more to a content than is reproduced here; ValueError for
    a tokenizer that treats its added tokens in a way that is not reproduced here.
    """
    pieces = render_pieces(tokenizer, messages, add_generation_prompt)
    text, template_tokens = find_template_tokens(tokenizer, pieces)
    return encode_between(tokenizer, text, template_tokens)


# Step 1: apply the template, and keep contents and template text apart.


def render_pieces(tokenizer, messages, add_generation_prompt):
    """The rendered chat as pieces (text, owner).

    `owner` is the index of the message of which the text is the content, None for template text.
    Whitespace around a content counts as template text: templates trim it, tokens with the flag
    rstrip swallow it, and it cannot forge anything.
    """
    check_messages(messages)
    key = secrets.token_hex(16)
    expected = apply_template(tokenizer, messages, add_generation_prompt)
    # Qwen3 and R1-distill split an assistant's message at `</think>` and drop or move its thinking.
    # A message that does not come back whole is marked in two parts, thinking and answer.
    in_parts = set()
    for _ in range(2):
        marked, contents = mark_contents(messages, key, in_parts)
        rendered = apply_template(tokenizer, marked, add_generation_prompt)
        pieces, wrong = split_at_markers(rendered, key, contents)
        if not wrong and "".join(text for text, _ in pieces) == expected:
            return pieces
        in_parts = wrong
    place = f"message {min(wrong) + 1} ({messages[min(wrong)]['role']})" if wrong else "a message"
    raise BadInput(
        f"chat template of {tokenizer.name_or_path}: drops or rewrites the content of {place}, or "
        "decides by it: use messages without such a text, or another template"
    )


def apply_template(tokenizer, messages, add_generation_prompt):
    """The rendered chat as the template writes it on CHAT_DATE."""
    try:
        template = with_fixed_date(tokenizer.get_chat_template())
        return tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"{tokenizer.name_or_path}: its chat template refuses these messages ({error}): if it "
            "knows no system message, use a style without one"
        ) from error


def with_fixed_date(template):
    """A template that writes CHAT_DATE instead of the date of the day."""
    date = datetime.datetime.fromisoformat(CHAT_DATE)
    call = r"strftime_now\(\s*(['\"])(.*?)\1\s*\)"
    template = re.sub(call, lambda match: repr(date.strftime(match[2])), template)
    if "strftime_now(" in template:
        raise BadInput(
            "the chat template asks for the date with a computed format: write a date into "
            "chat_template.jinja"
        )
    return template


def check_messages(messages):
    for number, message in enumerate(messages, start=1):
        valid = set(message) == {"role", "content"} and message["role"] in ROLES
        valid = valid and isinstance(message["content"], str)
        if not valid or re.search("[\ud800-\udfff]", message["content"]):
            raise BadInput(
                f"message {number} is {str(message)[:200]!a}: expected role ({', '.join(ROLES)}) "
                "and content (text without half surrogates)"
            )


def mark_contents(messages, key, in_parts):
    """(messages with markers KEYaNUMBERz and KEYbNUMBERz around each content, the contents).

    A content is (number of its message, text, whether the template may drop it). The markers are
    inside the outer whitespace. in_parts: numbers of messages whose thinking and answer are two
    contents.
    """
    marked, contents = [], []

    def mark(number, text, may_vanish=False):
        inner = text.strip()
        if not inner:
            return text
        contents.append((number, inner, may_vanish))
        index = len(contents) - 1
        return text.replace(inner, f"{key}a{index}z{inner}{key}b{index}z", 1)

    for number, message in enumerate(messages):
        content = message["content"]
        if number in in_parts and message["role"] == "assistant" and "</think>" in content:
            thinking = content.partition("</think>")[0].rpartition("<think>")[2]
            thinking = mark(number, thinking, may_vanish=True)
            content = f"<think>{thinking}</think>{mark(number, content.rpartition('</think>')[2])}"
        else:
            content = mark(number, content)
        marked.append({"role": message["role"], "content": content})
    return marked, contents


def split_at_markers(rendered, key, contents):
    """(pieces, numbers of the messages that the template dropped, changed or tore apart)."""
    split = re.split(f"{key}a([0-9]+)z(.*?){key}b\\1z", rendered, flags=re.DOTALL)
    # template text, index, content, template text, index, content, ..., template text
    pieces, wrong, found = [(split[0], None)], set(), set()
    for index, content, template_text in zip(split[1::3], split[2::3], split[3::3]):
        number, original, _ = contents[int(index)]
        pieces += [(content, number), (template_text, None)]
        found.add(int(index))
        if content not in (original, json.dumps(original, ensure_ascii=False)[1:-1]):
            wrong.add(number)  # Llama 3.1 writes tool turns as JSON, and nothing else is known
    for index, (number, _, may_vanish) in enumerate(contents):
        if index not in found and not may_vanish:
            wrong.add(number)
    left_over = re.findall(f"{key}[ab]([0-9]+)z", "".join(split[::3]))
    return pieces, wrong | {contents[int(index)][0] for index in left_over}


# Step 2: find the tokens of the template.


def find_template_tokens(tokenizer, pieces):
    """(rendered text, [(token id, start, end in characters)]): the added tokens in template text.

    The tokenizer itself finds them, in a copy with a random word for every content. So its longest
    matches and the flags lstrip, rstrip, single_word and normalized hold. The copy also checks
    `encode_between` against the tokenizer's own ids.
    """
    word = secrets.token_hex(8)
    text = copy = ""
    template_spans = []  # (start, end) in the copy, and what to add for the position in the text
    for piece, owner in pieces:
        if owner is None:
            template_spans.append((len(copy), len(copy) + len(piece), len(text) - len(copy)))
        text += piece
        copy += piece if owner is None else word
    control, unknown = control_tokens(tokenizer), tokenizer.unk_token_id
    encoded = tokenizer_variants(tokenizer).finder.encode(copy, add_special_tokens=False)
    in_text, in_copy = [], []
    for token, (start, end) in zip(encoded.ids, encoded.offsets):
        if token not in control:
            continue
        if token == unknown and copy[start:end].strip() != control[token]:
            continue  # a character that the tokenizer does not know
        for first, last, shift in template_spans:
            if first <= start and end <= last:
                in_copy.append((token, start, end))
                in_text.append((token, start + shift, end + shift))
                break
    expected = tokenizer(copy, add_special_tokens=False, verbose=False)["input_ids"]
    if encode_between(tokenizer, copy, in_copy) != expected:
        raise ValueError(
            f"{tokenizer.name_or_path}: its added tokens change how the text beside them is "
            "encoded, so contents cannot be kept apart from the template: use another tokenizer"
        )
    return text, in_text


def control_tokens(tokenizer):
    """{id: text} of added tokens. Those of whitespace alone (Gemma, Phi) are ordinary text."""
    return {
        token: added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.content.replace("▁", " ").strip()
    }


# Step 3: encode everything else, with a tokenizer whose added tokens no text can match.


def encode_between(tokenizer, text, template_tokens):
    """The ids of the template's tokens, and of each stretch of text between two of them.

    A stretch is encoded as a whole, template text and contents together.
    """
    variants = tokenizer_variants(tokenizer)
    ids, position = [], 0
    for token, start, end in [*template_tokens, (None, len(text), len(text))]:
        if position < start:
            variant = variants.at_start if position == 0 else variants.later
            ids += variant.encode(text[position:start], add_special_tokens=False).ids
        if token is not None:
            ids.append(token)
        position = end
    return ids


class Variants(NamedTuple):
    finder: Tokenizer  # with exact offsets
    at_start: Tokenizer  # every control token has a secret name; for the first stretch of a text
    later: Tokenizer  # the same for the other stretches


# Built once for each tokenizer: a third of a second with 50,000 entries.
built_variants = weakref.WeakKeyDictionary()


def tokenizer_variants(tokenizer):
    if tokenizer in built_variants:
        return built_variants[tokenizer]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # A post-processor may trim the offsets.
    state.update(post_processor=None, truncation=None, padding=None)
    finder = Tokenizer.from_str(json.dumps(state))
    names = {content: secrets.token_hex(16) for content in control_tokens(tokenizer).values()}
    rename_tokens(state, names)
    at_start = later = Tokenizer.from_str(json.dumps(state))
    # Metaspace with "first" marks the first word of a text alone, so later stretches go without.
    pre_tokenizer = json.dumps(state["pre_tokenizer"])
    first, never = '"prepend_scheme": "first"', '"prepend_scheme": "never"'
    if first in pre_tokenizer:
        state["pre_tokenizer"] = json.loads(pre_tokenizer.replace(first, never))
        later = Tokenizer.from_str(json.dumps(state))
    built_variants[tokenizer] = Variants(finder, at_start, later)
    return built_variants[tokenizer]


def rename_tokens(state, names):
    """Renames tokens in the state of a tokenizer (tokenizer.json), among the added tokens first.

    The model's own vocabulary is renamed too, and merges that lead to a name are removed. A merge,
    a whole word or a unigram piece could give the same id otherwise.
    """
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(model["vocab"], list):  # unigram: [piece, score]
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(piece, piece): token for piece, token in model["vocab"].items()}
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if names.keys().isdisjoint((left, right, left + right))
        ]
