"""Makes training data for judges from public sets: preference pairs, pairs from checkable questions, judged pairs, distilled chains, mixtures.

    python -m extras.make_data clean      --data Skywork/Skywork-Reward-Preference-80K-v0.2 --drop_sources magpie_ultra --out p.jsonl
    python -m extras.make_data sample     --data gsm8k/train.jsonl --model MODEL --num_answers 8 --out answers.jsonl
    python -m extras.make_data pairs      --data answers.jsonl --out pairs.jsonl              right with wrong answers, balanced
    python -m extras.make_data label      --data pairs.jsonl --judged judged.jsonl --out labelled.jsonl       judged: by judge.py --pairs
    python -m extras.make_data difficulty --data pairs.jsonl --judged judged.jsonl --out hard.jsonl
    python -m extras.make_data mix        --data p.jsonl=3,hard.jsonl=1 --size 10000 --out train.jsonl
    python -m extras.make_data report     --data train.jsonl
    python -m extras.make_data chains     --data train.jsonl --base_url URL --model TEACHER --style rm_r1 --out chains.jsonl

What takes long (sample, chains) is kept row by row in OUT.partial: killed and called again it goes on, and the result is the same. Beside
OUT stands OUT.report.json with settings, counts and the mixture's numbers. A finished OUT is not made again.
"""

import json
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
from seeding import uniform

# ---- clean, mix, report ----


@dataclass
class Clean(Base):
    drop_sources: str = setting(
        "", "values of the rows' field source to leave out, joined by commas, such as magpie_ultra"
    )
    against: str = setting(
        "",
        "benchmarks, joined by commas: what shares half of a question's 8-grams with one of them is removed",
    )
    sample: Optional[int] = setting(None, "keep so many, chosen by a hash")


def clean(settings, store):
    pairs, counts = named_pairs(settings.data, keep_ties=True), {}
    unwanted = {name.strip() for name in settings.drop_sources.split(",") if name.strip()}
    unknown = unwanted - {pair.source for pair in pairs}
    if unknown:
        raise BadInput(
            f"--drop_sources: {', '.join(sorted(unknown))} is no source in {settings.data}: check the spelling"
        )
    counts["read"] = len(pairs)
    pairs = [pair for pair in pairs if pair.source not in unwanted and pair.label != 0.5]
    counts["unwanted source or tie"] = counts["read"] - len(pairs)
    pairs, removed = mixture.deduplicate(pairs)
    counts |= removed
    if settings.against:
        questions = [
            question
            for name in settings.against.split(",")
            for question in load_questions(name.strip(), split="test")
        ]
        texts = [
            turn["content"]
            for question in questions
            for turn in question.messages
            if turn["role"] == "user"
        ]
        pairs, counts["contaminated"] = mixture.decontaminate(pairs, texts)
    if settings.sample:
        pairs = sorted(pairs, key=lambda pair: uniform(f"sample:{settings.seed}:{pair.id}"))[
            : settings.sample
        ]
    store.finish(
        map(mixture.as_json, pairs),
        counts | {"kept": len(pairs)},
        report=mixture.report(pairs, settings.seed),
    )


@dataclass
class Mix(Base):
    size: Optional[int] = setting(
        None, "pairs in all; default: as many as the weights allow without repeating one"
    )


def mix(settings, store):
    """--data FILE=WEIGHT,FILE=WEIGHT: each file with its share; without any weight, all of every file."""
    names, weights = zip(
        *(
            (name.strip(), weight)
            for name, _, weight in (part.partition("=") for part in settings.data.split(","))
        )
    )
    if any(weights) and not all(
        re.fullmatch(r"\d+(\.\d+)?", weight) and float(weight) > 0 for weight in weights
    ):
        raise BadInput(
            f"--data: {settings.data}: write FILE=WEIGHT, joined by commas, with weights above 0"
        )
    sources = [[pair for pair in named_pairs(name) if pair.label is not None] for name in names]
    if not all(sources):
        raise BadInput("--data: a part holds no labelled pair: leave it out")
    try:
        pairs = mixture.mix(
            sources,
            [float(weight or len(source)) for weight, source in zip(weights, sources)],
            settings.size,
            settings.seed,
        )
    except ValueError as error:
        raise BadInput(f"--size: {error}: lower it, or change the weights") from error
    kept, removed = mixture.deduplicate(pairs)
    for number, pair in enumerate(kept):  # ids of different files may be equal
        pair.id = f"{number}-{pair.id}"
    store.finish(
        map(mixture.as_json, kept),
        {"drawn": len(pairs)} | removed | {"kept": len(kept)},
        report=mixture.report(kept, settings.seed),
    )


def report(settings, store):
    numbers = mixture.report(named_pairs(settings.data, keep_ties=True), settings.seed)
    print(f"{'':22}" + "".join(f"{name[:21]:>22}" for name in numbers))
    for field in numbers["all"]:
        values = [part.get(field) for part in numbers.values()]
        print(
            f"{field:22}"
            + "".join(
                f"{'-' if value is None else value if isinstance(value, int) else f'{value:.3f}':>22}"
                for value in values
            )
        )


