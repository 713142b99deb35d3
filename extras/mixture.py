"""What `extras.make_data` does to rows, without models and files: which pairs to keep, which to make, how to mix them, what to report.

Everything random is a hash of a seed and of the item's own content or id (`data.uniform`), so nothing depends on the order of the rows.
"""

import importlib.util
import json
import re
from collections import Counter, defaultdict

from cli import note
from data import Pair
from questions import question_key
from seeding import uniform

NGRAM = 8  # words; Tulu 3 (arXiv 2411.15124, section 3.2) decontaminates with 8-grams that cover half of a test prompt
COVERED = 0.5


def words(text):
    return re.findall(r"\w+", text.casefold())


def flat(text):
    """The text with single blanks. Not its words: of two programs, one may differ in an operator alone."""
    return " ".join(text.split())


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


# ---- cleaning ----


def deduplicate(pairs):
    """(kept, counts): of pairs with the same prompt and answers, in either order, the first one; none if their labels contradict."""

    def key_of(pair):
        return question_key(pair), frozenset(map(flat, pair.answers))

    better, keys = defaultdict(set), [key_of(pair) for pair in pairs]
    for key, pair in zip(keys, pairs):
        if pair.label is not None:
            better[key].add(
                pair.label if pair.label == 0.5 else flat(pair.answers[int(pair.label)])
            )
    counts, kept, seen = Counter(), [], set()
    for key, pair in zip(keys, pairs):
        fate = (
            "contradictory"
            if len(better[key]) > 1
            else "repeated"
            if key in seen
            else "identical answers"
            if len(key[1]) < 2
            else None
        )
        seen.add(key)
        counts[fate] += fate is not None
        kept += [] if fate else [pair]
    return kept, {name: counts[name] for name in ("repeated", "contradictory", "identical answers")}


def index_ngrams(texts, n=NGRAM):
    """The n-grams of benchmark texts -> where they stand, [(text, position)]. A shorter text counts as one n-gram, to be met whole."""
    places, sizes = defaultdict(list), []
    for number, spoken in enumerate(map(words, texts)):
        sizes.append(len(spoken))
        for position in range(max(1, len(spoken) - n + 1)):
            places[tuple(spoken[position : position + n])].append((number, position))
    places.pop((), None)
    return places, sizes


def contaminated(texts, index, n=NGRAM, covered=COVERED):
    """Whether n-grams of any text cover at least that share of the words of one benchmark text."""
    places, sizes = index
    for text in texts:
        spoken, found = words(text), defaultdict(set)
        for gram in {
            tuple(spoken[position : position + n])
            for position in range(max(1, len(spoken) - n + 1))
        }:
            for number, position in places.get(gram, ()):
                found[number].update(range(position, min(position + n, sizes[number])))
        if any(len(positions) >= covered * sizes[number] for number, positions in found.items()):
            return True
    return False


def decontaminate(pairs, benchmark_texts):
    """(kept, number removed). All turns and both answers are searched, each by itself."""
    index = index_ngrams(benchmark_texts)
    kept = [
        pair
        for pair in pairs
        if not contaminated([turn["content"] for turn in pair.messages] + list(pair.answers), index)
    ]
    return kept, len(pairs) - len(kept)


# ---- right and wrong answers -> pairs ----


