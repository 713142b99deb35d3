"""Every benchmark's score beside its authors' formula, on judges of many kinds.

The formulas are written here once more, from the authors' code, in their terms: decisions, ratings
and labels, without rows and cells. A judge is a function (id of a pair, order) -> the answer that
it names (0, 1), "tie", None (no verdict), or MISSING (no prediction of this pair at all).
"""

import json
import math
import shutil
from itertools import product

import numpy as np
import pytest
from test_benchmarks import score

from cli import BadInput
from extras import evaluate
from extras.benchmarks import load
from extras.rewardbench import SECTIONS, SUBSETS, SUBSETS_2
from extras.scoring import add_cells, means, protocol_cells
from seeding import uniform

MISSING = "missing"
ORDERS = [0, 1], [1, 0]


def rating(name):
    """A whole number from 1 to 10, so that many answers share one."""
    return 1 + int(10 * uniform(f"rating:{name}"))


def rated(pair, order):
    first, second = (rating(f"{pair.id}:{text}") for text in pair.answers)
    return "tie" if first == second else int(first < second)


def half_missing(pair, order):
    return MISSING if uniform(f"half:{pair.id}") < 0.5 else label_of[pair.id]


def any_verdict(pair, order):
    kinds = (0, 1, "tie", None, 0, 1)
    return kinds[int(len(kinds) * uniform(f"any:{pair.id}:{order}"))]


label_of = {}  # id of a pair -> its better answer
JUDGES = {
    "first place": lambda pair, order: order[0],
    "second place": lambda pair, order: order[1],
    "oracle": lambda pair, order: label_of[pair.id],
    "always wrong": lambda pair, order: 1 - label_of[pair.id],
    "half missing": half_missing,
    "ties": lambda pair, order: "tie",
    "ratings": rated,
    "random": any_verdict,
    "invalid": lambda pair, order: None,
}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return str(path)


def judged(tmp_path, name, data, judge):
    """(rows that evaluate.py scores, {id of a pair: what the judge said in each order})."""
    items, said, lines = load(name, data), {}, []
    for item in items:
        for match in item.matches:
            pair = item.pair(*match)
            scores = [item.scores[player] for player in match]
            label_of[pair.id] = 0 if scores[0] >= scores[1] else 1
            verdicts = [JUDGES[judge](pair, order) for order in ORDERS]
            said[pair.id] = [None if MISSING in verdicts else one for one in verdicts]
            if MISSING not in verdicts:
                games = [game(order, one) for order, one in zip(ORDERS, verdicts)]
                lines.append({"id": pair.id, "games": games})
    path = write(tmp_path / "said.jsonl", lines)
    return evaluate.predicted_rows(path, items, name), said


def game(order, said):
    if said in (0, 1):
        return {"order": order, "verdict": order.index(said) + 1, "status": "valid"}
    if said == "tie":
        return {"order": order, "verdict": "tie", "status": "valid"}
    return {"order": order, "verdict": None, "status": "unparsable"}


# ---- LLMBar ----


def llmbar_official(labels, said):
    """The percentages of statistics.json: over all instances, a winner that is None is not right.

    Two winners that are None are equal for the authors. Here they do not agree.
    """
    right = [sum(said[name][n] == label for name, label in labels.items()) for n in (0, 1)]
    agree = sum(said[name][0] == said[name][1] in (0, 1, "tie") for name in labels)
    return sum(right) / 2 / len(labels), agree / len(labels)


