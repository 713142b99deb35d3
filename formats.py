"""The data formats beyond plain texts: conversations, prompts in parts, public preference sets.

A reader takes (a copy of the row, its file and line) and returns a Pair or a Question; it pops the
fields that it uses. extras/formats.py has the formats of the official benchmarks.
"""

import json
import re

import data
from cli import BadInput, parse_json
from data import CONTRADICTION, checked_text, first_present, label_of
from plugins import load_extra
from questions import FORMATS as QUESTION_FORMATS
from questions import QUESTION, Format

# ---- messages in other forms ----

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant"}
OTHER_ROLES |= {"observation": "tool", "function": "tool", "developer": "system"}
# Fields of a turn that some models write or read beside its content
NOT_SHOWN = "reasoning_content reasoning thinking refusal images image audio".split()
LIKE_MESSAGES = re.compile(  # begins like messages, names a role and a content
    r"""\s*(?:\[\s*)?\{(?=.*["'](content|value|tool_calls)["']\s*:)"""
    rf""".*["'](role|from)["']\s*:\s*["']({"|".join([*ROLES, *OTHER_ROLES])})["']""",
    re.DOTALL,
)


def to_messages(value, name, where):
    """A prompt as a list of {"role", "content"}; plain text is one user message."""
    value = turns_of(value, name, where)
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    valid = isinstance(turns, list) and turns != []
    if not valid or not all(isinstance(turn, dict) and turn.get("role") in ROLES for turn in turns):
        raise BadInput(
            f"{where}: {name} is {value!r:.120}, expected text or messages of role system, user, "
            "assistant or tool: correct it"
        )
    for turn in turns:
        checked_text(turn["content"], f"content in {name}", where)
    return turns


def turns_of(value, name, where):
    """Messages as a list of {"role", "content"}; anything else stays as it is.

    Read are lists, one message alone, both also as JSON text, and ShareGPT's "from" and "value".
    Tool calls become a part of the content. Contents may be lists of texts.
    """
    if isinstance(value, str) and LIKE_MESSAGES.match(value):
        value = parse_json(value, f"{where}: {name} looks like messages", (list, dict))
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not all(is_turn(turn) for turn in turns):
        return value
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        unseen = [key for key in NOT_SHOWN if turn.get(key)]
        if unseen:
            raise BadInput(
                f"{where}: {name} has a turn with {unseen[0]}, which the judge would not see: "
                "remove it, or make it a part of the content"
            )
        if isinstance(content, list) and all(is_text_part(part) for part in content):
            content = "".join(part["text"] for part in content)
        calls = turn.get("tool_calls") or turn.get("function_call")
        if calls and isinstance(content or "", str):
            calls = json.dumps(calls, ensure_ascii=False)
            content = f"{content or ''}\nTool calls: {calls}".strip()
        messages.append({"role": OTHER_ROLES.get(str(role), role), "content": content})
    return messages


def is_turn(value):
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_text_part(part):
    """{"type": "text", "text": ...}; parquet adds null for the fields of other parts."""
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        return False
    filled = {name for name, value in part.items() if value}
    return part.get("type") == "text" and filled <= {"type", "text"}


# ---- the parts of a prompt ----

# Fields that are the prompt: the first that a row has.
PROMPT = "query|prompt|question|instruction|messages|conversations|input"
SYSTEM = "system", "system_prompt", "system_message"
ASKED = "query", "prompt", "question", "instruction"  # texts of which a row has one


def prompt_of(row, where, names):
    """The messages of a prompt: system, history, what is asked and its input; [] without any."""
    name = first_present(row, names)
    asked = row.pop(name) if name else []
    for other in ASKED if names == PROMPT and isinstance(asked, str) else ():
        text = row.get(other)
        if isinstance(text, str) and text.strip() not in asked:
            if asked.strip() not in text:
                raise BadInput(f"{where}: {name} and {other} differ: which is asked? Keep one")
            asked = text
    more = row.pop("input", None)
    if more and not (isinstance(asked, str) and isinstance(more, str)):
        raise BadInput(f"{where}: input is {more!r:.80} beside {name or 'no prompt'}: join them")
    if more and more.strip() != asked.strip():
        asked = f"{asked}\n\n{more}" if asked else more
    transcript, answer = split_transcript(asked) if isinstance(asked, str) else ([], "")
    if transcript and not answer:  # hh-rlhf with a prompt
        asked = transcript
    messages = to_messages(asked, name, where) if name else []
    earlier = history_of(row.pop("history", None), where)
    stated = [turn for turn in messages if turn["role"] == "system"]
    systems = [row.pop(name, None) for name in SYSTEM]
    systems = [{"role": "system", "content": text} for text in systems if text]
    if systems and any(turn != systems[0] for turn in systems + stated):
        raise BadInput(f"{where}: system messages differ ({systems + stated!r:.160}): keep one")
    if systems or earlier:
        first = to_messages(systems[:1], "system", where) if systems else stated
        messages = first + earlier + [turn for turn in messages if turn not in stated]
    return messages


