"""The experiments of runs/miniature: forced verdicts, votes, the split of a gain, changed labels.

They are compared with plain softmaxes and with cases worked by hand.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs/miniature"))
import games  # noqa: E402
import lab  # noqa: E402
import ladder  # noqa: E402
import other_pairs  # noqa: E402
import table  # noqa: E402
import teaches  # noqa: E402
import thinking  # noqa: E402
from compute import voted  # noqa: E402
from measures import read_rows  # noqa: E402


def test_change_of_mode_and_change_within_are_those_worked_out_by_hand():
    def level(value):
        return np.full((1, 10), value)

    cells = {
        "base": level(0.7),
        "base, made to think": level(0.9),
        "base, made to guess": level(0.5),
        "base, made to think, greedy": level(0.92),
        "GRPO": level(0.93),
        "GRPO, made to think": level(0.95),
        "GRPO, rewards from a coin": level(0.7),
    }
    parts = teaches.split(cells, thinking=level(0.8))
    assert parts["mode"][0] == pytest.approx(0.8 * 0.9 + 0.2 * 0.5 - 0.7)
    assert parts["within"][0] == pytest.approx(0.93 - 0.82)
    assert parts["mode"][0] + parts["within"][0] == pytest.approx(parts["gain"][0])
    assert teaches.teaches(parts) == "reproduced: teaches, above greedy thinking of the base"
    assert teaches.teaches(parts | {"within": (0.01, -0.01, 0.03)}) == "partly: selects"
    assert teaches.coin_teaches_nothing(parts["coin"]) == "reproduced"
    assert "undecided" in teaches.coin_teaches_nothing((0.0, -0.2, 0.2))


def test_forced_verdicts_are_the_softmax_over_the_two_verdict_tokens():
    torch = pytest.importorskip("torch")

    from kernels.packed_attention import packed_attention
    from model import pack_groups

    judge = model, tokenizer, _ = games.load_judge("tiny")
    tasks = games.load_tasks(lab.TEST, 1)
    texts = ["<think> rice</think>", "<think></think>"]
    written = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    found = games.forced(judge, tasks, written)
    for task, text, game in zip(tasks, texts, found):
        one, two = (
            tokenizer.encode(text + verdict, add_special_tokens=False) for verdict in games.VERDICTS
        )
        place = next(index for index in range(len(one)) if one[index] != two[index])
        pack = pack_groups([(games.prompt_of(tokenizer, task) + one[:place], [[0]])])
        with torch.no_grad():
            hidden = model(pack.tokens, pack.positions, packed_attention(pack))
            logits = hidden[-1] @ model.head_weight.T
        expected = logits[[one[place], two[place]]].softmax(0)[0].item()
        assert game["p_first"] == pytest.approx(expected, abs=1e-5)
        assert game["verdict"] == (1 if expected > 0.5 else 2)
        assert game["right"] == (task["order"][game["verdict"] - 1] == task["label"])


def test_votes_are_majorities_of_disjoint_sets():
    def game(order, verdict, right):
        return {"id": "p", "order": order, "verdict": verdict, "right": right}

    played = [game([0, 1], 1, True), game([0, 1], 1, True)]
    played += [game([1, 0], 1, False), game([1, 0], None, False)]
    # First a draw, then one valid vote, which is right.
    assert [outcome["right"] for outcome in voted(played, 1)] == [0.5, 1.0]
    assert [outcome["right"] for outcome in voted(played, 2)] == [1.0]


def test_the_sibling_shows_the_same_answers_and_asks_the_other_question():
    tasks = games.load_tasks(lab.TEST, 8)
    for task, other, sibling in zip(tasks, *thinking.donors(tasks)):
        assert tasks[other]["id"] == task["id"] and tasks[other]["order"] != task["order"]
        assert games.shown_answers(tasks[sibling]) == games.shown_answers(task)
        assert games.better_place(tasks[sibling]) == 3 - games.better_place(task)


def test_a_biased_teacher_is_wrong_in_a_fifth_of_all_pairs_and_only_for_the_longer_answer():
    rows = read_rows(lab.TRAIN)
    biased = [row for row in rows if other_pairs.worse_is_longer(row)]
    for candidates in (rows, biased):
        changed = other_pairs.flip(rows, candidates)
        flipped = [row for row, other in zip(rows, changed) if row["label"] != other["label"]]
        assert len(flipped) == 0.2 * len(rows)
        assert {row["id"] for row in flipped} <= {row["id"] for row in candidates}
    with pytest.raises(ValueError, match="may be flipped"):
        other_pairs.flip(rows, [])


def test_thinking_in_the_form_of_rm_r1():
    lines = ["fig oat pea", "oat"]
    assert ladder.chain([("has", "fig", 1), ("max", 2, 3)], lines) == (
        "<think> line max 2 3 has fig 1 max 2 first 3 n0 second 1 y3 "
        "has fig first fig y1 second oat n3</think>"
    )
    text = ladder.chain(("+", 28, 5), ["33", "43"])
    assert text == "<think> sum ones 8+5=13 3y3y tens 2+0+1=3 3y4n</think>"


def test_rewards_from_a_coin_know_nothing_and_repeat():
    completions = [f"text {number % 3}" for number in range(400)]
    rewards = lab.coin_reward(["p"] * 400, completions, right_verdict=[1] * 400)
    assert set(rewards) == {-1.0, 1.0} and abs(sum(rewards)) < 60
    assert rewards == lab.coin_reward(["p"] * 400, completions)


def test_the_page_prefers_many_seeds_and_lists_what_has_not_run():
    def result(verdict, seeds):
        settings = {"command": "bash x", "seeds": seeds, "steps": 2, "pairs": 4, "machine": "m"}
        claims = [["c", "0.1 [0.0, 0.2]", verdict]]
        return settings | {"claims": claims, "tables": [["T", ["a"], [["b"]]]], "notes": ["n"]}

    page = table.page(
        {
            "teaches": result("partly", [0]),
            "teaches-full": result("reproduced", [0, 1]),
            "ladder": result("not at this size", [0]),
        }
    )
    rows = {line.split("[")[1][0]: line for line in page.splitlines() if line.startswith("| [")}
    assert len(rows) == 7 and "| reproduced | 2 |" in rows["1"]
    assert "| not at this size | 1 |" in rows["5"] and "| not run | - |" in rows["4"]


def test_the_committed_page_is_that_of_the_committed_results(tmp_path, monkeypatch):
    import shutil

    for name in ("results", "teaches.png", "teaches-full.png", "thinking.png", "compute.png"):
        copy = shutil.copytree if name == "results" else shutil.copy
        copy(table.HERE / name, tmp_path / name)
    monkeypatch.setattr(table, "RECORD", tmp_path)
    table.main()
    assert (tmp_path / "README.md").read_text() == (table.HERE / "README.md").read_text()