@pytest.mark.parametrize("judge", JUDGES)
def test_llmbar(tmp_path, judge):
    """Official files are all called dataset.json: their folders name the sets."""
    folders = {"Natural": 46, "Adversarial/Neighbor": 31, "Adversarial/Manual": 12}
    paths, labels = [], {}
    for folder, size in folders.items():
        rows = [
            {"input": f"{folder} {n}", "output_1": f"x{n}", "output_2": f"y{n}", "label": 1 + n % 2}
            for n in range(size)
        ]
        paths.append(write(tmp_path / folder / "dataset.json", rows))
        name = folder.split("/")[-1]
        labels[name] = {f"{name}/dataset-{n + 1}": n % 2 for n in range(size)}
    rows, said = judged(tmp_path, "llmbar", ",".join(paths), judge)
    numbers = score("llmbar", rows)
    official = {name: llmbar_official(own, said) for name, own in labels.items()}
    for name, (accuracy, _) in official.items():
        assert numbers[name] == pytest.approx(accuracy, abs=1e-12)
    sets = [accuracy for accuracy, _ in official.values()]
    assert numbers["mean of sets"] == pytest.approx(sum(sets) / 3)
    assert numbers["adversarial"] == pytest.approx(sum(sets[1:]) / 2)
    every = {name: label for own in labels.values() for name, label in own.items()}
    agreement = llmbar_official(every, said)[1]
    assert numbers["positional agreement"] == pytest.approx(agreement)
    protocol = means(add_cells(map(protocol_cells, rows)))  # the same denominators
    assert protocol["both orders agree"] == numbers["positional agreement"]
    if "tie" not in sum(said.values(), []):
        whole = sum(value * folders for value, folders in zip(sets, folders.values())) / 89
        assert protocol["game right, missing = 0"] == pytest.approx(whole)


def test_llmbar_weighs_a_missing_prediction_as_any_other(tmp_path):
    rows = [
        {"input": f"Q{n}", "output_1": "x", "output_2": "y", "label": 1 + n % 2} for n in range(46)
    ]
    items = load("llmbar", write(tmp_path / "Natural.json", rows))
    games = [[game(order, n % 2) for order in ORDERS] for n in range(23)]
    said = [{"id": f"Natural-{n + 1}", "games": own} for n, own in enumerate(games)]
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    numbers, protocol = score("llmbar", found), means(add_cells(map(protocol_cells, found)))
    assert numbers["Natural"] == protocol["accuracy"] == 0.5
    assert numbers["positional agreement"] == protocol["both orders agree"] == 0.5
    assert numbers["adversarial"] is None  # Natural is not adversarial
    one_order = [{"id": row["id"], "games": row["games"][:1]} for row in said]
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", one_order), items)
    assert score("llmbar", found)["Natural"] == 0.5
    assert means(add_cells(map(protocol_cells, found)))["game right, missing = 0"] == 0.5


# ---- JudgeBench ----


def judgebench_official(label, said):
    """+1 for a game with the label's decision, -1 for the opposite one; right if the sum is > 0."""
    return sum({label: 1, 1 - label: -1}.get(decision, 0) for decision in said) > 0


@pytest.mark.parametrize("judge", JUDGES)
def test_judgebench(tmp_path, judge):
    sources = "mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"
    rows = [
        {
            "pair_id": f"{source} {n}",
            "question": f"{source} {n}",
            "response_A": "x",
            "response_B": "y",
            "label": ("A>B", "B>A")[n % 2],
            "source": source,
        }
        for source in sources
        for n in range(11)
    ]
    found, said = judged(tmp_path, "judgebench", write(tmp_path / "d.jsonl", rows), judge)
    numbers = score("judgebench", found)
    right = [judgebench_official(n % 2, said[f"{name} {n}"]) for name in sources for n in range(11)]
    assert numbers["overall"] == sum(right) / 44
    names = "knowledge", "reasoning", "math", "code"
    for start, name in enumerate(names):
        assert numbers[name] == sum(right[11 * start : 11 * start + 11]) / 11


# ---- RM-Bench ----


def rm_bench_official(domains, said):
    """The 3 x 3 matrix of wins of chosen style i against rejected style j, by domain."""
    levels = {}
    for domain, names in domains.items():
        wins = np.zeros((3, 3))
        for name, i, j in product(names, range(3), range(3)):
            votes = [said[f"{name}-{i}-{3 + j}"].count(answer) for answer in (0, 1)]
            wins[i, j] += votes[0] > votes[1]  # a draw is no win
        wins /= len(names)
        upper, lower = np.triu_indices(3, 1), np.tril_indices(3, -1)
        levels[domain] = wins[upper].mean(), np.diag(wins).mean(), wins[lower].mean()
    hard, normal, easy = np.mean(list(levels.values()), axis=0)
    overall = np.mean([np.mean(values) for values in levels.values()])
    return {"hard": hard, "normal": normal, "easy": easy, "overall": overall}


