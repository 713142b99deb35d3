"""extras/score.py: the parser, votes by hand, the command, and its scores as predictions."""

import json

import pytest
import torch
from tiny_models import make_model_folder

pytest.importorskip("extras.score")

import cli
import sampler
from cli import BadInput
from extras import evaluate, score
from sampler import Completion

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"\boxed{7}", 7),
        (r"<think>\boxed{2}</think> good \boxed{ 8.5 }", 8.5),
        (r"\boxed{7} again \boxed{7.0}", 7),
        (r"\boxed{7} or \boxed{8}", None),
        (r"<think>\boxed{7}", None),
        (r"\boxed{0}", None),
        (r"\boxed{11}", None),
        (r"\boxed{7/10}", None),
        (r"\boxed{seven}", None),
        ("7", None),
        ("", None),
    ],
)
def test_scores_of_texts(text, expected):
    assert score.parse_score(text, 1, 10) == expected


def test_scales(tmp_path):
    style, lowest, highest = score.load_scale(score.STYLE)
    assert (lowest, highest) == (1, 10) and "{answer_1}" in style.user
    path = tmp_path / "own.txt"
    for text in (
        "scale: 5\n=== user\n{query} {answer}",
        "scale: 5 1\n=== user\n{query} {answer}",
        "",
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match="own.txt: write a line such as 'scale: 1 10'|is empty"):
            score.load_scale(str(path))
    path.write_text("scale: 0 1\n=== user\n{query}")
    with pytest.raises(BadInput, match="answer_1"):
        score.load_scale(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
def scorer(folder):
    return score.Scorer(str(folder), device="cpu", dtype="float32")


def stub(monkeypatch, tokenizer, texts):
    """sampler.generate writes `texts` in turn. "..." at the end of a text: it was cut off."""
    prompts_seen, supply = [], iter(texts)

    def generate(model, prompts, num_generations, *rest, **options):
        prompts_seen.extend(map(tokenizer.decode, prompts))
        groups = []
        for _ in prompts:
            own = [next(supply) for _ in range(num_generations)]
            tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in own]
            reasons = ["length" if text.endswith("...") else "stop" for text in own]
            groups.append([Completion(*one) for one in zip(tokens, [[]] * len(own), reasons)])
        return groups

    monkeypatch.setattr(sampler, "generate", generate)
    return prompts_seen


def test_votes_are_averaged(monkeypatch, scorer):
    texts = [r"\boxed{7}", r"\boxed{10}", r"\boxed{4}", "no", r"\boxed{4}...", "?"]
    prompts = stub(monkeypatch, scorer.judge.tokenizer, texts)
    answers = [("q", "x"), ([{"role": "user", "content": "q"}], "y"), ("q", "z")]
    assert scorer.score(answers, num_votes=2) == [8.5, 4, None]
    assert "Question:\nq" in prompts[0] and "Answer:\nx" in prompts[0]
    assert "Criteria of" not in prompts[0]
    for wrong in ("ab", {"q": "x"}, [("q", "x", "y")], [("q", None)]):
        with pytest.raises(BadInput, match="answer 1: "):
            scorer.score(wrong)
    with pytest.raises(BadInput, match="a second completion is a copy of the first"):
        scorer.score(answers, num_votes=2, temperature=0)
    # as a reward of a group: 0 to 1, None where nothing is known
    stub(monkeypatch, scorer.judge.tokenizer, [r"\boxed{1}", r"\boxed{10}", "no"])
    reward = score.score_reward(scorer)
    assert reward(["q"] * 3, ["x", "y", [{"role": "assistant", "content": "z"}]]) == [0, 1, None]


