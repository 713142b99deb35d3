"""The numbers of runs/miniature that rest on trainings: intervals, the split of a gain, changed labels, circles, forms of thinking."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "runs/miniature")]
import ladder  # noqa: E402
import other_pairs  # noqa: E402
import rl  # noqa: E402
import table  # noqa: E402
import teaches  # noqa: E402


def test_change_of_mode_and_within_add_up_to_the_gain_and_are_those_worked_out_by_hand():
    def level(value):
        return np.full((1, 10), value)

    found = {
        "base": level(0.7),
        "think": level(0.9),
        "guess": level(0.5),
        "greedy": level(0.92),
        "grpo": level(0.93),
        "thinking": level(0.8),
        "grpo_think": level(0.95),
        "think_votes": level(0.9),
        "coin": level(0.7),
    }
    parts = teaches.split(found)
    assert parts["mode"][0] == pytest.approx(0.8 * 0.9 + 0.2 * 0.5 - 0.7) and parts["within"][
        0
    ] == pytest.approx(0.93 - 0.82)
    assert parts["mode"][0] + parts["within"][0] == pytest.approx(parts["gain"][0])
    assert teaches.judged(parts).startswith("reproduced: teaches, above greedy")
    assert teaches.judged(parts | {"within": (0.01, -0.01, 0.03)}) == "partly: selects"
    assert "coin" not in teaches.split(
        {name: rows for name, rows in found.items() if name != "coin"}
    )


def test_intervals_hold_the_scatter_of_seeds_and_pair_the_siblings():
    rng = np.random.default_rng(1)
    base, steady = rng.random((1, 400)), np.array([[0.0], [0.1]])
    value, low, high = rl.difference(base + steady, base)
    assert (
        value == pytest.approx(0.05) and low == pytest.approx(0.0) and high == pytest.approx(0.1)
    )  # pairs cancel, what is left are seeds
    assert rl.accuracy(base)[2] - rl.accuracy(base)[1] == pytest.approx(
        2 * 1.96 * base.std() / 20, rel=0.1
    )


def test_a_biased_teacher_is_wrong_in_a_fifth_of_all_pairs_and_only_for_the_longer_answer():
    rows = other_pairs.training_pairs()
    for may_flip in (lambda row: True, other_pairs.worse_is_longer):
        changed = other_pairs.flip(rows, may_flip)
        flipped = [row for row, other in zip(rows, changed) if row["label"] != other["label"]]
        assert len(flipped) == 0.2 * len(rows) and all(map(may_flip, flipped))
    with pytest.raises(ValueError, match="may be flipped"):
        other_pairs.flip(rows, lambda row: row["level"] == 0)


def test_circles_of_verdicts(tmp_path):
    def game(name, winner, order):
        return {"id": name, "order": order, "verdict": order.index(winner) + 1}

    circle = [
        game(f"7-{pair}", winner, [0, 1]) for pair, winner in (("01", 0), ("12", 0), ("02", 1))
    ]
    straight = [
        game(f"7-{pair}", winner, [1, 0]) for pair, winner in (("01", 0), ("12", 1), ("02", 0))
    ]
    (tmp_path / "games").write_text("".join(json.dumps(row) + "\n" for row in circle + straight))
    assert rl.cycle_rate(tmp_path / "games") == 0.5


def test_forms_of_thinking():
    task, lines = [("has", "fig", 1), ("max", 2, 3)], ["fig oat pea", "oat"]
    assert (
        ladder.think_line(task, lines, rubric=False)
        == "has fig first fig y second oat n max 2 first 3 n second 1 y"
    )
    assert (
        ladder.think_line(task, lines, rubric=True)
        == "max 2 3 has fig 1 max 2 first 3 n0 second 1 y3 has fig first fig y1 second oat n3"
    )
    assert (
        ladder.chain("types", ("+", 28, 5), ["33", "43"], 0)
        == "<think> sum ones 8+5=13 3y3y tens 2+0+1=3 3y4n</think>\\boxed{Assistant 1}"
    )
    assert (
        ladder.chain("rubrics", ("+", 28, 5), ["33", "34"], 0)
        == "<think> plus ones tens ones 8+5=13 3y4n</think>\\boxed{Assistant 1}"
    )


def test_rewards_from_a_coin_know_nothing_and_repeat():
    completions = [f"text {number % 3}" for number in range(400)]
    rewards = rl.coin_reward(["p"] * 400, completions, right_verdict=[1] * 400)
    assert (
        set(rewards) == {-1.0, 1.0}
        and abs(sum(rewards)) < 60
        and rewards == rl.coin_reward(["p"] * 400, completions)
    )


def test_the_page_prefers_many_seeds_and_lists_what_has_not_run():
    def result(verdict, seeds):
        return {
            "command": "bash x",
            "seeds": seeds,
            "steps": 2,
            "pairs": 4,
            "machine": "m",
            "claims": [["c", "0.1 [0.0, 0.2]", verdict]],
            "tables": [["T", ["a"], [["x|y"]]]],
            "notes": ["n"],
        }

    page = table.page(
        {
            "teaches": result("partly", [0]),
            "teaches-full": result("reproduced", [0, 1]),
            "ladder": result("not at this size", [0]),
        }
    )
    rows = {line.split("[")[1][0]: line for line in page.splitlines() if line.startswith("| [")}
    assert (
        len(rows) == 7
        and "| reproduced | 2 |" in rows["1"]
        and "| not at this size | 1 |" in rows["5"]
        and "| not run | - |" in rows["4"]
    )
    assert page.index("| reproduced |") < page.index("| partly |") and "x\\|y" in page
    for line in rows.values():  # links go to headings as GitHub names them: lower case, no punctuation, blanks become dashes
        anchor = line.split("(#")[1].split(")")[0]
        headings = [
            "".join(c for c in one[3:].lower().replace(" ", "-") if c.isalnum() or c == "-")
            for one in page.splitlines()
            if one.startswith("## ")
        ]
        assert anchor in headings


def test_a_folder_begun_with_other_settings_or_bases_is_refused(tmp_path, monkeypatch):
    from checkpoint import resolve_model

    assert rl.base("mixed") == Path(resolve_model("tiny-base")).resolve()
    for name in ("base", "weak", "guesser", "solver"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    monkeypatch.setattr(rl, "TINY", tmp_path)
    monkeypatch.setattr(rl, "OUT", tmp_path / "out")
    assert rl.base("mixed") == tmp_path / "base"
    rl.check_settings()
    rl.check_settings()
    (tmp_path / "weak/model.safetensors").write_text("newer")
    with pytest.raises(SystemExit, match="begun with"):
        rl.check_settings()
    (tmp_path / "weak/model.safetensors").unlink()
    with pytest.raises(SystemExit, match="no base weak"):
        rl.base("weak")
