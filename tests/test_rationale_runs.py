"""The study of reasons: its checker on planted errors, its data, its statistics.

python tests/test_rationale_runs.py     the planted errors that the checker finds, by kind
"""

import importlib
import random
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs/rationale"), str(ROOT / "runs"), str(ROOT)]
import checker  # noqa: E402
import measures  # noqa: E402
import study  # noqa: E402

table = importlib.import_module("runs.rationale.table")  # other studies have a table.py too
world = checker.world

# ---- planted errors: each changes one thing of a faultless judgment ----


def other(rng, value, choices):
    return rng.choice([choice for choice in choices if choice != value])


def plant_in_sum(rng, kind, task, answers, thinking):
    """(thinking with the error, what the checker has to count), or None: no place for it."""
    columns = re.findall(r"(\w+) (\S+=)(\d+) (\d)([ny])(\d)([ny])", thinking)
    at = rng.randrange(len(columns))
    label, work, total, *marks = columns[at]
    place = rng.choice([0, 2])
    if kind == "total":
        total, expected = str(int(total) + rng.randint(1, 9)), {"false": 1}
    elif kind == "operand":
        digit = re.match(r"\d+", work)[0]
        work, expected = f"{int(digit) + rng.randint(1, 4)}{work[len(digit) :]}", {"false": 1}
    elif kind == "carry":
        found = re.fullmatch(r"(\d+[-+*]\d+)([-+]\d+)?=", work)
        work, expected = found[1] + ("=" if found[2] else "+1="), {"false": 1}
    elif kind == "digit of an answer":
        marks[place], expected = other(rng, marks[place], "0123456789"), {"false": 1}
    elif kind == "mark":
        marks[place + 1], expected = other(rng, marks[place + 1], "ny"), {"false": 1}
    elif kind == "left out":
        expected = {"missing": 3}
    elif kind == "repeated":
        columns.append(columns[at])
        expected = {"irrelevant": 3}
    elif kind == "not needed":
        if len(columns) == len(world.LABELS):
            return None
        text, _ = next(islice(world.columns(*task), len(columns), None))
        work_after, total_after = text.split("=")
        after = [
            (str(world.digit(world.number_of(answer), len(columns))), "y") for answer in answers
        ]
        columns.append((world.LABELS[len(columns)], f"{work_after}=", total_after, *sum(after, ())))
        expected = {"irrelevant": 3}
    elif kind == "no step":
        return f"{thinking} {rng.choice(world.WORDS)}", {"irrelevant": 1}
    columns[at] = (label, work, total, *marks)
    if kind == "left out":
        del columns[at]
    parts = [f"{a} {b}{c} {''.join(rest)}" for a, b, c, *rest in columns]
    return " " + " ".join(parts), expected


def plant_in_line(rng, kind, task, answers, thinking):
    claims = list(re.finditer(r"(first|second) (.+?) ([ny])(\d+)", thinking))
    at = rng.choice(claims)
    place, quoted, mark, total = at.groups()
    words = quoted.split()
    if kind == "mark":
        mark = other(rng, mark, "ny")
    elif kind == "points":
        total = str(int(total) + rng.randint(1, 3))
    elif kind == "quoted":
        index = rng.randrange(len(words))
        choices = "123456789" if words[index].isdigit() else world.WORDS
        words[index] = other(rng, words[index], choices)
    elif kind == "left out":
        start = claims[-1].start() if rng.random() < 0.5 else None
        if start:
            return thinking[:start], {"missing": 1}
        start = thinking.rindex(task[-1][0])
        return thinking[:start], {"missing": 2}
    elif kind == "repeated":
        start = thinking.rindex(task[-1][0])
        return thinking + " " + thinking[start:], {"irrelevant": 2}
    elif kind == "not needed":
        word = next(word for word in world.WORDS if all(word != part[1] for part in task))
        return f"{thinking} has {word} first egg n0 second egg n0", {"irrelevant": 2}
    elif kind == "no step":
        return f"{thinking} {rng.choice(world.WORDS)}", {"irrelevant": 1}
    else:
        return None
    claim = f"{place} {' '.join(words)} {mark}{total}"
    return thinking[: at.start()] + claim + thinking[at.end() :], {"false": 1}


SUM_KINDS = (
    "total, operand, carry, digit of an answer, mark, left out, repeated, not needed, no step"
)
LINE_KINDS = "mark, points, quoted, left out, repeated, not needed, no step"


