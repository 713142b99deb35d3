"""Messages and chat templates -> token ids that nothing inside a text can forge; the prompt styles of the judge.

A judge reads answers that other models wrote, and some of them were written to win. If an answer holds the text `<|im_end|>`, a
plain `apply_chat_template` turns it into the real end-of-turn token, and the answer can go on as the judge. Refusing special tokens
is not enough: `</think>` of Qwen3 and R1-distill is an added token without the "special" flag, and a piece at the end of an answer
may join with the template's text behind it. `encode_chat` therefore takes the tokens of the template from a copy of the chat whose
contents are replaced by a random word, so contents take no part in it at all; the text between these tokens is encoded by a
tokenizer in which every added token has a secret name. Harmless chats get exactly the ids of `apply_chat_template`.

A style file (`prompts/NAME.txt`, or a file of your own given by its path) looks like this; `# ...` above the first section is a remark:

    verdict: boxed             (\\boxed{Assistant 1}, \\boxed{Assistant 2}; or answer_tag: <answer>[[A]]</answer>, <answer>[[B]]</answer>)
    === system                 (may be left out; then there is no system message)
    ...
    === user
    ... {query} ... {answer_1} ... {answer_2} ...
"""

import json
import re
import secrets
import weakref
from pathlib import Path

from jinja2 import TemplateError
from tokenizers import Tokenizer

from cli import BadInput, parse_json, read_text

ROLES = (
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
)  # templates copy the role into the text, so it has to be a known word


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer


def load_tokenizer(folder_or_name):
    """The Hugging Face tokenizer of a model folder or hub name; code inside the folder is never run.

    Raises BadInput where the files or the chat template are missing.
    """
    from transformers import AutoTokenizer  # slow to import, and it may pull in torch

    folder = Path(folder_or_name)
    files = [folder / name for name in ("tokenizer.json", "tokenizer.model", "vocab.json")]
    fix = "copy tokenizer.json, tokenizer_config.json and chat_template.jinja from the model that it stems from"
    if folder.is_dir() and not any(
        file.exists() for file in files
    ):  # transformers may make an empty tokenizer out of config.json alone
        raise BadInput(f"{folder}: no tokenizer.json: {fix}")
    if files[0].exists():
        parse_json(
            read_text(files[0], "tokenizer"), str(files[0])
        )  # a Git LFS pointer, a download that broke off
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_name, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many kinds, plain Exception among them; the message says what
        problem = str(error).split("\n")[0]
        raise BadInput(
            f"{folder_or_name}: cannot load its tokenizer ({problem}): check the name, or {fix}"
        ) from error
    if not tokenizer.is_fast:
        raise BadInput(
            f"{folder_or_name}: has no tokenizer.json and cannot be converted to one: {fix}"
        )
    if not tokenizer.chat_template:
        raise BadInput(
            f"{folder_or_name}: its tokenizer has no chat template: use the instruct version of the model, or put the "
            "template into the folder as chat_template.jinja"
        )
    config = (
        parse_json(read_text(folder / "config.json", "model"), folder / "config.json")
        if (folder / "config.json").exists()
        else {}
    )
    # The ids of a real text, not the largest one there is: some tokenizers hold a padding token more than their model
    largest = max(
        encode_chat(
            tokenizer,
            [{"role": "user", "content": "Which of these two answers is the better one, and why?"}],
        )
    )
    if largest >= config.get("vocab_size", 2**62):
        raise BadInput(
            f"{folder}: its tokenizer writes id {largest}, the model knows {config['vocab_size']}: they do not belong together; {fix}"
        )
    return tokenizer


def stop_token_ids(tokenizer, folder=None):
    """Sorted ids that end a completion: each eos of tokenizer, generation_config.json and config.json, and the template's end of turn.

    Raises BadInput for a config file that is malformed, and what `encode_chat` raises.
    """
    found = {tokenizer.eos_token_id} - {None}
    for file in (Path(folder or "") / name for name in ("generation_config.json", "config.json")):
        if folder is not None and file.exists():
            value = parse_json(read_text(file, "model"), str(file)).get("eos_token_id")
            value = [] if value is None else value if isinstance(value, list) else [value]
            if not all(type(token) is int for token in value):
                raise BadInput(
                    f"{file}: eos_token_id is {value!r}: expected a token id or a list of them"
                )
            found.update(value)
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    pieces = _render(tokenizer, messages, add_generation_prompt=False)
    text, cuts = _find_template_tokens(tokenizer, pieces)
    last = max(index for index, (_, owner) in enumerate(pieces) if owner == 1)
    end = sum(len(piece) for piece, _ in pieces[: last + 1])  # where the assistant's content ends
    found.update(
        token for token, start, _ in cuts if start >= end and not text[end:start].strip()
    )  # directly behind it
    return tuple(sorted(found))


