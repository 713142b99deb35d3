"""The data formats beyond plain texts: conversations, prompts in parts, benchmarks, public sets.

data.py loads this file for a row that is no plain text in one of its own formats. A reader takes
(a copy of the row, its file and line) and returns a Pair or a Question; it pops the fields that it
uses.
"""

import json
import math
import re

import data
from cli import BadInput, parse_json
from data import (
    CONTRADICTION,
    PROMPT,
    checked_text,
    first_present,
    label_of,
    missing_fields,
    to_messages,
)
from questions import FORMATS as QUESTION_FORMATS
from questions import QUESTION, several_answers

# ---- messages in other forms ----

ROLES = dict(human="user", gpt="assistant", function_call="assistant", observation="tool")
LIKE_MESSAGES = re.compile(  # begins like messages, names a role and a content
    r"""\s*\[?\s*\{(?=.*["'](content|value|tool_calls)["']\s*:)"""
    rf""".*["'](role|from)["']\s*:\s*["']({"|".join([*data.ROLES, *ROLES])})["']""",
    re.DOTALL,
)


def turns_of(value, name, where):
    """Messages as a list of {"role", "content"}; anything else stays as it is.

    Read are lists, one message alone, both also as JSON text, and ShareGPT's "from" and "value".
    Tool calls become a part of the content.
    """
    if isinstance(value, str) and LIKE_MESSAGES.match(value):
        value = parse_json(value, f"{where}: {name} looks like messages", (list, dict))
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return value
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        calls = turn.get("tool_calls") or turn.get("function_call")
        if calls and isinstance(content or "", str):
            content = (
                f"{content or ''}\nTool calls: {json.dumps(calls, ensure_ascii=False)}".strip()
            )
        messages.append({"role": ROLES.get(str(role), role), "content": content})
    return messages


# ---- the parts of a prompt ----

SYSTEM = "system|system_prompt|system_message"
ASKED = "query", "prompt", "question", "instruction"  # texts of which a row has one


def prompt_of(row, where, names):
    """The messages of a prompt: system, history, what is asked and its input; [] without any."""
    name = first_present(row, names)
    asked = row.pop(name) if name else []
    for other in ASKED:
        text = row.get(other)
        both = isinstance(text, str) and isinstance(asked, str)
        if both and text.strip() not in asked and asked.strip() not in text:
            raise BadInput(f"{where}: {name} and {other} differ: which is asked? Keep one")
    more = row.pop("input", None)
    if more and (not data.is_plain(asked) or not isinstance(more, str)):
        raise BadInput(f"{where}: input is {more!r:.80} beside {name or 'no prompt'}: join them")
    if more and not asked.endswith(more):
        asked = f"{asked}\n\n{more}" if asked else more
    messages = to_messages(asked, name, where) if name else []
    earlier = history_of(row.pop("history", None), where)
    name = first_present(row, SYSTEM)
    if name and row[name] != "":
        system = {"role": "system", "content": checked_text(row.pop(name), name, where)}
        stated = [turn for turn in messages if turn["role"] == "system"]
        if any(turn != system for turn in stated):
            raise BadInput(
                f"{where}: {name} differs from the system message of the prompt: keep one"
            )
        earlier = [system] + earlier
        messages = [turn for turn in messages if turn not in stated]
    return earlier + messages


def history_of(value, where):
    """Earlier turns: messages, or LlamaFactory's pairs [what was asked, what was answered]."""
    if isinstance(value, str) and value:  # csv
        value = parse_json(value, f"{where}: history", (list,))
    turns = []
    for pair in value if isinstance(value, list) else [value] if value else []:
        if isinstance(pair, list) and len(pair) == 2:
            turns += [{"role": role, "content": text} for role, text in zip(data.ROLES[1:], pair)]
        else:
            turns.append(pair)
    return to_messages(turns, "history", where) if turns else []


# ---- two answers ----


