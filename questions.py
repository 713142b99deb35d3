"""Questions: prompts with an answer that can be checked, or with several candidates and scores.

Rows of questions, their change into pairs, and pairs read as questions. data.py loads this file
only when a file needs it.
"""

import itertools
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cli import BadInput, note
from data import Pair, Question, checked_text, first_present, text_or_number
from seeding import some_items, uniform


class Format(NamedTuple):
    name: str
    fields: str  # that a row needs; "x|y" asks for one of two
    read: Callable  # (row, where) -> Pair or Question, or None where the row has two prompts


QUESTION = "problem|question|query|prompt|messages"
ANSWER = "answer|ground_truth|reward_model"


def question(row, where):
    """A prompt with an answer (GSM8K, MATH-500, verl, Tulu), with candidates, or alone."""
    import formats

    answer_name = first_present(row, ANSWER)
    messages = formats.prompt_of(row, where, QUESTION)
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages = messages[:-1]  # supervised sets end with the answer
    candidates, scores = row.pop("candidates", None), row.pop("scores", None)
    models = [key for key in row if key != answer_name and is_model_solution(row[key])]
    if models:
        # OpenAI's model solutions to TEST questions of GSM8K: one {is_correct, solution} a model
        solutions = [row.pop(model) for model in models]
        candidates = [solution["solution"] for solution in solutions]
        scores = [solution["is_correct"] for solution in solutions]
        row.update(generators=models, test_set="GSM8K", question=messages[0]["content"])
    answer = None
    if answer_name:
        answer = reference_answer(row, answer_name, where, "\nA:" if models else "####")
    if candidates is None:
        return Question("", messages, answer)
    return several_answers(messages, candidates, scores, where, answer)


def is_model_solution(value):
    return isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()


def reference_answer(row, name, where, mark):
    """The answer as text; files write a text, a number, or verl's {"ground_truth": answer}.

    GSM8K writes a rationale before the mark. It is kept as the row's "rationale".
    """
    value = row.pop(name)
    if isinstance(value, dict):
        value = value.get("ground_truth")
    answer = text_or_number(value, name, where).strip()
    if mark in answer:
        rationale, _, answer = answer.rpartition(mark)
        row["rationale"] = rationale.strip()
        answer = answer.strip().replace(",", "")
    if not answer:
        raise BadInput(f"{where}: {name} has no answer in it: add it, or remove the field")
    return answer


def several_answers(messages, candidates, scores, where, answer=None):
    """A Question with candidates, and with one score for each unless `scores` is None."""
    valid = isinstance(candidates, list) and candidates != []
    if valid and scores is not None:
        valid = isinstance(scores, list) and len(scores) == len(candidates)
        valid = valid and all(type(score) in (bool, int, float) for score in scores)
        valid = valid and all(abs(score) < 1e300 for score in scores)  # NaN is not
    if not valid:
        found = f"answers {candidates!r:.60}, scores {scores!r:.60}"
        raise BadInput(f"{where}: {found}: expected a list of answers, a number for each: correct")
    for number, candidate in enumerate(candidates, start=1):
        checked_text(candidate, f"answer {number} of {len(candidates)}", where)
    scores = None if scores is None else [float(score) for score in scores]
    return Question("", messages, answer, candidates, scores)


FORMATS = [
    Format("question and candidates", f"{QUESTION} candidates", question),
    Format("question and answer", f"{QUESTION} {ANSWER}", question),
    Format("question alone", QUESTION, question),
]


# ---- questions as pairs, and pairs as questions ----


def pairs_by_score(question, dropped):
    """Each better candidate (first) with each worse one; counts in `dropped` questions without."""
    pairs, scores = [], question.scores or []
    for i, j in itertools.product(range(len(scores)), repeat=2):
        if scores[i] <= scores[j]:
            continue
        meta = dict(question.meta)
        for key in ("generators", "styles"):
            if isinstance(meta.get(key), list) and len(meta[key]) == len(scores):
                meta[key] = [meta[key][i], meta[key][j]]
        identity = f"{question.id}-{i}-{j}" if len(scores) > 2 else question.id
        answers = (question.candidates[i], question.candidates[j])
        pairs.append(Pair(identity, question.messages, answers, 0, question.source, meta))
    if not pairs:
        dropped["rows without a winner"] += 1
    return pairs


