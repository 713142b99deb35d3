"""Makes training data for judges from public sets.

    make_data="python -m extras.make_data"
    $make_data clean --data Skywork/Skywork-Reward-Preference-80K-v0.2 \\
        --drop_sources magpie_ultra --out p.jsonl
    $make_data sample --data gsm8k/train.jsonl --model MODEL --num_answers 8 --out answers.jsonl
    $make_data pairs --data answers.jsonl --out pairs.jsonl     right with wrong answers, balanced
    python judge.py --pairs pairs.jsonl --out judged.jsonl      for label and difficulty
    $make_data label --data pairs.jsonl --judged judged.jsonl --out labelled.jsonl
    $make_data difficulty --data pairs.jsonl --judged judged.jsonl --out hard.jsonl
    $make_data mix --data p.jsonl=3,hard.jsonl=1 --size 10000 --out train.jsonl
    $make_data report --data train.jsonl
    $make_data chains --data train.jsonl --base_url URL --model TEACHER --out chains.jsonl

sample and chains take long: they keep their rows in OUT.partial. After a kill, the same command
continues, and the result is the same. OUT.report.json has settings, counts and numbers about the
pairs. A finished OUT is not made again.
"""

import json
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Optional

import cli
from cli import BadInput, note, setting
from data import load_questions
from extras import ask, mixture
from extras.store import Base, Store, named_pairs
from judge_file import read_judgments
from seeding import uniform
from verdicts import vote_of

# ---- clean, mix, report ----


@dataclass
class Clean(Base):
    drop_sources: str = setting(
        "",
        "sources to leave out (the field source of a row), joined by commas",
        may_be_empty=True,
    )
    against: str = setting(
        "",
        "benchmarks, joined by commas: removes pairs that share half the 8-grams of a question",
        may_be_empty=True,
    )
    sample: Optional[int] = setting(None, "keep only so many, chosen by a hash")


def clean(settings, store):
    pairs = named_pairs(settings.data, keep_ties=True)
    counts = {"read": len(pairs)}
    unwanted = {name.strip() for name in settings.drop_sources.split(",") if name.strip()}
    unknown = unwanted - {pair.source for pair in pairs}
    if unknown:
        raise BadInput(
            f"--drop_sources: {', '.join(sorted(unknown))} is no source in {settings.data}: check "
            "the spelling"
        )
    pairs = [pair for pair in pairs if pair.source not in unwanted and pair.label != 0.5]
    counts["unwanted source or tie"] = counts["read"] - len(pairs)
    pairs, removed = mixture.deduplicate(pairs)
    counts |= removed
    if settings.against:
        texts = []
        for name in settings.against.split(","):
            for question in load_questions(name.strip(), split="test"):
                turns = question.messages
                texts += [turn["content"] for turn in turns if turn["role"] == "user"]
        pairs, counts["contaminated"] = mixture.decontaminate(pairs, texts)
    if settings.sample:
        pairs.sort(key=lambda pair: uniform(f"sample:{settings.seed}:{pair.id}"))
        pairs = pairs[: settings.sample]
    finish(pairs, counts | {"kept": len(pairs)}, settings, store)


def finish(pairs, counts, settings, store):
    """Writes pairs and counts, with a description of the pairs in the report."""
    numbers = mixture.report(pairs, settings.seed)
    store.finish(map(mixture.as_json, pairs), counts, report=numbers)


@dataclass
class Mix(Base):
    size: Optional[int] = setting(
        None, "number of pairs; default: as many as the weights allow without repeating one"
    )