def two_answers(row, where, prompt, first, second, label):
    """data.two_answers for all rows. None: the row has two different prompts."""
    first, second = first_present(row, first), first_present(row, second)
    difference = score_difference(row, first)
    sides = [turns_of(row.pop(name), name, where) for name in (first, second)]
    asked = prompt_of(row, where, prompt)
    if isinstance(sides[0], list) and isinstance(next(iter(sides[0]), None), str):
        return several_chosen(row, where, asked, *sides)
    before, answer = split_answer(sides[0], first, where, asked)
    other_before, other_answer = split_answer(sides[1], second, where, asked)
    same_type = type(sides[0]) is type(sides[1])
    if not same_type or not any(turn["role"] != "system" for turn in asked + before + other_before):
        problem = "prompt is missing" if same_type else f"{first} and {second} differ in type"
        raise BadInput(
            f"{where}: {problem} ({first} {sides[0]!r:.40}, {second} {sides[1]!r:.40}; "
            f"other fields {list(row)!r:.80}): correct it"
        )
    messages = joined(asked, before) if before == other_before else None
    if messages is None:
        return None
    row.pop("messages", None)  # UltraFeedback: chosen once more
    if difference == 0 and first == "chosen":
        label = 0.5
    elif None not in (difference, label) and (difference > 0) - (difference < 0) != 1 - 2 * label:
        row[CONTRADICTION] = difference
    return data.Pair("", messages, (answer, other_answer), label)


def split_answer(value, name, where, prompt):
    """One side of a pair: the messages before the answer, and the answer."""
    if not isinstance(value, list):
        text = checked_text(value, name, where)
        return ([], text) if prompt else split_transcript(text)
    messages = to_messages(value, name, where)
    if messages[-1]["role"] != "assistant":
        raise BadInput(
            f"{where}: {name} ends with a message of role {messages[-1]['role']}: "
            "the last one must be the assistant's answer"
        )
    return messages[:-1], messages[-1]["content"]


def joined(prompt, before):
    """A prompt and the messages before the answers, which go on after it (TRL), hold it
    (UltraFeedback), or repeat its end. None if they say different things.
    """
    if not before or before[0]["role"] == "assistant":
        return prompt + before
    if prompt and prompt[0]["role"] == "system" != before[0]["role"]:
        rest = joined(prompt[1:], before)
        return rest and prompt[:1] + rest
    inner, outer, end = (
        [(turn["role"], *turn["content"].split()) for turn in turns]
        for turns in (prompt, before, prompt[-len(before) :])
    )
    if any(outer[start : start + len(inner)] == inner for start in range(len(outer))):
        return before
    return prompt if end == outer else before if inner[:-1] == outer else None


def score_difference(row, answer):
    """The first answer's score minus the second one's, where a row has both; else None."""
    for name in row:
        for first, second in SIDES if re.search("score|rating|reward", name) else ():
            other = re.sub(rf"(?<![a-zA-Z0-9]){first}(?![a-zA-Z0-9])", second, name)
            values = number(row[name]), number(row.get(other))
            if other != name and None not in values:
                return values[0] - values[1]
    return number(row.get("margin")) if answer == "chosen" else None


def number(value):
    """A finite number, also as csv writes it; None for anything else."""
    try:
        found = float(value) if type(value) in (int, float, str) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


# ---- readers ----

# How the names of two answers and of their scores differ: score_chosen, chosen-rating, reward_a
SIDES = [("chosen", "rejected"), ("chosen", "reject"), ("a", "b"), ("A", "B"), ("1", "2")]
# HelpSteer 2 and 3: a negative number means that the FIRST answer is better.
PREFERENCE_SIGN = {-3: 0, -2: 0, -1: 0, 0: 0.5, 1: 1, 2: 1, 3: 1}
WINNER = {"model_a": 0, "model_b": 1, "a": 0, "b": 1, "tie": 0.5, "tie (bothbad)": 0.5}