def choose_pairs(rows, per_question=1, seed=0):
    """(pairs, counts) of rows {id, messages, source, candidates, status, generators}: a "right" candidate against a "wrong" one.

    Afterwards neither length nor generator tells which is which: among the pairs of the same two generators, those in which the longer
    answer is right are as many as those in which it is wrong, and each generator is right as often as the other. Cells of (who is right,
    which is longer) are filled evenly where questions leave a choice; what still stands out is dropped and counted, like questions that
    every checked candidate or none solves.
    """
    counts, cells = Counter(), defaultdict(list)
    for row in sorted(rows, key=lambda row: uniform(f"pairs:{seed}:{row['id']}")):
        sides = {
            name: [index for index, status in enumerate(row["status"]) if status == name]
            for name in ("right", "wrong")
        }
        options = [
            (i, j)
            for i in sides["right"]
            for j in sides["wrong"]
            if flat(row["candidates"][i]) != flat(row["candidates"][j])
        ]
        counts["questions"] += 1
        if not options:
            counts[
                "no wrong answer"
                if sides["right"]
                else "no right answer"
                if sides["wrong"]
                else "no checked answer"
            ] += 1
            continue
        used = set()  # an answer stands in one pair of its question
        for _ in range(per_question):
            free = [option for option in options if used.isdisjoint(option)]
            if not free:
                break
            drawn = {option: uniform(f"pair:{seed}:{row['id']}:{option}") for option in free}
            i, j = min(
                free,
                key=lambda option: (
                    len(cells[cell_of(row, option)]) - len(cells[mirrored(cell_of(row, option))]),
                    drawn[option],
                ),
            )
            used |= {i, j}
            cells[cell_of(row, (i, j))].append((row, i, j))
    pairs = []
    for cell in list(cells):
        number = (
            len(cells[cell])
            if mirrored(cell) == cell
            else min(len(cells[cell]), len(cells[mirrored(cell)]))
        )
        counts["dropped for balance"] += len(cells[cell]) - number
        pairs += [right_and_wrong(*entry, seed) for entry in cells[cell][:number]]
    counts["pairs"] = len(pairs)
    return sorted(pairs, key=lambda pair: uniform(f"order:{seed}:{pair.id}")), dict(counts)


def cell_of(row, option):
    """(generator of the right answer, of the wrong one, +1 if the right one is longer, -1 if shorter, 0)."""
    i, j = option
    lengths = [len(row["candidates"][index]) for index in option]
    return (
        row["generators"][i],
        row["generators"][j],
        (lengths[0] > lengths[1]) - (lengths[0] < lengths[1]),
    )


def mirrored(cell):
    """The cell that has to hold as many pairs: the generators' roles and the lengths exchanged."""
    right, wrong, longer = cell
    return wrong, right, -longer


def right_and_wrong(row, i, j, seed):
    """A Pair with the right answer in a place that a hash chooses."""
    name = f"{row['id']}-{i}-{j}"
    order = (i, j) if uniform(f"side:{seed}:{name}") < 0.5 else (j, i)
    meta = {"generators": [row["generators"][index] for index in order]}
    return Pair(
        name,
        row["messages"],
        tuple(row["candidates"][index] for index in order),
        order.index(i),
        row["source"],
        meta,
    )


def two_each(rows, seed=0):
    """(unlabelled pairs, counts): of each question the first two candidates that are complete and differ."""
    pairs, counts = [], Counter(questions=len(rows))
    for row in rows:
        whole = [
            index
            for index, status in enumerate(row["status"])
            if status not in ("truncated", "empty", "refused")
        ]
        other = [
            index
            for index in whole[1:]
            if flat(row["candidates"][index]) != flat(row["candidates"][whole[0]])
        ]
        if not other:
            counts["without two different answers"] += 1
            continue
        pair = right_and_wrong(row, whole[0], other[0], seed)
        pair.label = None
        pairs.append(pair)
    return pairs, dict(counts) | {"pairs": len(pairs)}


# ---- mixing and reporting ----


def mix(sources, weights, size=None, seed=0):
    """Pairs drawn from lists of pairs in proportion to their weights, none twice, in random order: `size`, or as many as the shares allow."""
    total = sum(weights)
    largest = min(
        int(len(pairs) * total / weight + 1e-9) for pairs, weight in zip(sources, weights)
    )
    if size is not None and size > largest:
        raise ValueError(f"{size} pairs with these weights are not there: at most {largest}")
    size = largest if size is None else size
    ideal = [size * weight / total for weight in weights]
    quotas = [int(share + 1e-9) for share in ideal]
    for index in sorted(range(len(ideal)), key=lambda index: quotas[index] - ideal[index])[
        : size - sum(quotas)
    ]:  # largest remainders
        quotas[index] += 1
    drawn = [
        sorted(pairs, key=lambda pair: uniform(f"draw:{seed}:{pair.id}"))[:quota]
        for pairs, quota in zip(sources, quotas)
    ]
    return sorted(
        (pair for pairs in drawn for pair in pairs),
        key=lambda pair: uniform(f"mix:{seed}:{pair.source}:{pair.id}"),
    )


