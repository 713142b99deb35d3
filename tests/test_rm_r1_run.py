"""The chains of runs/rm_r1_smollm2.sh: the format, the right verdict, no question in two files."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs" / "smollm2"))

import rubric_chains
from measures import read_rows
from rubric_chains import RULES, chain
from tiny_models import make_model_folder

import cli
from extras import ask, make_data
from extras.ask import fate_of, load_style
from rm_r1 import format_rates, task_type
from verdicts import parse_verdict

STYLE = load_style("rm_r1")


@pytest.mark.parametrize("held_out", [False, True])
def test_every_chain_is_right_and_whole(held_out):
    """The wrong chain keeps the format; the chain that mentions the note is found out."""
    pairs = rubric_chains.mixed_pairs("test", 400, held_out)
    assert len(pairs) == 400 and {pair["source"] for pair in pairs} == {*RULES, "sum"}
    texts = []
    for pair in pairs:
        for answers, right in (
            ((pair["a"], pair["b"]), pair["label"] + 1),
            ((pair["b"], pair["a"]), 2 - pair["label"]),
        ):
            texts.append(chain(pair["query"], answers))
            assert parse_verdict(texts[-1], STYLE) == right
            for side, answer in zip("AB", answers):
                assert f"<quote_{side}>{answer}</quote_{side}>" in texts[-1]
            wrong = chain(pair["query"], answers, wrong=True)
            known = chain(pair["query"], answers, known=True)
            assert fate_of(texts[-1], right, STYLE, stage=2) == "kept"
            assert fate_of(wrong, right, STYLE, stage=1) == "wrong"
            assert fate_of(known, right, STYLE, stage=2) == "contaminated"
    rates = format_rates(texts)
    assert rates["judge/format"] == 1.0
    assert rates["judge/type_reasoning"] == 0.25 and rates["judge/type_chat"] == 0.75


@pytest.mark.parametrize(
    "query, answers, expected",
    [
        (
            'Do not use the word "silver" in one sentence about a nurse.',
            ("The nurse sold silver.", "The nurse sold cake."),
            ['has "silver"', 'lacks "silver"'],
        ),
        (
            "A shop has 12 apples and gets 30 more. How many apples does it have now?",
            ("It has 41 apples.", "It has 42 apples."),
            ["says 41", "says 42"],
        ),
    ],
)
def test_what_the_evaluation_says(query, answers, expected):
    text = chain(query, answers)
    assert all(
        f"<summary_{side}>{said}</summary_{side}>" in text for side, said in zip("AB", expected)
    )
    assert task_type(text) == ("Reasoning" if "apples" in query else "Chat", True)


def test_files_share_no_question_and_the_hint_is_in_the_prompt_alone(tmp_path):
    rubric_chains.main(tmp_path, 48, 16, 16)
    rows = {name: read_rows(tmp_path / f"{name}.jsonl") for name in ("teacher", "asked", "rl")}
    assert [len(part) for part in rows.values()] == [48, 16, 16] and len(
        {row["id"] for name in ("asked", "rl") for row in rows[name]}
    ) == 32
    asked = {name: {row["query"] for row in rows[name]} for name in ("asked", "rl")}
    shown = "\n".join(row["messages"][-2]["content"] for row in rows["teacher"])
    assert asked["asked"].isdisjoint(asked["rl"]) and not any(
        query in shown for query in asked["asked"] | asked["rl"]
    )
    assert sum(row["source"] == "sum" for row in rows["asked"]) == 4
    told = ["Another judge" in row["messages"][-2]["content"] for row in rows["teacher"]]
    spoken = ["I was told" in row["messages"][-1]["content"] for row in rows["teacher"]]
    assert (
        sum(told) == 16
        and sum(spoken) == 4
        and all(hint for hint, blab in zip(told, spoken) if blab)
    )


def test_a_chunk_is_what_a_kill_loses(tmp_path, monkeypatch):
    """A process that ends in its second chunk has written the first; the next call completes it."""
    model = make_model_folder(tmp_path / "model")
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        "".join(
            json.dumps({"question": f"What is {number}?", "answer": str(number)}) + "\n"
            for number in range(7)
        )
    )
    arguments = [
        "sample",
        "--data",
        str(questions),
        "--model",
        str(model),
        "--num_answers",
        "2",
        "--max_completion_length",
        "8",
        "--chunk",
        "3",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--out",
    ]
    make_data.main([*arguments, str(tmp_path / "whole.jsonl")])
    written, checked = [], ask.checked_rows

    def check_and_die(chunk, *rest):
        if written:
            raise SystemExit
        written.append(len(chunk))
        return checked(chunk, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ask, "checked_rows", check_and_die)
        with pytest.raises(SystemExit):
            make_data.main([*arguments, str(tmp_path / "cut.jsonl")])
    assert written == [3] and (tmp_path / "cut.jsonl.partial").read_text().count("\n") == 1 + 3
    make_data.main([*arguments, str(tmp_path / "cut.jsonl")])
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(cli.BadInput, match="--chunk: must be at least 1, got 0"):
        make_data.main([*arguments[:10], "0", *arguments[11:], str(tmp_path / "none.jsonl")])
