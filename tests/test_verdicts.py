"""The verdict parser under attack, the records of completions, and the rates of games."""

import re
from pathlib import Path

import pytest
import torch
from tiny_models import VERDICTS, make_tokenizer

from cli import BadInput
from judge_task import game_metrics, verdict_reward
from sampler import Completion
from styles import Style, load_style
from verdicts import parse_verdict, read_completion

torch.set_num_threads(1)
ONE, TWO = VERDICTS  # \boxed{Assistant 1}, \boxed{Assistant 2}
A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"


# ---- the parser ----

BOXED = [
    (ONE, 1),
    (TWO, 2),
    ("", None),
    ("Assistant 1", None),
    (f"I compare.\n\n{TWO}\n", 2),
    # thinking
    (f"<think>hm</think>{ONE}", 1),
    (f"hm</think>{TWO}", 2),
    (f"<think>{ONE}</think>", None),
    (f"<think>{ONE}", None),
    (f"<think>{ONE}</think>{TWO}", 2),
    (f"<think>a</think>{ONE}<think>b</think>{TWO}", 2),
    (f"<think>a</think>{ONE}<think>b", None),
    (f"<think>a</think>{ONE}</think>", None),
    (f"{ONE}<think>", None),
    (f"<think>a<think>b</think>{TWO}", 2),
    (f"<think>a</think> the tag <think> opens thoughts {ONE}", None),
    (f"<think>a</think>{ONE} </think> {TWO}", 2),
    (f"<Think>{ONE}", 1),
    (f"<think >{ONE}", 1),
    ("</think>", None),
    (f"</think>{ONE}", 1),
    # one, several, quoted
    (f"{ONE} {ONE}", 1),
    (f"{ONE} {TWO}", None),
    (f"{TWO} {TWO} {ONE}", None),
    (f"{ONE} is better: it has no \\boxed{{7}}", 1),
    (f"One could write {TWO}, but {ONE}", None),
    (f'You asked for "{ONE}" or "{TWO}". My choice: {TWO}', None),
    (f"`{ONE}`", 1),
    # the content of the box, exactly
    (r"\boxed{ Assistant 1 }", 1),
    ("\\boxed{\n\tAssistant 2\n}", 2),
    ("\\boxed{\u00a0Assistant 2}", 2),
    (r"\boxed{assistant 1}", None),
    (r"\boxed{ASSISTANT 1}", None),
    (r"\boxed{1}", None),
    (r"\boxed{A}", None),
    (r"\boxed{Assistant 3}", None),
    (r"\boxed{Assistant 12}", None),
    (r"\boxed{Assistant 1 or Assistant 2}", None),
    (r"\boxed{Assistant  1}", None),
    (r"\boxed{Assistant1}", None),
    (r"\boxed{Assistant 1.}", None),
    (r"\boxed{The Assistant 1}", None),
    (r"\boxed{}", None),
    (r"\boxed{\text{Assistant 1}}", None),
    (r"\boxed{**Assistant 1**}", None),
    (r"\boxed{Solution 1}", None),
    ("\\boxed{Assistant \u0661}", None),
    ("\\boxed{Assistant\u00a01}", None),
    (r"\boxed{Assistant 1", None),
    (r"\boxed[Assistant 1]", None),
    (r"boxed{Assistant 1}", None),
    (r"\Boxed{Assistant 1}", None),
    (r"\fbox{Assistant 1}", None),
    (r"\boxed {Assistant 1}", None),
    ("\boxed{Assistant 1}", None),
    (r"\boxed{\boxed{Assistant 2}}", 2),
    (r"$\boxed{Assistant 2}$", 2),
    (r"\boxed{Assistant 3} \boxed{Assistant 1}", 1),
    (r"\boxed{Assistant 2}}}", 2),
    (f"{ONE}" + " and so on" * 500, 1),
    ("\\boxed{" * 3000 + " " * 3000 + "Assistant 1}", 1),
]


@pytest.mark.parametrize("text, verdict", BOXED)
def test_boxed_verdicts(text, verdict):
    assert parse_verdict(text, "rrm") == verdict
    swapped = (
        text.replace("Assistant 1}", "Assistant X}")
        .replace("Assistant 2}", "Assistant 1}")
        .replace("Assistant X}", "Assistant 2}")
    )
    if swapped != text:  # nothing in the rule favours a place
        assert parse_verdict(swapped, "rrm") == (verdict and 3 - verdict)


def rrm_training_verdict(text):
    """The parser that RRM trains with: both tags, what follows the first </think>, the last box."""
    if "<think>" not in text or "</think>" not in text:
        return None  # a format error, which costs as much as a wrong verdict
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text.split("</think>", 1)[1])
    found = re.search(r"(?:Solution|Assistant) (\d+)", boxes[-1]) if boxes else None
    return int(found[1]) if found and found[1] in "12" else None