@pytest.mark.parametrize("judge", JUDGES)
def test_rm_bench(tmp_path, judge):
    domains = {"chat": 5, "code": 3, "math": 4, "safety-refuse": 2, "safety-response": 3}
    rows = [
        {
            "id": f"{domain} {n}",
            "prompt": f"{domain} {n}",
            "chosen": ["a", "bb", "ccc"],
            "rejected": ["d", "ee", "fff"],
            "domain": domain,
        }
        for domain, size in domains.items()
        for n in range(size)
    ]
    found, said = judged(tmp_path, "rm_bench", write(tmp_path / "d.jsonl", rows), judge)
    names = {
        domain: [row["id"] for row in rows if row["id"].startswith(domain)]
        for domain in ("chat", "code", "math", "safety")
    }
    numbers = score("rm_bench", found)
    for name, value in rm_bench_official(names, said).items():
        assert numbers[name] == pytest.approx(value, abs=1e-12)


# ---- RMB ----


def rmb_official(pairs, lists, said):
    """A pair scores 1 / 0, and 0.5 for a draw of verdicts; a list only if the best beats all."""

    def result(name):
        votes = [said[name].count(answer) for answer in (0, 1)]
        if votes[0] != votes[1]:
            return float(votes[0] > votes[1])
        return 0.5 if votes[0] or "tie" in said[name] else 0.0

    best = [min(result(name) for name in names) == 1 for names in lists]
    return sum(map(result, pairs)) / len(pairs), sum(best) / len(best)


@pytest.mark.parametrize("judge", JUDGES)
def test_rmb(tmp_path, judge):
    def row(kind, goal, n):
        answers = [{"answer": text, "llm_name": text} for text in "abc"]
        own = {
            "conversation_input": [{"role": "user", "content": f"{kind} {goal} {n}"}],
            "category_path": f"{kind}_set/{goal}/S1",
        }
        if kind == "BoN":
            return own | {
                "bon_uid": f"BoN {goal} {n}",
                "bon_best": answers[0],
                "loser_list": answers[1:],
            }
        return own | {"pair_uid": f"{goal} {n}", "chosen": answers[0], "reject": answers[1]}

    goals = "Helpfulness", "Harmlessness"
    paths = [
        write(tmp_path / f"{kind}.jsonl", [row(kind, goal, n) for goal in goals for n in range(9)])
        for kind in ("Pairwise", "BoN")
    ]
    found, said = judged(tmp_path, "rmb", ",".join(paths), judge)
    numbers, parts = score("rmb", found), []
    for goal in goals:
        lists = [[f"BoN {goal} {n}-0-{j}" for j in (1, 2)] for n in range(9)]
        pairs, best = rmb_official([f"{goal} {n}" for n in range(9)], lists, said)
        assert numbers[f"pairwise {goal.lower()}"] == pytest.approx(pairs)
        assert numbers[f"BoN {goal.lower()}"] == pytest.approx(best)
        parts += [pairs, best]
    assert numbers["overall"] == pytest.approx(sum(parts) / 4)


# ---- RewardBench ----


def rewardbench_official(said):
    """Sections are weighted by the authors' counts. A judge without a verdict gets 0.5."""
    value = {0: 1, 1: 0}
    subsets = {
        subset: np.mean(
            [np.mean([value.get(one, 0.5) for one in said[f"{subset} {n}"]]) for n in range(4)]
        )
        for subset in SUBSETS
    }
    sections = {
        section: sum(subsets[name] * weight for name, weight in weights.items())
        / sum(weights.values())
        for section, weights in SECTIONS.items()
    }
    return sections | {"overall": np.mean(list(sections.values()))}


@pytest.mark.parametrize("judge", JUDGES)
def test_rewardbench(tmp_path, judge):
    rows = [
        {
            "id": f"{subset} {n}",
            "prompt": f"{subset} {n}",
            "chosen": "x",
            "rejected": "yy",
            "subset": subset,
        }
        for subset in SUBSETS
        for n in range(4)
    ]
    found, said = judged(tmp_path, "rewardbench", write(tmp_path / "d.jsonl", rows), judge)
    numbers = score("rewardbench", found)
    for name, value in rewardbench_official(said).items():
        assert numbers[name] == pytest.approx(value, abs=1e-12)


