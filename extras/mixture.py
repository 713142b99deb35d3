"""What `extras.make_data` does to rows without models or files: clean, pair, mix, describe.

Everything random is a hash of a seed and of the item's own content or id (`seeding.uniform`), so
nothing depends on the order of the rows.
"""

import importlib.util
import re
from collections import Counter, defaultdict

from cli import note
from data import OPTIONAL, Pair
from extras.equality import candidates
from questions import question_key
from runlog import json_line
from seeding import uniform

# Tulu 3 (arXiv 2411.15124, section 3.2) decontaminates with 8-grams of words that cover half of a
# test prompt.
NGRAM = 8
COVERED = 0.5


def words(text):
    return re.findall(r"\w+", text.casefold())


def flat(text):
    """The text with single blanks. Words are not enough: programs may differ in an operator."""
    return " ".join(text.split())


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


# ---- cleaning ----


def deduplicate(pairs):
    """(kept, counts): the first of the pairs with the same prompt and answers, in either order.

    None of them is kept if their labels contradict each other.
    """
    keys = [(question_key(pair), frozenset(map(flat, pair.answers))) for pair in pairs]
    better = defaultdict(set)  # what the labels say about each key
    for key, pair in zip(keys, pairs):
        if pair.label == 0.5:
            better[key].add(0.5)
        elif pair.label is not None:
            better[key].add(flat(pair.answers[int(pair.label)]))
    counts, kept, seen = Counter(), [], set()
    for key, pair in zip(keys, pairs):
        if len(better[key]) > 1:
            counts["contradictory"] += 1
        elif key in seen:
            counts["repeated"] += 1
        elif len(key[1]) < 2:
            counts["identical answers"] += 1
        else:
            kept.append(pair)
        seen.add(key)
    return kept, {name: counts[name] for name in ("repeated", "contradictory", "identical answers")}


def ngrams(tokens, n):
    """[(n-gram, position)]. A shorter text is one n-gram."""
    return [
        (tuple(tokens[position : position + n]), position)
        for position in range(max(1, len(tokens) - n + 1))
    ]


def index_ngrams(texts, n=NGRAM):
    """({n-gram: [(number of the benchmark text, position), ...]}, [length of each text])."""
    places, sizes = defaultdict(list), []
    for number, tokens in enumerate(map(words, texts)):
        sizes.append(len(tokens))
        for ngram, position in ngrams(tokens, n):
            places[ngram].append((number, position))
    places.pop((), None)
    return places, sizes


def contaminated(texts, index, n=NGRAM, covered=COVERED):
    """Whether n-grams of any text cover at least that share of the words of one benchmark text."""
    places, sizes = index
    for text in texts:
        found = defaultdict(set)  # number of a benchmark text -> its words that are covered
        for ngram in {ngram for ngram, _ in ngrams(words(text), n)}:
            for number, position in places.get(ngram, ()):
                found[number].update(range(position, min(position + n, sizes[number])))
        if any(len(positions) >= covered * sizes[number] for number, positions in found.items()):
            return True
    return False


def decontaminate(pairs, benchmark_texts):
    """(kept, number removed). All turns and both answers are searched, each by itself."""
    index, kept = index_ngrams(benchmark_texts), []
    for pair in pairs:
        if not contaminated([turn["content"] for turn in pair.messages] + [*pair.answers], index):
            kept.append(pair)
    return kept, len(pairs) - len(kept)


# ---- right and wrong answers -> pairs ----


def choose_pairs(rows, per_question=1, seed=0):
    """(pairs, counts): a right candidate and a wrong one of each question.

    rows: {id, messages, source, candidates, status, generators}.

    Neither length nor generator predicts the label afterwards. Among the pairs of two generators,
    the longer answer is as often right as wrong, and each generator is right as often as the other.
    Cells of (who is right, which is longer) are filled evenly where questions leave a choice. What
    is still unbalanced is dropped and counted, like questions that every checked candidate solves,
    or none.
    """
    counts, cells = Counter(), defaultdict(list)
    for row in sorted(rows, key=lambda row: uniform(f"pairs:{seed}:{row['id']}")):
        counts["questions"] += 1
        options, lack = right_wrong_options(row)
        if not options:
            counts[lack] += 1
            continue
        used = set()  # an answer is in one pair of its question
        for _ in range(per_question):
            free = [option for option in options if used.isdisjoint(option)]
            if not free:
                break
            chosen = min(free, key=lambda option: excess(cells, row, option, seed))
            used.update(chosen)
            cells[cell_of(row, chosen)].append((row, *chosen))
    pairs = []
    for cell in list(cells):
        number = min(len(cells[cell]), len(cells[mirrored(cell)]))
        counts["dropped for balance"] += len(cells[cell]) - number
        pairs += [right_and_wrong(*entry, seed) for entry in cells[cell][:number]]
    counts["pairs"] = len(pairs)
    return sorted(pairs, key=lambda pair: uniform(f"order:{seed}:{pair.id}")), dict(counts)


