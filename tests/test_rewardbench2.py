"""RewardBench 2's generative path: placement, verdicts, scores by hand, and runs that repeat."""

import json
import math
import re
import sys

import pytest
from test_official_scores import best_of_four_official, rewardbench2_rows, ties_official

from backends import Usage
from cli import BadInput
from extras import evaluate, rewardbench2
from extras.benchmarks import load
from judge import judge_of
from seeding import uniform
from verdicts import read_verdict

SUBSETS = "Factuality", "Focus", "Math", "Precise IF", "Safety"


class Backend:
    """Answers by a function of (the question, the answers in the order shown, the seed)."""

    def __init__(self, answer):
        self.usage = Usage()
        self.answer, self.prompts = answer, []

    def check_texts(self, items):
        pass

    def encode(self, messages):
        return messages

    def generate(self, prompts, seeds, num_generations, max_new_tokens, temperature):
        self.prompts += prompts
        found = []
        for (_, user), seed in zip(prompts, seeds):
            question, *answers = re.split(r"\n\n## Answer[^\n]*\n\n", user["content"])
            texts = [self.answer(question, answers, (*seed, n)) for n in range(num_generations)]
            found.append([read_verdict(text, "rrm", 7, "stop") for text in texts])
        return found


class StubJudge:
    style, context = "rrm", sys.maxsize

    def __init__(self, answer):
        self.backend = Backend(answer)


def data_file(tmp_path, size=8):
    rows = rewardbench2_rows(size)
    for row in rows:  # the right answers of an item can be told from its texts
        row["chosen"] = [f"right {name}" for name in row["chosen"]]
        row["rejected"] = [f"wrong {name}" for name in row["rejected"]]
    path = tmp_path / "rb2.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(tmp_path, answer, *flags, name="out", size=8):
    judge = StubJudge(answer)
    folder = tmp_path / name
    arguments = ["--data", data_file(tmp_path, size), "--output_dir", str(folder), *flags]
    rewardbench2.main(arguments, lambda settings: judge)
    return json.loads((folder / "results.json").read_text()), judge


def oracle(question, answers, seed):
    if len(answers) == 1:
        return "so [[9]]" if answers[0].startswith("right") else "so [[2]]"
    return f"so [[{'ABCD'[[a.startswith('right') for a in answers].index(True)]}]]"


def first(question, answers, seed):
    return "[[A]]" if len(answers) > 1 else "[[5]]"


def noisy(question, answers, seed):
    value = uniform(f"{question} {answers} {seed}")
    return f"[[{1 + int(10 * value)}]]" if len(answers) == 1 else f"[[{'ABCDZ'[int(5 * value)]}]]"


# ---- verdicts ----


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("A is right. [[B]]", "B"),
        ("[[B]] yes, [[B]]", "B"),
        ("[[A]] or rather [[B]]", None),  # the authors' script says A
        ("<think>[[A]]? no</think> [[C]]", "C"),
        ("<think>[[A]]", None),
        ("[B]", None),
        ("rated [[10]]", "10"),
        ("[[0]] [[11]]", None),
    ],
)
def test_verdicts(text, verdict):
    assert rewardbench2.bracketed(text) == verdict


def test_score_by_hand():
    assert rewardbench2.score_of(["A"], "A") == 1 and rewardbench2.score_of(["B"], "A") == 0
    assert rewardbench2.score_of([None], "A") == rewardbench2.score_of([], "A") == 0.25
    assert rewardbench2.score_of(["A", "B", "C", None], "A") == pytest.approx(1 / 3)
    assert rewardbench2.score_of(["A", "B", "B"], "A") == 0


# ---- placement ----


def test_the_right_answer_changes_places_with_another(tmp_path):
    items = load("rewardbench2", data_file(tmp_path, 200))[:1000]
    settings = rewardbench2.Settings(placements="all")
    orders = [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 1, 2, 0]]
    assert rewardbench2.orders_of(items[0], settings) == orders
    places = []
    for seed in (0, 1):
        settings = rewardbench2.Settings(seed=seed)
        places.append([rewardbench2.orders_of(item, settings)[0].index(0) for item in items])
    for drawn in places:  # each place about 250 times
        assert all(abs(drawn.count(place) - 250) < 60 for place in range(4))
    assert sum(a == b for a, b in zip(*places)) < 320  # another seed is another placement
    # an item's place depends on its id alone, not on what else is in the file
    assert rewardbench2.orders_of(items[7], settings)[0].index(0) == places[1][7]


# ---- numbers ----


def test_an_oracle_has_all_right(tmp_path, capsys):
    content, judge = run(tmp_path, oracle)
    rule = content["results"]["rule"]
    assert [rule[name][0] for name in SUBSETS] == [1] * 5
    assert rule["Ties"][0] == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01)  # the authors' maximum
    assert len(judge.backend.prompts) == 5 * 8 + 8 * 3 + 8 * 5
    shown = capsys.readouterr().out
    assert "random judge" in shown and "unknown, see --placements all" in shown