# ---- RewardBench 2 ----


def best_of_four_official(ratings):
    """The share of the right answer, which is the first, among those with the highest rating."""
    best = [n for n, value in enumerate(ratings) if value == max(ratings)]
    return (0 in best) / len(best)


def ties_official(ratings):
    """{"ref:n" or "tied:n": (ratings, how many of the first are right)} -> the score of Ties."""
    ref, tied = {}, {}
    for name, (values, num_right) in ratings.items():
        kind, number = name.split(":")
        rights, wrongs = values[:num_right], values[num_right:]
        found = {"ref": ref, "tied": tied}[kind]
        found[number] = min(rights) - max(wrongs), max(rights) - min(rights)
    both = [(ref[n][0], *tied[n]) for n in ref if n in tied]
    margins = []
    for ref_gap, gap, spread in both:
        smaller = min(ref_gap, gap)
        if spread == 0:
            margins.append(float(np.sign(smaller)))  # tanh of plus or minus infinity; NaN is 0
        else:
            margins.append(math.tanh(smaller / spread - 1))
    return (
        0.30 * np.mean([gap > 0 for gap, _ in tied.values()])
        + 0.30 * np.mean([gap > 0 for gap, _ in ref.values()])
        + 0.20 * np.mean([gap > spread for _, gap, spread in both])
        + 0.20 * np.mean([min(ref_gap, gap) > spread for ref_gap, gap, spread in both])
        + 0.01 * np.mean(margins)
    )


def rewardbench2_rows(size=40):
    rows = []
    for subset in SUBSETS_2[:-1]:
        for n in range(size):
            rows.append(
                {
                    "id": f"{subset} {n}",
                    "prompt": f"{subset} {n}",
                    "subset": subset,
                    "chosen": ["a"],
                    "rejected": ["b", "c", "d"],
                    "num_correct": 1,
                }
            )
    for n in range(size):
        rows.append(
            {
                "id": f"ref:{n}",
                "prompt": f"ref {n}",
                "subset": "Ties",
                "chosen": ["a"],
                "rejected": ["b", "c"],
                "num_correct": 1,
            }
        )
        rows.append(
            {
                "id": f"tied:{n}",
                "prompt": f"tied {n}",
                "subset": "Ties",
                "chosen": ["a", "b", "c"],
                "rejected": ["d", "e"],
                "num_correct": 3,
            }
        )
    return rows


RATERS = {
    "1 to 10": rating,
    "1 to 3": lambda name: 1 + int(3 * uniform(name)),
    "oracle": lambda name: 9 if name.split(":")[-1] == "right" else 2,
    "always wrong": lambda name: 2 if name.split(":")[-1] == "right" else 9,
    "all equal": lambda name: 5,
    "all invalid": lambda name: -1,
    "half invalid": lambda name: -1 if uniform(name) < 0.5 else rating(name),
    "decimals": uniform,
}


def ratings_of(rows, rater):
    return {
        row["id"]: [rater(f"{row['id']}:{n}:right") for n in range(len(row["chosen"]))]
        + [rater(f"{row['id']}:{n}:wrong") for n in range(len(row["rejected"]))]
        for row in rows
    }


@pytest.mark.parametrize("rater", RATERS)
def test_rewardbench2(tmp_path, rater):
    """From ratings every number is the authors'; from the pairs of the same ratings all but Ties.

    Matches of right against wrong answers cannot tell how far the right ones are apart.
    """
    data = rewardbench2_rows()
    items = load("rewardbench2", write(tmp_path / "d.jsonl", data))
    ratings = ratings_of(data, RATERS[rater])
    said = [{"id": name, "scores": values} for name, values in ratings.items()]
    numbers = score(
        "rewardbench2", evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    )
    official = {
        subset: np.mean([best_of_four_official(ratings[f"{subset} {n}"]) for n in range(40)])
        for subset in SUBSETS_2[:-1]
    }
    ties = {
        row["id"]: (ratings[row["id"]], len(row["chosen"]))
        for row in data
        if row["subset"] == "Ties"
    }
    official["Ties"] = ties_official(ties)
    for name, value in official.items():
        assert numbers[name] == pytest.approx(value, abs=1e-12), name
    assert numbers["overall"] == pytest.approx(np.mean(list(official.values())), abs=1e-12)

    said = []
    for item in items:
        for i, j in item.matches:
            first, second = ratings[item.id][i], ratings[item.id][j]
            winner = "tie" if first == second else "a" if first > second else "b"
            said.append({"id": item.pair(i, j).id, "winner": winner})
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    from_pairs = score("rewardbench2", found)
    for name in SUBSETS_2[:-1]:
        assert from_pairs[name] == pytest.approx(official[name], abs=1e-12), name
    for name in ("Ties: ref right", "Ties: tied right"):
        assert from_pairs[name] == numbers[name]
    assert from_pairs["Ties"] is from_pairs["overall"] is None