OTHER_THAN_RRM = [  # text, verdict in RRM's training, verdict here: in training and in judging
    (ONE, None, 1),  # no tags: models that know none are trained, too
    (f"hm</think>{ONE}", None, 1),
    (f"<think>a</think>{ONE}</think>{TWO}", 2, 2),
    (f"<think>a</think>{ONE}</think>", 1, None),
    (f"<think>a</think>{ONE}<think>b", 1, None),
    (f"<think>a</think>{ONE} {TWO}", 2, None),
    (r"<think>a</think>\boxed{Solution 1}", 1, None),
    (r"<think>a</think>\boxed{Assistant 1 or Assistant 2}", 1, None),
]


@pytest.mark.parametrize("text, theirs, ours", OTHER_THAN_RRM)
def test_where_the_parser_differs_from_that_of_rrms_training(text, theirs, ours):
    assert (rrm_training_verdict(text), parse_verdict(text, "rrm")) == (theirs, ours)
    reward = verdict_reward(["p"], [text], right_verdict=[1], style=["rrm"])
    assert reward == [1.0 if ours == 1 else -1.0]


@pytest.mark.parametrize("thinking", ["", "a", f"{TWO} or {ONE}?", "\n\n", "<think> once more"])
@pytest.mark.parametrize(
    "answer", [ONE, TWO, "", f"So: {TWO}.", r"\boxed{7}", "\\boxed{Assistant 3}"]
)
def test_one_thought_and_one_box_are_read_as_in_rrms_training(thinking, answer):
    for text in (f"<think>{thinking}</think>{answer}", f"<think>{thinking}{answer}"):
        verdict = rrm_training_verdict(text)
        assert parse_verdict(text, "rrm") == verdict
        reward = verdict_reward(["p"], [text], right_verdict=[2], style=["rrm"])
        assert reward == [1.0 if verdict == 2 else -1.0]


def test_rrms_rule_on_tags_is_a_reward_of_three_lines():
    """The function of docs/training.md."""
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.S)
        if "right = verdict" in block
    ]
    names = {}
    exec(code, names)
    texts = [ONE, f"<think>a</think>{ONE}", f"<think>a</think>{TWO}", f"<think>{ONE}"]
    rewards = names["reward"](
        prompts=["p"] * 4, completions=texts, right_verdict=[1] * 4, style=["rrm"] * 4
    )
    assert rewards == [-1.0, 1.0, -1.0, -1.0]


TIE = r"\boxed{Tie}"
OR_TIE = [
    (TIE, "tie", None),
    (ONE, 1, 1),
    (f"<think>{TIE}</think>{TWO}", 2, 2),
    (f"<think>hm</think>{TIE}", "tie", None),
    (f"<think>{TIE}", None, None),
    (f"{TIE} {TIE}", "tie", None),
    (f"{ONE} {TIE}", None, 1),  # two different verdicts; elsewhere other boxes are ignored
    (r"\boxed{ Tie }", "tie", None),
    (r"\boxed{tie}", None, None),
    (r"\boxed{Tied}", None, None),
]


@pytest.mark.parametrize("text, verdict, without", OR_TIE)
def test_ties_where_the_style_allows_them(text, verdict, without):
    assert parse_verdict(text, "rrm_tie") == verdict
    assert parse_verdict(text, "rrm") == without
    assert parse_verdict(text, "rm_r1") is None


TAGGED = [
    (A, 1),
    (B, 2),
    ("", None),
    (f"<eval>A is clearer</eval>\n{A}", 1),
    (f"{A} {B}", None),
    (f"{B}{B}", 2),
    ("<answer>[[a]]</answer>", None),
    ("<answer>[A]</answer>", None),
    ("<answer>A</answer>", None),
    ("[[A]]", None),
    ("<answer>[[C]]</answer>", None),
    ("<answer> [[A]] </answer>", None),
    (ONE, None),
    (f"{A}{'.' * 80}", None),
    (f"{A}{'.' * 58}", 1),
    (f"{A}{'.' * 59}", None),
    (f"{A}{'.' * 60}{B}", 2),
    (f"{A}{'.' * 10}{B}", None),
    (f"<think>hm</think>{B}", 2),
    (f"{A[:-1]}", None),
    ("é" * 200 + B, 2),
    ("🙂" * 58 + "", None),
    (B + "🙂" * 58, 2),
]


@pytest.mark.parametrize("text, verdict", TAGGED)
def test_answer_tags(text, verdict):
    style = Style("own", "answer_tag", "", "")
    assert [parse_verdict(text, name) for name in ("rm_r1", "rm_r1_short", style)] == [verdict] * 3
    swapped = text.replace("[[A]]", "[[X]]").replace("[[B]]", "[[A]]").replace("[[X]]", "[[B]]")
    if swapped != text:
        assert parse_verdict(swapped, style) == (verdict and 3 - verdict)