def labelled(prompt, first, second, field, meanings):
    """A reader of rows with these fields, and with a label of these meanings."""

    def read(row, where):
        label = label_of(row, field, where, meanings)
        return two_answers(row, where, prompt, first, second, label)

    return f"{prompt} {first} {second} {field}".strip(), read


def ppe_correctness(row, where):
    """response_1 ... response_32 in any order of columns, with one score for each."""
    messages = to_messages(row.pop("prompt"), "prompt", where)
    names = [name for name in row if re.fullmatch(r"response_\d+", name)]
    names.sort(key=lambda name: (len(name), name))  # response_2 before response_10
    candidates = [row.pop(name) for name in names]
    return several_answers(messages, candidates, row.pop("scores"), where)


def pandalm(row, where):
    """The majority of three annotators; without one a tie (never in testset-v1).

    JSON holds some answers as booleans: "True" became true. They are text again here.
    """
    for name in ("response1", "response2"):
        if isinstance(row[name], bool):
            row[name] = str(row[name])
    names = ("annotator1", "annotator2", "annotator3")
    votes = [label_of(row, name, where, {0: 0.5, 1: 0, 2: 1}) for name in names]
    label = 0.5
    for vote in votes:
        if votes.count(vote) > 1:
            label = vote
    generators = str(row.get("cmp_key")).split("_")
    if len(generators) == 2:
        row["generators"] = generators
    return two_answers(row, where, "instruction", "response1", "response2", label)


def rmb_pairwise(row, where):
    return best_and_losers(row, where, row.pop("chosen"), [row.pop("reject")])


def rmb_best_of_n(row, where):
    losers = row.pop("loser_list")
    return best_and_losers(
        row, where, row.pop("bon_best"), losers if isinstance(losers, list) else [losers]
    )


def best_and_losers(row, where, best, losers):
    """A Question whose first candidate is the best; an entry is {answer, llm_name}."""
    entries = [entry if isinstance(entry, dict) else {} for entry in [best, *losers]]
    row["generators"] = [entry.get("llm_name") for entry in entries]
    messages = to_messages(row.pop("conversation_input"), "conversation_input", where)
    candidates = [entry.get("answer") for entry in entries]
    return several_answers(messages, candidates, [1] + [0] * len(losers), where)


def several_chosen(row, where, prompt, chosen, rejected):
    """RM-Bench and RewardBench 2: lists of right and of wrong answers to one prompt."""
    if not prompt or not isinstance(rejected, list):
        raise BadInput(
            f"{where}: rejected is {rejected!r:.80}, and the fields are {list(row)!r:.80}: "
            "a list of chosen answers needs a list of rejected ones, and a prompt"
        )
    if len(chosen) == len(rejected) == 3:
        row["styles"] = [0, 1, 2, 0, 1, 2]  # RM-Bench: concise, detailed, markdown
    scores = [1] * len(chosen) + [0] * len(rejected)
    return several_answers(prompt, chosen + rejected, scores, where)


def split_transcript(text):
    """The messages before the answer, and the answer, of "\n\nHuman: ...\n\nAssistant: ...".

    hh-rlhf writes both in one text; 5 of its 2,312 harmless test rows have two different prompts.
    """
    before, mark, answer = f"\n\n{text.lstrip()}".rpartition("\n\nAssistant:")
    turns = re.split(r"\n\n(Human|Assistant):", before)  # "", speaker, words, speaker, words, ...
    if not mark or turns[0] or turns[1:2] != ["Human"]:
        return [], text
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [
        {"role": roles[speaker], "content": words.strip()}
        for speaker, words in zip(turns[1::2], turns[2::2])
    ]
    return messages, answer.strip()


