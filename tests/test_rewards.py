"""rewards.py: schedules and ratings of a group by hand.

Also what a judge gets to see, and a trainer with these rewards.
"""

import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import COIN, make_scripted_folder

import rewards
from chat import encode_chat
from cli import BadInput
from data import Pair, Question, place
from elo import elo
from judge import Judge, as_pair
from judge_task import JudgeTask
from rewards import (
    answer_reward,
    compare_groups,
    consistency_reward,
    cut_answers,
    draw_matches,
    final_answer,
    group_spans,
    judge_reward,
    match_rewards,
    num_matches,
    verdict_reward,
)
from solve_task import SolveTask
from styles import judge_messages
from verdicts import conclude

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
# Solvers for the commands: one answers "seven" or "eight", sometimes after thinking,
# sometimes without an end
SOLVER = {
    "": {"<think>": 0.5, " seven": 0.25, " eight": 0.25},
    "<think>": {" hm": 1},
    " hm": {" hm": 0.3, "</think>": 0.7},
    "</think>": {" seven": 0.5, " eight": 0.5},
    " seven": {" seven": 0.3},
}


class OracleJudge:
    """A judge without a model: `verdict(first, second)` -> 1, 2 or None. It keeps its inputs."""

    tokenizer = None

    def __init__(self, verdict, seed=0):
        self.verdict, self.seed, self.shown = verdict, seed, []

    def judge(
        self, pairs, num_votes=1, both_orders=True, temperature=0.6, max_completion_length=1024
    ):
        judgments = []
        for pair in map(as_pair, pairs):
            games = []
            for order in ([0, 1], [1, 0]) if both_orders else [place(pair, self.seed)]:
                answers = tuple(pair.answers[index] for index in order)
                self.shown.append((pair.messages[-1]["content"], *answers))
                games += [{"order": order, "verdict": self.verdict(*answers)}] * num_votes
            judgments.append(conclude(games))
        return judgments


def longer(first, second):
    return None if len(first) == len(second) else 1 if len(first) > len(second) else 2


# ---- schedules and ratings ----


def test_every_answer_meets_as_many_others_and_stands_first_as_often_as_second():
    for size in range(1, 18):
        for opponents in range(1, size + 2):
            matches, degree = (
                draw_matches(size, opponents, random.Random(f"{size} {opponents}")),
                min(opponents, size - 1),
            )
            assert (
                len(matches)
                == num_matches(size, opponents)
                == len({frozenset(match) for match in matches})
            )
            played, first = (
                Counter(player for match in matches for player in match),
                Counter(i for i, _ in matches),
            )
            twice = [player for player in range(size) if played[player] != degree]
            assert len(twice) == (size * degree) % 2 and all(
                played[player] == degree + 1 for player in twice
            )
            assert all(abs(2 * first[player] - played[player]) <= 1 for player in range(size))
            if degree > 1:  # nobody plays in a league of their own
                reached = {0}
                for _ in range(size):
                    reached |= {
                        player for match in matches if reached & set(match) for player in match
                    }
                assert len(reached) == size
    assert (
        num_matches(8, 4) == 16
        and num_matches(8, 7) == num_matches(8, 99) == 28
        and num_matches(7, 3) == 11
        and num_matches(1, 4) == 0
    )


def test_opponents_are_drawn_evenly():
    met = Counter(
        frozenset(match) for seed in range(700) for match in draw_matches(8, 2, random.Random(seed))
    )
    assert len(met) == 28 and min(met.values()) > 150 and max(met.values()) < 250  # 200 each


