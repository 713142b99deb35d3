"""The official judge benchmarks: which rows belong to each, and the scoring rule of its authors.

    items = load("judgebench", "gpt-4o.jsonl")
    score(BENCHMARKS["judgebench"], rows)          # {"overall": 0.657, "knowledge": ...}

evaluate.py scores these sets when --benchmark names one.
"""

import math
import re
from pathlib import Path

from cli import BadInput
from data import Pair
from extras.items import better_against_worse, drawn, labelled_items, read_items, report_size
from extras.rewardbench import (
    rewardbench2_cells,
    rewardbench2_group,
    rewardbench2_numbers,
    rewardbench2_question,
    rewardbench_cells,
    rewardbench_group,
    rewardbench_numbers,
    strengths,
    ties_cells,
)
from extras.scoring import (
    PAIRS,
    Benchmark,
    choice_cells,
    decided,
    mean,
    mean_of,
    means,
    order_winners,
    outcome,
    pair_cells,
    votes_of,
    with_better,
)
from seeding import uniform
from verdicts import majority

# The split that holds the benchmark, where a hub name is given
HUB_SPLIT = {"rewardbench": "filtered", "rewardbench2": "test", "judgebench": "gpt"}


# ---- rules ----


def best_of_k(values, scores):
    """[expected score of the answer with the highest value among k drawn, for k = 1 ... N].

    k answers are drawn without replacement; answers with equal values share. Exact: if m values
    are higher, all k drawn answers come from the other N - m with probability
    C(N - m, k) / C(N, k).
    """
    size, levels = len(values), []
    for level in sorted(set(values), reverse=True):
        tied = [score for value, score in zip(values, scores) if value == level]
        above = sum(value > level for value in values)
        levels.append((above, len(tied), sum(tied) / len(tied)))
    curve = []
    for k in range(1, size + 1):
        expected = 0.0
        for above, count, score in levels:
            ways = math.comb(size - above, k) - math.comb(size - above - count, k)
            expected += ways * score
        curve.append(expected / math.comb(size, k))
    return curve


# ---- RM-Bench ----

DOMAINS = "chat", "code", "math", "safety"
LEVELS = "easy", "normal", "hard"


def rm_bench_group(item, scores):
    if isinstance(item, Pair) or not item.candidates or len(item.candidates) != 6:
        return None
    name = str(item.meta.get("domain") or item.source.split("/")[-1])
    domain = re.split("[_-]", name)[0]  # safety-refuse
    return domain if domain in DOMAINS else None


def rm_bench_cells(row):
    """The 3 x 3 matrix of chosen answers (concise, detailed, markdown) against rejected ones.

    A draw or a missing verdict is no win. hard: the better answer has the plainer style; normal:
    the same style; easy: the richer style.
    """
    wins = dict.fromkeys(LEVELS, 0)
    for match, better in decided(row):
        i, j = sorted(match["pair"])  # answers 0 1 2 are chosen, 3 4 5 rejected
        level = "hard" if i < j - 3 else "normal" if i == j - 3 else "easy"
        wins[level] += outcome(match, better) == "right"
    return {f"{row['group']} {level}": (count, 3) for level, count in wins.items()}


def rm_bench_numbers(totals):
    """A domain is the mean of its three levels, and the whole is the mean of the domains."""
    values = means(totals)
    domains, levels = {}, {}
    for domain in DOMAINS:
        domains[domain] = mean_of(values.get(f"{domain} {level}") for level in LEVELS)
    for level in LEVELS:
        levels[level] = mean_of(values.get(f"{domain} {level}") for domain in DOMAINS)
    return {"overall": mean_of(domains.values())} | domains | levels | values


# ---- RMB ----

RMB_PARTS = (
    "pairwise helpfulness",
    "pairwise harmlessness",
    "BoN helpfulness",
    "BoN harmlessness",
)


def rmb_group(item, scores):
    path = item.meta.get("category_path")
    if len(set(scores)) < 2 or not isinstance(path, str) or "/" not in path:
        return None
    kind = "BoN" if "bon_uid" in item.meta else "pairwise"
    group = f"{kind} {path.split('/')[1].lower()}"
    return group if group in RMB_PARTS else None


def rmb_cells(row):
    """Pairwise: a draw counts 0.5, no verdict 0. Best of N: the best answer beats every loser."""
    results = [outcome(match, better) for match, better in decided(row)]
    if results.count("right") == len(results):
        value = 1
    elif row["group"].startswith("pairwise") and results[0] in ("tie", "inconsistent"):
        value = 0.5
    else:
        value = 0
    return {row["group"]: (value, 1)}


