"""Preference and verifiable data: every public format becomes a Pair or a Question.

A file of {"query", "a", "b", "label"} as plain texts in .jsonl is read here. formats.py and
questions.py read every other row, and datafiles.py every other file; they are loaded only then. The
first row of a file decides its format. A row that cannot be read raises BadInput with file, line
and field. Rows that are left out are counted on standard error.
In most sets the better answer comes first: show answers in the order of `place`, or for a whole
set of `balanced_orders`.
"""

import contextlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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


def label_of(row, name, where, meanings):
    """The label of a row. `meanings`: what the file writes -> index of the better answer."""
    value = row.get(name)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
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


# ---- rows ----

OPTIONAL = ("reference", "rubric")  # texts of a row that a judging prompt may read
ID_FIELDS = "id|pair_id|pair_uid|bon_uid|prompt_id|question_id|unique_id|uid|idx"
LABELS = {0: 0, 1: 1, 0.5: 0.5, None: None, "": None}
CONTRADICTION = "scores contradict the label"  # a key of `meta`
# Fields that may be a part of the prompt, or contradict the label: formats.py reads their rows.
FURTHER = (
    "prompt|question|instruction|messages|conversations|input|system|history"
    "|score|rating|reward|margin"
)


def is_plain_pair(row):
    """Whether `plain_pair` can read a row: no text is JSON, or a transcript written as text."""
    for text in (row.get("query"), row.get("a"), row.get("b")):
        if not isinstance(text, str) or text.lstrip().startswith(("[", "{", "Human:")):
            return False
    return not any(re.search(FURTHER, name) for name in row)


def plain_pair(row, where):
    """A Pair. As every reader does, it pops the fields that it uses; the others become `meta`."""
    label = label_of(row, "label", where, LABELS)
    row.pop("label", None)
    query, *answers = (checked_text(row.pop(name), name, where) for name in ("query", "a", "b"))
    return Pair("", [{"role": "user", "content": query}], tuple(answers), label)


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
        first, known, only_plain = None, None, True
        for position, row in rows:
            where, others = f"{name} {position}", dict(row)
            first = first or row
            only_plain = only_plain and is_plain_pair(row)
            if only_plain:
                item = plain_pair(others, where)
            else:
                import formats

                known = known or formats.find_format(first)
                formats.check_fields(row, known, name, where)
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
        if first is None:
            raise BadInput(f"{name}: holds no rows: check the file")


def unique_id(identity, used):
    """The id, with "-2", "-3", ... where it was used before."""
    unique = identity
    while used[unique]:
        used[identity] += 1
        unique = f"{identity}-{used[identity]}"
    used[unique] += 1
    return unique


def load_pairs(name_or_path, split="train", keep_ties=False):
    """The pairs of files, a folder or a hub dataset, in their order.

    Dropped and counted: ties, and answers that differ only in outer whitespace. With `keep_ties`
    both stay, except equal answers of which a label calls one better. Raises BadInput.
    """
    dropped = Counter({"ties": 0, "identical answers": 0})
    items = items_of(name_or_path, split, dropped)
    return collect(kept_pairs(items, keep_ties, dropped), "pairs", name_or_path, dropped)


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


def load_questions(name_or_path, split="train"):
    """The same as questions; a Pair becomes a question with two candidates. Raises BadInput."""
    import questions

    dropped = Counter()
    items = questions.questions_of(items_of(name_or_path, split, dropped), dropped)
    return collect(items, "questions", name_or_path, dropped)


def collect(items, noun, name, dropped):
    """The list of the items, with a note of what was read and dropped."""
    kept = list(items)
    remarks = [f"{number} {what} dropped" for what, number in dropped.items()]
    wrong = [item.id for item in kept if item.meta.pop(CONTRADICTION, None) is not None]
    if wrong:
        remarks.append(f"{len(wrong)} labels contradict the scores beside them, first {wrong[0]}")
    if not kept:
        raise BadInput(
            f"{name}: no {noun} left ({', '.join(remarks) or 'nothing dropped'}): "
            f"give a file of {noun}"
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
