"""Preference and verifiable data: every public format becomes a Pair or a Question.

The first row of a file decides its format. The common formats of pairs are below; formats.py and
questions.py have the others, and datafiles.py reads files that are not .jsonl. All three are loaded
only when a file needs them. A row that cannot be read raises BadInput with file, line and field.
Rows that are left out are counted on standard error.
In most sets the better answer comes first: show answers in the order of `place`, or for a whole
set of `balanced_orders`.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cli import BadInput, note, read_json_lines
from seeding import uniform


@dataclass
class Pair:
    """Two answers to one prompt. `label` is the index of the better answer."""

    id: str
    messages: list  # the prompt: [{"role": ..., "content": ...}, ...]
    answers: tuple  # (str, str)
    label: float | None = None  # 0, 1, 0.5 for a tie, None where nobody judged
    source: str = ""  # name of the file without its ending, or of the hub dataset
    # The other fields of the row. "generators" names the authors of both answers, where known.
    meta: dict = field(default_factory=dict)


@dataclass
class Question:
    """A prompt with a checkable `answer`, or with `candidates` and their `scores`."""

    id: str
    messages: list
    answer: str | None = None
    candidates: list | None = None
    scores: list | None = None  # one number for each candidate, higher is better
    source: str = ""
    meta: dict = field(default_factory=dict)  # "generators" and "styles": one for each candidate


# ---- values of a row; `where` is the file and line that an error message names ----

ROLES = ("system", "user", "assistant", "tool")


def checked_text(value, name, where):
    """The value itself. Raises BadInput unless it is text that UTF-8 can hold."""
    # JSON can write half a surrogate pair, which would fail much later, inside a tokenizer.
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise BadInput(
            f"{where}: {name} is {value!r:.80}, expected text: "
            'write it in quotes ("" if empty), without half surrogates'
        )
    return value


def text_or_number(value, name, where):
    return str(value) if type(value) in (int, float) else checked_text(value, name, where)


def to_messages(value, name, where):
    """A prompt as a list of {"role", "content"}; plain text is one user message."""
    if not is_plain(value):
        import formats

        value = formats.turns_of(value, name, where)
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


def is_plain(value):
    """Whether a value is text, and neither JSON nor a transcript that is written as text."""
    return isinstance(value, str) and not value.lstrip().startswith(("[", "{", "Human:"))


def label_of(row, name, where, meanings):
    """The label of a row. `meanings`: what the file writes -> index of the better answer."""
    value = row.get(name)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9](\.[0-9]{1,3})?", value):
        value = float(value)  # csv writes numbers as text
    if isinstance(value, (bool, list, dict)) or value not in meanings:  # True == 1 in Python
        raise BadInput(
            f"{where}: {name} is {value!r:.80}, expected one of {json.dumps(list(meanings))}: "
            "correct the row"
        )
    return meanings[value]


def first_present(row, names):
    """The first of the fields "x|y" that the row has and that is not null, or None."""
    return next((name for name in names.split("|") if row.get(name) is not None), None)


# ---- readers of the common formats: (row, where) -> Pair or Question ----
# They pop the fields that they use; the others become `meta`. None: the row has two prompts.


def two_answers(row, where, prompt, first, second, label):
    """A Pair from the fields with these names; `prompt` lists several.

    formats.py reads what is no plain text, and rows with FURTHER fields.
    """
    name = first_present(row, prompt)
    is_simple = all(is_plain(row.get(field)) for field in (name, first, second))
    if not is_simple or any(re.search(FURTHER, field) for field in row if field != name):
        import formats

        return formats.two_answers(row, where, prompt, first, second, label)
    answers = tuple(checked_text(row.pop(field), field, where) for field in (first, second))
    return Pair("", to_messages(row.pop(name), name, where), answers, label)


def judge_input(row, where):
    """The judge's own format: {query | messages, a, b}, with or without a label."""
    label = label_of(row, "label", where, {0: 0, 1: 1, 0.5: 0.5, None: None, "": None})
    row.pop("label", None)
    return two_answers(row, where, "query|messages", "a", "b", label)


def preference(row, where):
    """{prompt, chosen, rejected} as texts or messages: TRL, RewardBench, Skywork, UltraFeedback.

    Without a prompt field, the messages before the answers are the prompt. Equal scores are a tie.
    """
    return two_answers(row, where, PROMPT, "chosen", "rejected", 0)


# Fields that are the prompt: the first that a row has.
PROMPT = "query|prompt|question|instruction|messages|conversations|input"
# Further fields that may be a part of the prompt, or contradict the label: formats.py reads these.
FURTHER = f"{PROMPT}|system|history|score|rating|reward|margin"
OPTIONAL = ("reference", "rubric")  # texts of a row that a judging prompt may read
ID_FIELDS = "id|pair_id|pair_uid|bon_uid|prompt_id|question_id|unique_id|uid|idx"
CONTRADICTION = "scores contradict the label"  # a key of `meta`


class Format(NamedTuple):
    name: str
    fields: str  # that a row needs; "x|y" asks for one of two
    read: Callable


FORMATS = [  # the first that fits is taken
    Format("judge input", "query|messages a b", judge_input),
    Format("preference", f"{PROMPT} chosen rejected", preference),
    Format("preference with the prompt inside", "chosen rejected", preference),
]


def missing_fields(row, required):
    groups = required.split()
    return [names.replace("|", " or ") for names in groups if first_present(row, names) is None]


def find_format(row):
    """The first format that a row fits, or None."""
    for known in FORMATS:
        if not missing_fields(row, known.fields):
            return known
    import formats

    return formats.find_format(row)