def planted(count, seed=0):
    """(family, kind, question, answers, thinking, expected counts) without the true steps."""
    rng, made = random.Random(seed), 0
    while made < count:
        family, _, queries, tasks, answers, _ = world.siblings(rng)
        index, is_sum = rng.randrange(2), family == "sums"
        kind = rng.choice((SUM_KINDS if is_sum else LINE_KINDS).split(", "))
        thinking = world.think(tasks[index], answers)
        plant = plant_in_sum if is_sum else plant_in_line
        changed = plant(rng, kind, tasks[index], answers, thinking)
        if changed:
            made += 1
            yield family, kind, queries[index], answers, *changed


def outcomes(count):
    """Counters by (family, kind): planted, found (the right counts), false alarms."""
    found = {}
    for family, kind, query, answers, thinking, expected in planted(count):
        checked = checker.check(query, answers, f"<think>{thinking}</think>")["counts"]
        wrong = {status: checked[status] for status in ("false", "irrelevant", "missing")}
        counter = found.setdefault((family, kind), Counter())
        counter["planted"] += 1
        counter["found"] += all(wrong[status] == expected[status] for status in expected)
        counter["false alarms"] += sum(wrong[s] for s in wrong if s not in expected)
    return found


def test_two_thousand_planted_errors_are_found_and_nothing_else():
    found = outcomes(2000)
    assert len(found) == 16 and sum(counter["planted"] for counter in found.values()) == 2000
    for counter in found.values():
        assert counter["found"] == counter["planted"] and counter["false alarms"] == 0


def test_every_step_of_two_thousand_right_judgments_is_true():
    rng = random.Random(1)
    for _ in range(1000):
        _, _, queries, tasks, answers, _ = world.siblings(rng)
        for index in (0, 1):
            text = world.judgment(tasks[index], answers, index)
            checked = checker.check(queries[index], answers, text)
            assert checked["score"] == 1 and checked["reasons"] == "right"
            assert checked["conclusion"] == index + 1


@pytest.mark.parametrize(
    "thinking, counts, reasons, conclusion",
    [
        (" ones 6+7=13 3y3y tens 8+4+1=13 3y2n", (6, 0, 0, 0), "right", 1),  # operands swapped
        (" ones 7+6=13 3y3y tens 4+8=12 3n2y", (3, 3, 0, 0), "wrong", 2),  # forgot the carry
        (" ones 7+6=13 3y3y", (3, 0, 0, 3), "wrong", None),  # cut off before it decides
        ("", (0, 0, 0, 6), "guess", None),
        (" fig hundreds 3+5=8", (0, 0, 2, 6), "guess", None),
    ],
)
def test_judgments_of_a_sum(thinking, counts, reasons, conclusion):
    text = f"<think>{thinking}</think>\\boxed{{Assistant 1}}"
    checked = checker.check("347+586", ["933", "13,13,9: 923"], text)
    assert tuple(checked["counts"].values()) == counts
    assert (checked["reasons"], checked["conclusion"]) == (reasons, conclusion)
    assert checked["score"] == counts[0] / sum(counts)


def test_a_line_may_be_judged_in_another_order_of_constraints():
    query, answers = "has fig x3, max 2 x1", ["oat fig pea", "rice tea"]
    text = "<think> max 2 first 3 n0 second 2 y1 has fig first oat fig y3 second rice tea n1"
    checked = checker.check(query, answers, text)
    assert checked["counts"] == {"true": 4, "false": 0, "irrelevant": 0, "missing": 0}
    assert checked["conclusion"] == 1
    # The kind of the constraint is right and its word is not: nobody asked for it.
    checked = checker.check(query, answers, text.replace("has fig", "has oat"))
    assert checked["counts"] == {"true": 2, "false": 0, "irrelevant": 2, "missing": 2}


def test_right_reasons_are_paid_only_with_a_right_verdict():
    from data import Pair

    pair = Pair("p", [{"role": "user", "content": "3+4"}], ("7", "8"), 0)
    texts = ["<think> ones 3+4=7 8n7y</think>", "<think> ones 3+4=8 8y7n</think>", "no thinking"]
    given = {"pair": [pair] * 4, "order": [[1, 0]] * 4, "right_verdict": [2] * 4}
    texts, verdicts = [texts[0], texts[1], texts[2], texts[0]], [2, 2, 2, 1]
    rewards = checker.reasons_reward([], texts, verdict=verdicts, **given)
    assert rewards == [1.0, -1.0, -1.0, -1.0]