def test_match_rewards_by_hand():
    chain = [(0, 1, 1.0), (2, 0, 0.0), (1, 2, 1.0)]
    assert match_rewards(chain, 3, "win_rate") == ([1.0, 0.5, 0.0], pytest.approx(0.4))
    # Squares about the mean: 1/4 + 0 + 1/4. Coins: six scores of 1/4, each over 2^2.
    # 0.5 / (0.5 + 2 * 0.375) = 0.4
    assert match_rewards(chain, 3, "shrunk") == (pytest.approx([0.7, 0.5, 0.3]), pytest.approx(0.4))
    assert match_rewards(chain, 3, "elo")[0] == pytest.approx(
        [(rating - 1000) / 200 + 0.5 for rating in elo(chain, 3)]
    )
    assert match_rewards([(0, 1, 0.5), (1, 2, 0.5)], 3, "shrunk") == ([0.5] * 3, 0.0)
    assert match_rewards([], 1, "shrunk") == ([0.5], 0.0)
    # A match whose orders disagree says nothing, and makes no noise either:
    # 1/8 + 0 + 1/8 against four halves over 2^2.
    assert match_rewards([(0, 1, 0.5), (1, 2, 0.5), (0, 2, 1.0)], 3)[1] == pytest.approx(
        0.125 / (0.125 + 2 * 2 * 0.25 / 4)
    )


def test_equal_answers_are_trusted_less_than_unequal_ones():
    trust = {}
    for kind, chance in {"equal": 0.5, "unequal": 0.9}.items():
        rng, values = random.Random(0), []
        for _ in range(300):
            played = [
                (
                    i,
                    j,
                    float(
                        rng.random()
                        < (0.5 if (i < 4) == (j < 4) else chance if i < 4 else 1 - chance)
                    ),
                )
                for i, j in draw_matches(8, 7, rng)
            ]
            values.append(match_rewards(played, 8)[1])
        trust[kind] = sum(values) / len(values)
    # chance alone spreads the win rates by the variance of its coins: 1 / (1 + 2)
    assert trust["equal"] == pytest.approx(1 / 3, abs=0.05) and trust["unequal"] > 0.45


# ---- what is judged ----


@pytest.mark.parametrize(
    "text, opened, answer",
    [
        ("<think>a</think> b ", False, "b"),
        ("b", False, "b"),
        ("<think>a", False, ""),
        ("a", True, ""),
        ("a</think>b", True, "b"),
        ("<think>x</think>y<think>z", False, ""),
        ("<think>x</think>y<think>z</think>w", False, "w"),
        ("</think>", False, ""),
        ("", False, ""),
    ],
)
def test_only_the_text_behind_the_thinking_is_an_answer(text, opened, answer):
    assert final_answer(text, opened) == answer
    assert (
        final_answer(
            [{"role": "assistant", "content": "old"}, {"role": "assistant", "content": text}],
            opened,
        )
        == answer
    )


def test_the_judge_decides_and_thinking_never_reaches_it():
    judge = OracleJudge(longer)
    completions = ["<think>" + "long " * 50 + "</think>a", "aaa", "aa", "aaaa"]
    values = judge_reward(judge, opponents=3, scale="win_rate")(["q"] * 4, completions)
    assert values == pytest.approx([0, 2 / 3, 1 / 3, 1])
    assert len(judge.shown) == num_matches(4, 3) == 6 and {
        text for _, *answers in judge.shown for text in answers
    } == {"a", "aa", "aaa", "aaaa"}


def test_a_judge_that_sees_places_alone_gives_everybody_the_same():
    judge, reward = (
        OracleJudge(lambda first, second: 1),
        judge_reward(OracleJudge(lambda first, second: 1), opponents=4, scale="win_rate"),
    )
    assert reward(["q"] * 9, [f"answer {n}" for n in range(9)]) == [0.5] * 9
    both = judge_reward(judge, opponents=3, scale="win_rate", both_orders=True)
    assert (
        both(["q"] * 7, [f"answer {n}" for n in range(7)]) == [0.5] * 7 and len(judge.shown) == 22
    )


def test_identical_and_empty_answers_are_not_judged():
    judge = OracleJudge(lambda first, second: 1)
    reward = judge_reward(judge, opponents=9, scale="win_rate")
    assert reward(["q"] * 3, ["same", " same ", "<think>a</think>same"]) == [0.5] * 3
    assert reward(["q"] * 3, ["something", "", "<think>not finished"]) == [1.0, 0.25, 0.25]
    _, (group,) = compare_groups(judge, ["q"] * 3, ["something", "", "else"], opponents=9)
    assert group.matches and group.num_games == 1 and len(judge.shown) == 1
    assert reward(["q"], ["alone"]) == [0.5]