def rmb_numbers(totals):
    parts = means(totals, RMB_PARTS)
    return {"overall": mean_of(parts.values())} | parts


# ---- JudgeBench ----

CATEGORIES = {
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "code",
}


def judgebench_group(item, scores):
    source = item.meta.get("source")
    if not isinstance(item, Pair) or not isinstance(source, str):
        return None
    return "knowledge" if source.startswith("mmlu-pro") else CATEGORIES.get(source)


def judgebench_cells(row):
    """Two games, one in each order: +1 if right, -1 if wrong, 0 for a tie or no verdict.

    The pair is right if the sum is positive.
    """
    ((match, better),) = with_better(row)
    points = 0
    for won in order_winners(match):
        if won in (0, 1):
            points += 1 if won == better else -1
    return {"overall": (points > 0, 1), row["group"]: (points > 0, 1)}


# ---- PandaLM ----


def pandalm_group(item, scores):
    return "all" if isinstance(item, Pair) and "annotator1" in item.meta else None


def pandalm_cells(row):
    """The class that humans chose (0 tie, 1, 2) and the judge's, as "1 as 2".

    A draw, or orders that disagree, is the judge's tie as well. No verdict is no class.
    """
    ((match, better),) = with_better(row)
    won = majority(votes_of(match))
    if outcome(match, better) in ("unparsable", "truncated"):
        said = "none"
    else:
        said = won + 1 if won in (0, 1) else 0
    gold = 0 if better is None else better + 1
    return {f"{gold} as {said}": (1, 0)}


def pandalm_numbers(totals):
    """Three classes with ties. A judge that never says tie reaches 89.5 % at most.

    The two-way variant leaves out the rows that humans tied.
    """

    def count(golds, said):
        return sum(totals.get(f"{gold} as {one}", (0, 0))[0] for gold in golds for one in said)

    classes, anything = (0, 1, 2), (0, 1, 2, "none")
    precisions, recalls, f1s = [], [], []
    for label in classes:
        hits = count([label], [label])
        said, golds = count(classes, [label]), count([label], anything)
        precisions.append(hits / max(said, 1e-9))
        recalls.append(hits / max(golds, 1e-9))
        f1s.append(2 * hits / max(said + golds, 1e-9))
    right = [count([label], [label]) for label in classes]
    return {
        "accuracy, three classes": mean((sum(right), count(classes, anything))),
        "macro precision": mean_of(precisions),
        "macro recall": mean_of(recalls),
        "macro F1": mean_of(f1s),
        "accuracy, two-way without ties": mean((right[1] + right[2], count([1, 2], anything))),
    }


# ---- LLMBar ----


ADVERSARIAL = "Neighbor", "GPTInst", "GPTOut", "Manual"


def llmbar_group(item, scores):
    """The name of the set: its file, or the folder where the file is called dataset."""
    if not isinstance(item, Pair) or item.meta.get("label") not in (1, 2):
        return None
    return item.source.removesuffix("/dataset")


def llmbar_set(name):
    """Natural for Natural, Natural.json, LLMBar/Natural/dataset.json, or the hub's split of it."""
    return re.split("[/:@_]", name)[-1]


def llmbar_cells(row):
    """Mean accuracy over the orders, and whether the orders agree.

    A missing verdict is wrong, and agrees with nothing. (To the authors two missing ones agree.)
    """
    ((match, better),) = with_better(row)
    winners = order_winners(match)
    cells = {row["group"]: (winners.count(better), len(winners))}
    if len(winners) == 2:
        cells["positional agreement"] = (winners[0] == winners[1] is not None, 1)
    return cells


def llmbar_numbers(totals):
    """The plain means of the sets at hand, and of the adversarial ones among them."""
    sets = {name: mean(total) for name, total in totals.items() if name != "positional agreement"}
    adversarial = [value for name, value in sets.items() if llmbar_set(name) in ADVERSARIAL]
    agreement = mean(totals.get("positional agreement"))
    return {
        "mean of sets": mean_of(sets.values()),
        "adversarial": mean_of(adversarial),
        "positional agreement": agreement,
    } | sets


# ---- GSM8K solutions, PPE ----


def gsm8k_group(item, scores):
    return item.source if not isinstance(item, Pair) and item.candidates else None


def best_of_n_cells(row):
    return choice_cells(row, row["scores"]) | pair_cells(row, ["pairs"])


