"""How much of each judge benchmark can be had without reading the question? Trivial and question-blind judges on every set at hand.

    python runs/audit/audit.py DATA_FOLDER        writes table.md and audit.log beside itself; needs scikit-learn; two minutes on one core

DATA_FOLDER holds gsm8k/model_solutions.jsonl, judgebench/gpt-4o.jsonl, llmbar/*.json, pandalm/testset-v1.json, rm_bench/chat_filtered.json,
rmb/pairwise_train.json and rmb/bon_dev.json, as their authors publish them; a set that is missing is left out.

All numbers are shares of pairs with a better answer (ties of the annotators left out), equal ones counting half. longest, shortest: characters.
first: as the file has it, where that means something. generator: the model that wins more on the *other* folds (Bradley-Terry strengths).
n-grams: logistic regression on the difference of the two answers' tf-idf vectors of words and word pairs, no question, no lengths, fitted on
the other folds. Five folds of whole questions, by a hash. Intervals: 1,000 bootstraps over questions.
"""

import platform
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import items_of  # noqa: E402
from elo import fit_strengths, win_table  # noqa: E402
from extras.benchmarks import BENCHMARKS, load  # noqa: E402
from seeding import uniform  # noqa: E402

FOLDS = 5
SETS = [
    ("gsm8k_solutions", "gsm8k/model_solutions.jsonl", None),
    ("judgebench", "judgebench/gpt-4o.jsonl", lambda item, i, j: item.group),
    ("llmbar", "llmbar/Natural.json", None),
    ("llmbar", "llmbar/Neighbor.json", None),
    ("llmbar", "llmbar/GPTInst.json", None),
    ("llmbar", "llmbar/GPTOut.json", None),
    ("pandalm", "pandalm/testset-v1.json", None),
    (
        "rm_bench",
        "rm_bench/chat_filtered.json",
        lambda item, i, j: "hard" if i < j - 3 else "normal" if i == j - 3 else "easy",
    ),
    ("rmb", "rmb/pairwise_train.json", None),
    ("rmb", "rmb/bon_dev.json", None),
]


def decided_pairs(name, path, part_of):
    """[(better text, worse text, question, part, better stands first, generators of both or None)]"""
    generators = {
        item.id: item.meta.get("generators") for item in items_of(path, "train", defaultdict(int))
    }
    pairs = []
    for item in load(name, str(path)):
        for i, j in item.matches:
            i, j = (i, j) if item.scores[i] >= item.scores[j] else (j, i)
            if item.scores[i] > item.scores[j]:
                who = generators[item.id] and (generators[item.id][i], generators[item.id][j])
                pairs.append(
                    (
                        item.answers[i],
                        item.answers[j],
                        item.question,
                        part_of and part_of(item, i, j),
                        i < j,
                        who,
                    )
                )
    return pairs


def generator_scores(train, test):
    """1, 0.5 or 0 for each test pair: whether the generator that is stronger in the training pairs made the better answer."""
    names = sorted({name for *_, who in [*train, *test] for name in who})
    matches = [
        (names.index(who[0]), names.index(who[1]), 1.0) for *_, who in train if who[0] != who[1]
    ]
    strengths = fit_strengths(win_table(matches, len(names))[None])[0][0]
    leads = np.array(
        [strengths[names.index(who[0])] - strengths[names.index(who[1])] for *_, who in test]
    )
    return 0.5 + 0.5 * np.sign(np.round(leads, 9))


def ngram_scores(train, test):
    vectors = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]"
    )
    vectors.fit([text for pair in train for text in pair[:2]])

    def difference(pairs):
        return vectors.transform([pair[0] for pair in pairs]) - vectors.transform(
            [pair[1] for pair in pairs]
        )

    features, sign = (
        difference(train),
        np.where(np.arange(len(train)) % 2, 1.0, -1.0),
    )  # half of the pairs are shown the other way round
    model = LogisticRegression(C=10.0, fit_intercept=False, max_iter=2000).fit(
        features.multiply(sign[:, None]).tocsr(), sign
    )
    return 0.5 + 0.5 * np.sign(model.decision_function(difference(test)))


def cross_validated(pairs, scores):
    folds = np.array([int(uniform(f"fold:{pair[2]}") * FOLDS) for pair in pairs])
    result = np.zeros(len(pairs))
    for fold in range(FOLDS):
        held = np.flatnonzero(folds == fold)
        if len(held):
            result[held] = scores(
                [pairs[index] for index in np.flatnonzero(folds != fold)],
                [pairs[index] for index in held],
            )
    return result


def interval(values, questions, rng):
    """Percent and its interval over questions."""
    names = sorted(set(questions))
    place = {name: number for number, name in enumerate(names)}
    index = [place[question] for question in questions]
    sums, counts = np.bincount(index, values), np.bincount(index)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), 1000)
    low, high = np.quantile(drawn @ sums / (drawn @ counts), [0.025, 0.975])
    return 100 * np.mean(values), 100 * low, 100 * high


def audit(name, path, part_of, log):
    pairs = decided_pairs(name, path, part_of)
    lengths = np.array([[len(better), len(worse)] for better, worse, *_ in pairs])
    longest = 0.5 + 0.5 * np.sign(lengths[:, 0] - lengths[:, 1])
    judges = {"longest": longest, "shortest": 1 - longest, "first": None, "generator": None}
    if BENCHMARKS[name].keeps_file_order:
        judges["first"] = np.array([float(pair[4]) for pair in pairs])
    if (
        all(pair[5] and None not in pair[5] for pair in pairs)
        and len({who for pair in pairs for who in pair[5]}) > 1
    ):
        judges["generator"] = cross_validated(pairs, generator_scores)
    judges["n-grams"] = cross_validated(pairs, ngram_scores)
    parts, rows = [None, *sorted({pair[3] for pair in pairs if pair[3]})], []
    for part in parts:
        chosen = [number for number, pair in enumerate(pairs) if part in (None, pair[3])]
        questions = [pairs[number][2] for number in chosen]
        cells = []
        for kind, values in judges.items():
            result = (
                None
                if values is None
                else interval(values[chosen], questions, np.random.default_rng(0))
            )
            spread = (
                f" ({result[1]:.1f} ... {result[2]:.1f})"
                if result and kind in ("generator", "n-grams")
                else ""
            )
            cells.append("-" if result is None else f"{result[0]:.1f}{spread}")
            log(
                f"{path.name} {part or 'all'} {kind}: "
                + ("-" if result is None else "%.2f [%.2f, %.2f]" % result)
            )
        title = f"{name} {path.stem}" if part is None else f"... {part}"
        rows.append(
            f"| {title} | {len(chosen):,} | {len(set(questions)):,} | " + " | ".join(cells) + " |"
        )
    return rows


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python runs/audit/audit.py DATA_FOLDER")
    started, lines = time.time(), []

    def log(line):
        lines.append(line)
        print(line, flush=True)

    log(
        f"python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}, {platform.machine()}"
    )
    rows = [
        row
        for name, path, part_of in SETS
        if (Path(sys.argv[1]) / path).exists()
        for row in audit(name, Path(sys.argv[1]) / path, part_of, log)
    ]
    log(f"{time.time() - started:.0f} s")
    head = (
        "| set | pairs | questions | longest | shortest | first | better generator | n-grams of the answers alone |\n"
        + "|---" * 8
        + "|\n"
    )
    (HERE / "table.md").write_text(
        "Share of pairs (%) that a judge gets right without reading the question; a coin gets 50. See audit.py.\n\n"
        + head
        + "\n".join(rows)
        + "\n"
    )
    (HERE / "audit.log").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