def question_key(item):
    """What splits go by: the prompt without system messages.

    Case, whitespace, and how Unicode composes an accent are ignored.
    """
    contents = [turn["content"] for turn in item.messages if turn["role"] != "system"]
    return " ".join(unicodedata.normalize("NFC", " ".join(contents)).casefold().split())


def split_off(items, number, seed=0):
    """(the other items, the items of `number` questions): no question is in both parts.

    Which questions these are follows from their texts and the seed, not from the order of rows.
    """
    keys = [question_key(item) for item in items]
    by_hash = sorted(set(keys), key=lambda key: uniform(f"split:{seed}:{key}"))
    chosen = set(by_hash[:number])
    others = [item for item, key in zip(items, keys) if key not in chosen]
    return others, [item for item, key in zip(items, keys) if key in chosen]


def hold_out(items, most):
    """(items to train on, held-out items) of --train_data without --eval_data; a note says so.

    One question in ten is held out, at most `most`; none where there are fewer than ten.
    """
    num_questions = len({question_key(item) for item in items})
    number = min(most, num_questions // 10)
    if number == 0:
        note(f"--eval_data: none, and {num_questions} questions are too few to hold some out")
        return items, []
    rest, held_out = split_off(items, number)
    note(
        f"--eval_data: {number} of {num_questions} questions of --train_data are held out (items: "
        f"{len(held_out)} of {len(items)}); --eval_data none trains on all"
    )
    return rest, held_out


def load_held_out(task, train_items, eval_data, limit):
    """(items to train on, held-out items) of --eval_data: a name, several, or held_out."""
    if eval_data == "held_out":
        train_items, held_out = hold_out(train_items, limit)
    elif {",", "="} & set(eval_data) and not Path(eval_data).exists():
        return train_items, load_eval_sets(task, eval_data, limit)
    else:
        held_out = task.load_items(eval_data, "--eval_data", "test")
    return train_items, some_items(held_out, limit)


def questions_of(items, dropped):
    """Yields items as questions; counts in `dropped` the repeated rows.

    The two answers of a pair are candidates.
    DAPO-Math-17k holds each of its rows a hundred times, with equal index and prompt.
    """
    seen = set()
    for item in items:
        extra = item.meta.get("extra_info")
        index = extra.get("index") if isinstance(extra, dict) else None
        key = (str(index), question_key(item))
        if index is not None and key in seen:
            dropped["repeated rows"] += 1
            continue
        seen.add(key)
        if isinstance(item, Pair):
            scores = {0: [1.0, 0.0], 1: [0.0, 1.0], 0.5: [0.5, 0.5], None: None}[item.label]
            answers = list(item.answers)
            item = Question(item.id, item.messages, None, answers, scores, item.source, item.meta)
        yield item


# ---- held-out sets ----


def load_eval_sets(task, text, limit):
    """The items of several sets, `NAME=PATH,PATH,...`, at most `limit` each. Raises BadInput.

    Their `source` is the name of their set: if not given, that of the file without its ending. An
    id that an earlier set has gets the name in front.
    """
    from datafiles import ENDING

    items, names, used = [], [], set()
    for part in text.split(","):
        name, equals, path = part.strip().rpartition("=")
        name = name if equals else ENDING.sub("", Path(path).name)
        if not name or "/" in name or name in names:
            raise BadInput(
                f"--eval_data: {part!r}: a set needs a name of its own, without a slash: write "
                "NAME=PATH,NAME=PATH"
            )
        names.append(name)
        for item in some_items(task.load_items(path, "--eval_data", "test"), limit):
            identity = f"{name}:{item.id}" if item.id in used else item.id
            items.append(replace(item, id=identity, source=name))
        used |= {item.id for item in items}
    return items