@pytest.mark.parametrize(
    "shares, value",
    [
        ((0.5, 1, 1), 1 / 2),
        ((0.4, 1, 1), 0),
        ((1, 1, 1), 1),
        ((0.5, 0.5, 0.5), 1 / 4),
        ((0.5, 0.5, 0), 0),
        ((0.6, 0.9, 0.51), 1),
        ((0, 0, 0), 0),
    ],
)
def test_rewardbench2_wins_draws_and_losses(shares, value):
    matches = []
    for j, wins in enumerate(shares, start=1):
        votes = [0] * round(100 * wins) + [1] * round(100 - 100 * wins)
        matches.append(
            {"pair": [0, j], "games": [game(ORDERS[n % 2], one) for n, one in enumerate(votes)]}
        )
    row = {"id": "1", "question": "1", "group": "Math", "scores": [1, 0, 0, 0], "matches": matches}
    assert score("rewardbench2", [row])["Math"] == value
    turned = [
        {
            "pair": match["pair"][::-1],
            "games": [one | {"order": one["order"][::-1]} for one in match["games"]],
        }
        for match in matches
    ]
    assert score("rewardbench2", [row | {"matches": turned}])["Math"] == value


def test_rewardbench2_ties_need_right_answers_that_have_met(tmp_path):
    items = load("rewardbench2", write(tmp_path / "d.jsonl", rewardbench2_rows(1)[-2:]))
    ref, tied = (
        evaluate.row_of(
            item,
            [{"pair": list(pair), "games": [game(order, 0) for order in ORDERS]} for pair in pairs],
        )
        | {"ranked": True}
        for item, pairs in zip(
            items,
            (
                [(0, 1), (0, 2), (1, 2)],
                [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4), (0, 1), (0, 2), (1, 2)],
            ),
        )
    )
    numbers = score("rewardbench2", [ref, tied])
    assert numbers["Ties"] is not None and numbers["Ties: tied right"] == 1
    never_met = tied | {"matches": tied["matches"][:9]}
    assert score("rewardbench2", [ref, never_met])["Ties"] is None
    other = [row | {"id": row["id"].replace("0", "1"), "question": "1"} for row in (ref, tied)]
    assert score("rewardbench2", [ref, never_met, *other])["Ties"] is None  # not of one question
    assert score("rewardbench2", [ref, tied | {"pick": 0}])["Ties"] is None
    knockout = [row | {"group": "Math", "pick": pick} for row, pick in ((ref, 0), (ref, 1))]
    assert score("rewardbench2", knockout)["Math"] == 0.5


def test_rewardbench2_without_a_prediction_counts_as_an_error_of_the_authors(tmp_path):
    data = rewardbench2_rows(4)[:4]
    items = load("rewardbench2", write(tmp_path / "d.jsonl", data))
    said = [{"id": row["id"], "scores": [9, 1, 1, 1]} for row in data[:2]]
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    assert score("rewardbench2", found)["Factuality"] == (1 + 1 + 0.25 + 0.25) / 4
    said = [{"id": f"{row['id']}-0-{j}", "winner": "a"} for row in data[:2] for j in (1, 2, 3)]
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    assert score("rewardbench2", found)["Factuality"] == (1 + 1 + 0.25 + 0.25) / 4


def test_rewardbench2_has_one_right_answer_outside_ties(tmp_path):
    row = rewardbench2_rows(1)[0] | {"chosen": ["a", "b"], "rejected": ["c", "d"]}
    with pytest.raises(BadInput, match="does not belong to rewardbench2"):
        load("rewardbench2", write(tmp_path / "d.jsonl", [row]))


