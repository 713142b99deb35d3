"""Stage 1: what the small judge learns from, what it is tested on, and the check that no question is in both.

    python runs/smollm2/prepare.py --data DATA --model MODEL --out out/smollm2/data

DATA holds gsm8k/model_solutions.jsonl, rmb/, pandalm/, llmbar/ and judgebench/ as their authors publish them. Written into the folder OUT:

train.jsonl  pairs of three sources. gsm8k: right and wrong model solutions to 800 of the 1,000 questions. rmb: labels by AI feedback.
             constraints: made by constraints.py, labels by program. In gsm8k and rmb, among the pairs of the same two generators the longer
             answer is right as often as it is wrong, and each generator is right as often as the other (extras.mixture.choose_pairs)
eval/        the test sets in their authors' own formats, less ties and what is too long for a model this small; rmb is the best-of-N part of
             the benchmark whose pairs are trained on: in distribution
sets.json    the counts of all that

RMB and JudgeBench have no licence file: OUT stays on your machine.
"""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs" / "smollm2")]

import constraints  # noqa: E402

import cli  # noqa: E402
from chat import encode_chat, load_tokenizer
from checkpoint import resolve_model
from cli import BadInput, note, setting  # noqa: E402
from data import load_pairs, load_questions, question_key, split_by_question
from datafiles import file_rows
from extras import mixture  # noqa: E402
from extras.benchmarks import load  # noqa: E402
from seeding import uniform  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402

TESTS = {
    "gsm8k": ("gsm8k_solutions", "gsm8k/model_solutions.jsonl"),
    "pandalm": ("pandalm", "pandalm/testset-v1.json"),
    **{
        f"llmbar/{part}": ("llmbar", f"llmbar/{part}.json")
        for part in ("Natural", "Neighbor", "GPTInst", "GPTOut")
    },
    "rmb": ("rmb", "rmb/bon_dev.json"),
    "judgebench": ("judgebench", "judgebench/gpt-4o.jsonl"),
}


@dataclass
class Settings:
    data: str = setting("data", "folder with the public sets")
    model: str = setting("models/smollm2", "whose tokenizer counts the tokens of a prompt")
    style: str = setting("rrm_short", "judging prompt, for the same purpose")
    out: str = setting("out/smollm2/data", "folder to write")
    train_pairs: int = setting(
        480, "pairs to learn from: half constraints, a quarter gsm8k, a quarter rmb"
    )
    train_tokens: int = setting(400, "longer prompts are left out of the training pairs")
    test_tokens: int = setting(
        1000, "items with a longer prompt are left out of the test sets, and counted"
    )
    limit: int = setting(100, "items of each test set at most, drawn by a hash")
    limit_questions: int = setting(50, "the same for gsm8k and rmb, whose items have several pairs")
    seed: int = setting(0, "decides splits and draws")


def question_rows(questions):
    """Questions with scored candidates as the rows that mixture.choose_pairs reads."""
    return [
        {
            "id": item.id,
            "messages": item.messages,
            "source": "gsm8k",
            "candidates": item.candidates,
            "status": ["right" if score else "wrong" for score in item.scores],
            "generators": item.meta["generators"],
        }
        for item in questions
    ]


def pair_rows(pairs):
    """The same for labelled pairs: each a question of its own with one right and one wrong answer."""
    return [
        {
            "id": pair.id,
            "messages": pair.messages,
            "source": "rmb",
            "candidates": list(pair.answers),
            "status": ["right" if index == pair.label else "wrong" for index in (0, 1)],
            "generators": pair.meta["generators"],
        }
        for pair in pairs
    ]


def balanced_draw(pairs, count, seed):
    """About `count` pairs, drawn as couples: two pairs whose right answers have the roles of generators and lengths exchanged, so that the
    draw is as balanced as choose_pairs makes the whole. ValueError if there are not so many."""
    cells, couples = defaultdict(list), []
    for pair in sorted(pairs, key=lambda pair: uniform(f"cell:{seed}:{pair.id}")):
        option = (int(pair.label), 1 - int(pair.label))
        cells[
            mixture.cell_of(
                {"generators": pair.meta["generators"], "candidates": pair.answers}, option
            )
        ].append(pair)
    for cell, own in cells.items():
        other = cells.get(mixture.mirrored(cell), [])
        if (
            mixture.mirrored(cell) == cell
        ):  # one generator, equally long answers: nothing to balance
            couples += [[pair] for pair in own]
        elif cell < mixture.mirrored(cell):
            couples += [list(couple) for couple in zip(own, other)]
    drawn = []
    for couple in sorted(couples, key=lambda couple: uniform(f"couple:{seed}:{couple[0].id}")):
        drawn += couple if len(drawn) + len(couple) <= count else []
    if len(drawn) < count - 1:
        raise ValueError(f"{count} balanced pairs are not there, only {len(drawn)}")
    return drawn


def check_disjoint(train, tests):
    """BadInput where a question of the training pairs is in a test set {name: items or pairs}, case and blanks aside."""
    keys = {question_key(pair): pair.id for pair in train}
    for name, items in tests.items():
        for item in items:
            if question_key(item) in keys:
                raise BadInput(
                    f"training pair {keys[question_key(item)]} asks the question of {item.id} in the test set {name}: leave it out"
                )