def mix(settings, store):
    """--data FILE=WEIGHT,FILE=WEIGHT: each file with its share; no weights: all of every file."""
    names, weights = [], []
    for part in settings.data.split(","):
        name, _, weight = part.partition("=")
        names.append(name.strip())
        weights.append(weight)
    if any(weights) and not all(map(is_positive, weights)):
        raise BadInput(
            f"--data: {settings.data}: write FILE=WEIGHT, joined by commas, with weights above 0"
        )
    sources = [[pair for pair in named_pairs(name) if pair.label is not None] for name in names]
    read = sum(map(len, sources))
    unique, removed = mixture.deduplicate([pair for source in sources for pair in source])
    kept = {id(pair) for pair in unique}
    sources = [[pair for pair in source if id(pair) in kept] for source in sources]
    if not all(sources):
        raise BadInput("--data: a part holds no labelled pair of its own: leave it out")
    shares = [float(weight or len(source)) for weight, source in zip(weights, sources)]
    try:
        pairs = mixture.mix(sources, shares, settings.size, settings.seed)
    except ValueError as error:
        raise BadInput(f"--size: {error}: lower it, or change the weights") from error
    for number, pair in enumerate(pairs):  # ids of different files may be equal
        pair.id = f"{number}-{pair.id}"
    finish(pairs, {"read": read} | removed | {"kept": len(pairs)}, settings, store)


def is_positive(weight):
    return re.fullmatch(r"\d+(\.\d+)?", weight) and float(weight) > 0


def report(settings, store):
    numbers = mixture.report(named_pairs(settings.data, keep_ties=True), settings.seed)
    print(" " * 22 + "".join(f"{name[:21]:>22}" for name in numbers))
    for field in numbers["all"]:
        line = f"{field:22}"
        for part in numbers.values():
            value = part.get(field)
            if value is None:
                value = "-"
            elif isinstance(value, float):
                value = f"{value:.3f}"
            line += f"{value:>22}"
        print(line)


# ---- pairs ----


@dataclass
class Pairs(Base):
    pairs_per_question: int = setting(1, "at most so many; no answer is in two of them")


def pairs(settings, store):
    """Pairs from answers of `sample`; answers of several models may come from several files."""
    rows = {}
    fields = {"id", "messages", "answer", "source", "candidates", "status", "generators"}
    for name in settings.data.split(","):
        for number, row in cli.read_json_lines(name.strip(), "--data"):
            if not fields <= row.keys():
                raise BadInput(
                    f"{name} line {number}: is no row of `make_data sample`: make the answers with "
                    "that first"
                )
            check_lists(row, f"{name} line {number}")
            known = rows.setdefault(json.dumps(row["messages"]), row)
            if known["answer"] != row["answer"]:
                raise BadInput(
                    f"{name} line {number}: answer is {row['answer']!r:.80}, and "
                    f"{known['answer']!r:.80} in an earlier row of this question: correct one"
                )
            if known is not row:
                for field in ("candidates", "status", "generators"):
                    known[field] = known[field] + row[field]
    rows = list(rows.values())
    if not rows:
        raise BadInput(
            f"--data: {settings.data} holds no answers: make them with `make_data sample`"
        )
    if all(row["answer"] is None for row in rows):
        made, counts = mixture.two_each(rows, settings.seed)
    else:
        made, counts = mixture.choose_pairs(rows, settings.pairs_per_question, settings.seed)
    finish(made, counts, settings, store)


def check_lists(row, place):
    """Raises BadInput where a row of answers lacks its question, or a list has another length."""
    if not (isinstance(row["messages"], list) and row["messages"]):
        raise BadInput(f"{place}: messages is {row['messages']!r:.80}: expected a list of messages")
    for field in ("candidates", "status", "generators"):
        texts = row[field]
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not is_list or len(texts) != len(row["candidates"]):
            raise BadInput(
                f"{place}: {field} is {texts!r:.80}: expected one text for each of the candidates"
            )


# ---- judgments of pairs ----


@dataclass
class Label(Base):
    judged: Optional[str] = setting(
        None, "what judge.py --pairs DATA --out has written, in both orders"
    )


@dataclass
class Difficulty(Label):
    easiest: float = setting(
        0.999,
        "drops pairs in which a larger share of games is right; 0.999: those always right",
    )
    hardest: float = setting(0.0, "drops pairs in which a smaller share is right")