def test_what_the_command_cannot_write_or_read(monkeypatch, tmp_path, folder, capsys):
    data, out = tmp_path / "hh.jsonl", tmp_path / "scores.jsonl"
    texts = "\n\nHuman: {}\n\nAssistant: yes", "\n\nHuman: {}\n\nAssistant: no"
    rows = [("hi", "hi"), ("hi", "ho")]  # the second one has two prompts
    lines = [
        json.dumps({"chosen": texts[0].format(a), "rejected": texts[1].format(b)}) for a, b in rows
    ]
    data.write_text("\n".join(lines))
    command = ["--data", str(data), "--model", str(folder), "--dtype", "float32", "--out"]
    for name, problem in ((data, "is the input"), (tmp_path / "s.csv", "rows are JSON lines")):
        with pytest.raises(BadInput, match=f"--out: .*{problem}"):
            score.main([*command, str(name)])
    stub(monkeypatch, score.Scorer(str(folder)).judge.tokenizer, [r"\boxed{3}"] * 2)
    score.main([*command, str(out)])
    assert [json.loads(line)["scores"] for line in out.read_text().splitlines()] == [[3, 3]]
    assert "data: 1 rows with two different prompts are left out" in capsys.readouterr().err


def test_the_command(monkeypatch, tmp_path, folder, capsys):
    """Its scores are what evaluate.py reads; a second call goes on, and changes nothing."""
    rows = [
        {"id": "p0", "query": "q0", "a": "x", "b": "y", "label": 0, "rubric": "be brief"},
        {"id": "p1", "query": "q1", "a": "x", "b": "y", "label": 1},
        {"id": "p2", "query": "q2", "a": "x", "b": "y", "label": 1},
        {"id": "p3", "query": "q3", "a": "x", "b": "y", "label": 0.5},
    ]
    data, out = tmp_path / "pairs.jsonl", tmp_path / "scores.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    boxes = [r"\boxed{%d}" % number for number in (9, 2, 5, 3, 4)] + ["no"] + [r"\boxed{6}"] * 2
    tokenizer = score.Scorer(str(folder)).judge.tokenizer
    prompts = stub(monkeypatch, tokenizer, boxes)
    command = ["--data", data, "--out", out, "--model", folder, "--dtype", "float32"]
    command = [str(word) for word in command]
    with cli.at_end:
        score.main(command)
    assert "judging took 8 calls, 0 retries, " in capsys.readouterr().err
    assert '"price_in"' not in out.read_text()
    assert "Criteria of a good answer:\nbe brief" in prompts[0] and "Criteria" not in prompts[2]
    content = out.read_text()
    found = [json.loads(line)["scores"] for line in content.splitlines()]
    assert found == [[9, 2], [5, 3], [4, None], [6, 6]]
    # a kill in between: the same file
    lines = content.splitlines(keepends=True)
    out.write_text("".join(lines[:2]) + lines[2][:20])
    stub(monkeypatch, tokenizer, boxes)  # a chunk is scored whole, as the first time
    score.main(command)
    score.main(command)  # nothing to do
    assert out.read_text() == content
    with pytest.raises(BadInput, match="--num_votes: .* was made with 1, not 2"):
        score.main([*command, "--num_votes", "2"])
    text = data.read_text()
    for changed in (text.replace("be brief", "be long"), text.replace('"rubric', '"reference')):
        data.write_text(changed)
        with pytest.raises(
            BadInput, match="line 1 is of item p0, not item 1 of the input, or its texts"
        ):
            score.main(command)
    data.write_text(text.replace('"rubric": "be brief"', '"rubric": "be brief", "reference": "r"'))
    with pytest.raises(
        BadInput, match="line 1 is of item p0, not item 1 of the input, or its texts"
    ):
        score.main(command)
    capsys.readouterr()
    arguments = f"--benchmark pairs --data {data} --predictions {out} --json".split()
    evaluate.main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert result["outcomes"] == {
        "right": 1,
        "wrong": 1,
        "tie": 0,
        "inconsistent": 0,
        "unparsable": 1,
        "truncated": 0,
    }
    assert result["agreement"]["confusion"]["tie"]["tie"] == 1