def read_test(name, settings, tokens_of, questions):
    """([(item, raw row), ...] that are kept, counts) of one public test set. `questions`: keys that gsm8k may be tested on."""
    benchmark, file = TESTS[name]
    path = Path(settings.data) / file
    items, counts = load(benchmark, str(path)), Counter()
    kept = []
    for item, (_, row) in zip(items, file_rows(path), strict=True):
        own = name != "gsm8k" or question_key(item) in questions
        decided = max(item.scores) > min(item.scores)
        fate = (
            "training questions"
            if not own
            else "ties, or all answers equally good"
            if not decided
            else "too long"
            if max(
                tokens_of(item.messages, item.answers[i], item.answers[j]) for i, j in item.matches
            )
            > settings.test_tokens
            else "fit"
        )
        counts[fate] += 1
        kept += [(item, row)] if fate == "fit" else []
    limit = settings.limit_questions if name in ("gsm8k", "rmb") else settings.limit
    kept = sorted(kept, key=lambda entry: uniform(f"test:{settings.seed}:{name}:{entry[0].id}"))[
        :limit
    ]
    return kept, dict(counts) | {"kept": len(kept)}


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def generator_shares(questions):
    """Share of right answers of each generator, over training questions: {name: share}, the best one first."""
    right = defaultdict(list)
    for question in questions:
        for name, score in zip(question.meta["generators"], question.scores):
            right[name].append(score)
    return dict(
        sorted(
            ((name, sum(scores) / len(scores)) for name, scores in right.items()),
            key=lambda entry: -entry[1],
        )
    )


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    out, tokenizer, style = (
        Path(settings.out),
        load_tokenizer(resolve_model(settings.model)),
        load_style(settings.style),
    )

    def tokens_of(messages, first, second):
        return len(encode_chat(tokenizer, judge_messages(style, messages, first, second)))

    def short(pair):
        return tokens_of(pair.messages, *pair.answers) <= settings.train_tokens

    questions = load_questions(Path(settings.data) / TESTS["gsm8k"][1])
    train_questions, test_questions = split_by_question(
        questions, len(questions) // 5, settings.seed
    )
    tests, counts = {}, {}
    for name in TESTS:
        tests[name], counts[name] = read_test(
            name, settings, tokens_of, set(map(question_key, test_questions))
        )
    constraint_rows = {
        "train": constraints.pairs(
            settings.seed, settings.train_pairs // 4 * 2, False
        ),  # siblings stay together
        "test": constraints.pairs(settings.seed, settings.limit // 2 * 2, True),
    }
    for side, rows in constraint_rows.items():
        write_rows(out / f"constraints_{side}.jsonl", rows)
    made = load_pairs(out / "constraints_train.jsonl")
    for pair in made:
        pair.source = "constraints"

    test_texts = [
        turn["content"]
        for entries in tests.values()
        for item, _ in entries
        for turn in item.messages
        if turn["role"] == "user"
    ]
    parts, part_counts = [made], {}
    for name, rows in (
        ("gsm8k", question_rows(train_questions)),
        ("rmb", pair_rows(load_pairs(Path(settings.data) / "rmb/pairwise_train.json"))),
    ):
        pairs, part_counts[name] = mixture.choose_pairs(rows, 1, settings.seed)
        pairs = [pair for pair in pairs if short(pair)]
        part_counts[name]["short enough"] = len(pairs)
        pairs, part_counts[name]["near a test question"] = mixture.decontaminate(pairs, test_texts)
        try:
            parts.append(balanced_draw(pairs, len(made) // 2, settings.seed))
        except ValueError as error:
            raise BadInput(
                f"--train_pairs: {name}: {error}: lower it, or raise --train_tokens"
            ) from error
    train = sorted(
        (pair for part in parts for pair in part),
        key=lambda pair: uniform(f"mix:{settings.seed}:{pair.id}"),
    )
    everything = {name: [item for item, _ in entries] for name, entries in tests.items()} | {
        "gsm8k, all test questions": test_questions,
        "constraints": load_pairs(out / "constraints_test.jsonl"),
    }
    check_disjoint(train, everything)

    for name, entries in tests.items():
        write_rows(out / "eval" / f"{name}.jsonl", [row for _, row in entries])
    write_rows(out / "eval" / "constraints.jsonl", constraint_rows["test"])
    right = [sum(question.scores) for question in test_questions]
    report = {
        "train": part_counts,
        "mixture": {
            name: mixture.describe(part)
            for name, part in zip(("constraints", "gsm8k", "rmb"), parts)
        },
        "tests": counts,
        "generators": generator_shares(train_questions),
        "gsm8k test questions": {
            "all": len(right),
            "mixed": sum(0 < number < 4 for number in right),
            "all right": right.count(4),
        },
    }
    (out / "sets.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial = out / "train.jsonl.partial"  # the last file to appear: it says that the stage is done
    write_rows(partial, map(json.loads, map(mixture.as_json, train)))
    partial.replace(out / "train.jsonl")
    note(
        f"{len(train)} training pairs, {sum(len(entries) for entries in tests.values()) + len(constraint_rows['test'])} test items: {out}"
    )


if __name__ == "__main__":
    cli.run(main)