def test_a_game_without_verdict_is_a_draw_and_is_counted():
    judge = OracleJudge(lambda first, second: None)
    rewards, (group,) = compare_groups(judge, ["q"] * 4, list("abcd"), opponents=3)
    assert rewards == [0.5] * 4
    assert group.num_invalid == group.num_games == 6 and group.reliability == 0.0


def test_groups_are_judged_apart_and_in_any_shape_of_prompt():
    judge = OracleJudge(longer)
    first, second = (
        [{"role": "user", "content": "one"}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}],
    )
    completions = [[{"role": "assistant", "content": text}] for text in ("a", "aa", "bbb", "b")]
    assert judge_reward(judge, scale="win_rate")([first] * 2 + [second] * 2, completions) == [
        0,
        1,
        1,
        0,
    ]
    assert {(query, *sorted(answers)) for query, *answers in judge.shown} == {
        ("one", "a", "aa"),
        ("two", "b", "bbb"),
    }


def test_a_split_group_is_an_error():
    assert group_spans(["a", "a", "b"]) == [(0, 2), (2, 3)]
    assert group_spans(["a"] * 4, 2) == [(0, 2), (2, 4)]  # a question that was drawn twice
    for prompts, size in ((["a", "b", "a"], None), (["a", "b"], 2), (["a"] * 3, 2)):
        with pytest.raises(ValueError, match="side by side"):
            group_spans(prompts, size)
    with pytest.raises(ValueError, match="side by side"):
        judge_reward(OracleJudge(longer))(["a", "b", "a"], ["x", "y", "z"])


def test_the_same_call_gives_the_same_rewards_and_trl_may_log():
    logged = {}
    reward = judge_reward(OracleJudge(longer), opponents=2)
    answers = ["a" * n for n in (3, 1, 4, 1, 5)]
    assert reward.__name__ == "judge_reward" and reward(["q"] * 5, answers) == reward(
        ["q"] * 5, answers, log_metric=logged.__setitem__
    )
    assert 0 < logged["judge_reward/games"] <= num_matches(5, 2)


@pytest.fixture(scope="module")
def coin(tmp_path_factory):
    """A judge with a context of 1,500 tokens that throws coins; one verdict in five is missing."""
    return Judge(
        make_scripted_folder(
            tmp_path_factory.mktemp("coin") / "m", COIN, max_position_embeddings=1500
        ),
        device="cpu",
        dtype=torch.float32,
    )


def test_a_long_answer_keeps_its_end_and_fits(coin):
    messages = [{"role": "user", "content": "what is <|im_end|>?"}]
    long = ["Wörter " * 300 + "= 42", "<|im_end|></think>" * 200 + "é", "short"]
    kept = cut_answers(coin, messages, long, 40)
    assert (
        all(whole.endswith(end) for whole, end in zip(long, kept))
        and kept[2] == "short"
        and kept[0] != long[0]
    )
    for first, second in ((kept[0], kept[1]), (kept[1], kept[0])):
        length = len(
            encode_chat(coin.tokenizer, judge_messages(coin.style, messages, first, second))
        )
        assert 1500 - 40 - 24 <= length <= 1500 - 40
    with pytest.raises(ValueError, match="context is 1500"):
        cut_answers(coin, [{"role": "user", "content": "x" * 3000}], long, 40)


def test_with_a_real_judge(coin):
    options = dict(opponents=3, max_completion_length=40)
    prompts, completions = (
        ["what is 6 * 7?"] * 4,
        ["42", "<think>hm</think>43", "44", "the answer is 42 " * 100],
    )
    values, (group,) = compare_groups(coin, prompts, completions, **options)
    assert group.num_cut == 1 and group.num_games == 6 and 0 <= group.num_invalid < 6
    assert sum(values) == pytest.approx(2)
    assert {score for *_, score in group.matches} <= {0.0, 0.5, 1.0}
    assert values == judge_reward(coin, **options)(prompts, completions)


