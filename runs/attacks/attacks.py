"""Attacks on a judge's prompt: how many forge a control token, by chat.encode_chat and otherwise.

    python runs/attacks/attacks.py [FOLDER_OF_A_TOKENIZER ...]          exit code 1 if one succeeds

An attack is one text or two. Each is put as query, as either answer, into a conversation that is
the query, and into the turns of a chat. Every way to encode is compared with the same way for
harmless words in the same places. A prompt is forged if the control tokens differ in number, kind
or order; those are all added tokens but the unknown one and those of whitespace alone. Of
encode_chat more is asked: see `faults`. The tokenizers are trained here on a few sentences, with
the added tokens, flags and templates of the real ones.
"""

import functools
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tokenizers import normalizers, pre_tokenizers

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "tests")]

from crafted import attacks  # noqa: E402
from measures import markdown_table  # noqa: E402
from test_chat import CHATML, LLAMA3, R1, byte_level, metaspace, ordinary, special  # noqa: E402
from tiny_models import COIN, make_scripted_folder  # noqa: E402

import chat  # noqa: E402
from cli import BadInput  # noqa: E402
from data import Pair  # noqa: E402
from extras.server import disarm  # noqa: E402
from judge import Judge  # noqa: E402
from styles import Style, judge_messages, load_style  # noqa: E402

# ---- tokenizers ----

QWEN = special(
    *"<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>".split()
) + ordinary(
    *"<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|>".split()
)
SMOLLM2 = special(
    *"<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> "
    "<gh_stars> <issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> "
    "<jupyter_code> <jupyter_output> <jupyter_script> <empty_output>".split()
)
PLAIN_CHATML = """{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
# Puts the words of the system in front of the first user's.
FIRST_USER = """{%- set ns = namespace(system='') %}{{- bos_token }}
{%- for message in messages %}{%- if message.role == 'system' %}
{%- set ns.system = message.content + '\\n\\n' %}{%- elif message.role == 'user' %}
{{- 'USER' + ns.system + message.content + 'END' }}{%- set ns.system = '' %}
{%- else %}{{- 'JUDGE' + message.content + 'STOP' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- 'JUDGE' }}{%- endif %}"""


def template(user, end, judge, stop):
    """FIRST_USER with these marks around the turns."""
    text = FIRST_USER
    for name, mark in (("USER", user), ("END", end), ("JUDGE", judge), ("STOP", stop)):
        text = text.replace(f"'{name}'", repr(mark))
    return text


def llama3():
    names = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> "
    names += "<|eom_id|> <|python_tag|> <|finetune_right_pad_id|>"
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(8)]
    ends = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return byte_level(special(*names.split(), *reserved), LLAMA3, ignore_merges=True, **ends)


def r1_distill():
    ends = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    names = (
        "<｜User｜> <｜Assistant｜> <think> </think> <｜tool▁calls▁begin｜> <｜tool▁output▁end｜> "
    )
    names += "<|EOT|> <｜fim▁hole｜>"
    marks = special(*ends, "<｜▁pad▁｜>") + ordinary(*names.split())
    return byte_level(marks, R1, bos_token=ends[0], eos_token=ends[1])


def mistral():
    names = "<unk> <s> </s> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] "
    names += "[TOOL_RESULTS] [/TOOL_RESULTS]"
    own = template("[INST] ", "[/INST]", "", "</s>")
    ends = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return metaspace(special(*names.split()), own, **ends)


def gemma():
    names = "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn> <start_of_image>"
    others = "<2mass> [@BOS@] <unused0> <unused1> <h1> <table> [multimodal]"
    marks = special(*names.split()) + ordinary(*others.split(), "\n\n", "\n\n\n", "▁▁", "▁▁▁▁")
    end = "<end_of_turn>\n"
    own = template("<start_of_turn>user\n", end, "<start_of_turn>model\n", end)
    ends = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    tokenizer = metaspace(marks, own, **ends)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def phi():
    turns = "<|assistant|> <|system|> <|end|> <|user|> <|placeholder1|>"
    names = special("<unk>", "<s>", "</s>", "<|endoftext|>") + special(*turns.split(), rstrip=True)
    own = template("<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n")
    own = own.replace("{{- bos_token }}", "")
    ends = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
    return metaspace(names, own, **ends)


def normalising():
    """NFKC turns full-width and mathematical letters into plain ones, before tokens are found."""
    names = special("<|endoftext|>", "<|im_start|>", "<|im_end|>", normalized=True)
    names += ordinary("<think>", "</think>", normalized=True)
    tokenizer = byte_level(names, CHATML, eos_token="<|im_end|>")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def qwen3():
    names = ordinary("<tool_response>", "</tool_response>", "<think>", "</think>")
    return byte_level(QWEN + names, CHATML, eos_token="<|im_end|>")


SMALL = {
    "SmolLM2-like": lambda: byte_level(SMOLLM2, PLAIN_CHATML, eos_token="<|im_end|>"),
    "Qwen2-like": lambda: byte_level(QWEN, PLAIN_CHATML, eos_token="<|im_end|>"),
    "Qwen3-like": qwen3,
    "R1-distill-like": r1_distill,
    "Llama-3-like": llama3,
    "Mistral-like": mistral,
    "Gemma-like": gemma,
    "Phi-like": phi,
    "NFKC": normalising,
}


@functools.cache
def small_tokenizer(name):
    return SMALL[name]()


# ---- prompts ----

PLACES = ("query", "answer 1", "answer 2", "conversation", "chat")
COMPARED = ("rrm", "rm_r1_short", "glued")  # styles in which the other ways are tried as well
FINE = "fine"
MARKS = ("firstmark", "secondmark")  # harmless words, found again in the harmless prompt


def styles():
    """Those of prompts/, and one in which nothing separates the texts."""
    names = sorted(path.stem for path in (HERE.parents[1] / "prompts").glob("*.txt"))
    glued = Style("glued", "boxed", "", "{query}{answer_1}{answer_2}")
    return [*map(load_style, names), glued]


def messages_of(style, place, texts):
    """The messages with the texts of an attack (or harmless words) in their place."""
    turns = [("user", texts[0]), ("assistant", texts[-1]), ("user", FINE)]
    chat_messages = [{"role": role, "content": content} for role, content in turns]
    if place == "chat":
        return chat_messages
    if place == "conversation":
        return judge_messages(style, chat_messages, FINE, FINE)
    slots, first = [FINE] * 3, PLACES.index(place)
    for number, text in enumerate(texts):
        slots[(first + number) % 3] = text
    return judge_messages(style, *slots)


# ---- from messages to ids ----


def plain_way(tokenizer, messages):
    """What nearly every script does."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def server_way(tokenizer, messages):
    """What this project does in front of a server, which renders the template itself."""
    disarmed = [turn | {"content": disarm(turn["content"])} for turn in messages]
    return plain_way(tokenizer, disarmed)


