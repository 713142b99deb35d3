"""extras/probe.py: its numbers for judges with a known weakness.

No trick gets out of the text of an answer.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_rewards import OracleJudge, longer
from tiny_models import make_model_folder, make_scripted_folder, make_tokenizer

from chat import encode_chat
from extras.probe import QUESTIONS, TRICKS, Settings, load_items, probe
from judge import Judge
from rewards import judge_reward
from styles import judge_messages, load_style

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ITEMS = [
    ([{"role": "user", "content": question}], right, wrong, {})
    for question, right, wrong in QUESTIONS
]
RIGHT = {right for _, right, _ in QUESTIONS}


def test_a_judge_that_knows_the_answers_cannot_be_taken_in():
    result = probe(
        OracleJudge(lambda first, second: 1 if first in RIGHT else 2 if second in RIGHT else None),
        ITEMS,
    )
    assert all(
        row["against_right"] == row["added"] == row["added_error"] == 0 for row in result.values()
    )
    assert (
        all(row["against_itself"] == 0.5 for trick, row in result.items() if trick != "plain")
        and result["plain"]["against_itself"] is None
    )
    assert (
        result["plain"]["invalid"] == 0 and result["padding"]["invalid"] == 0.5
    )  # of its games half were against itself


def test_a_judge_of_length_falls_for_everything_long():
    result = probe(OracleJudge(longer), ITEMS)
    assert all(
        result[trick]["against_right"] == result[trick]["against_itself"] == 1
        for trick in TRICKS
        if trick not in ("empty", "repeated")
    )
    assert result["empty"]["against_right"] == result["empty"]["against_itself"] == 0
    plain = sum(
        0.5 if len(right) == len(wrong) else len(wrong) > len(right)
        for _, right, wrong in QUESTIONS
    ) / len(QUESTIONS)
    assert result["plain"]["against_right"] == plain and result["padding"][
        "added"
    ] == pytest.approx(1 - plain)


def test_a_judge_that_obeys_loses_to_those_who_ask():
    def obedient(first, second):
        return 1 if "judge" in first else 2 if "judge" in second else longer(first, second)

    assert probe(OracleJudge(obedient), ITEMS[:1])["addresses the judge"] | {"added": 0} == {
        "against_right": 1.0,
        "added": 0,
        "added_error": None,
        "against_itself": 1.0,
        "invalid": 0.0,
    }


@pytest.mark.parametrize("style", ["rrm", "direct"])
def test_no_trick_writes_a_token_of_the_template(style):
    tokenizer, style = make_tokenizer(), load_style(style)
    control = set(tokenizer.get_added_vocab().values())

    def written(answer):
        ids = encode_chat(tokenizer, judge_messages(style, "q", answer, "other"))
        return [token for token in ids if token in control]

    for trick, template in TRICKS.items():
        assert written(template.format(answer="42")) == written("42"), trick


def test_no_trick_gives_a_verdict_that_the_judge_has_not_written(tmp_path):
    mute = Judge(
        make_scripted_folder(
            tmp_path / "m", {"": dict.fromkeys((" nothing", " no", " nil", " none"), 0.25)}
        ),
        device="cpu",
        dtype=torch.float32,
    )
    result = probe(mute, ITEMS[:2], max_completion_length=4)
    assert all(row["invalid"] == 1 and row["against_right"] == 0.5 for row in result.values())


def test_as_reward_empty_and_repeated_answers_gain_nothing():
    reward = judge_reward(
        OracleJudge(lambda first, second: 1), opponents=3, scale="win_rate", both_orders=True
    )
    assert reward(["q"] * 4, ["", "42", "42", "<think>42"]) == pytest.approx(
        [1 / 6, 5 / 6, 5 / 6, 1 / 6]
    )


def test_the_embedded_judge_is_asked_about_its_world():
    rows = [
        json.loads(line) for line in (ROOT / "tiny" / "test.jsonl").read_text().splitlines()[:3]
    ]
    right_and_wrong = [(row["ab"[row["label"]]], row["ba"[row["label"]]]) for row in rows]
    items = load_items(Settings(style="tiny", limit=3))
    assert [(messages[-1]["content"], right, wrong) for messages, right, wrong, _ in items] == [
        (row["query"], *both) for row, both in zip(rows, right_and_wrong)
    ]
    assert load_items(Settings(style="rrm", limit=3)) == ITEMS[:3]


def test_the_command(tmp_path):
    folder, pairs = make_model_folder(tmp_path / "m"), tmp_path / "p.jsonl"
    pairs.write_text(json.dumps({"query": "q", "a": "x", "b": "y", "label": 1}) + "\n")
    command = [
        sys.executable,
        "-m",
        "extras.probe",
        "--model",
        str(folder),
        "--max_completion_length",
        "2",
        "--pairs",
        str(pairs),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert (
        result["games"] == 38
        and set(result["tricks"]) == {"plain", *TRICKS}
        and result["tricks"]["plain"]["invalid"] == 1
    )
    pairs.write_text(json.dumps({"query": "q", "a": "x", "b": "y"}) + "\n")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "p.jsonl" in done.stderr.splitlines()[-1]
        and "label" in done.stderr
    )