# ---- what judges are trained on ----


def test_corrupted_reasons_keep_the_verdict_and_flipped_verdicts_keep_the_reasons():
    def shares(kind, share, flips):
        found = Counter()
        for row in islice(study.judgments(kind, share, flips, 0), 1000):
            question, text = (message["content"] for message in row["messages"])
            query, first, second = re.fullmatch(
                r"(.+) first: (.+) second: (.+) better\?", question
            ).groups()
            checked = checker.check(query, [first, second], text)
            better = 1 if world.number_of(first) == world.result(*checker.read_task(query)) else 2
            found["right verdict"] += text.endswith(world.VERDICTS[better - 1])
            found["right reasons"] += checked["reasons"] == "right"
            found["favoured"] += checked["conclusion"] == better
            found["score"] += checked["score"] / 1000
            for status, count in checked["counts"].items():
                found[status] += count
        return found

    assert shares("right", 0, 0)["right reasons"] == 1000
    flipped = shares("right", 0, 0.3)
    assert flipped["right reasons"] == 1000 and abs(flipped["right verdict"] - 700) < 50
    for kind in study.CORRUPTED:
        assert shares(kind, 1, 0)["right verdict"] == 1000
    marks = shares("marks", 1, 0)
    assert marks["right reasons"] == marks["favoured"] == marks["missing"] == 0
    assert marks["false"] == 2 * marks["true"]  # the working of each column is still true
    work = shares("work", 1, 0)
    assert work["favoured"] == 1000 and work["true"] == 2 * work["false"]
    short = shares("short", 1, 0)
    scores = [kind["score"] for kind in (marks, work, short)]
    assert scores == pytest.approx([1 / 3, 2 / 3, 0.70], abs=0.02)
    assert short["false"] == 0 and abs(short["right reasons"] - 450) < 50
    assert short["favoured"] == short["right reasons"]
    half = shares("marks", 0.5, 0.3)
    assert abs(half["right reasons"] - 500) < 60 and abs(half["right verdict"] - 700) < 50


def test_measures_of_the_games_of_two_siblings():
    def game(order, verdict, right, reasons="right", score=1.0, conclusion=None):
        given = {"order": order, "verdict": verdict, "right": right, "reasons": reasons}
        return given | {"score": score, "conclusion": conclusion or verdict}

    games = [game([0, 1], 1, True), game([1, 0], 2, True)]  # both name answer 0
    games += [game([0, 1], 1, False, "wrong", 0.5, 2), game([1, 0], None, False, "guess", 0.0)]
    found = study.cells(games, 1)
    assert found["accuracy"] == found["right, right"] == found["consistency"] == 0.5
    assert found["score"] == 2.5 / 4 and found["score_thought"] == 2.5 / 3
    assert found["averaged"] == 0.5 and found["wrong, wrong"] == found["wrong, guess"] == 0.25


def test_the_plan_has_the_runs_of_the_rules():
    names = list(study.plan())
    count = Counter(name.split("_")[0] for name in names)
    assert count == {"judge": 36, "policy": 150, "rl": 24}
    assert len(set(names)) == len(names)


def test_the_second_reader_agrees_with_the_checker():
    rows = measures.read_rows(ROOT / "runs/rationale/logs/second_reader.jsonl")
    assert len(rows) == 100
    classes, counts = Counter(), 0
    for row in rows:
        checked = checker.check(row["query"], row["answers"], row["text"])
        classes[row["reasons"], checked["reasons"]] += 1
        counts += checked["counts"]["false"] == row["false"]
    # The one is a judgment that the reader misread: it had doubled a word.
    assert classes.pop(("wrong", "right")) == 1 and counts == 99
    assert all(one == other for one, other in classes) and len(classes) == 3


# ---- tables ----


