"""runs/qwen: questions never move between sets, forced verdicts, tables worked by hand."""

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import COIN, make_scripted_folder

from cli import BadInput
from data import Pair, load_pairs
from styles import load_style

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs"), str(ROOT / "runs/qwen")]

import best_of  # noqa: E402
import chains  # noqa: E402
import changed  # noqa: E402
import conditions  # noqa: E402
import gsm8k_sets  # noqa: E402
import openai_pairs  # noqa: E402
import solved  # noqa: E402
import votes  # noqa: E402

# Other folders of runs/ have a table.py too, so this one is not imported by its name.
table_spec = importlib.util.spec_from_file_location("qwen_table", ROOT / "runs/qwen/table.py")
table = importlib.util.module_from_spec(table_spec)
table_spec.loader.exec_module(table)


PAIR = {"id": "p", "query": "How many?", "a": "It is 7.", "b": "It is 8.", "label": 1}


def call(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- data ----


def test_a_question_with_other_numbers_stays_in_its_set():
    texts = [
        "Tom has 3 apples and buys 4.",
        "Tom has 12 apples and buys 50.",
        "tom has $7 apples, and buys 1!",
    ]
    assert len({gsm8k_sets.words_of(text) for text in texts}) == 1
    names = [
        gsm8k_sets.set_of(f"{a} question about {b}")
        for a in "abcdefghijklmnop"
        for b in "abcdefghijklmnop"
    ]
    assert 20 < names.count("test") < 60 and 3 < names.count("dev") < 30


def test_changed_numbers_by_hand():
    question = "Ann has 13 pens and buys 5 boxes of 6 pens. How many pens has she?"
    answer = "She buys 5*6=<<5*6=30>>30 pens.\nShe has 13+30=<<13+30=43>>43 pens.\n#### 43"
    marks = [("5*6", "30"), ("13+30", "43")]
    assert changed.compute(marks, {"13": "10", "5": "4"}) == [24, 34]
    text, result = changed.change(question, answer)
    ann, boxes, size = (int(word) for word in text.split() if word.isdigit())
    assert result == str(ann + boxes * size) != "43"


def test_changed_questions_of_some_pairs_alone(tmp_path):
    answer = "5*6=<<5*6=30>>30\n#### 30"
    rows = [{"question": f"{name} buys 5 boxes of 6 pens.", "answer": answer} for name in "ABC"]
    source, target = write(tmp_path / "test.jsonl", rows), tmp_path / "changed.jsonl"
    pair = {"messages": [{"role": "user", "content": rows[1]["question"]}]}
    changed.main(source, target, write(tmp_path / "pairs.jsonl", [pair]))
    (line,) = target.read_text().splitlines()
    assert json.loads(line)["question"].startswith("B buys")
    changed.main(source, target)
    assert len(target.read_text().splitlines()) == 3
    pair["messages"][0]["content"] = "D buys 5 boxes of 6 pens."
    with pytest.raises(BadInput, match="asks no question of"):
        changed.main(source, target, write(tmp_path / "other.jsonl", [pair]))


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Half of 18 pens?", "<<18/2=9>>9\n#### 8"),  # the marks do not give the answer
        ("He meows 3 times, then a third of it. Sum?", "<<3/3=1>>1 <<3+1=4>>4\n#### 4"),
        ("He has five pens and 5 cups.", "<<5+5=10>>10\n#### 10"),  # which 5 is which?
        ("It costs $7.50 for 11 pens", "no marks\n#### 82"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_out(question, answer):
    assert changed.change(question, answer) is None


@pytest.mark.parametrize(
    "end, first, second, quotes",
    [
        (
            "contain the word 'total'",
            False,
            True,
            ('pens. Answer: 24" to its end', '"So it is a Total" here it is'),
        ),
        (
            "contain the word 'pen'",
            True,
            False,
            ('"First 12 * 2 pen" here it is', 'Total. 24" to its end'),
        ),
        (
            "begin with the word 'first'",
            True,
            False,
            ('begins "First 12 * 2"', 'begins "So it is a"'),
        ),
        (
            "have more than 2 lines (empty lines do not count)",
            True,
            False,
            (
                'begin "First 12", "Then pens.", "Answer: 24", so it has 3',
                'begin "So it", "24", so it has 2',
            ),
        ),
    ],
)
def test_conditions_by_hand(end, first, second, quotes):
    answers = "First 12 * 2 pen\n\nThen pens.\nAnswer: 24", "So it is a Total.\n24"
    for must, expected in (("must", (first, second)), ("must not", (not first, not second))):
        found = conditions.CONDITION.search(f"How many?\n\nThe answer {must} {end}.")
        assert tuple(conditions.holds(found, answer) for answer in answers) == expected
        for answer, quote in zip(answers, quotes):
            assert quote.lower() in conditions.evidence(found, answer).lower()


def test_one_of_two_right_answers_meets_the_condition(tmp_path):
    """The label is what `holds` says, and chains have both orders."""
    texts = ["To begin: 12 pens.\nSo:\nAnswer: 12", "There are 12.", "We add.\n\n12", "It is 13."]
    rows = []
    for number in range(40):
        messages = [{"role": "user", "content": f"How many? {number}"}]
        status = ["right", "right", "right", "wrong"]
        rows.append({"id": number, "messages": messages, "candidates": texts, "status": status})
    answers, out = write(tmp_path / "answers.jsonl", rows), tmp_path / "pairs.jsonl"
    conditions.main("pairs", str(answers), str(out), "2")
    pairs = load_pairs(str(out))
    assert 40 < len(pairs) <= 80  # of two equal conditions one is left
    kinds, labels, musts = set(), set(), set()
    for pair in pairs:
        condition = conditions.condition_of(pair)
        met = [conditions.holds(condition, answer) for answer in pair.answers]
        assert met == [pair.label == 0, pair.label == 1] and "13" not in "".join(pair.answers)
        kinds.add(pair.id.partition("-")[0])
        labels.add(pair.label)
        musts.add(condition["must"])
    assert kinds == {"word", "first", "lines"}
    assert labels == {0, 1} and musts == {"must", "must not"}
    conditions.main("chains", str(out), str(tmp_path / "chains.jsonl"), "rrm")
    lines = (tmp_path / "chains.jsonl").read_text().splitlines()
    judgments = [json.loads(line)["messages"][-1]["content"] for line in lines]
    assert len(judgments) == 2 * len(pairs)
    firsts = [text.endswith("\\boxed{Assistant 1}") for text in judgments]
    assert sum(firsts) == len(pairs)
    assert all(text.count("It meets") == text.count("It does not meet") == 1 for text in judgments)


def test_statements_of_judgments_by_hand():
    query = "How many?\n\nThe answer must contain the word 'total'."
    messages = [{"role": "user", "content": query}]
    pair = Pair("p", messages, ("A total  of 12.", "It is 12."), 0)
    said = 'Assistant {}: it says "total of". It meets the condition.\n'
    said += 'Assistant {}: "It is 12." to its end. It does not meet the condition.\n'
    games = [
        {"order": order, "verdict": verdict, "status": "valid", "text": said.format(*places)}
        for order, verdict, places in (([0, 1], 1, (1, 2)), ([1, 0], 2, (1, 2)))
    ]
    row = {"id": "p", "matches": [{"games": [games[0]]}, {"games": [games[1]]}]}
    assert conditions.statements([pair], [row]) == {
        "quotes that the answer has": [2, 4],
        "statements on a word that are true": [2, 4],
        "verdicts that follow": [1, 2],
    }


def test_chains_are_own_right_solutions_and_balanced(tmp_path):
    def pair(index, label, answers=("It is 7.", "So 1,250\nAnswer: 1,250")):
        row = {"id": str(index), "query": f"How many? {index}", "label": label}
        return row | dict(zip("ab", answers if label else reversed(answers)))

    def own(index, *solutions):
        messages = [{"role": "user", "content": f"How many? {index}"}]
        status = ["right" if "1250" in text else "wrong" for text in solutions]
        row = {"messages": messages, "answer": "1250", "candidates": solutions, "status": status}
        return row

    pairs = [pair(0, 1), pair(1, 0), pair(2, 0), pair(3, 1, ("It is 7.", "It is 7, no"))]
    long, short = "A long way to 1250.\n2. **Answer:** 1250", "It is 1250. Answer: 1250"
    solutions = [own(0, "It is 8. Answer: 8", long, short), own(1, long), own(2, "Answer: 8")]
    out = tmp_path / "chains.jsonl"
    paths = [write(tmp_path / "pairs.jsonl", pairs), write(tmp_path / "own.jsonl", solutions), out]
    chains.main(*map(str, paths))
    found = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    texts = sorted(messages[-1]["content"] for messages in found)
    results = "My result: 1250\nResult of Assistant 1: {}\nResult of Assistant 2: {}\n"
    verdict = "My result is that of Assistant {0}.\nVerdict: \\boxed{{Assistant {0}}}"
    assert texts == [
        f"A long way to 1250.\n\n{results.format('1,250', 7)}{verdict.format(1)}",
        f"It is 1250.\n\n{results.format(7, '1,250')}{verdict.format(2)}",
    ]
    assert all("How many? " in messages[0]["content"] for messages in found)

    chains.main(*map(str, paths), "both")
    found = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    texts = [messages[-1]["content"] for messages in found]
    for solution in ("A long way to 1250.", "It is 1250."):
        own = sorted(text for text in texts if text.startswith(solution))
        assert own == [
            f"{solution}\n\n{results.format('1,250', 7)}{verdict.format(1)}",
            f"{solution}\n\n{results.format(7, '1,250')}{verdict.format(2)}",
        ]
    assert len(texts) == 4


def test_games_by_the_judges_own_result():
    """Answer a says 7 and is wrong, answer b says 1,250 and is right."""
    pair = Pair("p", [], ("It is 7.", "Answer: 1,250"), 1)

    def game(own, first, second, order, verdict):
        text = f"My result: {own}\nResult of Assistant 1: {first}\nResult of Assistant 2: {second}"
        return {"text": text, "order": order, "verdict": verdict}

    games = [
        game(1250, 7, "1,250", [0, 1], 2),
        game("$1250.00", 7, 1250, [1, 0], 1),  # read in the wrong order, and yet right
        game(7, 1250, 7, [1, 0], 2),
        game(9, 7, 1250, [0, 1], None),
        {"text": "no lines", "order": [0, 1], "verdict": 1},
    ]
    rows = list(solved.game_rows(pair, {"matches": [{"games": games}]}))
    assert [row["kind"] for row in rows] == ["right answer"] * 2 + [
        "wrong answer",
        "neither",
        "not stated",
    ]
    assert [row["right"] for row in rows] == [True, True, False, False, False]
    assert [row["read"] for row in rows] == [True, False, True, True, False]


def test_games_of_a_training_by_the_judges_own_result(tmp_path, capsys):
    pair = {"id": "p", "query": "How many?", "a": "It is 7.", "b": "Answer: 1,250", "label": 1}
    text = "My result: {}\nResult of Assistant 1: 1250\nResult of Assistant 2: 7"
    games = [(1250, 1), (1250, 2), (7, 2), (1250, None)]
    completions = [{"text": text.format(own), "verdict": verdict} for own, verdict in games]
    row = {"id": "p", "order": [1, 0], "completions": completions}
    rollouts = write(tmp_path / "rollouts.jsonl", [row])
    solved.main(str(write(tmp_path / "pairs.jsonl", [pair])), f"grpo={rollouts}")
    printed = capsys.readouterr().out
    assert "| grpo | right answer | 3 | 0.333 | 1.000 |" in printed
    assert "| grpo | wrong answer | 1 | 0.000 | 1.000 |" in printed


def test_a_result_is_read_in_the_words_of_the_base_too():
    assert chains.own_result("My result: $1,250.00\nMy result is that of Assistant 2.") == 1250
    assert chains.own_result("Own solution: 4 + 3\nMy result is 7.") == 7
    assert chains.own_result("My result is that of Assistant 2.") is None


def test_openai_pairs_hide_the_label(tmp_path):
    rows = []
    for number in range(8):
        row = {"question": f"Question {number}?"}
        for index, name in enumerate(openai_pairs.GENERATORS):
            solution = f"{name} writes <<3*4=12>>12 in {number}"
            row[name] = {"solution": solution, "is_correct": index == number % 4}
        rows.append(row)
    source, out = write(tmp_path / "solutions.jsonl", rows), tmp_path / "pairs.jsonl"
    openai_pairs.main(str(source), str(out), "6")
    pairs = load_pairs(out)
    assert 0 < len(pairs) <= 6 and "<<" not in out.read_text()
    for pair in pairs:
        right = openai_pairs.GENERATORS[int(pair.id.split("-")[1]) % 4]
        assert pair.answers[pair.label].startswith(right)


@pytest.mark.parametrize(
    "name", ["solve_first", "solve_lines", "check_steps", ROOT / "runs/qwen/solve_example.txt"]
)
def test_styles_load(name):
    assert load_style(name).verdict == "boxed"


def test_votes_by_hand(tmp_path):
    """Answer a says 7 and is wrong, answer b says 8 and is right; two games in each order."""
    pairs = write(tmp_path / "pairs.jsonl", [PAIR])
    games = [
        {"order": order, "verdict": verdict, "status": "valid", "text": f"My result: {own}"}
        for order, verdict, own in (
            ([0, 1], 2, 8),  # right
            ([0, 1], 1, 8),  # wrong, although its own result is right
            ([1, 0], 1, 9),  # right, with a result that neither answer has
            ([1, 0], None, 7),
        )
    ]
    found = votes.votes_of(load_pairs(pairs)[0], games)
    assert found == ([[1, -1], [1, 0]], [[1, 1], [0, -1]])
    # verdicts: the first games are two right ones, the second -1 + 0; all four: 1
    assert votes.shares_right([found[0]], 1).tolist() == [[0.5]]
    assert votes.shares_right([found[0]], 2).tolist() == [[1.0]]
    # own results: 1 + 0, and a tie of 1 - 1
    assert votes.shares_right([found[1]], 1).tolist() == [[0.75]]

    results, row = tmp_path / "results.json", {"id": "p", "question": "q", "scores": [0, 1]}
    results.write_text(json.dumps({"rows": [row | {"matches": [{"games": games}]}]}))
    shown = call("runs/qwen/votes.py", pairs, f"one={results}")
    assert shown.returncode == 0, shown.stderr
    assert "| one | 1 | 2 | 1.000 [1.000, 1.000] | 0.500 [0.500, 0.500] |" in shown.stdout
    games.pop()
    results.write_text(json.dumps({"rows": [row | {"matches": [{"games": games}]}]}))
    uneven = call("runs/qwen/votes.py", pairs, f"one={results}")
    assert uneven.returncode == 2 and "unlike numbers of votes: [1, 2]" in uneven.stderr


@pytest.mark.parametrize(
    "script, arguments, complaint",
    [
        ("table.py", "", "missing a required argument: 'train_path': the head of"),
        ("table.py", "pairs.jsonl other.jsonl", "no judge is given: write NAME=PATH"),
        ("table.py", "pairs.jsonl other.jsonl log.gz", "log.gz: write NAME=PATH"),
        ("table.py", "pairs.jsonl other.jsonl x=nothere", "nothere: cannot be read"),
        ("table.py", "pairs.jsonl other.jsonl x=empty.gz", "empty.gz"),
        ("table.py", "pairs.jsonl other.jsonl x=log.gz y=else.gz", "y: else.gz has 0 of the pairs"),
        ("solved.py", "other.jsonl", "no judge is given"),
        ("solved.py", "pairs.jsonl x=log.gz", "has no game of a pair in pairs.jsonl"),
        ("votes.py", "pairs.jsonl x=log.gz", "has no pair of pairs.jsonl"),
        ("votes.py", "other.jsonl x=broken.gz", "broken.gz: cannot be read"),
        ("votes.py", "other.jsonl x=shape.gz", "its rows are not those of evaluate.py"),
        ("votes.py", "other.jsonl x=log.gz x=log.gz", "with another name for each judge"),
        ("best_of.py", "rank pairs.jsonl out", "rank: write prepare ANSWERS OUT"),
        ("chains.py", "pairs.jsonl answers.jsonl out Both", "Both: the orders of a pair are one"),
        ("best_of.py", "prepare pairs.jsonl out", "pairs.jsonl line 1: has no messages"),
        ("best_of.py", "table answers.jsonl none x=folder", "x: question q was not judged"),
        ("direct.py", "nothere out", "nothere"),
        (
            "table.py",
            "none none x=log.gz y=else.gz",
            "y: else.gz has 1 of the pairs, and not the 1",
        ),
        ("conditions.py", "statements pairs.jsonl log.gz", "pair o of the judgments is not in"),
        ("conditions.py", "chains pairs.jsonl out", "chains: an argument is missing"),
        ("conditions.py", "both pairs.jsonl out 1", "both: the stages are pairs, chains and"),
        ("conditions.py", "chains pairs.jsonl out rrm", "pair p: its question has no condition"),
        ("conditions.py", "pairs alone.jsonl out 1", "alone.jsonl: gives no pair"),
        ("conditions.py", "pairs answers.jsonl out x", "PER_QUESTION: 'x' is no whole number"),
        ("chains.py", "other.jsonl pairs.jsonl out", "pairs.jsonl line 1: has no messages"),
        ("chains.py", "other.jsonl half.jsonl out", "half.jsonl line 1"),
        ("gsm8k_sets.py", "other.jsonl out", "other.jsonl line 1: has no question"),
    ],
)
def test_bad_input_is_one_line(tmp_path, script, arguments, complaint):
    games = [
        {"order": order, "verdict": 1, "status": "valid", "text": "", "tokens": 3}
        for order in ([0, 1], [1, 0])
    ]
    row = {"id": "o", "question": "q", "scores": [0, 1], "matches": [{"games": games}]}
    log = json.dumps({"rows": [row]}).encode()
    (tmp_path / "folder").mkdir()
    files = {
        "folder/results.json": log,
        "log.gz": gzip.compress(log),
        "else.gz": gzip.compress(log.replace(b'"o"', b'"else"')),
        "broken.gz": gzip.compress(log)[:-9],
        "empty.gz": gzip.compress(b""),
        "shape.gz": gzip.compress(b'{"rows": 5}'),
        "pairs.jsonl": json.dumps(PAIR).encode(),
        "other.jsonl": json.dumps(PAIR | {"id": "o", "query": "Where?"}).encode(),
        "answers.jsonl": json.dumps(ANSWERS).encode(),
        "alone.jsonl": json.dumps(ANSWERS | {"status": ["right"] + 7 * ["wrong"]}).encode(),
        "half.jsonl": b"{half",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, str(ROOT / "runs/qwen" / script), *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# ---- tables ----


def test_numbers_of_games_by_hand():
    """Answer 0 is better: named in the first game; in the second, 1 (it is answer 1) by force."""
    games = [
        {"order": [0, 1], "verdict": 1, "status": "valid", "tokens": 10},
        {"order": [1, 0], "verdict": 1, "status": "valid", "forced": True, "tokens": 30},
    ]
    row = {
        "id": "p",
        "question": "q",
        "scores": [1, 0],
        "matches": [{"pair": [0, 1], "games": games}],
    }
    found = table.games_of([row])
    assert [game["right"] for game in found] == [True, False] and not found[0]["both"]
    assert [game["forced"] for game in found] == [True, False]
    assert [game["verdict"] for game in found] == [True, False]
    assert [game["first"] for game in found] == [True, None]


def test_games_are_forced_and_tabulated(tmp_path):
    folder = make_scripted_folder(tmp_path / "coin", COIN)
    pairs = {}
    for name in ("train", "test"):
        rows = []
        for index, letter in enumerate("abcdefghij"):
            row = {"id": f"{name}-{index}", "query": f"{name} {letter}", "label": index % 2}
            rows.append(row | {"a": f"It is {index}.", "b": "I do not know"})
        pairs[name] = write(tmp_path / f"{name}.jsonl", rows)
    out = tmp_path / "games"
    flags = ("--model", folder, "--style", "rrm_short", "--max_completion_length", 24)
    command = ("evaluate.py", "--benchmark", "pairs", "--data", pairs["test"], *flags)
    assert call(*command, "--output_dir", out).returncode == 0
    done = call("runs/qwen/forced.py", out)
    assert done.returncode == 0, done.stderr
    before, after = (
        json.loads((out / f"{name}.json").read_text()) for name in ("results", "forced")
    )
    games = []
    for one, other in zip(before["rows"], after["rows"]):
        games += zip(one["matches"][0]["games"], other["matches"][0]["games"])
    assert any(game["verdict"] is None for game, _ in games)
    for game, forced in games:
        assert forced["verdict"] in (1, 2)
        assert game["verdict"] == (None if forced.get("forced") else forced["verdict"])
    arguments = (pairs["train"], pairs["test"], f"one={out}", f"two={out}")
    shown = call("runs/qwen/table.py", *arguments)
    assert shown.returncode == 0, shown.stderr
    assert "share no question" in shown.stdout and "| one | 20 | 10 | " in shown.stdout
    assert "| two | 0.000 [0.000, 0.000] | 0.000 [0.000, 0.000] |" in shown.stdout
    missing = call("runs/qwen/table.py", pairs["train"], pairs["test"], f"one={tmp_path}")
    assert missing.returncode == 2 and "has no forced.json" in missing.stderr
    mixed = call("runs/qwen/table.py", pairs["test"], pairs["test"], f"one={out}")
    assert mixed.returncode == 2 and "in both sets" in mixed.stderr


ANSWERS = {
    "id": "q",
    "messages": [{"role": "user", "content": "How many?"}],
    "candidates": ["It is 4", "It is 5", "It is 5", "cut off", "I think 6"],
    "status": ["right", "wrong", "wrong", "truncated", "wrong"],
}


def test_picks_by_hand():
    texts = ("so \\boxed{1,200}", "Answer: $12.50", "no number")
    assert [best_of.number(best_of.result_of(text)) for text in texts] == [1200, 12.5, None]
    assert best_of.picks(ANSWERS, {"judge": True, "unasked": None}, None, 0) == {
        "first answer": True,
        "mean of all answers": 0.2,
        "majority": False,
        "oracle (any is right)": True,
        "judge": True,
        "unasked": True,
    }
    own = {"candidates": ["so 5", "so 4", "so 4"], "status": ["wrong", "right", "right"]}
    for budget, expected in ((1, False), (3, True)):
        found = best_of.picks(ANSWERS, {}, own, budget)
        assert found["own solution, equal tokens"] == expected
        assert found["answer that agrees with it"] == expected


def test_a_knockout_picks_among_different_results(tmp_path):
    folder = make_scripted_folder(tmp_path / "coin", COIN)
    rows = [
        ANSWERS
        | {"id": f"q{index}", "messages": [{"role": "user", "content": f"How many {index}?"}]}
        for index in range(3)
    ]
    rows.append(ANSWERS | {"id": "all wrong", "status": ["wrong"] * 5})
    answers, candidates = write(tmp_path / "answers.jsonl", rows), tmp_path / "candidates.jsonl"
    best_of.prepare(answers, candidates)
    questions = [json.loads(line) for line in candidates.read_text().splitlines()]
    assert [question["id"] for question in questions] == ["q0", "q1", "q2"]
    assert questions[0]["candidates"] == ["It is 4", "It is 5", "I think 6"]
    assert questions[0]["scores"] == [1, 0, 0]
    flags = ("--strategy", "knockout", "--model", folder, "--style", "rrm_short")
    command = ("evaluate.py", "--benchmark", "pairs", "--data", candidates, *flags)
    done = call(*command, "--max_completion_length", 24, "--output_dir", tmp_path / "best")
    assert done.returncode == 0, done.stderr
    shown = call("runs/qwen/best_of.py", "table", answers, "none", f"coin={tmp_path / 'best'}")
    assert shown.returncode == 0, shown.stderr
    results = json.loads((tmp_path / "best" / "results.json").read_text())
    right = np.mean([row["scores"][row["pick"]] for row in results["rows"]] + [0])
    assert f"| coin | {right:.3f} [" in shown.stdout
    assert "| oracle (any is right) | 0.750 [" in shown.stdout
    own = write(tmp_path / "own.jsonl", rows[:3])  # of a sampling that was interrupted
    shown = call("runs/qwen/best_of.py", "table", answers, own, f"coin={tmp_path / 'best'}")
    assert shown.returncode == 2 and "has no solutions of question all wrong" in shown.stderr


def test_the_answer_picked_is_the_winner_or_the_one_with_the_highest_elo():
    def match(pair, *verdicts):
        games = []
        for order, verdict in zip(([0, 1], [1, 0]), verdicts):
            status = "unparsable" if verdict is None else "valid"
            games.append({"order": order, "verdict": verdict, "status": status})
        return {"pair": pair, "games": games}

    matches = [match([0, 1], 2, 1), match([2, 0], 1, None), match([2, 1], 2, 1)]
    judged = {"id": "q", "ranked": True, "pick": None, "scores": [0, 1, 0], "matches": matches}
    assert best_of.answer_picked(judged) == 1  # two wins; answer 2 has one and a half of a draw
    assert best_of.answer_picked(judged | {"pick": 2}) == 2
    with pytest.raises(BadInput, match="question q: only right and wrong met"):
        best_of.answer_picked(judged | {"ranked": False})