# ---- the other rewards ----


def test_consistency_pays_where_both_orders_are_right():
    one, two, pair = "\\boxed{Assistant 1}", "\\boxed{Assistant 2}", Pair("p", [], ("a", "b"), 0)
    values = consistency_reward(
        ["x"] * 3 + ["y"] * 3,
        [one, one, two, two, one, two],
        [1] * 3 + [2] * 3,
        ["rrm"] * 6,
        [pair] * 6,
        [[0, 1]] * 3 + [[1, 0]] * 3,
    )
    assert values == [1.0, -1.0, -1.0, 1.0, -1.0, -1.0]
    with pytest.raises(ValueError, match="both orders"):
        consistency_reward(["x"] * 2, [one] * 2, [1] * 2, ["rrm"] * 2, [pair] * 2, [[0, 1]] * 2)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_consistency_leads_back_to_both_places_and_the_verdict_alone_does_not(p):
    """The gradient on the logit of `first`, of a judge that does not read.

    The mean over both orders of reward * (said first - p).
    """
    count, pair = 8000, Pair("p", [], ("a", "b"), 0)
    said_first = [random.Random(f"{p}:{index}").random() < p for index in range(2 * count)]
    texts = ["\\boxed{Assistant 1}" if first else "\\boxed{Assistant 2}" for first in said_first]
    columns = (
        [1] * count + [2] * count,
        ["rrm"] * 2 * count,
        [pair] * 2 * count,
        [[0, 1]] * count + [[1, 0]] * count,
    )

    def push(rewards):
        return sum(reward * (first - p) for reward, first in zip(rewards, said_first)) / count

    assert push(verdict_reward(texts, texts, *columns[:2])) == pytest.approx(0, abs=0.02)
    assert push(consistency_reward(texts, texts, *columns)) == pytest.approx(
        2 * p * (1 - p) * (1 - 2 * p), abs=0.02
    )


def test_both_orders_of_a_pair_come_together():
    from judge_task import comparison_stream

    pairs = [Pair(f"p{n}", [], ("a", "b"), n % 2) for n in range(6)]
    stream = comparison_stream(pairs, 0, both_orders=True)
    epoch = [next(stream) for _ in range(12)]
    assert sorted(item.id for item in epoch[::2]) == [f"p{n}" for n in range(6)]
    assert all(
        first.pair == second.pair and first.order == second.order[::-1]
        for first, second in zip(epoch[::2], epoch[1::2])
    )
    alone = comparison_stream(pairs, 0)
    assert epoch[::2] == [next(alone) for _ in range(6)]


def test_answer_reward_strips_thinking_and_pays_no_error():
    pytest.importorskip("extras.verify")
    completions = [
        "<think>13</think>The answer is \\boxed{12}.",
        "\\boxed{13}",
        "<think>\\boxed{12}",
    ]
    assert answer_reward(["q"] * 3, completions, answer=["12"] * 3) == [1.0, 0.0, 0.0]
    assert answer_reward(
        ["q"] * 3, completions, answer=["12"] * 3, correct=[None, True, False]
    ) == [0.0, 1.0, 0.0]


# ---- the trainer ----


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_scripted_folder(folder / "judge", COIN)
    make_scripted_folder(folder / "solver", SOLVER)
    rows = [{"question": f"what is {n}", "answer": str(7 + n % 2)} for n in range(9)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "asked.jsonl").write_text(
        "".join(json.dumps({"question": row["question"]}) + "\n" for row in rows)
    )
    (folder / "likes_eight.py").write_text(
        "def reward(prompts, completions, question, answer, **columns):\n"
        "    assert prompts == [item.messages for item in question] and set(answer) == {None}\n"
        "    return [float(text.endswith(' eight')) for text in completions]\n"
    )
    return folder


def train(world, *arguments, check=True, launcher=()):
    command = [
        sys.executable,
        *launcher,
        str(ROOT / "train_grpo.py"),
        "--model",
        "solver",
        "--num_generations",
        "5",
        "--prompts_per_step",
        "3",
        "--max_completion_length",
        "12",
        "--dtype",
        "float32",
        "--learning_rate",
        "3e-4",
        *map(str, arguments),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=world,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    if check and done.returncode:
        pytest.fail(done.stderr[-3000:])
    return done


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "tim" not in key} for row in rows]