def judged_pairs(settings):
    """[(pair, its row of judge.py)], in order."""
    if not settings.judged:
        raise BadInput("--judged: give what judge.py --pairs DATA --out FILE wrote")
    found = named_pairs(settings.data, keep_ties=True)
    rows = read_judgments(settings.judged, found, "--judged")
    for pair in found:
        if not rows[pair.id].get("games"):
            raise BadInput(
                f"--judged: {settings.judged}: pair {pair.id} has no games: give what judge.py "
                "--out wrote"
            )
    return [(pair, rows[pair.id]) for pair in found]


def label(settings, store):
    """Keeps pairs whose two orders agree on a winner, and labels them with it (RRM used GPT-4o)."""
    counts, kept = Counter(), []
    for pair, row in judged_pairs(settings):
        if row["consistent"] is None:
            raise BadInput(
                f"--judged: pair {pair.id} was judged in one order: judge it in both, without "
                "--one_order"
            )
        if row["consistent"] and row["winner"] == "tie":
            fate = "ties"
        elif row["consistent"]:
            fate = "kept"
            pair.label = "ab".index(row["winner"])
            kept.append(pair)
        elif all(game["status"] == "valid" for game in row["games"]):
            fate = "orders disagree"
        else:
            fate = "invalid verdicts"
        counts[fate] += 1
    finish(kept, dict(counts), settings, store)


def difficulty(settings, store):
    """Drops pairs that the judge gets right too often or too rarely.

    The field `chance` of a pair is the share of games that are right.
    """
    if settings.hardest > settings.easiest:
        raise BadInput(f"--hardest: {settings.hardest} is above --easiest, so no pair is left")
    counts, kept = Counter(), []
    for pair, row in judged_pairs(settings):
        votes = [vote_of(game) for game in row["games"]]
        chance = votes.count(pair.label) / len(votes)
        pair.meta["chance"] = chance
        if pair.label not in (0, 1):
            fate = "unlabelled"
        elif chance > settings.easiest:
            fate = "too easy"
        elif chance < settings.hardest:
            fate = "too hard"
        else:
            fate = "kept"
            kept.append(pair)
        counts[fate] += 1
    finish(kept, dict(counts), settings, store)


COMMANDS = {
    "clean": (Clean, clean),
    "sample": (ask.Sample, ask.sample),
    "pairs": (Pairs, pairs),
    "label": (Label, label),
    "difficulty": (Difficulty, difficulty),
    "mix": (Mix, mix),
    "report": (Base, report),
    "chains": (ask.Chains, ask.chains),
}


def check_numbers(settings):
    """Raises BadInput for a count below 1 and a share or temperature out of its range."""
    for name, value in vars(settings).items():
        if type(value) is int and name != "seed" and value < 1:
            raise BadInput(f"--{name}: must be at least 1, got {value}")
        if name == "temperature" and not 0 <= value < math.inf:
            raise BadInput(f"--temperature: must not be negative, got {value}")
        if name in ("easiest", "hardest") and not 0 <= value <= 1:
            raise BadInput(f"--{name}: is a share of games, from 0 to 1, got {value}")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ["--help"], ["-h"]):
        print(__doc__)
        return
    if argv[0] not in COMMANDS:
        raise BadInput(f"{argv[0]!r} is no command: choose one of {', '.join(COMMANDS)}")
    kind, command = COMMANDS[argv[0]]
    description = (command.__doc__ or __doc__).split("\n")[0]
    settings = cli.parse_settings(kind, argv[1:], description=description)
    for name in ("data", "out"):
        needed = name == "data" or command is not report
        if needed and not getattr(settings, name):
            raise BadInput(f"--{name}: is missing (python -m extras.make_data {argv[0]} --help)")
    check_numbers(settings)
    store = None if command is report else Store(argv[0], settings)
    if store and store.done:
        note(f"{settings.out} is made already")
    else:
        command(settings, store)


if __name__ == "__main__":
    cli.run(main)