# ---- files and their items ----


def sources(name_or_path, split):
    """[(name for messages, source, rows)], one for each file; rows are (place in the file, row)."""
    if str(name_or_path).endswith(".jsonl") and os.path.isfile(name_or_path):
        path = Path(name_or_path)
        rows = ((f"line {number}", row) for number, row in read_json_lines(path, "data"))
        return [(str(path), path.stem, rows)]
    import datafiles

    return datafiles.sources(name_or_path, split)


def items_of(name_or_path, split, dropped):
    """Yields each row as a Pair or Question, in order; counts in `dropped` what is left out.

    Ids are the file's own, or else SOURCE-LINE; a repeated one gets "-2", "-3", ...
    """
    used = Counter()
    for name, source, rows in sources(name_or_path, split):
        known = None
        for position, row in rows:
            where = f"{name} {position}"
            known = known or find_format(row)
            if known is None or missing_fields(row, known.fields):
                import formats

                raise formats.misfit(row, known, name, where)
            others = dict(row)  # the reader takes out the fields that it uses
            item = known.read(others, where)
            if item is None:
                dropped["rows with two different prompts"] += 1
                continue
            identity = f"{source}-{position.split()[1]}"  # position: "line 7"
            own_id = first_present(row, ID_FIELDS)
            if own_id and row[own_id] != "":
                identity = text_or_number(row[own_id], own_id, where)
            item.id, item.source = unique_id(identity, used), source
            item.meta = {key: value for key, value in others.items() if value is not None}
            yield item
        if known is None:
            raise BadInput(f"{name}: holds no rows: check the file")


def unique_id(identity, used):
    """The id, with "-2", "-3", ... where it was used before."""
    unique = identity
    while used[unique]:
        used[identity] += 1
        unique = f"{identity}-{used[identity]}"
    used[unique] += 1
    return unique


def load_pairs(name_or_path, split="train", limit=None, keep_ties=False):
    """The pairs of files, a folder or a hub dataset, in their order; at most `limit`.

    Dropped and counted: ties, and answers that differ only in outer whitespace. With `keep_ties`
    both stay, except equal answers of which a label calls one better. Raises BadInput.
    """
    dropped = Counter({"ties": 0, "identical answers": 0})
    items = items_of(name_or_path, split, dropped)
    return collect(kept_pairs(items, keep_ties, dropped), limit, "pairs", name_or_path, dropped)


def kept_pairs(items, keep_ties, dropped):
    for item in items:
        pairs = [item]
        if isinstance(item, Question):
            import questions

            pairs = questions.pairs_by_score(item, dropped)
        for pair in pairs:
            same = pair.answers[0].strip() == pair.answers[1].strip()
            if pair.label == 0.5 and not keep_ties:
                dropped["ties"] += 1
            elif same and (pair.label in (0, 1) or not keep_ties):
                dropped["identical answers"] += 1
            else:
                yield pair


def load_questions(name_or_path, split="train", limit=None):
    """The same as questions; a Pair becomes a question with two candidates. Raises BadInput."""
    import questions

    dropped = Counter()
    items = questions.questions_of(items_of(name_or_path, split, dropped), dropped)
    return collect(items, limit, "questions", name_or_path, dropped)


def collect(items, limit, noun, name, dropped):
    """The list of the first `limit` items, with a note of what was read and dropped."""
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: ask for one or more of the {noun}, or leave it out")
    kept = list(islice(items, limit))
    remarks = [f"{number} {what} dropped" for what, number in dropped.items()]
    wrong = [item.id for item in kept if item.meta.pop(CONTRADICTION, None) is not None]
    if wrong:
        remarks.append(f"{len(wrong)} labels contradict the scores beside them, first {wrong[0]}")
    if not kept:
        raise BadInput(
            f"{name}: no {noun} left ({', '.join(remarks) or 'nothing dropped'}): "
            f"give a file of {noun}, or keep its ties"
        )
    if any(item.meta.get("test_set") == "GSM8K" for item in kept):
        remarks.append("the questions are TEST questions of GSM8K")
    hint = dict.fromkeys(OPTIONAL, " (unless the style shows it)")
    names = {key for item in kept for key in item.meta} - {*ID_FIELDS.split("|"), "source"}
    unread = ", ".join(name + hint.get(name, "") for name in sorted(names))
    remarks += [f"not in the prompt: {unread}"[:300]] if unread else []
    note(f"data: {len(kept)} {noun} from {name}" + (f" ({', '.join(remarks)})" if remarks else ""))
    return kept


# ---- placement ----


def place(pair, seed=0):
    """The order in which to show a pair's answers, [0, 1] or [1, 0]: a coin of seed and id."""
    return [0, 1] if uniform(f"place:{seed}:{pair.id}") < 0.5 else [1, 0]


def balanced_orders(pairs, seed=0):
    """An order for each pair; half of the labelled pairs (give or take one) show the better first.

    Pairs are sorted by label, by which answer is longer, and by a hash of seed and id. Every other
    pair then shows its better answer first, so none of these tells where it is.
    """

    def stratum(index):
        pair = pairs[index]
        longer_first = len(pair.answers[0]) > len(pair.answers[1])
        unlabelled = pair.label not in (0, 1)
        return unlabelled, pair.label == 1, longer_first, uniform(f"order:{seed}:{pair.id}")

    start = int(2 * uniform(f"order:{seed}"))
    orders = [None] * len(pairs)
    for rank, index in enumerate(sorted(range(len(pairs)), key=stratum)):
        first = (start + rank + (pairs[index].label == 1)) % 2
        orders[index] = [first, 1 - first]
    return orders