JUDGED = [
    "--reward",
    "judge",
    "--judge_model",
    "judge",
    "--judge_max_completion_length",
    24,
    "--train_data",
    "asked.jsonl",
    "--save_every",
    2,
]


def test_a_judge_pays_a_solver_and_the_run_resumes(world):
    evaluated = [*JUDGED, "--eval_data", "q.jsonl", "--eval_every", 2, "--max_steps", 4]
    done = train(world, *evaluated, "--output_dir", "whole")
    assert re.search(r"judging took \d+ calls, 0 retries, \d+ prompt and \d+ comp", done.stderr)
    assert "judge.py" not in done.stderr  # it is no judge
    first, *rows = metrics(world / "whole")
    assert len(rows) == 4 and first["eval/reward/win_rate"] == 0.5  # everyone is as good as oneself
    assert [row["step"] for row in rows if "eval/reward/oracle" in row] == [2, 4] and 0 < rows[-1][
        "eval/reward/win_rate"
    ] < 1
    training = [{key for key in row if not key.startswith("eval/")} for row in rows]
    assert all(keys == training[0] for keys in training) and not any(
        key.startswith("judge/") for key in training[0]
    )
    for row in rows:
        assert (
            row["reward"] == pytest.approx(0.5, abs=1e-6)
            and row["reward/judge_matches"] == 3 * 10 >= row["reward/judge_games"] > 0
            and row["reward/judge_tokens"] >= row["reward/judge_games"]
        )
        assert (
            row["reward/checked"] == row["reward/oracle"] == 0
            and 0 < row["reward/judge_reliability"] < 1
            and row["grad_norm"] > 0
        )
    settings = json.loads((world / "whole" / "config.json").read_text())["settings"]
    assert settings["scale_rewards"] == "none"
    group = json.loads((world / "whole" / "rollouts" / "2.jsonl").read_text().splitlines()[0])
    values, _ = match_rewards(group["matches"], 5)
    assert [completion["reward"] for completion in group["completions"]] == pytest.approx(
        values, abs=1e-6
    )
    assert [completion["advantage"] for completion in group["completions"]] == pytest.approx(
        [value - 0.5 for value in values], abs=1e-6
    )
    subprocess.run(["cp", "-r", world / "whole", world / "again"], check=True)
    subprocess.run(["rm", "-r", world / "again" / "checkpoint-4"], check=True)
    train(world, *evaluated, "--output_dir", "again", "--resume")
    assert metrics(world / "again") == [first, *rows]
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    train(world, *evaluated[:-1], 2, "--output_dir", "two", launcher=two)
    for row, other in zip(metrics(world / "two"), [first, *rows]):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_questions_without_answers_are_held_out_for_the_win_rate_alone(world):
    rows = [{"question": f"how about {n}"} for n in range(20)]
    (world / "twenty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [*JUDGED[:-4], "--train_data", "twenty.jsonl", "--max_steps", 1]
    done = train(world, *flags, "--output_dir", "held")
    assert "2 of 20 questions of --train_data are held out" in done.stderr
    for row in metrics(world / "held"):
        held_out = {key for key in row if key.startswith("eval/")}
        names = ("reward/win_rate", "reward/unanswered", "completions/mean_length")
        assert held_out == {f"eval/{name}" for name in names}
    lines = (world / "held" / "rollouts" / "eval-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [None, None]


def test_a_function_of_ones_own_pays_a_solver(world):
    train(
        world,
        "--reward",
        "solve:likes_eight:reward",
        "--train_data",
        "asked.jsonl",
        "--max_steps",
        1,
        "--output_dir",
        "own",
    )
    groups = [
        json.loads(line)
        for line in (world / "own" / "rollouts" / "1.jsonl").read_text().splitlines()
    ]
    for completion in (completion for group in groups for completion in group["completions"]):
        assert completion["reward"] == float(completion["text"].endswith(" eight"))
    (row,) = metrics(world / "own")
    assert 0 < row["reward"] < 1 and row["reward_std"] > 0 and row["reward/judge_matches"] == 0


def test_right_answers_pay_a_solver_and_are_evaluated(world):
    pytest.importorskip("extras.verify")
    flags = [
        "--train_data",
        "q.jsonl",
        "--eval_data",
        "q.jsonl",
        "--max_steps",
        2,
        "--eval_every",
        1,
        "--output_dir",
        "right",
    ]
    train(world, "--reward", "answer", *flags)
    rows = metrics(world / "right")
    assert [row["step"] for row in rows] == [0, 1, 2] and all(
        row["reward/checked"] == 1 for row in rows[1:]
    )
    assert all(row["reward"] == row["reward/oracle"] for row in rows[1:])
    assert {"eval/reward/oracle", "eval/reward/unanswered"} <= rows[0].keys()
    assert "eval/reward/win_rate" not in rows[0]  # no judge compares
    assert len((world / "right" / "rollouts" / "eval-1.jsonl").read_text().splitlines()) == 9


def test_metrics_of_judged_groups_by_hand():
    from rollout import Group
    from solve_task import Exercise, SolveTask

    matches = [[0, 1, 1.0], [2, 0, 0.5], [1, 2, 1.0]]
    comparison = rewards.GroupMatches(
        [], [], matches, num_cut=1, num_games=2, num_invalid=1, num_tokens=9, reliability=0.25
    )
    records = [{"answered": True}, {"answered": True}, {"answered": False}]
    question = Question("q", [])
    compared = Exercise(question, correct=[True, False, None], comparison=comparison)
    task, rows = SolveTask.__new__(SolveTask), []
    for item in (compared, Exercise(question)):
        rows.append(task.describe(Group(item, [], [], 0)) | {"completions": records})
    # one match sets right against wrong, and the right answer won it; the one with the verifier's
    # error does not count
    assert task.metrics(rows) == {
        "reward/oracle": 1 / 3,
        "reward/checked": 1 / 2,
        "reward/verifier_error": 1 / 3,
        "reward/unanswered": 2 / 6,
        "reward/judge_matches": 3,
        "reward/judge_games": 2,
        "reward/judge_tokens": 9,
        "reward/judge_invalid": 1 / 2,
        "reward/judge_accuracy": 1.0,
        "reward/judge_reliability": 0.25,
        "reward/judge_cut": 1 / 6,
    }


# ---- a function of the user's own ----


TEXTS = ["one", "two", "three"]


def read(result):
    return rewards.read_rewards(result, ["p1", "p2", "p3"], TEXTS, "mine:reward")


@pytest.mark.parametrize(
    "result",
    [
        [1, 0.5, -2],
        (1.0, 0.5, -2.0),
        iter([1, 0.5, -2]),
        (value for value in (1, 0.5, -2)),
        [Fraction(1), Fraction(1, 2), -2],
        np.array([1, 0.5, -2]),
        np.array([1, 0.5, -2], dtype=np.float16),
        [np.float32(1), np.float64(0.5), np.int64(-2)],
        [np.array(1), np.array([0.5]), np.array([[-2]])],
        torch.tensor([1, 0.5, -2]),
        torch.tensor([1, 0.5, -2], dtype=torch.bfloat16),
        torch.tensor([1, 0.5, -2], requires_grad=True),
        [torch.tensor(1), torch.tensor(0.5, requires_grad=True), torch.tensor([-2])],
        [1, torch.tensor(0.5), np.float32(-2)],
    ],
)
def test_rewards_may_be_any_numbers(result):
    values = read(result)
    assert values == [1.0, 0.5, -2.0] and {type(value) for value in values} == {float}


def scores_of_texts(prompts, completions):
    return [1.0] * len(completions)


def spoils_its_arguments(prompts, completions, **columns):
    return [float(len(completions.pop())) for _ in range(len(completions))]


def test_a_function_without_columns_is_refused_and_none_spoils_its_arguments():
    for name, column in (("", "right_verdict"), ("solve:", "answer")):
        with pytest.raises(BadInput, match=f"unexpected keyword argument '{column}': define it as"):
            rewards.import_reward(f"{name}{__name__}:scores_of_texts")
    texts = ["a", "bb"]
    spoiled = rewards.import_reward(f"{__name__}:spoils_its_arguments")
    assert spoiled(prompts=["p", "p"], completions=texts, answer=["1", "1"]) == [2.0, 1.0]
    assert texts == ["a", "bb"]


def test_the_columns_that_are_checked_are_those_of_the_tasks():
    seen = []
    task = SimpleNamespace(judge=None, settings=SimpleNamespace(style="rrm"))
    task.reward_function = lambda **columns: seen.append(tuple(columns))
    JudgeTask.rewards(task, [])
    SolveTask.rewards(task, [])
    assert list(map(set, seen)) == [set(rewards.JUDGE_COLUMNS), set(rewards.SOLVER_COLUMNS)]


def test_a_judge_compares_held_out_answers_to_questions_without_a_reference(tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "why?"}\n')
    for reward, flag in (("judge", "--eval_data"), ("solve:m:f", "--train_data")):
        task = SimpleNamespace(settings=SimpleNamespace(reward=reward))
        (question,) = SolveTask.load_items(task, str(asked), flag, "test")
        assert question.answer is None
    for reward, flag in (("answer", "--train_data"), ("solve:m:f", "--eval_data")):
        task = SimpleNamespace(settings=SimpleNamespace(reward=reward))
        with pytest.raises(BadInput, match="no question has an answer to compare with"):
            SolveTask.load_items(task, str(asked), flag, "test")


def test_none_is_no_reward():
    for result in ([1.0, None, 0.0], np.array([1.0, None, 0.0], dtype=object)):
        first, missing, last = read(result)
        assert (first, last) == (1.0, 0.0) and math.isnan(missing)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        10**400,
        True,
        np.True_,
        torch.tensor(True),
        torch.tensor(math.nan),
        np.float32("inf"),
        "1.0",
        np.str_("1"),
        1j,
        [1.0],
        {},
        torch.ones(2),
        np.ones(2),
        np.ones(0),
    ],
)
def test_what_is_no_number_is_named_with_its_completion(value):
    with pytest.raises(BadInput) as caught:
        read([1.0, value, 0.0])
    words = ["--reward mine:reward", "completion 2 of 3", "'two'", "'p2'", "None"]
    assert all(word in str(caught.value) for word in words)