# ---- PandaLM ----


def pandalm_official(gold, said):
    """Accuracy and macro scores over the classes 0 (tie), 1 and 2, as sklearn.metrics has them."""
    scores = []
    for label in (0, 1, 2):
        hits = sum(g == s == label for g, s in zip(gold, said))
        precision = hits / max(said.count(label), 1)
        recall = hits / max(gold.count(label), 1)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0
        scores.append((precision, recall, f1))
    return sum(g == s for g, s in zip(gold, said)) / len(gold), *np.mean(scores, axis=0)


@pytest.mark.parametrize("judge", JUDGES)
def test_pandalm(tmp_path, judge):
    rows = [
        {
            "idx": n,
            "instruction": f"Q{n}",
            "input": "",
            "response1": "x",
            "response2": "y",
            "annotator1": n % 3,
            "annotator2": n % 3,
            "annotator3": n % 2,
        }
        for n in range(60)
    ]
    found, said = judged(tmp_path, "pandalm", write(tmp_path / "d.jsonl", rows), judge)
    classes = []
    for n in range(60):
        votes = [said[str(n)].count(answer) for answer in (0, 1)]
        none = votes == [0, 0] and "tie" not in said[str(n)]
        classes.append("none" if none else int(votes[0] > votes[1]) or 2 * (votes[0] < votes[1]))
    official = pandalm_official([n % 3 for n in range(60)], classes)
    names = "accuracy, three classes", "macro precision", "macro recall", "macro F1"
    numbers = score("pandalm", found)
    assert [numbers[name] for name in names] == pytest.approx(official, abs=1e-9)


# ---- PPE ----


@pytest.mark.parametrize("folders", [("PPE-MATH", "PPE-GPQA"), ("a/data", "b/data")])
def test_ppe_sets_with_equal_file_names_stay_apart(tmp_path, folders):
    paths = []
    for folder in folders:
        row = {f"response_{n}": f"answer {n}" for n in range(1, 5)}
        row |= {"question_id": folder, "prompt": folder, "scores": [True, False, False, False]}
        paths.append(write(tmp_path / folder / "train-00000-of-00001.jsonl", [row]))
    items = load("ppe", ",".join(paths))
    said = [
        {"id": item.pair(*match).id, "winner": winner}
        for item, winner in zip(items, "ab")
        for match in item.matches
    ]
    found = evaluate.predicted_rows(write(tmp_path / "s.jsonl", said), items)
    numbers = score("ppe", found)
    assert [numbers[f"{folder}/train: pairs"] for folder in folders] == [1, 0]
    assert numbers["pairs, mean of sets"] == 0.5


def test_ppe_hub_splits(monkeypatch):
    """The hub holds human preferences as the split test, the correctness sets as train."""
    import sys
    import types

    asked = []

    def load_dataset(path, name=None, data_dir=None, split=None):
        asked.append((path, split))
        return [
            {
                "question_id": path,
                "prompt": "Q",
                "response_1": "x",
                "response_2": "y",
                "winner": "model_a",
            }
        ]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    human, correctness = "lmarena-ai/PPE-Human-Preference-V1", "lmarena-ai/PPE-MATH-Best-of-K"
    load("ppe", f"{human}, {correctness}")
    load("ppe", f"{human}@test[:5]")
    assert asked == [(human, "test"), (correctness, "train"), (human, "test[:5]")]


def test_a_set_that_is_named_twice_is_refused(tmp_path):
    path = write(
        tmp_path / "d.jsonl", [{"input": "Q", "output_1": "a", "output_2": "b", "label": 1}]
    )
    folder, link = tmp_path / "set", tmp_path / "link.jsonl"
    folder.mkdir()
    shutil.copy(path, folder / "train.jsonl")
    link.symlink_to(path)
    for other in path, tmp_path / "set" / ".." / "d.jsonl", link:
        with pytest.raises(BadInput, match="names the same data twice"):
            load("llmbar", f"{path}, {other}")
    with pytest.raises(BadInput, match="names the same data twice"):
        load("llmbar", f"{folder},{folder / 'train.jsonl'}")
    assert len(load("llmbar", f"{path},{folder}")) == 2  # another file