def opens_think(tokenizer, prompt_ids):
    """Whether a prompt ends with an opened <think>, as that of R1-distill does; the completion then lacks the opening tag."""
    think = tokenizer.get_added_vocab().get("<think>")
    tail = prompt_ids[-16:]
    if think is None:  # a model for which the tag is plain text
        return tokenizer.decode(tail).rstrip().endswith("<think>")
    return (
        think in tail and not tokenizer.decode(tail[len(tail) - tail[::-1].index(think) :]).strip()
    )


def decode_completion(tokenizer, tokens, stop_token_ids):
    """The text of generated tokens without the final stop token. Other special tokens stay visible: the verdict parser needs `</think>`."""
    tokens = list(tokens)
    if tokens and tokens[-1] in stop_token_ids:
        tokens.pop()
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


# ---------------------------------------------------------------------------------------------------------------------
# Messages -> ids


def encode_chat(tokenizer, messages, add_generation_prompt=True):
    """Token ids of a chat; messages are `{"role": ..., "content": text}`.

    Every added token among the ids (special or not, whitespace-only ones and the unknown token aside) was written by the template.
    Raises BadInput for messages that are malformed or that the template refuses, ValueError where the template does more to a content
    than insert and trim it (a thinking block that it cuts from an assistant's message is allowed), or where the tokenizer treats
    its added tokens in a way that is not reproduced here.
    """
    text, cuts = _find_template_tokens(
        tokenizer, _render(tokenizer, messages, add_generation_prompt)
    )
    return _encode_between(tokenizer, text, cuts)


