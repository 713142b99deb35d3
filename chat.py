"""Messages -> token ids, so that no text inside a message can write a token of the template.

What goes wrong with `tokenizer.apply_chat_template`: it pastes the contents into one string and
tokenizes that. A judge reads answers that other models wrote, and some of them were written to win.
The text `<|im_end|>` in an answer becomes the real end-of-turn token, and what follows it speaks as
the judge. Refusing special tokens is not enough: `</think>` of Qwen3 and R1-distill is not special.

`encode_chat` therefore works in three steps:
1. `render` applies the template to messages in which a random word stands for each content.
2. `split_at_tokens` cuts the result at the added tokens in it. Only the template can have written
   them: the contents are not there yet.
3. `encode_parts` puts the contents back into the texts between these tokens, and encodes them with
   a tokenizer in which every added token has a secret name. No text can match such a name.
Harmless chats get exactly the ids of `apply_chat_template` on the day CHAT_DATE.
"""

import datetime
import json
import re
import secrets
import weakref
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import Tokenizer

from checkpoint import TINY
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
    try:
        # transformers may make an empty tokenizer out of config.json alone.
        if folder.is_dir() and not any((folder / name).exists() for name in files):
            raise FileNotFoundError("no tokenizer.json")
        tokenizer = AutoTokenizer.from_pretrained(folder_or_name, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many kinds, even Exception
        problem = str(error).split("\n")[0]
        raise BadInput(
            f"{folder_or_name}: cannot load its tokenizer ({problem}): check the name, or copy "
            "tokenizer.json, tokenizer_config.json and chat_template.jinja from its base model"
        ) from error
    if not folder.resolve().is_relative_to(TINY):  # ours need no check
        from config_rules import check_tokenizer

        check_tokenizer(folder, tokenizer)
    return tokenizer


def stop_token_ids(tokenizer, folder=None):
    """Sorted ids that end a completion.

    These are each eos of tokenizer, generation_config.json and config.json, and the token that the
    template writes after an assistant's message. Raises BadInput for a malformed config file, and
    what `encode_chat` raises.
    """
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = Path(folder or tokenizer.name_or_path) / name
        if path.exists():
            ids = parse_json(read_text(path, "model"), path).get("eos_token_id")
            ids = ids if isinstance(ids, list) else [ids]
            if not all(type(token) in (int, type(None)) for token in ids):
                raise BadInput(f"{path}: eos_token_id is {ids!r}: expected a token id, or several")
            found.update(ids)
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    copy, (_, answer) = render(tokenizer, messages, add_generation_prompt=False)
    after_answer = copy.rpartition(answer)[2].lstrip()
    for token, text in control_tokens(tokenizer).items():
        if after_answer.startswith(text):
            found.add(token)
    return tuple(sorted(found - {None}))


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
    copy, contents = render(tokenizer, messages, add_generation_prompt)
    parts = split_at_tokens(tokenizer, copy, contents)
    return encode_parts(tokenizer, parts, contents)


# Step 1: apply the template to messages without their contents.


def render(tokenizer, messages, add_generation_prompt):
    """(the rendered chat with a random word for each content, {word: content}).

    Whitespace around a content stays beside its word: templates trim it, tokens with the flag
    rstrip swallow it, and it cannot forge anything.
    """
    check_messages(messages)
    expected = apply_template(tokenizer, messages, add_generation_prompt)
    hidden, contents, thoughts = hide_contents(tokenizer, messages, expected)
    for word, content in contents.items():
        if content not in expected:  # Llama 3.1 writes tool turns as JSON
            contents[word] = json.dumps(content, ensure_ascii=False)[1:-1]
    copy = apply_template(tokenizer, hidden, add_generation_prompt)
    is_complete = all(word in copy for word in contents)
    contents |= thoughts
    if is_complete and fill(copy, contents) == expected:
        return copy, contents
    changed = [i for i, turn in enumerate(messages) if turn["content"].strip() not in expected]
    place = f"message {changed[0] + 1} ({messages[changed[0]]['role']})" if changed else "a message"
    raise BadInput(
        f"chat template of {tokenizer.name_or_path}: drops or rewrites the content of {place}, or "
        "decides by it: use messages without such a text, or another template"
    )


def hide_contents(tokenizer, messages, expected):
    """(messages with a random word for each content, {word: content}, {word: thinking}).

    Only where a template takes an assistant's message apart, its thinking has a word of its own.
    """
    hidden, contents, thoughts = [], {}, {}
    for message in messages:
        role, content = message["role"], message["content"]
        has_thinking = role == "assistant" and "</think>" in content
        if has_thinking and (content.strip() not in expected or splits_thinking(tokenizer)):
            thought = content.partition("</think>")[0].rpartition("<think>")[2]
            answer = content.rpartition("</think>")[2]
            content = f"<think>{hide(thought, thoughts)}</think>{hide(answer, contents)}"
        else:
            content = hide(content, contents)
        hidden.append({"role": role, "content": content})
    return hidden, contents, thoughts


def hide(text, contents):
    if not text.strip():
        return text
    word = f"x{secrets.token_hex(8)}"
    contents[word] = text.strip()
    return text.replace(text.strip(), word, 1)


def splits_thinking(tokenizer):
    """Whether the template takes an assistant's message apart, and drops or moves its thinking."""
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x</think>y"}]
    return "x</think>y" not in apply_template(tokenizer, probe, add_generation_prompt=False)


def fill(text, contents):
    for word, content in contents.items():
        text = text.replace(word, content)
    return text


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
    return re.sub(call, lambda match: repr(date.strftime(match[2])), template)


def check_messages(messages):
    for number, message in enumerate(messages, start=1):
        valid = set(message) == {"role", "content"} and message["role"] in ROLES
        valid = valid and isinstance(message["content"], str)
        if not valid or re.search("[\ud800-\udfff]", message["content"]):
            raise BadInput(
                f"message {number} is {str(message)[:200]!a}: expected role ({', '.join(ROLES)}) "
                "and content (text without half surrogates)"
            )


# Step 2: find the tokens of the template.


def split_at_tokens(tokenizer, copy, contents):
    """The copy as a list: text, token id, text, ..., text. The ids are those of the added tokens.

    The tokenizer itself finds them, so its longest matches and the flags lstrip, rstrip,
    single_word and normalized hold.
    """
    control, unknown = control_tokens(tokenizer), tokenizer.unk_token_id
    words = [match.span() for word in contents for match in re.finditer(word, copy)]
    finder, _, _ = tokenizer_variants(tokenizer)
    encoded = finder.encode(copy, add_special_tokens=False)
    parts, position = [], 0
    for token, (start, end) in zip(encoded.ids, encoded.offsets):
        if token not in control or any(first < end and start < last for first, last in words):
            continue
        if token == unknown and copy[start:end].strip() != control[token]:
            continue  # a character that the tokenizer does not know
        parts += [copy[position:start], token]
        position = end
    parts.append(copy[position:])
    expected = tokenizer(copy, add_special_tokens=False, verbose=False)["input_ids"]
    if encode_parts(tokenizer, parts, contents={}) != expected:
        raise ValueError(
            f"{tokenizer.name_or_path}: its added tokens change how the text beside them is "
            "encoded, so contents cannot be kept apart from the template: use another tokenizer"
        )
    return parts


def control_tokens(tokenizer):
    """{id: text} of added tokens. Those of whitespace alone (Gemma, Phi) are ordinary text."""
    return {
        token: added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.content.replace("▁", " ").strip()
    }


# Step 3: encode everything else, with a tokenizer whose added tokens no text can match.


def encode_parts(tokenizer, parts, contents):
    """The ids of texts and tokens; the contents replace their words in the texts.

    A text is encoded as a whole, template text and contents together.
    """
    _, at_start, later = tokenizer_variants(tokenizer)
    ids = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        elif part:
            variant = later if ids else at_start
            ids += variant.encode(fill(part, contents), add_special_tokens=False).ids
    return ids


# Built once for each tokenizer: a third of a second with 50,000 entries.
built_variants = weakref.WeakKeyDictionary()


def tokenizer_variants(tokenizer):
    """Three tokenizers of the library `tokenizers`: (finder, at_start, later).

    The finder has exact offsets. In the others every control token has a secret name; at_start is
    for the first stretch of a text, and later for the stretches after it.
    """
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
    built_variants[tokenizer] = finder, at_start, later
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