def history_of(value, where):
    """Earlier turns: messages, or LlamaFactory's pairs [what was asked, what was answered]."""
    if isinstance(value, str) and value:  # csv
        value = parse_json(value, f"{where}: history", (list,))
    turns = value or []
    if isinstance(turns, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in turns):
        roles = "user", "assistant"
        turns = [{"role": role, "content": t} for pair in turns for role, t in zip(roles, pair)]
    return to_messages(turns, "history", where) if turns else []


# ---- two answers ----


def two_answers(row, where, prompt, first, second, label):
    """A Pair from the fields with these names; `prompt` lists several.

    None: the row has two different prompts.
    """
    first, second = first_present(row, first), first_present(row, second)
    difference = score_difference(row, first)
    sides = [turns_of(row.pop(name), name, where) for name in (first, second)]
    asked = prompt_of(row, where, prompt)
    chosen = sides[0]
    if first == "chosen" and isinstance(chosen, list) and chosen and isinstance(chosen[0], str):
        return load_extra("formats").several_chosen(row, where, asked, *sides)
    has_prompt = any(turn["role"] != "system" for turn in asked)
    before, answer = split_answer(sides[0], first, where, has_prompt)
    other_before, other_answer = split_answer(sides[1], second, where, has_prompt)
    same_type = type(sides[0]) is type(sides[1])
    if not same_type or not (has_prompt or before or other_before):
        problem = f"{first} and {second} differ in type: write both alike"
        if same_type:
            problem = "prompt is missing: name it prompt, or put it as messages before both answers"
        raise BadInput(
            f"{where}: {problem} ({first} {sides[0]!r:.40}, {second} {sides[1]!r:.40}; "
            f"other fields {list(row)!r:.80})"
        )
    whole = row.pop("messages", None)  # UltraFeedback: chosen once more
    if whole and not before:
        whole = to_messages(whole, "messages", where)
        before = other_before = whole[:-1] if whole[-1]["role"] == "assistant" else whole
    messages = joined(asked, before) if before == other_before else None
    if messages is None:
        return None
    if difference == 0 and first == "chosen":
        label = 0.5
    elif None not in (difference, label) and (difference > 0) - (difference < 0) != 1 - 2 * label:
        row[CONTRADICTION] = difference
    return data.Pair("", messages, (answer, other_answer), label)


def split_answer(value, name, where, has_prompt):
    """One side of a pair: the messages before the answer, and the answer."""
    if not isinstance(value, list):
        text = checked_text(value, name, where)
        return ([], text) if has_prompt else split_transcript(text)
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
    prompt = [turn for turn in prompt if turn["content"].strip()]
    if prompt and prompt[0]["role"] == "system" and before[0]["role"] != "system":
        rest = joined(prompt[1:], before)
        return rest and prompt[:1] + rest
    asked, shown = words_of(prompt), words_of(before)
    holds = any(shown[start : start + len(asked)] == asked for start in range(len(shown)))
    if holds or asked[:-1] == shown:  # the latter: the prompt goes on to an answer
        return before
    return prompt if asked[-len(shown) :] == shown else None


def words_of(messages):
    """Messages in a form in which whitespace makes no difference."""
    return [(turn["role"], *turn["content"].split()) for turn in messages]


def score_difference(row, answer):
    """The first answer's score minus the second one's, where a row has both; else None.

    Files have scores: [7, 3], or score_chosen and score_rejected, or a margin of the chosen one.
    """
    for name, value in row.items():
        scores = []
        if answer == "chosen" and re.search("margin|(score|rating|reward)_diff", name):
            scores = [value, 0]
        elif name in ("scores", "ratings") and isinstance(value, list):
            scores = value
        elif re.search("score|rating|reward", name):
            other = second_name(name, row)
            scores = [value, row[other]] if other else []
        numbers = [number(score) for score in scores]
        if len(numbers) == 2 and None not in numbers:
            return numbers[0] - numbers[1]
    return None