def invented(worth):
    """Results of every planned run: accuracy and step score as in the design, worth by a rule."""
    rng, found = np.random.default_rng(0), {}

    def siblings(**means):
        rows = []
        for _ in range(50):
            row = {name: mean + rng.normal(0, 0.02) for name, mean in means.items()}
            rows.append(row | {"thinks": 1.0, "follows": 0.9})
        return rows

    for name in study.plan():
        kind, *cell = name.partition("-")[0].split("_")
        if kind == "judge":
            accuracy = 0.95 - 0.5 * float(cell[2]) + rng.normal(0, 0.005)
            score = 1 - 0.5 * float(cell[1])
            shown = {"accuracy": accuracy, "score": score, "right, right": accuracy * score}
            shown["consistency"] = 0.9 + rng.normal(0, 0.01)
            found[name] = {"siblings": siblings(**shown, averaged=accuracy)}
            for seed in (0, 1, 2):
                gain = worth(cell[0], accuracy, score) + rng.normal(0, 0.01)
                found[f"policy_{name}_{seed}"] = {"before": 0.4, "after": 0.4 + gain}
        if kind == "rl":
            paid = 0.3 * (cell[1] == "reasons")
            for step in (0, 90):
                run = name.partition("@")[0] if step else f"rl_{cell[0]}"
                shown = {"accuracy": 0.6 + step / 300, "right, right": 0.5, "consistency": 0.5}
                shown |= dict.fromkeys(("score", "score_thought"), 0.6 + (paid - 0.1) * step / 90)
                found[f"{run}@{step}"] = {"siblings": siblings(**shown)}
            for seed in (0, 1, 2):
                run = f"policy_{name.partition('@')[0]}_{seed}"
                found[run] = {"before": 0.4, "after": 0.6 + rng.normal(0, 0.01)}
    return found


def intervals(monkeypatch, worth):
    monkeypatch.setattr(table, "DRAWS", 200)
    judges, found = table.judges_of(invented(worth)), {}
    for name, kinds in table.SETS.items():
        found[name] = table.intervals([judge for judge in judges if judge[0] in kinds])
    return found


def test_where_the_reasons_decide_the_worth(monkeypatch):
    found = intervals(monkeypatch, lambda kind, accuracy, score: 0.4 * score)
    assert found["all"]["step score"][0] > 0.95 and found["all"]["step score, partial"][1] > 0.9
    assert all(values["step score - accuracy"][1] > 0 for values in found.values())
    assert found["all"]["matched difference of worth"] == pytest.approx((0.2, 0.2, 0.2), abs=0.1)


def test_where_only_what_is_left_out_decides(monkeypatch):
    def worth(kind, accuracy, score):
        return 0.3 * accuracy if kind != "short" else 0.3 * accuracy - 0.4 * (1 - score)

    _, decorative, bearing = intervals(monkeypatch, worth).values()
    assert decorative["step score - accuracy"][2] < 0 < bearing["step score - accuracy"][1]
    matched = "matched difference of worth"
    assert max(map(abs, decorative[matched])) < 0.05 < bearing[matched][1]


def test_reliability_is_that_of_the_spearman_brown_and_cronbach_formulas():
    rng = np.random.default_rng(0)
    true = rng.normal(size=2000)
    # Means of 4 siblings with noise of variance 4 each, gains of 3 policies of variance 3 each.
    values = true[:, None, None] + rng.normal(0, 2, (2000, len(table.MEASURES), 4))
    gains = true[:, None] + rng.normal(0, 3**0.5, (2000, 3))
    found = table.reliabilities([("right", *judge) for judge in zip(gains, values)])
    assert found["accuracy"] == pytest.approx(1 / 2, abs=0.03)
    assert found["worth"] == pytest.approx(1 / 2, abs=0.03)


def test_the_page_has_every_table(monkeypatch, tmp_path):
    results = invented(lambda kind, accuracy, score: 0.3 * accuracy)
    monkeypatch.setattr(table, "DRAWS", 20)
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(table.STUDY, "collect", lambda: results)
    table.main()
    page = (tmp_path / "table.md").read_text()
    assert "| base | verdict | 90 | 3 | 0.9" in page and (tmp_path / "worth.png").exists()
    # Rows of judges, RL at two steps, paid minus unpaid, others, correlations, reliabilities.
    tables = [part.count("\n|") - 1 for part in page.strip().split("\n\n") if part[0] == "|"]
    assert tables == [16, 16, 3, 8, 14, 6]


def test_a_partial_correlation_worked_by_hand():
    x, y, z = (np.array(values, float) for values in ([1, 2, 3, 4], [2, 1, 4, 3], [1, 1, 2, 2]))
    rest = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    assert table.partial(x, y, z) == pytest.approx(np.corrcoef(*rest)[0, 1])
    assert table.partial(x, y, z) == pytest.approx(-1)


if __name__ == "__main__":
    for (family, kind), counter in sorted(outcomes(2000).items()):
        print(
            family,
            kind,
            *(counter[name] for name in ("planted", "found", "false alarms")),
            sep=", ",
        )