def describe(pairs):
    """Numbers about labelled pairs: how many, lengths in characters, and how often a rule that has read nothing finds the better answer."""
    decided = [pair for pair in pairs if pair.label in (0, 1)]
    lengths = [[len(answer) for answer in pair.answers] for pair in decided]
    unequal = [(pair, sizes) for pair, sizes in zip(decided, lengths) if sizes[0] != sizes[1]]
    wins = defaultdict(list)
    for pair in decided:
        names = pair.meta.get("generators") or [None, None]
        if names[0] != names[1]:
            wins[frozenset(map(str, names))].append(str(names[int(pair.label)]))
    return {
        "pairs": len(pairs),
        "labelled": len(decided),
        "questions": len({question_key(pair) for pair in pairs}),
        "prompt characters": mean(
            sum(len(turn["content"]) for turn in pair.messages) for pair in pairs
        ),
        "better characters": mean(sizes[int(pair.label)] for pair, sizes in zip(decided, lengths)),
        "worse characters": mean(
            sizes[1 - int(pair.label)] for pair, sizes in zip(decided, lengths)
        ),
        "multi-turn": mean(len(pair.messages) > 2 for pair in pairs),
        "first is better": mean(pair.label == 0 for pair in decided),
        "longer is better": mean(sizes[int(pair.label)] == max(sizes) for pair, sizes in unequal),
        "better generator wins": mean(
            max(Counter(names).values()) / len(names) for names in wins.values() for _ in names
        ),
    }


def report(pairs, seed=0):
    """{name of the source: numbers} and, as "all", the whole with the accuracy of a linear model that sees the answers alone."""
    parts = defaultdict(list)
    for pair in pairs:
        parts[pair.source].append(pair)
    return {name: describe(part) for name, part in sorted(parts.items())} | {
        "all": describe(pairs) | {"question-blind": question_blind(pairs, seed)}
    }


def answers_apart(firsts, seconds):
    """Counts of word 1- and 2-grams of the first answers less those of the second ones, hashed into 65,536 columns: (pairs, 65536), sparse."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counted = HashingVectorizer(
        n_features=2**16, ngram_range=(1, 2), alternate_sign=False, token_pattern=r"\w+|[^\w\s]"
    )
    return counted.transform(firsts) - counted.transform(seconds)


def fit_blind(apart, labels):
    """Logistic regression on `answers_apart`; labels: whether the first answer is the better one. Each pair counts both ways round, and there is
    no intercept, so that the place in the row cannot matter."""
    import numpy as np
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(labels, dtype=bool)
    return LogisticRegression(C=10.0, fit_intercept=False, max_iter=500).fit(
        vstack([apart, -apart]), np.concatenate([labels, ~labels])
    )


def question_blind(pairs, seed=0, folds=5):
    """Held-out accuracy, over folds of questions, of logistic regression on word 1- and 2-grams of the answers without their question.

    Well above one half, the labels follow from how answers are written. None without scikit-learn or with fewer than 50 labelled pairs.
    """
    decided = [pair for pair in pairs if pair.label in (0, 1)]
    if importlib.util.find_spec("sklearn") is None:
        note("question-blind accuracy left out: pip install scikit-learn")
        return None
    if len(decided) < 50:
        return None
    import numpy as np

    apart = answers_apart(*([pair.answers[index] for pair in decided] for index in (0, 1)))
    labels = np.array([pair.label == 0 for pair in decided])
    fold = np.array([int(folds * uniform(f"fold:{seed}:{question_key(pair)}")) for pair in decided])
    right = []
    for number in range(folds):
        train, test = fold != number, fold == number
        if train.any() and test.any():
            right += list(
                fit_blind(apart[train], labels[train]).predict(apart[test]) == labels[test]
            )
    return mean(map(float, right))


def as_json(pair):
    """A line that `data.load_pairs` reads as the same pair."""
    row = {
        "id": pair.id,
        "messages": pair.messages,
        "a": pair.answers[0],
        "b": pair.answers[1],
        "label": pair.label,
        "source": pair.source,
    }
    extra = {
        name: pair.meta[name]
        for name in ("generators", "chance")
        if pair.meta.get(name) is not None
    }
    return json.dumps(row | extra, ensure_ascii=False, allow_nan=False)
