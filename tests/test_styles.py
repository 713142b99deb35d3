"""styles.py: the files in prompts/, a user's own files, and how their placeholders are filled."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import random_model

import chat
import distributed
from cli import BadInput
from styles import Style, judge_messages, load_style


def conversation(*contents):
    """system, user, assistant, user, ..."""
    roles = ["system", *["user", "assistant"] * len(contents)]
    return [{"role": role, "content": content} for role, content in zip(roles, contents)]


def test_the_rrm_prompt():
    style = load_style("rrm")
    assert (style.name, style.verdict) == ("rrm", "boxed")
    system, user = judge_messages(style, "QUERY", "FIRST", "SECOND")
    assert (system["role"], user["role"]) == ("system", "user")
    start = (
        "## Query\n\nQUERY\n\n## Assistant responses\n\n"
        "### Assistant 1\n\nFIRST\n\n### Assistant 2\n\nSECOND\n\n## Analysis\n\n"
    )
    assert user["content"].startswith(start) and user["content"].count("\n") == start.count("\n")
    assert user["content"].endswith(r"as \boxed{Assistant 1} or \boxed{Assistant 2}.")
    assert [f"\n{number}. " in system["content"] for number in range(1, 7)] == [True] * 5 + [False]
    direct = load_style("direct")
    assert (
        direct.user.split("\n\n## ")[:2] == style.user.split("\n\n## ")[:2]
        and "step by step" not in direct.user
    )


def test_placeholders_inside_a_text_stay_as_they_are():
    user = judge_messages(
        load_style("rrm"),
        "{answer_1}{answer_2}",
        "{answer_2} {query} \\1 \\g<0>",
        "{answer_1}",
    )[1]["content"]
    assert (
        "## Query\n\n{answer_1}{answer_2}\n" in user
        and "### Assistant 1\n\n{answer_2} {query} \\1 \\g<0>\n" in user
    )
    assert "### Assistant 2\n\n{answer_1}\n" in user


def test_a_conversation_becomes_a_transcript():
    style = Style("own", "boxed", "", "{query}|{answer_1}|{answer_2}")
    assert judge_messages(style, [{"role": "user", "content": " alone "}], "a", "b") == [
        {"role": "user", "content": " alone |a|b"}
    ]
    asked = judge_messages(
        style, conversation("Be kind.", "Hi", "Hello", "Who {answer_1}?"), "a", "b"
    )[0]["content"]
    assert (
        asked == "System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\nHello\n\nUser:\nWho {answer_1}?|a|b"
    )
    assert (
        judge_messages(style, conversation("", "Hi", "Hello")[1:], "a", "b")[0]["content"]
        == "User:\nHi\n\nAssistant:\nHello|a|b"
    )
    swapped = judge_messages(
        style, conversation("Be kind.", "Hi", "Hello", "Who {answer_1}?"), "b", "a"
    )[0]["content"]
    assert swapped == asked[:-3] + "b|a"  # nothing but the answers depends on the order


def test_a_style_of_ones_own(tmp_path):
    path = tmp_path / "own.txt"
    body = "[Client Question]\n{query}\n\n{answer_1} {answer_2}\n\\frac{a}{b}"
    path.write_text(
        f"\ufeff# a remark\nverdict: answer_tag\r\n\r\n=== user ===\n\n{body}\n\n",
        encoding="utf-8",
        newline="",
    )
    style = load_style(path)
    assert style == Style(str(path), "answer_tag", "", body)
    assert load_style(style.name) == style
    assert [message["role"] for message in judge_messages(style, "q", "a", "b")] == ["user"]


def test_reference_and_rubric_are_optional():
    """A paragraph is there only if its text is; the text of a row is filled in as it is."""

    def shown(row):
        (message,) = judge_messages(load_style("rubric"), "Q", "x", "y", row)
        return message["content"]

    plain = shown({})
    assert "Criteria of" not in plain and "Reference answer," not in plain
    steps = [plain.index(step) for step in ("1. ", "2. ", "3. ", "\\boxed{Assistant 1}")]
    assert steps == sorted(steps)  # the reasoning comes before the verdict
    assert "{" not in plain.replace("\\boxed{Assistant", "") and "\n\n\n" not in plain
    both = shown({"rubric": "be {reference}\n\nbe brief", "reference": 42})
    assert "Criteria of a good answer:\nbe {reference}\n\nbe brief\n\n" in both
    assert "use other words:\n42\n\n" in both
    assert shown({"rubric": "", "reference": None, "other": "z"}) == plain  # empty cells of csv
    assert judge_messages(load_style("rubric"), "Q", "x", "y")[0]["content"] == plain
    with pytest.raises(BadInput, match=r"row: rubric is \['a'\], expected text"):
        shown({"rubric": ["a"]})
    for name in ("rrm", "rm_r1", "tiny"):  # other prompts are filled as they stand
        style = load_style(name)
        row = {"rubric": ["no text, but not read"], "reference": "s"}
        filled = judge_messages(style, "{query}", "{answer_1}", "{answer_2}", row)
        assert filled[-1]["content"] == style.user


BODY = "=== user\n{query} {answer_1} {answer_2}\n"


@pytest.mark.parametrize(
    "text, problem",
    [
        (BODY, "the line 'verdict: boxed' .* is missing"),
        ("verdict: boxed\n", "the section '=== user' is missing"),
        ("", "the line 'verdict: boxed' .* is missing"),
        ("verdict: tag\n" + BODY, "line 1: 'verdict: tag' is no header"),
        ("hello\nverdict: boxed\n" + BODY, "line 1: 'hello' is no header"),
        ("verdict: boxed\n=== sytem\n" + BODY, "line 2: section 'sytem'"),
        ("verdict: boxed\n" + BODY * 2, "line 4: section 'user'"),
        ("verdict: boxed\n=== user\n{query} {answer_1}", r"\{answer_2\} is missing"),
        ("verdict: boxed\n" + BODY + "{answer_3}", r"\{answer_3\} is not a placeholder"),
    ],
)
def test_malformed_styles_name_the_place(tmp_path, text, problem):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"bad.txt.*{problem}"):
        load_style(str(path))


def test_chat_imports_no_torch():
    """Arguments and files are checked before the slow imports."""
    command = (
        "import sys; from styles import load_style; load_style('rrm'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", command], cwd=Path(chat.__file__).parent).returncode
        == 0
    )


def test_a_checkpoint_keeps_the_style_that_was_trained(tmp_path, monkeypatch):
    """Also where its file changes in the meantime. A style's name wins over a file of that name."""
    model = random_model("qwen2")
    policy = SimpleNamespace(model=model, folder=tmp_path)
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    monkeypatch.chdir(tmp_path)
    for name, kept in (("rrm", "rrm"), ("own", "judge_style.txt")):
        Path(name).write_text(
            "# mine\nverdict: boxed_or_tie\n=== system\n Be fair.\n\n"
            "=== user\n\n{query}\n\n{answer_1}\n{answer_2}\n"
        )
        style = load_style(name)
        Path(name).unlink()
        folder = tmp_path / f"checkpoint-{name}"
        folder.mkdir()
        distributed.write_model(folder, policy, model.state_dict(), tokenizer, style)
        assert json.loads((folder / "config.json").read_text())["judge_style"] == kept
        assert (folder / "judge_style.txt").exists() == (name == "own")
    saved = folder / "judge_style.txt"
    assert load_style(saved) == replace(style, name=str(saved)) and style.system == "Be fair."


def test_unknown_styles():
    with pytest.raises(BadInput, match="no style is called 'rmm': choose one of .*direct, .*rrm"):
        load_style("rmm")
    with pytest.raises(BadInput, match="cannot read nowhere/rrm.txt"):
        load_style("nowhere/rrm.txt")
    assert all(
        load_style(path.stem).name == path.stem
        for path in (Path(chat.__file__).parent / "prompts").glob("*.txt")
    )
