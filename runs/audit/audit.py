"""How much of each judge benchmark can be had without reading the question? Trivial judges.

    python runs/audit/audit.py DATA_FOLDER       prints table.md; needs scikit-learn; two minutes

All numbers are shares of pairs with a better answer, equal ones counting half. longest, shortest:
characters. first: as the file has it, where that means something. generator: the model that wins
more on the *other* folds (Bradley-Terry strengths). n-grams: logistic regression on the difference
of the two answers' tf-idf vectors of words and word pairs, fitted on the other folds. Five folds
of whole questions, by a hash. Intervals: 1,000 bootstraps over questions.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from measures import markdown_table  # noqa: E402

from data import items_of  # noqa: E402
from elo import match_columns  # noqa: E402
from extras.benchmarks import BENCHMARKS, load  # noqa: E402
from extras.scoring import add_cells, intervals, means  # noqa: E402
from seeding import uniform  # noqa: E402
from strengths import add_up, fit_strengths  # noqa: E402

FOLDS = 5
SETS = (  # those that are missing in the folder are left out
    ("gsm8k_solutions", "gsm8k/model_solutions.jsonl"),
    ("judgebench", "judgebench/gpt-4o.jsonl"),
    ("llmbar", "llmbar/Natural.json"),
    ("llmbar", "llmbar/Neighbor.json"),
    ("llmbar", "llmbar/GPTInst.json"),
    ("llmbar", "llmbar/GPTOut.json"),
    ("pandalm", "pandalm/testset-v1.json"),
    ("rm_bench", "rm_bench/chat_filtered.json"),
    ("rmb", "rmb/pairwise_train.json"),
    ("rmb", "rmb/bon_dev.json"),
)


def part_of(name, item, better, worse):
    """The part of a set that has a row of its own in the table, or None."""
    if name == "judgebench":
        return item.group
    if name == "rm_bench":  # answers 0 to 2 are better ones, 3 to 5 worse ones, by length
        return "normal" if better == worse - 3 else "hard" if better < worse - 3 else "easy"
    return None


def decided_pairs(name, path):
    """One dict a pair with a better answer: texts, question, part, generators of both or None."""
    generators = {}
    for item in items_of(path, "train", defaultdict(int)):
        generators[item.id] = item.meta.get("generators")
    pairs = []
    for item in load(name, str(path)):
        for i, j in item.matches:
            better, worse = (i, j) if item.scores[i] >= item.scores[j] else (j, i)
            if item.scores[better] == item.scores[worse]:
                continue
            names = generators[item.id]
            pairs.append(
                {
                    "texts": (item.answers[better], item.answers[worse]),
                    "question": item.question,
                    "part": part_of(name, item, better, worse),
                    "first": better < worse,
                    "generators": names and (names[better], names[worse]),
                }
            )
    return pairs


def share_right(leads):
    """1, 0.5 or 0 for leads of the better answer above, at or below 0."""
    return 0.5 + 0.5 * np.sign(leads)


def generator_scores(train, test):
    """Whether the generator that is stronger in the training pairs made the better answer."""
    names = sorted({name for pair in train + test for name in pair["generators"]})
    matches = []
    for pair in train:
        winner, loser = (names.index(name) for name in pair["generators"])
        if winner != loser:
            matches.append((winner, loser, 1.0))
    pairs = add_up(*match_columns(matches, len(names)), len(names))
    strengths = fit_strengths(pairs).strengths
    places = np.array([[names.index(name) for name in pair["generators"]] for pair in test])
    return share_right(np.round(strengths[places[:, 0]] - strengths[places[:, 1]], 9))


def ngram_scores(train, test):
    words = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b|[^\w\s]"}
    vectors = TfidfVectorizer(min_df=2, sublinear_tf=True, **words)
    vectors.fit([text for pair in train for text in pair["texts"]])

    def features(pairs):
        better = vectors.transform([pair["texts"][0] for pair in pairs])
        return better - vectors.transform([pair["texts"][1] for pair in pairs])

    # Half of the pairs are shown the other way round.
    sign = np.where(np.arange(len(train)) % 2, 1.0, -1.0)
    model = LogisticRegression(C=10.0, fit_intercept=False, max_iter=2000)
    model.fit(features(train).multiply(sign[:, None]).tocsr(), sign)
    return share_right(model.decision_function(features(test)))


def cross_validated(pairs, scores):
    folds = np.array([int(uniform(f"fold:{pair['question']}") * FOLDS) for pair in pairs])
    result = np.zeros(len(pairs))
    for fold in range(FOLDS):
        train = [pair for pair, own in zip(pairs, folds) if own != fold]
        test = [pair for pair, own in zip(pairs, folds) if own == fold]
        if test:
            result[folds == fold] = scores(train, test)
    return result


def judges_of(name, pairs):
    """{trivial judge: share right of each pair}; judges that a set does not allow are missing."""
    lengths = np.array([[len(text) for text in pair["texts"]] for pair in pairs])
    judges = {"longest": share_right(lengths[:, 0] - lengths[:, 1])}
    judges["shortest"] = 1 - judges["longest"]
    if BENCHMARKS[name].keeps_file_order:
        judges["first"] = np.array([pair["first"] for pair in pairs], float)
    names = {who for pair in pairs for who in pair["generators"] or [None]}
    if None not in names and len(names) > 1:
        judges["generator"] = cross_validated(pairs, generator_scores)
    judges["n-grams"] = cross_validated(pairs, ngram_scores)
    return judges


def audit(name, path):
    """The rows of one set: all pairs, then its parts."""
    pairs = decided_pairs(name, path)
    judges = judges_of(name, pairs)
    for part in [None, *sorted({pair["part"] for pair in pairs if pair["part"]})]:
        cells = defaultdict(list)  # question -> [{judge: (sum, count)}]
        chosen = [index for index, pair in enumerate(pairs) if part in (None, pair["part"])]
        for index in chosen:
            right = {judge: (float(values[index]), 1) for judge, values in judges.items()}
            cells[pairs[index]["question"]].append(right)
        table = {question: add_cells(parts) for question, parts in cells.items()}
        found = intervals([table], means)
        row = [f"{name} {path.stem}" if part is None else f"... {part}"]
        row += [f"{len(chosen):,}", f"{len(table):,}"]
        for judge in ("longest", "shortest", "first", "generator", "n-grams"):
            value, low, high = (100 * bound for bound in found.get(judge, (np.nan,) * 3))
            spread = f" ({low:.1f} ... {high:.1f})" if judge in ("generator", "n-grams") else ""
            row.append(f"{value:.1f}{spread}" if judge in found else "-")
        yield row


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python runs/audit/audit.py DATA_FOLDER")
    rows = []
    for name, file in SETS:
        path = Path(sys.argv[1]) / file
        if path.exists():
            rows += audit(name, path)
    print(
        "Share of pairs (%) that a judge gets right without reading the question; a coin gets 50."
    )
    print()
    columns = ["set", "pairs", "questions", "longest", "shortest", "first", "better generator"]
    print(markdown_table([*columns, "n-grams of the answers alone"], rows))


if __name__ == "__main__":
    main()
