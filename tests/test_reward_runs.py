"""runs/reward: rewards that know the sums, judges of a given accuracy, the student, the table."""

import importlib
import itertools
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny"), str(ROOT / "runs/reward")]
import student  # noqa: E402

from cli import BadInput  # noqa: E402
from plugins import import_function  # noqa: E402
from rewards import final_answer  # noqa: E402

rewards_tiny = importlib.import_module("runs.reward.rewards_tiny")
table = importlib.import_module("runs.reward.table")
SUM, DIFFERENCE = ([{"role": "user", "content": text}] for text in ("347+586", "92 minus 57"))
ANSWERS = [
    "<think> ones 7+6=13</think>933",
    "923",
    "13,13,9: 933",
    "13,13,9: 923",
    "35",
    "35",
    "36",
    "hm",
]


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "name, expected", [("oracle", [1, 0, 1, 0, 1, 1, 0, 0]), ("majority", [1, 1, 1, 1, 1, 1, 0, 0])]
)
def test_rewards_by_name(in_root, name, expected):
    reward = import_function(f"runs.reward.rewards_tiny:{name}", "--reward")
    assert reward(prompts=[SUM] * 4 + [DIFFERENCE] * 4, completions=ANSWERS) == expected


def test_an_exact_judge_ranks_right_before_wrong_and_other_names_are_refused(in_root):
    reward = import_function("runs.reward.rewards_tiny:fresh_100", "--reward")
    values, (group,) = reward(prompts=[SUM] * 3, completions=["933", "923", "13,13,9: 923"])
    assert values[0] == max(values) and len(set(values)) == 3
    scores = {(i, j): score for i, j, score in group.matches}  # the two wrong ones toss a coin
    scores |= {(j, i): 1 - score for (i, j), score in scores.items()}
    assert scores[0, 1] == scores[0, 2] == 1 and len(scores) == 6
    for name in ("fresh_20", "fresh_075x", "fresh"):
        with pytest.raises(BadInput, match="50 to 100"):
            import_function(f"runs.reward.rewards_tiny:{name}", "--reward")


@pytest.mark.parametrize("kind", ["fresh", "fixed", "longer"])
def test_judges_have_the_accuracy_of_their_name(kind):
    rng, pairs, right = random.Random(0), [], []
    for a, b in itertools.product(range(10, 50), range(10, 50)):
        answers = [
            rng.choice(["", "5,6: "]) + str(number) for number in (a + b, a + b + 1)
        ]  # length says nothing about quality
        right.append(rng.randrange(2))
        pairs.append((f"{a}+{b}", *(answers[:: 1 if right[-1] == 0 else -1])))
    judgments = rewards_tiny.noisy_judge(kind, 0.75).judge(pairs)
    shares = [
        judgment.p_first if place == 0 else 1 - judgment.p_first
        for place, judgment in zip(right, judgments)
    ]
    assert abs(sum(shares) / len(shares) - 0.75) < 0.03
    agree = sum(bool(judgment.consistent) for judgment in judgments) / len(judgments)
    assert agree == 1 if kind == "fixed" else 0.6 < agree < 0.9
    unequal = [
        (len(pair[1]) > len(pair[2]), judgment.p_first)
        for pair, judgment in zip(pairs, judgments)
        if abs(len(pair[1]) - len(pair[2])) > 1
    ]
    longer = sum(share if first else 1 - share for first, share in unequal) / len(unequal)
    assert (
        abs(longer - (0.75 if kind == "longer" else 0.5)) < 0.04
    )  # 2 * 0.25 of the games, and half of the others


def test_the_student_never_sees_a_held_out_question_and_errs_as_it_should():
    rows = [row["messages"] for row in itertools.islice(student.rows(), 3000)]
    held_out = list(itertools.islice(student.questions(True), 100))
    asked = {question["content"] for question, _ in rows}
    assert not asked & {row["question"] for row in held_out} and all(
        int(row["answer"]) == rewards_tiny.solution(row["question"]) for row in held_out
    )
    right = [
        rewards_tiny.number(final_answer(answer["content"]))
        == rewards_tiny.solution(question["content"])
        for question, answer in rows
    ]
    assert abs(sum(right) / len(right) - (0.45 + 0.25 / 2)) < 0.03
    assert abs(sum("<think>" in answer["content"] for _, answer in rows) / len(rows) - 0.75) < 0.03
    lengths = [
        sum(":" in answer["content"] for (_, answer), good in zip(rows, right) if good == wanted)
        / right.count(wanted)
        for wanted in (True, False)
    ]
    assert abs(lengths[0] - lengths[1]) < 0.04  # the longer form is no sign of quality
    assert all("answer" not in row for row in itertools.islice(student.questions(False), 10))


def test_the_table_of_the_log():
    """Every number that table.py prints stands in solver.md, which has more columns."""
    rows = table.read_rows(table.HERE / "solver.jsonl")
    runs = {row["name"]: [other for other in rows if other["name"] == row["name"]] for row in rows}
    page = (table.HERE / "solver.md").read_text().splitlines()
    lines = table.table(runs, list(runs)).splitlines()[2:]
    assert len(lines) == 29
    for line in lines:
        cells = line.strip("| ").split(" | ")
        assert any(set(cells) <= set(other.strip("| ").split(" | ")) for other in page), line