def test_evaluate_reads_the_file(tmp_path, capsys):
    """It prints the same scores. Its rows have no pairs that could agree with labels."""
    content, _ = run(tmp_path, noisy)
    path = str(tmp_path / "out" / "results.json")
    capsys.readouterr()
    evaluate.main(["--predictions", path, "--compare", path, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rule"] == content["results"]["rule"] and found["agreement"]["kappa"] is None
    evaluate.main(["--predictions", path])
    assert "Factuality" in capsys.readouterr().out


def test_a_judge_of_the_first_place_scores_the_same_with_all_placements(tmp_path):
    """It is right exactly where the right answer stands first: 1, 0, 0, 0, so a quarter."""
    content, judge = run(tmp_path, first, "--placements", "all")
    found = content["results"]["placements"]
    for subset in SUBSETS:
        assert found[subset]["by_place"] == {"A": 1, "B": 0, "C": 0, "D": 0}
        assert found[subset]["mean"] == 0.25
        # 8 items, each a coin that shows 1 in a quarter of the cases
        assert found[subset]["deviation"] == pytest.approx(math.sqrt(8 * 0.25 * 0.75) / 8)
        assert content["results"]["rule"][subset][0] == 0.25
    assert content["results"]["protocol"]["names A"][0] == 1
    one, _ = run(tmp_path, first, name="one")
    assert all(entry["deviation"] is None for entry in one["results"]["placements"].values())


def test_the_scatter_of_random_placements_is_what_is_reported(tmp_path):
    content, _ = run(tmp_path, noisy, "--placements", "all", size=60)
    entry = content["results"]["placements"]["Math"]
    rows = [row["choices"] for row in content["rows"] if row["group"] == "Math"]
    scores = []
    for seed in range(2000):
        own = [row[int(4 * uniform(f"{seed} {n}"))]["score"] for n, row in enumerate(rows)]
        scores.append(sum(own) / len(own))
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    assert entry["mean"] == pytest.approx(mean, abs=0.01)
    assert entry["deviation"] == pytest.approx(deviation, rel=0.06)


def test_scores_are_those_of_the_authors(tmp_path):
    content, _ = run(tmp_path, noisy, "--num_votes", "3", "--temperature", "1", size=40)
    ties = {}
    for row in content["rows"]:
        if row["group"] == "Ties":
            ties[row["id"]] = row["values"], sum(score > 0 for score in row["scores"])
            assert all(value == -1 or 1 <= value <= 10 for value in row["values"])
    assert content["results"]["rule"]["Ties"][0] == pytest.approx(ties_official(ties))
    for row in content["rows"]:
        for choice in row.get("choices", []):
            votes = [game["verdict"] for game in choice["games"]]
            counts = [votes.count("ABCD"[choice["order"].index(n)]) for n in range(4)]
            official = best_of_four_official(counts) if any(counts) else 0.25
            assert choice["score"] == pytest.approx(official)


# ---- runs that repeat ----


def test_six_runs_give_one_file(tmp_path):
    content = set()
    for n in range(6):
        run(tmp_path, noisy, name=f"run{n}", size=10)
        content.add((tmp_path / f"run{n}" / "results.json").read_bytes())
    assert len(content) == 1


def test_a_killed_run_ends_with_the_same_file(tmp_path):
    run(tmp_path, noisy, name="whole", size=10)

    asked = []

    def killed(question, answers, seed):
        asked.append(question)
        if len(asked) > 60:
            raise KeyboardInterrupt
        return noisy(question, answers, seed)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed, name="cut", size=10)
    assert (tmp_path / "cut" / "rows.jsonl").exists()
    _, judge = run(tmp_path, noisy, name="cut", size=10)
    assert 0 < len(judge.backend.prompts) < 5 * 10 + 10 * 3 + 10 * 5
    whole, cut = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


@pytest.mark.parametrize("chunk", [1, 7])
def test_the_size_of_a_batch_changes_nothing(tmp_path, monkeypatch, chunk):
    """The real sampler in fp32, with prompts of different lengths and draws at temperature 1."""
    flags = [
        "--data",
        data_file(tmp_path, 2),
        "--max_completion_length",
        "12",
        "--temperature",
        "1",
    ]
    flags += ["--dtype", "float32", "--placements", "all", "--limit", "8"]
    rewardbench2.main([*flags, "--output_dir", str(tmp_path / "a")], judge_of)
    monkeypatch.setattr(rewardbench2, "CHUNK_ITEMS", chunk)
    rewardbench2.main([*flags, "--output_dir", str(tmp_path / "b")], judge_of)
    a, b = ((tmp_path / name / "results.json").read_bytes() for name in "ab")
    assert a == b and b'"text"' in a


def test_every_row_says_how_it_was_made(tmp_path):
    content, judge = run(tmp_path, noisy, "--seed", "3")
    for row in content["rows"]:
        assert row["settings"] == content["settings"] and row["data"] == content["data"]
        assert row["settings"]["seed"] == 3 and row["settings"]["placements"] == "one"
        parts = row.get("choices") or row["ratings"]
        assert all(re.fullmatch("[0-9a-f]{16}", part["prompt"]) for part in parts)
    digests = [part["prompt"] for row in content["rows"] for part in row.get("choices", [])]
    assert len(set(digests)) == 40
    with pytest.raises(BadInput, match="--seed"):
        run(tmp_path, noisy, "--seed", "4")


def test_a_prompt_beyond_the_context_is_truncated(tmp_path):
    judge = StubJudge(oracle)
    judge.context = 2048 + 1
    arguments = ["--data", data_file(tmp_path, 1), "--output_dir", str(tmp_path / "out")]
    rewardbench2.main(arguments, lambda settings: judge)
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["results"]["protocol"]["games truncated"][0] == 1
    assert content["results"]["rule"]["Math"][0] == 0.25


def test_bad_input(tmp_path):
    for flags, words in (
        ([], "--data is missing"),
        (["--data", "x", "--style", "rrm"], "--style: this command has prompts of its own"),
        (["--data", data_file(tmp_path), "--placements", "some"], "invalid choice"),
    ):
        with pytest.raises(BadInput, match=words):
            rewardbench2.main(flags)