def right_wrong_options(row):
    """([(index of a right candidate, of a different wrong one), ...], why there are none)."""
    texts = [flat(candidate) for candidate in row["candidates"]]
    right, wrong, unclear = [], [], []
    for index, status in enumerate(row["status"]):
        if status == "right":
            right.append(index)
        elif status == "wrong":
            sure = states_another_result(row["candidates"][index], row.get("answer"))
            (wrong if sure else unclear).append(index)
    options = [(i, j) for i in right for j in wrong if texts[i] != texts[j]]
    if right:
        return options, "no clearly wrong answer" if unclear else "no wrong answer"
    return options, "no right answer" if wrong or unclear else "no checked answer"


def states_another_result(answer, reference):
    """Whether the answer states one result, and the reference does not stand in it.

    "Answer: it takes 2 hours to travel 180 miles" does not equal 2 for the verifier, and is right.
    Without a reference, people have said that the answer is wrong.
    """
    if reference is None:
        return True
    stated, *guesses = candidates(answer)
    result = re.escape(candidates(reference)[-1].strip("$ ").replace(",", ""))
    holds_reference = re.search(rf"(?<![\w.]){result}(?!\w|\.\d)", stated.replace(",", ""))
    return not holds_reference and all(guess == stated for guess in guesses)


def excess(cells, row, option, seed):
    """The key of the best option: the emptiest cell compared with its mirror, then a hash."""
    cell = cell_of(row, option)
    surplus = len(cells[cell]) - len(cells[mirrored(cell)])
    return surplus, uniform(f"pair:{seed}:{row['id']}:{option}")


def cell_of(row, option):
    """(generator of the right answer, of the wrong one, sign of the difference of lengths)."""
    right, wrong = option
    difference = len(row["candidates"][right]) - len(row["candidates"][wrong])
    longer = (difference > 0) - (difference < 0)
    return row["generators"][right], row["generators"][wrong], longer


def mirrored(cell):
    """The cell that must have as many pairs: generators and lengths are exchanged."""
    right, wrong, longer = cell
    return wrong, right, -longer


def right_and_wrong(row, right, wrong, seed):
    """A Pair with the right answer in a place that a hash chooses."""
    name = f"{row['id']}-{right}-{wrong}"
    order = [right, wrong]
    if uniform(f"side:{seed}:{name}") >= 0.5:
        order.reverse()
    answers = tuple(row["candidates"][index] for index in order)
    meta = {"generators": [row["generators"][index] for index in order]}
    return Pair(name, row["messages"], answers, order.index(right), row["source"], meta)


def two_each(rows, seed=0):
    """(unlabelled pairs, counts): the first two complete and different candidates of a question."""
    pairs, counts = [], Counter(questions=len(rows))
    for row in rows:
        complete = []
        for index, status in enumerate(row["status"]):
            if status not in ("truncated", "empty", "refused"):
                complete.append(index)
        texts = [flat(candidate) for candidate in row["candidates"]]
        different = [index for index in complete if texts[index] != texts[complete[0]]]
        if not different:
            counts["without two different answers"] += 1
            continue
        pair = right_and_wrong(row, complete[0], different[0], seed)
        pair.label = None
        pairs.append(pair)
    return pairs, dict(counts) | {"pairs": len(pairs)}


# ---- mixing and reporting ----