def test_the_rule_comes_from_the_style(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("verdict: answer_tag\n=== user\n{query} {answer_1} {answer_2}\n")
    assert parse_verdict(B, str(own)) == 2 and parse_verdict(ONE, str(own)) is None
    assert (
        parse_verdict(ONE, load_style("direct")) == 1
        and parse_verdict(B, load_style("direct")) is None
    )
    with pytest.raises(BadInput, match="no style is called 'rmm'"):
        parse_verdict(ONE, "rmm")


# ---- one completion ----


def completion_of(tokenizer, text, reason="stop"):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Completion(tokens + [tokenizer.eos_token_id] * (reason == "stop"), [], reason)


def test_read_completion():
    tokenizer = make_tokenizer()
    stops = (tokenizer.eos_token_id,)

    def read(text, reason="stop", opened=False, style="rrm"):
        return read_completion(
            tokenizer, completion_of(tokenizer, text, reason), style, opened, stops
        )

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    thought = " The answer to the question is 42. é🙂"
    text = f"<think>{thought}</think>\n{ONE}"
    assert read(text) == {
        "verdict": 1,
        "status": "valid",
        "text": text,
        "tokens": count(text) + 1,
        "think_tokens": 1 + count(thought),
    }
    # a prompt that ends with <think>: the tag is put back for the parser, and counts as no token
    found = read(f"{thought}</think>\n{TWO}", opened=True)
    assert found["text"].startswith("<think> The") and (
        found["verdict"],
        found["think_tokens"],
    ) == (2, count(thought))
    assert (
        read(f"{thought} {TWO}", opened=True)["verdict"] is None
        and read(f"{thought} {TWO}")["verdict"] == 2
    )
    # without tags, what stands before the verdict is the thinking
    assert read(f"{thought}{ONE} and so on {ONE}")["think_tokens"] == count(thought)
    assert read(ONE)["think_tokens"] == 0 and read(f"</think>{ONE}")["think_tokens"] == 0
    for opened in (False, True):
        assert read(f"{thought}{B}", opened=opened, style="rm_r1")["think_tokens"] == count(thought)
    # no verdict, or an open thought: everything was thinking
    for text in (thought, f"<think>{thought}{ONE}"):
        found = read(text)
        assert (found["verdict"], found["status"], found["think_tokens"]) == (
            None,
            "unparsable",
            found["tokens"],
        )
    assert read(thought, "length")["status"] == "truncated" and read("")["tokens"] == 1
    assert read(f"{ONE} {TWO}")["status"] == "unparsable"
    # a text that was cut off has no verdict, even where a box was already closed
    for cut_off in (f"<think></think>{ONE} because", ONE):
        found = read(cut_off, "length")
        assert (found["verdict"], found["status"]) == (None, "truncated")
    assert read(f"<think></think>{ONE} because", "length")["think_tokens"] == 1


def record(verdict, right=1, longer=1, think_tokens=50):
    return {"verdict": verdict, "right": right, "longer": longer, "think_tokens": think_tokens}


def test_game_rates_by_hand():
    rrm = load_style("rrm")
    docstring = [record(1, think_tokens=5), record(1), record(2), record(None)]
    rates = game_metrics(docstring, rrm)
    expected = {
        "accuracy": 0.5,
        "position_bias": 1 / 6,
        "length_bias": -1 / 3,
        "parse_fail": 0.25,
        "think_empty": 0.25,
        "think_length": 35,
    }
    assert rates == pytest.approx({f"judge/{name}": value for name, value in expected.items()})
    # seven games, six of them valid, five of these with a longer answer: four verdicts name it,
    # and it is the better one once
    records = [
        record(1, 1, 1),
        record(2, 1, 2),
        record(2, 2, None, 7),
        record(1, 2, 1, 8),
        record(2, 2, 1),
        record(2, 1, 2, 0),
        record(None, 2, 2, 3),
    ]
    expected = {
        "judge/accuracy": 3 / 7,
        "judge/position_bias": 2 / 6 - 0.5,
        "judge/length_bias": 4 / 5 - 1 / 5,
        "judge/parse_fail": 1 / 7,
        "judge/think_empty": 2 / 7,
        "judge/think_length": 165 / 6,
    }
    assert game_metrics(records, rrm) == pytest.approx(expected)
    # a tie is wrong, but valid, and favours no place and no length
    ties = [record("tie", 1, 1), record("tie", 2, 1), record(1, 1, 1), record(2, 2, 2)]
    rates = game_metrics(ties, rrm)
    names = "accuracy", "position_bias", "length_bias", "parse_fail"
    assert [rates[f"judge/{name}"] for name in names] == [0.5, 0.0, 0.0, 0.0]
    perfect = [record(1, 1, 1), record(2, 2, 2), record(1, 1, 2), record(1, 1, None)]
    assert game_metrics(perfect, rrm)["judge/length_bias"] == 0.0
    for records in ([], [record(None)], [record(1, 1, None)]):
        assert all(value == value for value in game_metrics(records, rrm).values())  # no NaN
    assert set(game_metrics([], rrm).values()) == {0.0}