# (name, required fields, reader) as in data.FORMATS
FORMATS = [
    (
        "HelpSteer3",
        *labelled("context", "response1", "response2", "overall_preference", PREFERENCE_SIGN),
    ),
    (
        "HelpSteer2 preference",
        *labelled("prompt", "response_1", "response_2", "preference_strength", PREFERENCE_SIGN),
    ),
    (
        "JudgeBench",
        *labelled(
            "question", "response_A", "response_B", "label", {"A>B": 0, "B>A": 1, "A=B": 0.5}
        ),
    ),
    ("LLMBar", *labelled("input", "output_1", "output_2", "label", {1: 0, 2: 1})),
    (
        "PPE human preference",
        *labelled(PROMPT, "response_1|response_a", "response_2|response_b", "winner", WINNER),
    ),
    ("arena", *labelled("", "conversation_a", "conversation_b", "winner", WINNER)),
    ("PPE correctness", "prompt response_1 response_2 scores", ppe_correctness),
    ("PandaLM", "instruction response1 response2 annotator1 annotator2 annotator3", pandalm),
    ("RMB best-of-N", "conversation_input bon_best loser_list", rmb_best_of_n),
    ("RMB pairwise", "conversation_input chosen reject", rmb_pairwise),
]


def find_format(row):
    """The first format of this file or questions.py that a row fits, or None."""
    known_formats = FORMATS + QUESTION_FORMATS
    fitting = [known for known in known_formats if not missing_fields(row, known[1])]
    # A prompt with fields of unknown meaning is rather a misspelt row of another format.
    parts = f"{QUESTION}|{SYSTEM}|history|input"
    alone = {*f"{parts}|{data.ID_FIELDS}|source|data_source|meta".split("|")}
    if not fitting or fitting[0][1] == QUESTION and not row.keys() <= alone:
        return None
    return fitting[0]


def misfit(row, known, name, where):
    """The BadInput for a row without the fields of its file's format; None: it fits no format."""
    hint = "the file began as"
    if known is None:
        hint, known = "nearest format:", nearest(row)
    missing = ", ".join(missing_fields(row, known[1]))
    if re.search(r"\.[ct]sv(\.gz)?$", name, re.IGNORECASE):
        where = f"{name} line 1"  # the names of the columns
    return BadInput(
        f"{where}: {missing} missing ({hint} {known[0]}; it has {list(row)!r:.200}): "
        f"{renaming(row) or 'add it'}"
    )


# How the names of two answers differ in files that have to be renamed
NAMES = [*SIDES, ("first", "second"), ("left", "right")]
RANKED = [
    ("accepted", "rejected"),
    ("better", "worse"),
    ("winner", "loser"),
    ("preferred", "rejected"),
]


def renaming(row):
    """Advice for columns that look like a question and two answers; None where none do."""
    found = []  # (characters, names)
    for name in row:
        for first, second in NAMES + RANKED:
            start, mark, end = name.rpartition(first)
            other = start + second + end
            if mark and row.get(name) and row.get(other):
                found.append(
                    (len(f"{row[name]}{row[other]}"), name, other, (first, second) in RANKED)
                )
    if not found:
        return None
    _, first, second, ranked = max(found)
    words = "prompt|question|instruct|query|input|text|history"
    asked = [name for name in row if re.search(words, name.lower())]
    old = asked[0] if asked else "the question", first, second
    new = ("prompt", "chosen", "rejected") if ranked else ("query", "a", "b")
    renamed = ", ".join(
        f"{name:.40} to {better}" for name, better in zip(old, new) if name != better
    )
    return f"rename {renamed}; a label is 0 where a is better, 1 where b is, 0.5 for a tie"


def nearest(row):
    """The format of which a row has the most fields and lacks the fewest."""

    def fit(known):
        return len(known[1].split()) - 2 * len(missing_fields(row, known[1]))

    known_formats = FORMATS + data.FORMATS + QUESTION_FORMATS[:-1]  # without "question alone"
    return max(reversed(known_formats), key=fit)
