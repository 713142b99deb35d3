"""What an evaluation judges: items with answers, gold scores and the matches between the answers.

items = labelled_items("pairs.jsonl")      # any preference set, or questions with candidates
items[0].pair(0, 1)                        # the data.Pair of its first two answers
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cli import BadInput, note
from data import CONTRADICTION, Pair, items_of
from datafiles import files_named
from questions import question_key
from seeding import uniform
from styles import OPTIONAL


@dataclass
class Item:
    id: str
    messages: list  # the prompt
    answers: list  # texts
    scores: list  # gold scores of the answers, higher is better
    matches: list  # (i, j) to be judged
    group: str  # subset, domain or category
    question: str  # items of one question are not independent: bootstraps draw whole questions
    meta: dict = field(default_factory=dict)  # reference and rubric, where the row has them

    def pair(self, i, j, repetition=0):
        """The Pair of answers i and j. Its id seeds the draws.

        It is the id that load_pairs gives, so `judge.py --pairs` plays the same games."""
        name = self.id if len(self.answers) == 2 else f"{self.id}-{i}-{j}"
        if repetition:
            name += f" again {repetition}"
        return Pair(name, self.messages, (self.answers[i], self.answers[j]), meta=self.meta)

    def same_text(self, i, j):
        """Whether answers i and j are one text: a tie, which needs no judge."""
        return self.answers[i].strip() == self.answers[j].strip()


def tied_games(orders):
    """The games of a pair of identical answers, which nobody has to judge."""
    return [
        {"order": order, "verdict": "tie", "status": "valid", "text": "", "tokens": 0}
        for order in orders
    ]


def gold_scores(item):
    """Scores of the answers of a Pair or Question, higher is better; None where nobody judged."""
    if not isinstance(item, Pair):
        return item.scores
    return None if item.label is None else [1 - item.label, item.label]


def better_against_worse(item, scores):
    """The matches of an item: each better answer against each worse one, as load_pairs has them."""
    if isinstance(item, Pair):
        return [(0, 1)]
    players = range(len(scores))
    return [(i, j) for i in players for j in players if scores[i] > scores[j]]


def read_items(name, path, split, group_of, matches_of=better_against_worse, question_of=None):
    """The Items of files (paths joined by commas) or a hub name. Raises BadInput.

    group_of(item, scores): the group of a data.Pair or data.Question, None for a row that does not
    belong to this set. question_of(item, group): what a bootstrap draws; default: the prompt.
    """
    names = [path] if os.path.exists(path) else [part.strip() for part in path.split(",")]
    # a hub name has no file, and is a path that does not exist
    files = [file.resolve() for part in names for file in files_named(part, split) or [Path(part)]]
    if len(set(files)) < len(files):
        raise BadInput(f"--data: {path} names the same data twice: name it once")
    items, dropped, contradicted = [], Counter(), []
    for item in items_of(path, split, dropped):
        scores = gold_scores(item)
        if not scores and name == "pairs":
            raise BadInput(
                f"{path}: row {item.id} has no label (no scores of its candidates): only labelled "
                "data can be evaluated; judge.py --pairs judges without labels"
            )
        group = group_of(item, scores) if scores else None
        matches = matches_of(item, scores) if group is not None else None
        if matches is None:
            raise BadInput(
                f"{path}: row {item.id} does not belong to {name} (scores {scores!r:.40}): "
                "give the benchmark's own file, or --benchmark pairs"
            )
        if CONTRADICTION in item.meta:
            contradicted.append(item.id)
        answers = list(item.answers if isinstance(item, Pair) else item.candidates)
        question = question_of(item, group) if question_of else question_key(item)
        meta = {name: item.meta[name] for name in OPTIONAL if name in item.meta}
        items.append(Item(item.id, item.messages, answers, scores, matches, group, question, meta))
    for reason, count in dropped.items():
        note(f"{path}: {count} {reason} dropped")
    if contradicted:
        note(
            f"{path}: {len(contradicted)} labels contradict the scores beside them, first "
            f"{contradicted[0]}"
        )
    num_same = sum(item.same_text(*match) for item in items for match in item.matches)
    if num_same:
        note(f"{path}: {num_same} pairs of identical answers are ties unless judged")
    return items


def drawn(items, limit, seed):
    """`limit` of the items, chosen by a hash of seed and id, in their order; None: all of them.

    Benchmarks are sorted by subset, so the first items would all be of one kind.
    """
    if limit is None:
        return items
    if limit < 1:
        raise BadInput(f"--limit is {limit}: ask for one or more items, or leave it out")
    ids = sorted((item.id for item in items), key=lambda key: uniform(f"limit:{seed}:{key}"))
    chosen = set(ids[:limit])
    return [item for item in items if item.id in chosen]


def labelled_items(path, limit=None, seed=0):
    """The items of any preference set, or of questions with candidates and scores."""
    items = read_items("pairs", path, "train", lambda item, scores: own_category(item))
    return report_size("pairs", path, drawn(items, limit, seed))


def own_category(item):
    """The category that a row names, else its file."""
    names = ("category", "subset", "domain", "task", "source")
    return str(next((item.meta[name] for name in names if name in item.meta), item.source))


def report_size(name, path, items):
    questions = {item.question for item in items}
    note(f"{name}: {len(items)} items of {len(questions)} questions from {path}")
    return items