def ppe_group(item, scores):
    return "human" if isinstance(item, Pair) else item.source


def ppe_hub_name(name):
    """The hub name with its split: human preferences are in test, the correctness sets in train."""
    is_human = re.fullmatch(r"\s*[\w-]+/PPE-Human-Preference[\w.-]*\s*", name)
    return f"{name.strip()}@test" if is_human and not Path(name).exists() else name


def ppe_matches(item, scores):
    """Five pairs of the 32 answers: those that the authors drew, else five by a hash.

    None where the authors' pairs are malformed.
    """
    pairs = better_against_worse(item, scores)
    if isinstance(item, Pair):
        return pairs
    sampled = item.meta.get("sampled_conflict_pairs")  # in either direction
    if sampled is None:
        return sorted(pairs, key=lambda pair: uniform(f"ppe:{item.id}:{pair}"))[:5]
    matches = []
    for match in sampled if isinstance(sampled, list) else [None]:
        if not isinstance(match, list) or len(match) != 2:
            return None
        match = tuple(match) if tuple(match) in pairs else tuple(match[::-1])
        if match not in pairs:
            return None
        matches.append(match)
    return matches


def ppe_cells(row):
    """Human preference without ties; correctness: pairs, and the curve of best-of-k for all k."""
    if row["group"] == "human":
        return pair_cells(row, ["human"])
    cells = best_of_n_cells(row)
    if row.get("ranked") and row.get("pick") is None:
        for k, value in enumerate(best_of_k(strengths(row), row["scores"]), start=1):
            cells[f"best of {k}"] = (value, 1)
    return {f"{row['group']}: {name}": total for name, total in cells.items()}


def ppe_numbers(totals):
    """Of each curve also its largest value, and what its end lacks to the perfect choice."""
    numbers = means(totals)
    pairs = mean_of(value for name, value in numbers.items() if name.endswith(": pairs"))
    for name in totals:
        if not name.endswith(": best of 1"):
            continue
        group = name.removesuffix("best of 1")
        curve = []
        for key, value in numbers.items():
            if key.startswith(f"{group}best of ") and key[-1].isdigit():
                curve.append(value)
        numbers[f"{group}largest on the curve"] = max(curve)
        numbers[f"{group}loss at its end"] = numbers[f"{group}perfect choice"] - curve[-1]
    return {"pairs, mean of sets": pairs} | numbers


# ---- all of them ----

BENCHMARKS = {
    rule.name: rule
    for rule in (
        Benchmark("rewardbench", rewardbench_cells, rewardbench_numbers),
        Benchmark("rewardbench2", rewardbench2_cells, rewardbench2_numbers, joint_cells=ties_cells),
        Benchmark("rm_bench", rm_bench_cells, rm_bench_numbers),
        Benchmark("rmb", rmb_cells, rmb_numbers),
        Benchmark("judgebench", judgebench_cells, means, keeps_file_order=True),
        Benchmark("pandalm", pandalm_cells, pandalm_numbers, keeps_file_order=True),
        Benchmark("llmbar", llmbar_cells, llmbar_numbers, keeps_file_order=True),
        Benchmark("ppe", ppe_cells, ppe_numbers, keeps_file_order=True),
        Benchmark("gsm8k_solutions", best_of_n_cells, means, keeps_file_order=True),
        PAIRS,
    )
}
GROUP_OF = {
    "rewardbench": rewardbench_group,
    "rewardbench2": rewardbench2_group,
    "rm_bench": rm_bench_group,
    "rmb": rmb_group,
    "judgebench": judgebench_group,
    "pandalm": pandalm_group,
    "llmbar": llmbar_group,
    "ppe": ppe_group,
    "gsm8k_solutions": gsm8k_group,
}


def load(name, path, limit=None, seed=0):
    """The items of a benchmark's official files (paths joined by commas), or hub names.

    `limit`: that many items, drawn by a hash of seed and id. Raises BadInput.
    """
    if name == "pairs":
        return labelled_items(path, limit, seed)
    if name not in GROUP_OF:
        raise BadInput(f"--benchmark: {name!r} is unknown: choose one of {', '.join(GROUP_OF)}")
    if name == "ppe":
        path = ",".join(map(ppe_hub_name, path.split(",")))
    items = read_items(
        name,
        path,
        HUB_SPLIT.get(name, "train"),
        GROUP_OF[name],
        ppe_matches if name == "ppe" else better_against_worse,
        rewardbench2_question if name == "rewardbench2" else None,
    )
    return report_size(name, path, drawn(items, limit, seed))
