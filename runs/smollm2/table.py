"""Tables of what runs/smollm2/chain.sh has evaluated: python runs/smollm2/table.py [OUT]          (out/smollm2; prints, and writes OUT/tables.md)

Accuracy: pairs whose better answer has the majority of both orders' verdicts; a missing verdict is never right. A coin is right in a quarter of
them, so single games are shown as well. The judges in italics are trivial and say the same in both orders: a coin of their kind is right in half.
Intervals (95 %) come from a bootstrap over questions. Length bias: share of verdicts for the longer answer less the share that the labels give
it. The last three columns: how often a chain in the taught format says "yes" of one answer alone, whether the verdict is for that one, and
whether it is the better one.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs/smollm2")]
from prepare import TESTS  # noqa: E402

from data import load_pairs, load_questions  # noqa: E402
from extras.benchmarks import load  # noqa: E402
from extras.mixture import answers_apart, fit_blind  # noqa: E402
from scoring import (  # noqa: E402
    decided,
    intervals,
    means,
    outcome,
    protocol_cells,
    question_cells,
    votes_of,
)

SETS = ["constraints", *TESTS]
NAMES = {
    "base": "the model as it is",
    "forced": "its likelier verdict token, no thinking",
    "direct-format": "after the format stage, no thinking",
    "format": "after the format stage, thinking",
    "labels": "supervised on the labels, no thinking",
    "direct": "GRPO, no thinking",
    "think": "GRPO, thinking",
}
IN_DISTRIBUTION = {
    "constraints": "held-out subjects and words",
    "gsm8k": "held-out questions",
    "rmb": "in distribution",
}


def title(judge):
    name, _, seed = judge.rpartition("-")
    return f"{NAMES[name]}, seed {seed}" if seed.isdigit() else NAMES[judge]


def percent(cell):
    return (
        "-" if cell is None else f"{100 * cell[0]:.0f} [{100 * cell[1]:.0f}, {100 * cell[2]:.0f}]"
    )


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def accuracy_table(results, blind):
    yield row(
        "judge",
        *(
            f"{name} ({IN_DISTRIBUTION[name]})" if name in IN_DISTRIBUTION else name
            for name in SETS
        ),
    )
    yield row(*["---"] * (len(SETS) + 1))
    for judge, sets in results.items():
        yield row(
            title(judge),
            *(
                percent(sets[name]["results"]["protocol"]["accuracy"]) if name in sets else "-"
                for name in SETS
            ),
        )
    one = {name: sets[name]["results"] for sets in results.values() for name in sets}
    for kind in ("longest", "shortest"):
        yield row(
            f"*{kind} answer*",
            *(
                f"{100 * one[name]['baselines'][kind]['accuracy']:.0f}" if name in one else "-"
                for name in SETS
            ),
        )
    yield row(
        "*words of the answers, trained on the same pairs*",
        *(f"{100 * blind[name]:.0f}" if name in blind else "-" for name in SETS),
    )
    yield row(
        "*pairs, questions*",
        *(
            f"{sum(one[name]['outcomes'].values())}, {one[name]['questions']}"
            if name in one
            else "-"
            for name in SETS
        ),
    )


def blind_accuracy(results, out):
    """{set: share of pairs that a linear model of the answers' words decides rightly}: trained on the judges' own pairs, it never sees a question."""
    pairs = load_pairs(out / "data/train.jsonl")
    model = fit_blind(
        answers_apart(*([pair.answers[index] for pair in pairs] for index in (0, 1))),
        [pair.label == 0 for pair in pairs],
    )
    accuracy = {}
    for name, result in {name: sets[name] for sets in results.values() for name in sets}.items():
        items = {
            item.id: item
            for item in load(result["results"]["benchmark"], str(out / f"data/eval/{name}.jsonl"))
        }
        ends = [
            (
                items[item["id"]].answers[match["pair"][better]],
                items[item["id"]].answers[match["pair"][1 - better]],
            )
            for item in result["rows"]
            for match, better in decided(item)
        ]
        accuracy[name] = (model.decision_function(answers_apart(*zip(*ends))) > 0).mean()
    return accuracy


def games_table(results):
    """Each order by itself: the share of games whose verdict names the better answer; none is wrong."""
    name_of_cell = "game right, missing = 0"
    yield row("judge", *SETS, "all")
    yield row(*["---"] * (len(SETS) + 2))
    games = {
        title(judge): {name: sets[name]["rows"] for name in sets} for judge, sets in results.items()
    }
    seeds = [sets for name, sets in games.items() if name.startswith("GRPO, thinking")]
    if len(seeds) > 1:
        games["GRPO, thinking, all seeds"] = {
            name: sum((sets[name] for sets in seeds), [])
            for name in SETS
            if all(name in sets for sets in seeds)
        }
    for name, sets in games.items():
        if len(sets) == len(SETS):
            sets = sets | {"all": sum(sets.values(), [])}
        yield row(
            name,
            *(
                percent(
                    intervals([question_cells(protocol_cells, sets[part])], means)[name_of_cell]
                )
                if part in sets
                else "-"
                for part in (*SETS, "all")
            ),
        )


def own_check(text):
    """1 or 2: the answer that a chain, by the format it was taught, calls the fitting one before the verdict; None: both, neither or other words."""
    marks = re.findall(r"Assistant ([12]) wrote .*?: (yes|no)\b", text.replace("\n", " "))
    fitting = {place for place, mark in marks if mark == "yes"}
    return (
        int(fitting.pop())
        if {place for place, _ in marks} == {"1", "2"} and len(fitting) == 1
        else None
    )


def behaviour(sets):
    """Counts over the games of all sets."""
    total = Counter()
    for result in sets.values():
        for item in result["rows"]:
            for match, better in decided(item):
                lengths = [item["lengths"][player] for player in match["pair"]]
                longer = None if lengths[0] == lengths[1] else lengths.index(max(lengths))
                named = votes_of(match)
                total["pairs"] += 1
                total["agree"] += named[0] == named[1] is not None
                for game, answer in zip(match["games"], named):
                    total["games"] += 1
                    total[game["status"]] += 1
                    total["forced"] += game.get("forced", False)
                    total["tokens"] += game["tokens"]
                    total["think"] += game.get("think_tokens") or 0
                    total["first"] += game["verdict"] == 1
                    if game["verdict"] and (check := own_check(game["text"])):
                        total["checked"] += 1
                        total["followed"] += game["verdict"] == check
                        total["check right"] += game["order"][check - 1] == match["pair"][better]
                    if answer is not None and longer is not None:
                        total["unequal"] += 1
                        total["longer"] += answer == longer
                        total["longer is better"] += better == longer
    return total


def behaviour_table(results):
    yield row(
        "judge",
        "orders agree",
        "first place named",
        "length bias",
        "no verdict",
        "forced",
        "tokens of thinking",
        "tokens",
        "one answer marked yes",
        "... and named",
        "... and better",
    )
    yield row(*["---"] * 11)
    for judge, sets in results.items():
        c = behaviour(sets)
        valid, unequal = max(1, c["valid"]), max(1, c["unequal"])
        yield row(
            title(judge),
            f"{c['agree'] / c['pairs']:.2f}",
            f"{c['first'] / valid:.2f}",
            f"{(c['longer'] - c['longer is better']) / unequal:+.2f}",
            f"{1 - c['valid'] / c['games']:.3f}",
            f"{c['forced'] / c['games']:.2f}",
            f"{c['think'] / c['games']:.0f}",
            f"{c['tokens'] / c['games']:.0f}",
            f"{c['checked'] / valid:.2f}",
            *(
                f"{c[name] / c['checked']:.2f}" if c["checked"] else "-"
                for name in ("followed", "check right")
            ),
        )


# ---- GSM8K: generators and the best of four ----


def last_number(text):
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def gsm8k_table(results, out, generators):
    """Pairs by whether the generator that is right more often (over training questions) made the better answer; best of four."""
    questions = {
        question.id: question for question in load_questions(out / "data/eval/gsm8k.jsonl")
    }
    yield row(
        "judge", "pairs, better generator right", "pairs, better generator wrong", "best of 4"
    )
    yield row(*["---"] * 4)
    for judge, sets in results.items():
        if "gsm8k" not in sets:
            continue
        parts = defaultdict(list)
        for item in sets["gsm8k"]["rows"]:
            rates = [generators[name] for name in questions[item["id"]].meta["generators"]]
            for match, better in decided(item):
                mine, other = (rates[match["pair"][index]] for index in (better, 1 - better))
                if mine != other:
                    parts[mine > other].append(outcome(match, better) == "right")
        cells = [
            f"{100 * sum(parts[kind]) / len(parts[kind]):.0f} % of {len(parts[kind])}"
            if parts[kind]
            else "-"
            for kind in (True, False)
        ]
        yield row(title(judge), *cells, percent(sets["gsm8k"]["results"]["rule"]["best of N"]))
    best = max(generators, key=generators.get)
    chosen = {"random pick": [], f"always {best}": [], "majority answer": [], "oracle": []}
    for question in questions.values():
        names, scores = question.meta["generators"], question.scores
        answers = list(map(last_number, question.candidates))
        counts = Counter(answers)
        leaders = [
            score
            for answer, score in zip(answers, scores)
            if counts[answer] == max(counts.values())
        ]
        for name, value in zip(
            chosen,
            (
                sum(scores) / len(scores),
                scores[names.index(best)],
                sum(leaders) / len(leaders),
                max(scores),
            ),
        ):
            chosen[name].append(value)
    for name, values in chosen.items():
        yield row(f"*{name}*", "-", "-", f"{100 * sum(values) / len(values):.0f}")


def main(out="out/smollm2"):
    out, results = Path(out), {}
    order = list(NAMES)
    folders = sorted(
        (out / "eval").glob("*"),
        key=lambda path: (
            order.index(path.name if path.name in NAMES else path.name.rpartition("-")[0]),
            path.name,
        ),
    )
    for folder in folders:
        done = {
            name: folder / name / "results.json"
            for name in SETS
            if (folder / name / "results.json").exists()
        }
        results |= (
            {folder.name: {name: json.loads(path.read_text()) for name, path in done.items()}}
            if done
            else {}
        )
    if not results:
        sys.exit(f"nothing is evaluated in {out}/eval: bash runs/smollm2/chain.sh table NAME")
    generators = json.loads((out / "data/sets.json").read_text())["generators"]
    lines = [
        "**Accuracy, both orders** (percent; a coin: 25; judges in italics say the same in both orders, where a coin is right in 50)",
        "",
        *accuracy_table(results, blind_accuracy(results, out)),
        "",
        "**Single games** (percent right; a coin: 50)",
        "",
        *games_table(results),
        "",
        "**Over all sets**",
        "",
        *behaviour_table(results),
        "",
        "**GSM8K model solutions** (percent)",
        "",
        *gsm8k_table(results, out, generators),
    ]
    (out / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
