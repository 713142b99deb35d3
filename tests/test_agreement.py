"""extras/agreement.py: confusion matrix and Cohen's kappa against numbers worked by hand."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("extras.agreement")

from cli import BadInput
from extras import evaluate
from extras.agreement import agreement, kappa, show_agreement
from extras.items import labelled_items

SCORES = {"a": [1.0, 0.0], "b": [0.0, 1.0], "tie": [0.5, 0.5]}
VERDICTS = {"a": [1, 2], "b": [2, 1], "tie": ["tie", "tie"], "none": [None, None], "even": [1, 1]}


def rows_of(pairs):
    """A row for each (what people said, what the judge says)."""
    rows = []
    for number, (gold, said) in enumerate(pairs):
        games = []
        for order, verdict in zip(([0, 1], [1, 0]), VERDICTS[said]):
            status = "unparsable" if verdict is None else "valid"
            games.append({"order": order, "verdict": verdict, "status": status})
        match = {"pair": [0, 1], "games": games}
        rows.append({"question": str(number), "scores": SCORES[gold], "matches": [match]})
    return rows


def sklearn_kappa(golds, saids):
    """cohen_kappa_score of scikit-learn, its formula: 1 - sum(w * table) / sum(w * expected)."""
    classes = sorted({*golds, *saids})
    table = np.zeros((len(classes), len(classes)))
    for gold, said in zip(golds, saids):
        table[classes.index(gold), classes.index(said)] += 1
    expected = np.outer(table.sum(axis=0), table.sum(axis=1)) / table.sum()
    weights = 1 - np.eye(len(classes))
    return 1 - (weights * table).sum() / (weights * expected).sum()


def test_kappa_by_hand():
    # the example of Wikipedia: 20 + 15 of 50 agree, chance 0.3 + 0.2
    said = {("a", "a"): 20, ("a", "b"): 5, ("b", "a"): 10, ("b", "b"): 15}
    assert kappa({key: (count, 0) for key, count in said.items()}) == pytest.approx(0.4)
    assert kappa({("a", "a"): (7, 0), ("b", "b"): (3, 0)}) == 1
    assert kappa({("a", "b"): (5, 0), ("b", "a"): (5, 0)}) == -1
    assert kappa({("tie", "tie"): (4, 0)}) is None  # both always say the same


@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_that_of_scikit_learn(seed):
    draw = random.Random(seed)
    golds = ["a", "b"] + draw.choices(["a", "b", "tie"], [5, 3, 2], k=200)
    saids = []
    for gold in golds:
        saids.append(gold if draw.random() < 0.6 else draw.choice(["a", "b", "tie", "none"]))
    found = agreement(rows_of(zip(golds, saids)))
    assert found["kappa"][0] == pytest.approx(sklearn_kappa(golds, saids))
    assert found["kappa"][1] < found["kappa"][0] < found["kappa"][2] and found["n"] == 202
    for gold, row in found["confusion"].items():
        for said, count in row.items():
            assert count == list(zip(golds, saids)).count((gold, said))


def test_even_votes_and_no_verdict_agree_with_nothing():
    found = agreement(rows_of([("a", "a"), ("b", "b"), ("tie", "even"), ("a", "none")]))
    assert found["confusion"]["tie"] == {"a": 0, "b": 0, "tie": 0, "none": 1}
    assert found["kappa"][0] == pytest.approx(sklearn_kappa(["a", "b", "tie", "a"], "abnn"))


def test_files_with_the_better_answer_first():
    """Chance agrees as often as the judge says "a": kappa would be 0 for any judge."""
    found = agreement(rows_of([("a", "a")] * 9 + [("a", "b")]))
    assert found["both_directions"] and found["kappa"][0] == pytest.approx(2 * 0.9 - 1)
    assert found["confusion"] == {"a": {"a": 9, "b": 1, "tie": 0, "none": 0}}
    perfect = agreement(rows_of([("a", "a")] * 20))["kappa"]
    # as accuracy: 20 of 20 is not sure to be 1 (Wilson's interval, 0.839 to 1)
    assert perfect == [1, pytest.approx(2 * 0.839 - 1, abs=1e-3), 1]


def test_what_is_printed(capsys):
    show_agreement(agreement(rows_of([("a", "a"), ("a", "b"), ("b", "b"), ("tie", "tie")])))
    *table, last = capsys.readouterr().out.splitlines()
    assert table == [
        "agreement with the labels               n        a        b      tie     none",
        "labelled: a is better                   2        1        1        0        0",
        "labelled: b is better                   1        0        1        0        0",
        "labelled as a tie                       1        0        0        1        0",
    ]
    assert last.startswith("Cohen's kappa 0.636, 95 % interval -0.")


def test_the_command_on_labelled_pairs(tmp_path, capsys, monkeypatch):
    """Categories are those of the rows; each has its n, percent and interval."""
    rows, said = [], []
    for number in range(20):
        label, category = (0, 1, 0.5)[number % 3], ("maths", "chat")[number % 2]
        row = {"id": f"p{number}", "query": f"q{number}", "a": "x", "b": "y", "label": label}
        rows.append(row | {"category": category, "rubric": "be brief"})
        said.append({"id": f"p{number}", "winner": {0: "a", 1: "b", 0.5: "tie"}[label]})
    said[0]["winner"] = "b"
    for name, lines in (("data.jsonl", rows), ("said.jsonl", said)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    data, predictions = str(tmp_path / "data.jsonl"), str(tmp_path / "said.jsonl")
    items = labelled_items(data)
    assert {item.group for item in items} == {"maths", "chat"}
    assert items[0].pair(0, 1).meta == {"rubric": "be brief"}  # reaches styles that ask for it
    command = ["--benchmark", "pairs", "--data", data, "--predictions", predictions]
    evaluate.main(command)
    out = capsys.readouterr().out
    for name, count, value in (("overall", 14, "92.86"), ("maths", 7, "85.71"), ("chat", 7, "100")):
        (line,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
        assert line.split()[1] == str(count) and line.split()[2].startswith(value)
        assert line.split()[3] == "%"
    assert "labelled as a tie                       6        0        0        6        0" in out
    table = tmp_path / "new" / "pairs.csv"
    evaluate.main([*command, "--out", str(table)])
    capsys.readouterr()
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    assert lines[:3] == [
        "id,category,label,winner,outcome,p_first,num_games,no_verdict,tokens",
        "p0,maths,a,b,wrong,0.0,1,0,0",
        "p1,chat,b,b,right,0.0,1,0,0",
    ]
    assert lines[3] == "p2,maths,tie,tie,,0.5,1,0,0" and len(lines) == 21
    evaluate.main([*command[:4], "--predictions", str(table), "--json"])  # it is read again
    again = json.loads(capsys.readouterr().out)
    evaluate.main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert again == found
    found = found["agreement"]
    golds = [{0: "a", 1: "b", 0.5: "tie"}[row["label"]] for row in rows]
    expected = sklearn_kappa(golds, [row["winner"] for row in said])
    assert found["kappa"][0] == pytest.approx(expected) and found["n"] == 20
    for path in (tmp_path, data, predictions):  # nothing that is read is written over
        with pytest.raises(BadInput, match="--out: .* is a folder or a file that is read"):
            evaluate.main([*command, "--out", str(path)])
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(BadInput, match="--out: .* cannot hold results"):
        evaluate.main([*command, "--out", str(tmp_path / "new" / "x.csv")])