def mix(sources, weights, size=None, seed=0):
    """Pairs drawn from lists of pairs in proportion to their weights, none twice, in random order.

    size: how many; default: as many as the weights allow. Raises ValueError for too many.
    """
    total = sum(weights)
    limits = [int(len(pairs) * total / weight + 1e-9) for pairs, weight in zip(sources, weights)]
    largest = min(limits)
    if size is not None and size > largest:
        raise ValueError(f"{size} pairs with these weights are not there: at most {largest}")
    size = largest if size is None else size
    shares = [size * weight / total for weight in weights]
    quotas = [int(share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: quotas[index] - shares[index])
    for index in by_remainder[: size - sum(quotas)]:
        quotas[index] += 1
    drawn = []
    for pairs, quota in zip(sources, quotas):
        drawn += sorted(pairs, key=lambda pair: uniform(f"draw:{seed}:{pair.id}"))[:quota]
    return sorted(drawn, key=lambda pair: uniform(f"mix:{seed}:{pair.source}:{pair.id}"))


def describe(pairs):
    """Counts, lengths in characters, and how often trivial rules find the better answer."""
    decided = [pair for pair in pairs if pair.label in (0, 1)]
    better, worse, longer_wins = [], [], []  # lengths of answers, in characters
    wins = defaultdict(list)  # two generators -> the better one of each pair
    for pair in decided:
        label = int(pair.label)
        better.append(len(pair.answers[label]))
        worse.append(len(pair.answers[1 - label]))
        if better[-1] != worse[-1]:
            longer_wins.append(better[-1] > worse[-1])
        names = pair.meta.get("generators") or [None, None]
        if names[0] != names[1]:
            wins[frozenset(map(str, names))].append(str(names[label]))
    generator_wins = []
    for names in wins.values():
        generator_wins += [max(Counter(names).values()) / len(names)] * len(names)
    prompts = [sum(len(turn["content"]) for turn in pair.messages) for pair in pairs]
    return {
        "pairs": len(pairs),
        "labelled": len(decided),
        "questions": len({question_key(pair) for pair in pairs}),
        "prompt characters": mean(prompts),
        "better characters": mean(better),
        "worse characters": mean(worse),
        "multi-turn": mean(len(pair.messages) > 2 for pair in pairs),
        "first is better": mean(pair.label == 0 for pair in decided),
        "longer is better": mean(longer_wins),
        "better generator wins": mean(generator_wins),
    }


def report(pairs, seed=0):
    """{source: numbers}, and "all" with the accuracy of a linear model that sees only answers."""
    parts = defaultdict(list)
    for pair in pairs:
        parts[pair.source].append(pair)
    numbers = {name: describe(part) for name, part in sorted(parts.items())}
    numbers["all"] = describe(pairs) | {"question-blind": question_blind(pairs, seed)}
    return numbers


def answers_apart(firsts, seconds):
    """Counts of word 1- and 2-grams in the first answers, minus those in the second ones.

    They are hashed into 65,536 columns: (pairs, 65536), sparse.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    counted = HashingVectorizer(
        n_features=2**16, ngram_range=(1, 2), alternate_sign=False, token_pattern=r"\w+|[^\w\s]"
    )
    return counted.transform(firsts) - counted.transform(seconds)


def fit_blind(apart, labels):
    """Logistic regression on `answers_apart`. labels: whether the first answer is the better one.

    Each pair is counted in both orders, and there is no intercept, so the place has no influence.
    """
    import numpy as np
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(labels, dtype=bool)
    return LogisticRegression(C=10.0, fit_intercept=False, max_iter=500).fit(
        vstack([apart, -apart]), np.concatenate([labels, ~labels])
    )


def question_blind(pairs, seed=0, folds=5):
    """Held-out accuracy of logistic regression on word 1- and 2-grams of answers alone.

    The folds are split by question. An accuracy far above one half says that the labels follow from
    how answers are written. None without scikit-learn or with fewer than 50 labelled pairs.
    """
    decided = [pair for pair in pairs if pair.label in (0, 1)]
    if importlib.util.find_spec("sklearn") is None:
        note("question-blind accuracy left out: pip install scikit-learn")
        return None
    if len(decided) < 50:
        return None
    import numpy as np

    apart = answers_apart(*zip(*(pair.answers for pair in decided)))
    labels = np.array([pair.label == 0 for pair in decided])
    keys = [question_key(pair) for pair in decided]
    fold = np.array([int(folds * uniform(f"fold:{seed}:{key}")) for key in keys])
    right = []
    for number in range(folds):
        train, test = fold != number, fold == number
        if train.any() and test.any():
            predicted = fit_blind(apart[train], labels[train]).predict(apart[test])
            right += (predicted == labels[test]).tolist()
    return mean(right)


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
    for name in ("generators", "chance", *OPTIONAL):
        if pair.meta.get(name) is not None:
            row[name] = pair.meta[name]
    return json_line(row)