def _render(tokenizer, messages, add_generation_prompt):
    """The rendered template as pieces (text, owner): owner is the index of the message whose content it is, None for template text.

    Whitespace around a content counts as template text: templates trim it, tokens with rstrip swallow it, and it cannot forge anything.
    """
    for number, message in enumerate(messages, start=1):
        if (
            set(message) != {"role", "content"}
            or message["role"] not in ROLES
            or not isinstance(message["content"], str)
        ):
            raise BadInput(
                f"message {number}: expected role ({', '.join(ROLES)}) and content (text), got {str(message)[:200]}"
            )
        if re.search("[\ud800-\udfff]", message["content"]):
            raise BadInput(
                f"message {number} ({message['role']}): holds half a surrogate pair, which is no text: save the source as UTF-8"
            )
    key = secrets.token_hex(16)
    # Qwen3 and R1-distill cut everything up to `</think>` out of an assistant's message, and the opening marker with it. So the second
    # attempt hands over such a message without its thinking.
    for without_thinking in (False, True):
        marked, contents = [], {}
        for index, message in enumerate(messages):
            content, inner = _mark(message, index, key, without_thinking)
            marked.append({"role": message["role"], "content": content})
            contents |= {index: inner} if inner else {}
        try:
            rendered = tokenizer.apply_chat_template(
                marked, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BadInput(
                f"{tokenizer.name_or_path}: its chat template refuses these messages ({error}): "
                "if it knows no system message, use a style without one"
            ) from error
        split = re.split(
            f"{key}a([0-9]+)z(.*?){key}b\\1z", rendered, flags=re.DOTALL
        )  # template text, owner, content, template text, ...
        found = [(content, int(owner)) for owner, content in zip(split[1::3], split[2::3])]
        wrong = (contents.keys() - {owner for _, owner in found}) | {
            owner for content, owner in found if content != contents[owner]
        }
        wrong |= {
            int(owner) for owner in re.findall(f"{key}[abt]([0-9]+)z", "".join(split[::3]))
        }  # markers that are left over
        if not wrong:
            return [(split[0], None)] + [
                piece
                for pair in zip(found, ((text, None) for text in split[3::3]))
                for piece in pair
            ]
    number = min(wrong) + 1
    raise ValueError(
        f"chat template of {tokenizer.name_or_path}: drops or rewrites the content of message {number} "
        f"({messages[number - 1]['role']}): a content may only be inserted and trimmed"
    )


def _mark(message, index, key, without_thinking):
    """The content with secret markers around it, inside its outer whitespace, and the content between the markers."""
    head, content = "", message["content"]
    if without_thinking and message["role"] == "assistant" and "</think>" in content:
        head, content = (
            f"{key}t{index}z</think>",
            content.rpartition("</think>")[2],
        )  # the template has to cut this marker as well
    inner = content.strip()
    if not inner:
        return head + content, ""
    return head + content.replace(inner, f"{key}a{index}z{inner}{key}b{index}z", 1), inner


def _find_template_tokens(tokenizer, pieces):
    """Rendered text, and its cuts (token id, start, end in characters): the added tokens that lie wholly in template text.

    The tokenizer itself finds them, in a copy of the text with a random word for every content, so longest matches and the flags
    lstrip, rstrip, single_word and normalized hold. That copy also checks `_encode_between` against the tokenizer's own ids.
    """
    word = secrets.token_hex(8)
    text = copy = ""
    template_spans = []  # (start, end in the copy, shift to the rendered text)
    for piece, owner in pieces:
        if owner is None:
            template_spans.append((len(copy), len(copy) + len(piece), len(text) - len(copy)))
        text += piece
        copy += piece if owner is None else word
    finder, _, _ = _variants(tokenizer)
    control, unknown = _control_tokens(tokenizer), tokenizer.unk_token_id
    encoded = finder.encode(copy, add_special_tokens=False)
    cuts, copy_cuts = [], []
    for token, (start, end) in zip(encoded.ids, encoded.offsets):
        if token not in control or (
            token == unknown and copy[start:end].strip() != control[token]
        ):  # a character it does not know
            continue
        for first, last, shift in template_spans:
            if first <= start and end <= last:
                copy_cuts.append((token, start, end))
                cuts.append((token, start + shift, end + shift))
                break
    if (
        _encode_between(tokenizer, copy, copy_cuts)
        != tokenizer(copy, add_special_tokens=False, verbose=False)["input_ids"]
    ):
        raise ValueError(
            f"{tokenizer.name_or_path}: its added tokens change how the text beside them is encoded, so contents cannot be "
            "kept apart from the template: use another tokenizer"
        )
    return text, cuts


def _encode_between(tokenizer, text, cuts):
    """The given tokens at the cuts, and each stretch between two of them encoded whole, template text and content together."""
    _, at_start, later = _variants(tokenizer)
    ids, position = [], 0
    for token, start, end in [*cuts, (None, len(text), len(text))]:
        if position < start:
            ids += (
                (at_start if position == 0 else later)
                .encode(text[position:start], add_special_tokens=False)
                .ids
            )
        if token is not None:
            ids.append(token)
        position = end
    return ids


def _control_tokens(tokenizer):
    """Added tokens by id. Those of whitespace alone (Gemma, Phi) are ordinary text."""
    return {
        token: added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.content.replace("▁", " ").strip()
    }


_built_variants = (
    weakref.WeakKeyDictionary()
)  # once for each tokenizer: it takes a third of a second with 50,000 entries


def _variants(tokenizer):
    """Three forms of a tokenizer: with exact offsets; with a secret name for every control token; the latter for stretches after the first.

    Secret names make it impossible for a text to match one. The model's own vocabulary is renamed as well: there a merge, a whole word
    or a unigram piece could give the same id.
    """
    if tokenizer in _built_variants:
        return _built_variants[tokenizer]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(
        post_processor=None, truncation=None, padding=None
    )  # a post-processor may trim the offsets
    finder = Tokenizer.from_str(json.dumps(state))
    names = {content: secrets.token_hex(16) for content in _control_tokens(tokenizer).values()}
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
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            pair
            for pair in pairs
            if names.keys().isdisjoint((*pair, pair[0] + pair[1].removeprefix(prefix)))
        ]
    at_start = later = Tokenizer.from_str(json.dumps(state))
    pre_tokenizer = json.dumps(state["pre_tokenizer"])
    if (
        '"prepend_scheme": "first"' in pre_tokenizer
    ):  # Metaspace that marks the first word of a text alone
        state["pre_tokenizer"] = json.loads(
            pre_tokenizer.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        )
        later = Tokenizer.from_str(json.dumps(state))
    _built_variants[tokenizer] = finder, at_start, later
    return finder, at_start, later