OURS = "encode_chat"
WAYS = {OURS: chat.encode_chat, "server": server_way, "plain": plain_way}


# ---- what an attack does to a prompt ----


def controls_of(tokenizer):
    """Ids of control tokens: added ones but the unknown one and those of whitespace alone."""
    return {
        token
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.content.replace("▁", " ").strip() and token != tokenizer.unk_token_id
    }


def only_controls(ids, controls):
    return [token for token in ids if token in controls]


def stretches(ids, controls):
    """[[ids before the first control token], [ids between the first and the second], ...]"""
    found = [[]]
    for token in ids:
        if token in controls:
            found.append([])
        else:
            found[-1].append(token)
    return found


def clean(tokenizer, text):
    """The words as the tokenizer normalises them (NFC, NFKC, "▁" for a blank), blanks aside."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return (normalizer.normalize_str(text) if normalizer else text).replace("▁", " ").split()


def faults(tokenizer, controls, ids, harmless, texts, chat_turns):
    """What `encode_chat` did wrong; [] if nothing.

    The control tokens have to be those of the harmless prompt. Every stretch without a text of
    the attack has the harmless ids. Every stretch with one decodes to the harmless text in which
    the attack's texts have replaced the harmless words.
    """
    if only_controls(ids, controls) != only_controls(harmless, controls):
        return ["control tokens"]
    found, marks = [], MARKS[: len(texts)]
    for own, other in zip(stretches(ids, controls), stretches(harmless, controls), strict=True):
        expected = tokenizer.decode(other)
        if not any(mark in expected for mark in marks):
            found += ["ids outside"] if own != other else []
            continue
        kept = [texts]
        if chat_turns:  # templates cut the thinking out of an assistant's earlier turn
            kept.append([text.rpartition("</think>")[2] for text in texts])
        options = []
        for cut in kept:
            text = expected
            for mark, replacement in zip(marks, cut):
                text = text.replace(mark, replacement)
            options.append(clean(tokenizer, text))
        if clean(tokenizer, tokenizer.decode(own)) not in options:
            found.append("text inside")
    return found


def attempt(way, tokenizer, messages):
    """Ids, or None where the way refuses: half a surrogate pair is no text."""
    try:
        return way(tokenizer, messages)
    except (BadInput, TypeError, UnicodeError):
        return None


def try_all(tokenizer, tried, cases, compared=()):
    """Counter of (number of the attack, what) -> prompts.

    what: "prompts"; the name of each way for those that it forged (`encode_chat`: that have
    `faults`); "refused" by encode_chat. Every fault is counted under (None, its place as well).
    tried: attacks. cases: (style, place). compared: cases in which the other ways are tried too.
    """
    counts, controls = Counter(), controls_of(tokenizer)
    for style, place in cases:
        ways = list(WAYS) if (style, place) in compared else [OURS]
        harmless = {}
        for name in ways:
            for pieces in (1, 2):
                messages = messages_of(style, place, MARKS[:pieces])
                harmless[name, pieces] = WAYS[name](tokenizer, messages)
        for number, (_, texts) in enumerate(tried):
            counts[number, "prompts"] += 1
            counts[number, "compared"] += len(ways) > 1
            messages = messages_of(style, place, texts)
            for name in ways:
                ids, other = attempt(WAYS[name], tokenizer, messages), harmless[name, len(texts)]
                if ids is None:
                    counts[number, "refused"] += name == OURS
                elif name == OURS:
                    found = faults(tokenizer, controls, ids, other, texts, place == "chat")
                    counts[number, OURS] += bool(found)
                    for fault in found:
                        style_name = getattr(style, "name", "-")
                        counts[None, f"{fault}: {style_name}, {place}, {texts[0][:60]!a}"] += 1
                else:
                    own = only_controls(ids, controls)
                    counts[number, name] += own != only_controls(other, controls)
    return counts


def try_tokenizer(name):
    """(counts of all attacks, number of control tokens) of a name in SMALL, or a folder."""
    tokenizer = small_tokenizer(name) if name in SMALL else chat.load_tokenizer(name)
    cases = [(style, place) for style in styles() for place in PLACES[:-1]] + [(None, "chat")]
    compared = [case for case in cases if case[0] is None or case[0].name in COMPARED]
    return try_all(tokenizer, attacks(), cases, compared), len(controls_of(tokenizer))


def changed_verdicts(judge, tried):
    """(judgments made, judgments that differ from the harmless one).

    The judge's model writes without looking at its prompt. So a verdict only changes if something
    of the prompt gets into what is parsed, or if a thinking block seems to be open.
    """
    slots = [[FINE, FINE, FINE]]
    for _, texts in tried:
        slots += [[texts[0], FINE, FINE], [FINE, texts[0], texts[-1]], [FINE, texts[-1], texts[0]]]
    pairs = [
        Pair("one id", [{"role": "user", "content": query}], (first, second))
        for query, first, second in slots
    ]
    harmless, *judgments = judge.judge(pairs, num_votes=2, max_completion_length=40)
    return len(judgments), sum(judgment != harmless for judgment in judgments)


# ---- tables ----


def by_class(tried, results):
    """Rows: of each class, how many attacks forge a prompt of at least one tokenizer."""
    for kind in dict.fromkeys(kind for kind, _ in tried):
        own = [number for number, (other, _) in enumerate(tried) if other == kind]
        refused = all(counts[number, "refused"] for counts, _ in results.values() for number in own)
        forged = [
            sum(any(counts[number, way] for counts, _ in results.values()) for number in own)
            for way in WAYS
        ]
        yield kind, len(own), *(["refused"] * len(WAYS) if refused else forged)


def by_tokenizer(results):
    """Rows: of each tokenizer, the prompts and how many of them each way lets be forged."""
    for name, (counts, controls) in results.items():
        sums = Counter()
        for (_, what), count in counts.items():
            sums[what] += count
        columns = ("prompts", OURS, "compared", *list(WAYS)[1:])
        yield Path(name).name, controls, *(sums[what] for what in columns)


def main(folders):
    tried, results, names = attacks(), {}, [*SMALL, *folders]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, (counts, controls) in zip(names, pool.map(try_tokenizer, names)):
            results[name] = counts, controls
            for (number, fault), count in counts.items():
                if number is None:
                    print(f"{name}: {fault} ({count})", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_scripted_folder(Path(scratch) / "coin", COIN)
        judge = Judge(str(folder), device="cpu", dtype="float32")
        short = [
            (kind, texts)
            for kind, texts in tried
            # The judge's context holds 4,096 tokens, and half surrogates are no text.
            if len("".join(texts)) < 2000 and kind != "half surrogates"
        ]
        judged, changed = changed_verdicts(judge, short)
    forged = sum(counts[number, OURS] for counts, _ in results.values() for number, _ in counts)
    print(markdown_table(["class", "attacks", *WAYS], by_class(tried, results)))
    heads = ["tokenizer", "control tokens", "prompts", OURS, "compared", *list(WAYS)[1:]]
    print(markdown_table(heads, by_tokenizer(results)))
    print(f"verdicts: {judged} judgments, {changed} changed")
    return int(forged or changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