def second_name(name, row):
    """The second answer's field beside one of the first: score_rejected for score_chosen."""
    for first, second in SIDES:
        other = re.sub(rf"(?<![a-zA-Z0-9]){first}(?![a-zA-Z0-9])", second, name)
        if other != name and other in row:
            return other
    return None


def number(value):
    """A number, also as csv writes it; None for anything else."""
    found = re.fullmatch(r"-?[0-9]{1,99}([.,][0-9]+)?(e[-+]?[0-9]{1,2})?", str(value))
    return float(found[0].replace(",", ".")) if found else None


# ---- readers ----

# How the names of two answers and of their scores differ: score_chosen, chosen-rating, reward_a
SIDES = [("chosen", "rejected"), ("chosen", "reject"), ("a", "b"), ("A", "B"), ("1", "2")]
# HelpSteer 2 and 3: a negative number means that the FIRST answer is better.
SIGN = {-3: 0, -2: 0, -1: 0, 0: 0.5, 1: 1, 2: 1, 3: 1}
WINNER = {"model_a": 0, "model_b": 1, "a": 0, "b": 1, "A": 0, "B": 1}
WINNER |= {"tie": 0.5, "tie (bothbad)": 0.5}


def judge_input(row, where):
    """The judge's own format: {query | messages, a, b}, with or without a label."""
    label = label_of(row, "label", where, data.LABELS)
    row.pop("label", None)
    return two_answers(row, where, "query|messages", "a", "b", label)


def preference(row, where):
    """{prompt, chosen, rejected} as texts or messages: TRL, RewardBench, Skywork, UltraFeedback.

    Without a prompt field, the messages before the answers are the prompt. Equal scores are a tie.
    """
    return two_answers(row, where, PROMPT, "chosen", "rejected", 0)


def labelled(name, fields, meanings):
    """The Format of rows with a prompt, two answers and a label of these meanings."""

    def read(row, where):
        *prompt, first, second, field = fields.split()
        label = label_of(row, field, where, meanings)
        return two_answers(row, where, "".join(prompt), first, second, label)

    return Format(name, fields, read)


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


FORMATS = [  # the first that fits is taken
    Format("judge input", "query|messages a b", judge_input),
    Format("preference", f"{PROMPT} chosen rejected", preference),
    Format("preference with the prompt inside", "chosen rejected", preference),
    labelled("HelpSteer3", "context response1 response2 overall_preference", SIGN),
    labelled("HelpSteer2 preference", "prompt response_1 response_2 preference_strength", SIGN),
    labelled("PPE", f"{PROMPT} response_1|response_a response_2|response_b winner", WINNER),
    labelled("conversations", "conversation_a conversation_b winner", WINNER),
]


def benchmarks():
    """extras/formats.py; None in the core alone."""
    try:
        return load_extra("formats")
    except BadInput:
        return None


def pair_formats():
    return FORMATS + (benchmarks().FORMATS if benchmarks() else [])


def missing_fields(row, required):
    groups = required.split()
    return [names.replace("|", " or ") for names in groups if first_present(row, names) is None]


def find_format(row):
    """The first format that a row fits, or None."""
    fitting = [
        known
        for known in pair_formats() + QUESTION_FORMATS
        if not missing_fields(row, known.fields)
    ]
    # A prompt with fields of unknown meaning is rather a misspelt row of another format.
    names = f"{QUESTION}|{data.ID_FIELDS}|source|data_source|meta|history|input"
    alone = {*names.split("|"), *SYSTEM}
    if not fitting or fitting[0].fields == QUESTION and not row.keys() <= alone:
        return None
    return fitting[0]


def check_fields(row, known, name, where):
    """Raises BadInput for a row without the fields of its format. None: it fits no format."""
    if known and not missing_fields(row, known.fields):
        return
    hint = "the file began as"
    if known is None:
        hint, known = "nearest format:", nearest(row)
    missing = ", ".join(missing_fields(row, known.fields))
    if re.search(r"\.[ct]sv(\.gz)?$", name, re.IGNORECASE):
        where = f"{name} line 1"  # the names of the columns
    problem = f"{missing} missing ({hint} {known.name}; it has {list(row)!r:.200})"
    advice = f"add it, or {benchmarks().renaming(row)}" if benchmarks() else "add it"
    raise BadInput(f"{where}: {problem}: {advice}")


def nearest(row):
    """The format of which a row has the most fields and lacks the fewest; not "question alone"."""

    def fit(known):
        return len(known.fields.split()) - 2 * len(missing_fields(row, known.fields))

    return max(reversed(pair_formats() + QUESTION_FORMATS[:-1]), key=fit)