# ---- pairs ----


@dataclass
class Pairs(Base):
    pairs_per_question: int = setting(1, "at most; no answer stands in two of them")


def pairs(settings, store):
    """Answers of several models to a question come together from several files."""
    rows = {}
    for name in settings.data.split(","):
        for number, row in cli.read_json_lines(name.strip(), "--data"):
            if (
                not {"id", "messages", "answer", "source", "candidates", "status", "generators"}
                <= row.keys()
            ):
                raise BadInput(
                    f"{name} line {number}: is no row of `make_data sample`: make the answers with that first"
                )
            known = rows.setdefault(json.dumps(row["messages"]), row)
            for field in ("candidates", "status", "generators") if known is not row else ():
                known[field] = known[field] + row[field]
    rows = list(rows.values())
    unlabelled = all(row["answer"] is None for row in rows)
    made, counts = (
        mixture.two_each(rows, settings.seed)
        if unlabelled
        else mixture.choose_pairs(rows, settings.pairs_per_question, settings.seed)
    )
    store.finish(map(mixture.as_json, made), counts, report=mixture.report(made, settings.seed))


# ---- what a judge has said about pairs ----


@dataclass
class Label(Base):
    judged: Optional[str] = setting(
        None, "what judge.py --pairs DATA --out has written, in both orders"
    )


@dataclass
class Difficulty(Label):
    easiest: float = setting(
        0.999,
        "pairs in which a larger share of the games is right are dropped; 0.999: only those that are always right",
    )
    hardest: float = setting(0.0, "pairs in which a smaller share is right are dropped")


def judged_pairs(settings):
    """[(pair, its row of judge.py)], in order."""
    if not settings.judged:
        raise BadInput("--judged: give what judge.py --pairs DATA --out FILE wrote")
    rows = {row.get("id"): row for _, row in cli.read_json_lines(settings.judged, "--judged")}
    found = named_pairs(settings.data, keep_ties=True)
    lacking = [pair.id for pair in found if "games" not in rows.get(pair.id, {})]
    if lacking:
        raise BadInput(
            f"--judged: {settings.judged} has no judgment of {len(lacking)} pairs, the first is {lacking[0]}: let judge.py finish"
        )
    return [(pair, rows[pair.id]) for pair in found]


def label(settings, store):
    """The winner where both orders agree on one (RRM took GPT-4o's word); disagreement is dropped."""
    counts, kept = Counter(), []
    for pair, row in judged_pairs(settings):
        if row["consistent"] is None:
            raise BadInput(
                f"--judged: pair {pair.id} was judged in one order: judge it in both, without --one_order"
            )
        fate = (
            "kept"
            if row["consistent"]
            else "orders disagree"
            if all(game["status"] == "valid" for game in row["games"])
            else "invalid verdicts"
        )
        counts[fate] += 1
        if fate == "kept":
            pair.label = "ab".index(row["winner"])
            kept.append(pair)
    store.finish(
        map(mixture.as_json, kept), dict(counts), report=mixture.report(kept, settings.seed)
    )


def difficulty(settings, store):
    """Drops what the judge gets right too often, or too rarely; the share that is right is kept as `chance`."""
    counts, kept = Counter(), []
    for pair, row in judged_pairs(settings):
        votes = [
            None if game["verdict"] is None else game["order"][game["verdict"] - 1]
            for game in row["games"]
        ]
        pair.meta["chance"] = votes.count(pair.label) / len(votes)
        fate = (
            "unlabelled"
            if pair.label not in (0, 1)
            else "too easy"
            if pair.meta["chance"] > settings.easiest
            else "too hard"
            if pair.meta["chance"] < settings.hardest
            else "kept"
        )
        counts[fate] += 1
        kept += [pair] if fate == "kept" else []
    store.finish(
        map(mixture.as_json, kept), dict(counts), report=mixture.report(kept, settings.seed)
    )


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


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ["--help"], ["-h"]):
        print(__doc__)
        return
    if argv[0] not in COMMANDS:
        raise BadInput(f"{argv[0]!r} is no command: choose one of {', '.join(COMMANDS)}")
    kind, command = COMMANDS[argv[0]]
    settings = cli.parse_settings(
        kind, argv[1:], description=(command.__doc__ or __doc__).split("\n")[0]
    )
    for name in ("data", "out"):
        if not getattr(settings, name) and (name, command) != ("out", report):
            raise BadInput(f"--{name}: is missing (python -m extras.make_data {argv[0]} --help)")
    store = None if command is report else Store(argv[0], settings)
    if store and store.done:
        return note(f"{settings.out} is made already")
    command(settings, store)


if __name__ == "__main__":
    cli.run(main)