async def numbers_without_end():
    yield 1.0


@pytest.mark.parametrize(
    "result, words",
    [
        ([1.0], "returned 1 rewards"),
        ([1.0] * 4, "returned 4 rewards"),
        ([], "returned 0 rewards"),
        (np.ones((1, 3)), "returned 1 rewards"),
        ("111", "returned str"),
        ({"a": 1, "b": 2, "c": 3}, "returned dict"),
        ({1.0, 2.0, 3.0}, "returned set"),
        (frozenset([1.0, 2.0, 3.0]), "returned frozenset"),
        ({1.0: 0, 2.0: 0, 3.0: 0}.keys(), "returned dict_keys"),
        (([1.0] * 3, [2.0] * 3), "returned 2 rewards"),
        (None, "returned NoneType"),
        (1.0, "returned float"),
        (torch.tensor(1.0), "returned Tensor"),
        (np.array(1.0), "returned ndarray"),
        (numbers_without_end(), "returned async_generator"),
    ],
)
def test_what_is_no_list_of_rewards_is_named(result, words):
    with pytest.raises(BadInput, match="--reward mine:reward") as caught:
        read(result)
    assert words in str(caught.value) and "3 numbers" in str(caught.value)


def test_functions_of_every_kind_are_served(tmp_path, monkeypatch):
    (tmp_path / "kinds.py").write_text(
        "import asyncio\n"
        "from rewards import GroupMatches\n"
        "def plain(prompts, completions, **columns):\n"
        "    return [len(text) for text in completions]\n"
        "async def later(prompts, completions, **columns):\n"
        "    await asyncio.sleep(0)\n"
        "    return plain(prompts, completions)\n"
        "def one_by_one(prompts, completions, **columns):\n"
        "    yield from plain(prompts, completions)\n"
        "class Callable:\n"
        "    async def __call__(self, prompts, completions, **columns):\n"
        "        return plain(prompts, completions)\n"
        "instance = Callable()\n"
        "def compared(prompts, completions, **columns):\n"
        "    return tuple(plain(prompts, completions)), [GroupMatches([], [], [], 0)]\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "later", "one_by_one", "instance"):
        reward = rewards.import_reward(f"kinds:{name}")
        assert reward(prompts=["p"] * 3, completions=TEXTS, answer=[None] * 3) == [3.0, 3.0, 5.0]
    reward = rewards.import_reward("kinds:compared")
    values, (group,) = reward(prompts=["p"] * 3, completions=TEXTS)
    assert values == [3.0, 3.0, 5.0] and group.num_cut == 0


def test_a_training_with_none_and_a_training_with_nan(world):
    (world / "some.py").write_text(
        "import torch\n"
        "async def partly(prompts, completions, **columns):\n"
        "    scores = {'s': 1.0, 'e': torch.tensor(0.0)}\n"
        "    return [scores.get(text.strip()[:1]) for text in completions]\n"
        "def broken(prompts, completions, **columns):\n"
        "    return torch.tensor([float('nan')] * len(completions))\n"
    )
    flags = ["--train_data", "asked.jsonl", "--max_steps", 1, "--eval_every", 0]
    train(world, "--reward", "solve:some:partly", *flags, "--output_dir", "partly")
    lines = (world / "partly" / "rollouts" / "1.jsonl").read_text().splitlines()
    games = [game for line in lines for game in json.loads(line)["completions"]]
    kept = [game["reward"] for game in games if game["reward"] is not None]
    assert 0 < len(kept) < len(games)
    assert all(game["advantage"] == 0 for game in games if game["reward"] is None)
    (row,) = metrics(world / "partly")
    assert row["reward"] == pytest.approx(sum(kept) / len(kept))
    assert row["completions/unscored_ratio"] == pytest.approx(1 - len(kept) / len(games))
    done = train(
        world, "--reward", "solve:some:broken", *flags, "--output_dir", "broken", check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "--reward solve:some:broken" in last and "completion 1 of 15" in last and "nan" in last


BAD = {
    "judge without a model": (["--reward", "judge", "--train_data", "q.jsonl"], ["--judge_model"]),
    "judge that is none": (
        ["--reward", "judge", "--judge_model", "./none", "--train_data", "q.jsonl"],
        ["none"],
    ),
    "judge without a use": (
        ["--judge_model", "judge", "--train_data", "q.jsonl"],
        ["--judge_model", "--reward judge"],
    ),
    "questions without answers": (
        ["--reward", "answer", "--train_data", "asked.jsonl"],
        ["--train_data", "asked.jsonl", "answer"],
    ),
    "no opponents": ([*JUDGED, "--judge_opponents", "0"], ["--judge_opponents"]),
    "an unknown reward": (
        ["--reward", "praise", "--train_data", "q.jsonl"],
        ["--reward", "praise"],
    ),
    "a judge's reward for a solver": (
        ["--reward", "solve:consistency", "--train_data", "q.jsonl"],
        ["--reward", "consistency", "MODULE:FUNCTION"],
    ),
    "half a pair": (
        ["--reward", "consistency", "--train_data", "q.jsonl"],
        ["--prompts_per_step", "even number"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, world):
    flags, words = BAD[name]
    done = train(world, *flags, "--output_dir", "bad", check=False)
    assert (
        done.returncode == 2
        and all(word in done.stderr for word in words)
        and not (world / "bad").exists()
    ), done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("data:")]) == 1, (
        done.stderr
    )


def test_rewards_has_no_torch():
    code = "import sys, rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert rewards.SHRINK == 2.0  # what runs/reward measured
