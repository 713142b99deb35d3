"""Each field of a row reaches the judge or is refused by name; bytes and cells keep their sense."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import datafiles
from cli import BadInput
from data import load_pairs, load_questions
from judge import as_pairs
from match_files import read_matches
from ranking import read_candidates
from train_sft import read_row

ROOT = Path(__file__).parents[1]


def turn(role, content):
    return {"role": role, "content": content}


def user(text):
    return turn("user", text)


def assistant(text):
    return turn("assistant", text)


@pytest.fixture
def loaded(tmp_path, capsys):
    """load(row) -> (the pair, what was noted)"""

    def load(row, load=load_pairs, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        (item,) = load(path, **options)
        return item, capsys.readouterr().err

    return load


# ---- prompts in parts ----

ANSWERS = {"chosen": "good", "rejected": "bad"}
SYSTEM = turn("system", "S")
HISTORY = [user("earlier"), assistant("reply")]
PARTS = [
    ({"instruction": "Do it.", "input": "this"}, [user("Do it.\n\nthis")]),
    ({"instruction": "Do it.", "input": ""}, [user("Do it.")]),
    ({"prompt": "Do it.", "input": "this"}, [user("Do it.\n\nthis")]),
    ({"input": "Q"}, [user("Q")]),  # distilabel
    ({"system": "S", "question": "Q"}, [SYSTEM, user("Q")]),  # Orca
    ({"system_prompt": "S", "prompt": "Q"}, [SYSTEM, user("Q")]),
    ({"system": "", "question": "Q"}, [user("Q")]),
    ({"system": "S", "prompt": [user("Q")]}, [SYSTEM, user("Q")]),
    ({"system": "S", "prompt": [SYSTEM, user("Q")]}, [SYSTEM, user("Q")]),
    (
        {"system": "S", "instruction": "Q", "input": "", "history": [["earlier", "reply"]]},
        [SYSTEM, *HISTORY, user("Q")],
    ),
    ({"instruction": "Q", "history": HISTORY}, [*HISTORY, user("Q")]),
    ({"instruction": "Q", "history": '[["earlier", "reply"]]'}, [*HISTORY, user("Q")]),
    ({"instruction": "Q", "history": []}, [user("Q")]),
    ({"messages": [SYSTEM, user("Q")]}, [SYSTEM, user("Q")]),
    (
        {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}]},
        [SYSTEM, user("Q")],
    ),
    ({"prompt": json.dumps([SYSTEM, user("Q")])}, [SYSTEM, user("Q")]),
    ({"prompt": "Q", "question": "Q "}, [user("Q")]),
    ({"prompt": "", "question": "Q"}, [user("Q")]),
    ({"prompt": "Q", "messages": [SYSTEM, user("Q"), assistant("good")]}, [SYSTEM, user("Q")]),
    (
        {"question": "What is it?", "instruction": "Be brief. What is it?"},
        [user("Be brief. What is it?")],
    ),
    ({"system": "", "system_prompt": "S", "prompt": "Q"}, [SYSTEM, user("Q")]),
    ({"instruction": "[INST] max", "input": "x"}, [user("[INST] max\n\nx")]),
    ({"history": HISTORY, "prompt": [SYSTEM, user("Q")]}, [SYSTEM, *HISTORY, user("Q")]),
]


@pytest.mark.parametrize("prompt, messages", PARTS)
def test_parts_of_a_prompt(loaded, prompt, messages):
    for answers in (
        ANSWERS,
        {"chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": assistant("good"), "rejected": {"from": "gpt", "value": "bad"}},
    ):
        pair, _ = loaded(prompt | answers)
        assert not {"system", "system_prompt", "input", "history"} & pair.meta.keys()
        assert (pair.messages, pair.answers, pair.label) == (messages, ("good", "bad"), 0)


def test_parts_of_a_prompt_in_other_formats(loaded):
    pair, _ = loaded({"system": "S", "query": "Q", "a": "x", "b": "y"})
    assert pair.messages == [SYSTEM, user("Q")]
    row = {"system": "S", "question": "Q", "input": "this", "answer": "5"}
    question, _ = loaded(row, load_questions)
    assert question.messages == [SYSTEM, user("Q\n\nthis")] and question.answer == "5"
    row = {"system_prompt": "S", "context": "Q", "response1": "x", "response2": "y"}
    assert loaded(row | {"overall_preference": 2})[0].messages == [SYSTEM, user("Q")]


@pytest.mark.parametrize(
    "prompt, before, messages",
    [
        ([SYSTEM, user("Q")], [user("Q")], [SYSTEM, user("Q")]),
        ([SYSTEM, *HISTORY, user("Q")], [user("Q")], [SYSTEM, *HISTORY, user("Q")]),
        ([user("Q")], [SYSTEM, user("Q")], [SYSTEM, user("Q")]),
        ([SYSTEM, user("earlier")], [*HISTORY, user("Q")], [SYSTEM, *HISTORY, user("Q")]),
        ("Q \n", [*HISTORY, user("Q")], [*HISTORY, user("Q")]),
        ([user("Q")], [assistant("reply"), user("more")], None),  # goes on after the prompt
        ([], [user("Q")], [user("Q")]),
        (" ", [user("Q")], [user("Q")]),
    ],
)
def test_answers_that_repeat_the_prompt(loaded, prompt, before, messages):
    row = {"prompt": prompt} if prompt else {"system": ""}
    row |= {"chosen": [*before, assistant("good")], "rejected": [*before, assistant("bad")]}
    assert loaded(row)[0].messages == (messages or prompt + before)


def test_another_prompt_in_the_answers_is_counted(tmp_path, capsys):
    row = {"chosen": [user("R"), assistant("x")], "rejected": [user("R"), assistant("y")]}
    rows = [{"prompt": "Q"} | row, {"prompt": "R"} | row, {"prompt": [SYSTEM, user("Q")]} | row]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [pair.id for pair in load_pairs(tmp_path / "r.jsonl")] == ["r-2"]
    assert "2 rows with two different prompts dropped" in capsys.readouterr().err


REFUSED = [
    (
        {"system": "S", "prompt": [turn("system", "T"), user("Q")]} | ANSWERS,
        "system messages differ",
    ),
    ({"system": "S", "system_prompt": "T", "prompt": "Q"} | ANSWERS, "system messages differ"),
    ({"system": ["S"], "prompt": "Q"} | ANSWERS, "content in system is"),
    ({"instruction": "Be brief.", "question": "Q"} | ANSWERS, "question and instruction differ"),
    ({"prompt": [user("Q")], "input": "this"} | ANSWERS, "input is 'this' beside prompt"),
    ({"prompt": "Q", "input": {"x": 1}} | ANSWERS, "input is"),
    ({"prompt": "Q", "history": "earlier"} | ANSWERS, "history: not valid JSON"),
    ({"prompt": "Q", "history": [["one"]]} | ANSWERS, "history is"),
    ({"prompt": "Q", "history": 5} | ANSWERS, "history is"),
    ({"prompt": str([user("Q")])} | ANSWERS, "prompt looks like messages"),
    ({"prompt": "Q", "chosen": str([assistant("x")]), "rejected": "y"}, "chosen looks like"),
    ({"prompt": "Q", "chosen": json.dumps([assistant("x")])[:-2], "rejected": "y"}, "chosen looks"),
    ({"query": "Q", "a": json.dumps([user("x")]), "b": "y"}, "a ends with a message of role user"),
    ({"query": "Q", "a": json.dumps(assistant("x")), "b": "y"}, "differ in type"),
    ({"system": "S"} | ANSWERS, "prompt is missing"),
    ({"query": "Q", "a": ["x"], "b": ["y"]}, "a is ['x']"),
    ({"prompt": "Q", "chosen": [assistant(None)], "rejected": [assistant("y")]}, "is None"),
]


@pytest.mark.parametrize("row, words", REFUSED)
def test_fields_that_are_refused_by_name(loaded, row, words):
    with pytest.raises(BadInput, match=r"rows\.jsonl line 1: ") as error:
        loaded(row)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "answers",
    [
        {"prompt": "Q", "chosen": [assistant("x")], "rejected": [assistant("y")]},
        {"query": "Q", "a": [assistant("x")], "b": [assistant("y")]},
        {"prompt": "Q", "response_a": [assistant("x")], "response_b": [assistant("y")]},
        {"chosen": [user("Q"), assistant("x")], "rejected": [user("Q"), assistant("y")]},
    ],
)
def test_answers_that_are_json_text(loaded, answers):
    row = {name: v if isinstance(v, str) else json.dumps(v) for name, v in answers.items()}
    winner = {"winner": "model_a"} if "response_a" in row else {}
    pair, _ = loaded(row | winner)
    assert (pair.messages, pair.answers) == ([user("Q")], ("x", "y"))


def test_a_transcript_beside_a_system(loaded):
    texts = {name: f"\n\nHuman: Q\n\nAssistant: {text}" for name, text in ANSWERS.items()}
    pair, _ = loaded({"system": "S"} | texts)
    assert (pair.messages, pair.answers) == ([SYSTEM, user("Q")], ("good", "bad"))


def test_pairs_in_python_are_read_alike():
    (pair,) = as_pairs(
        {"system": "S", "query": "Q", "a": json.dumps([assistant("x")]), "b": [assistant("y")]}
    )
    assert (pair.messages, pair.answers) == ([SYSTEM, user("Q")], ("x", "y"))
    with pytest.raises(BadInput, match="pair 1: has two different prompts"):
        as_pairs({"query": "Q", "messages": [user("R")], "a": "x", "b": "y"})


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", '{"role": "admin", "content": "x"}', '{"name": "x"}', "[{", '["user", "role"]'],
)
def test_answers_that_are_json_of_another_kind_stay_text(loaded, text):
    assert loaded({"query": "Q", "a": text, "b": "y"})[0].answers == (text, "y")


def test_tool_calls_and_tools_are_shown(loaded):
    def asks(city, **more):
        call = {"function": {"name": "weather", "arguments": json.dumps({"city": city})}}
        return {"role": "assistant", "content": "", "tool_calls": [call]} | more

    pair, _ = loaded({"prompt": "Q", "chosen": [asks("Rome")], "rejected": [asks("Oslo")]})
    assert "weather" in pair.answers[0] and "Rome" in pair.answers[0] and "Oslo" in pair.answers[1]
    before = [user("Q"), asks("Rome", content=None), turn("tool", "12 degrees")]
    row = {"prompt": before, "chosen": [assistant("x")], "rejected": [assistant("y")]}
    messages = loaded(row)[0].messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert "Rome" in messages[1]["content"] and messages[2]["content"] == "12 degrees"
    old = {"role": "assistant", "content": "So:", "function_call": {"name": "weather"}}
    pair, _ = loaded({"prompt": "Q", "chosen": [old], "rejected": [assistant("So:")]})
    assert pair.answers[0].startswith("So:\n") and "weather" in pair.answers[0]


# ---- scores and labels ----

PAIR = {"prompt": "Q", "chosen": "x", "rejected": "y"}
OWN = {"query": "Q", "a": "x", "b": "y"}


@pytest.mark.parametrize(
    "first, second",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("rating_chosen", "rating_rejected"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("chosen_reward", "reject_reward"),
    ],
)
def test_scores_decide_ties_and_contradictions(loaded, first, second):
    for values, label in (((5, 5), 0.5), (("4.0", "4"), 0.5), ((8, 2), 0), ((None, 3), 0)):
        pair, note = loaded(PAIR | dict(zip((first, second), values)), keep_ties=True)
        assert pair.label == label and "contradict" not in note
    pair, note = loaded(PAIR | {first: 2, second: 8.5})
    assert pair.meta == {first: 2, second: 8.5}
    assert pair.label == 0 and "1 labels contradict the scores beside them, first rows-1" in note


def test_margins_and_scores_of_labelled_answers(loaded):
    assert loaded(PAIR | {"margin": 0}, keep_ties=True)[0].label == 0.5
    assert loaded(PAIR | {"margin": 1.5})[0].label == 0
    assert "1 labels contradict" in loaded(PAIR | {"margin": -1})[1]
    assert loaded(PAIR | {"score_diff": "0.0"}, keep_ties=True)[0].label == 0.5
    assert loaded(PAIR | {"scores": [3, 3]}, keep_ties=True)[0].label == 0.5
    assert "1 labels contradict" in loaded(OWN | {"scores": [1, 3], "label": 0})[1]
    scores = {"score_a": 1, "score_b": 3}
    assert "contradict" not in loaded(OWN | scores | {"label": 1})[1]
    assert "1 labels contradict" in loaded(OWN | scores | {"label": 0})[1]
    pair, note = loaded(OWN | scores)
    assert pair.label is None and "contradict" not in note  # a label is not made up


def test_a_winner_beside_two_answers_is_read(loaded):
    for winner, label in (("model_a", 0), ("B", 1), ("tie (bothbad)", 0.5)):
        row = {"prompt": "Q", "response_a": "x", "response_b": "y", "winner": winner}
        assert loaded(row, keep_ties=True)[0].label == label
    row = {
        "conversation_a": [user("Q"), assistant("x")],
        "conversation_b": [user("Q"), assistant("y")],
    }
    pair, _ = loaded(row | {"winner": "model_b"})
    assert (pair.messages, pair.answers, pair.label) == ([user("Q")], ("x", "y"), 1)


@pytest.mark.parametrize(
    "row, advice",
    [
        (
            {"question": "q", "answer1": "a", "answer2": "b"},
            "rename question to query, answer1 to a, answer2 to b",
        ),
        ({"prompt": "q", "response_a": "a", "response_b": "b"}, "prompt to query, response_a to a"),
        ({"Query": "q", "A": "a", "B": "b"}, "rename Query to query, A to a, B to b"),
        ({"query": "q", "model_a_response": "a", "model_b_response": "b"}, "model_b_response to b"),
        ({"prompt": "q", "first": "a", "second": "b", "id": 1}, "first to a, second to b"),
        (
            {"instruction": "q", "accepted": "a", "rejected": "b"},
            "rename instruction to prompt, accepted to chosen; a label",
        ),
        ({"Prompt": "q", "Chosen": "a", "Rejected": "b"}, "Chosen to chosen, Rejected to rejected"),
        (
            {"prompt": "q", "score_a": "99", "score_b": "98", "x_a": "a", "x_b": "b"},
            "x_a to a, x_b",
        ),
        ({"messages": [user("q")], "rejected_response": "b"}, "columns to query, a, b or prompt"),
        ({"prompt": "q", "better_answer": "a", "worse_answer": "b"}, "worse_answer to rejected"),
    ],
)
def test_wrong_names_get_advice(loaded, row, advice):
    with pytest.raises(BadInput, match="line 1") as error:
        loaded(row)
    assert advice in str(error.value)


# ---- bytes ----

TEXT = '{"query": "Qé", "a": "x\u2028", "b": "y"}\n{"query": "R", "a": "z", "b": "y"}\n'
ENCODINGS = "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"


def encoded(text, encoding):
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    return (mark + text).encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_marks_and_line_ends_change_nothing(tmp_path, encoding, newline):
    table = 'query,a,b\n"Qé\n""Q""",x,007\n'
    texts = {
        "p.jsonl": TEXT,
        "p.json": json.dumps([{"query": "Qé", "a": "x", "b": "y"}], indent=1),
        "p.csv": table,
        "p.tsv": table.replace(",", "\t"),
        "p.jsonl.gz": TEXT,
        "p.csv.gz": table.replace(",", ";"),
    }
    for name, text in texts.items():
        content = encoded(text.replace("\n", newline), encoding)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        pair = load_pairs(tmp_path / name)[0]
        if "json" in name:
            assert pair.messages == [user("Qé")] and pair.answers[0].strip() == "x"
        else:
            assert pair.messages == [user('Qé\n"Q"')] and pair.answers == ("x", "007")
    lines = encoded(f"é{newline}b{newline}", encoding)
    (tmp_path / "c.txt").write_bytes(lines)
    assert read_candidates(str(tmp_path / "c.txt")) == ["é", "b"]
    assert datafiles.read_value(f"@{tmp_path / 'c.txt'}", "--a") == "é\nb"
    (tmp_path / "m.csv").write_bytes(encoded(f"i,j,score{newline}é,b,1{newline}", encoding))
    assert read_matches(tmp_path / "m.csv") == ([(0, 1, 1.0)], ["é", "b"])


def test_marks_inside_of_joined_files_and_of_arguments(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(
        b"".join(b"\xef\xbb\xbf" + line for line in [TEXT.encode()] * 2)
    )
    assert len(load_pairs(tmp_path / "p.jsonl")) == 4
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert read_candidates(str(tmp_path / "c.txt")) == ["a", "b"]


@pytest.mark.parametrize(
    "content", ["aé".encode("latin-1"), "a\nb".encode("utf-16-le"), b"PK\3\4\0", b"\xff\xfe\0"]
)
def test_other_bytes_are_refused_in_one_line(tmp_path, content):
    for name in ("x.jsonl", "x.csv"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name} is not UTF-8 text .*spreadsheet as csv"):
            load_pairs(tmp_path / name)
        with pytest.raises(BadInput, match="is not UTF-8 text"):
            datafiles.read_value(f"@{tmp_path / name}", "--a")


def test_spreadsheets_are_refused_with_advice(tmp_path):
    (tmp_path / "x.xlsx").write_bytes(b"PK\3\4\0")
    with pytest.raises(BadInput, match="x.xlsx.*save a spreadsheet as csv"):
        load_pairs(tmp_path / "x.xlsx")
    with pytest.raises(BadInput, match="x.xlsx.*spreadsheet as csv"):
        read_candidates(str(tmp_path / "x.xlsx"))


STDIN = """
import sys, datafiles
print(ascii(datafiles.read_value("-", "--query")))
"""


def test_standard_input(tmp_path):
    for encoding in ENCODINGS:
        done = subprocess.run(
            [sys.executable, "-c", STDIN],
            input=encoded("é\r\nb\n", encoding),
            capture_output=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert done.stdout.strip() == rb"'\xe9\nb'", done.stderr


# ---- csv ----


def csv_pairs(tmp_path, text, name="s.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return [(pair.messages[0]["content"], *pair.answers) for pair in load_pairs(tmp_path / name)]


@pytest.mark.parametrize(
    "text, rows",
    [
        ("query;a;b\r\nQ, R;x;1,5\r\n", [("Q, R", "x", "1,5")]),
        ("query\ta\tb\nQ, R\tx;\ty\n", [("Q, R", "x;", "y")]),
        ('"query";"a";"b"\n"Q;\nR";x;y\n', [("Q;\nR", "x", "y")]),
        (" query , a,b \n Q,007,7\n", [("Q", "007", "7")]),
        ("query,a,b\n Q ,1.0,1\n", [(" Q ", "1.0", "1")]),
        ('query, a, b\nQ, "x, y", z\n', [("Q", "x, y", "z")]),
        ("query,a,b,,\nQ,x,y,,\n,,,,\n\nR,x,z,,\n", [("Q", "x", "y"), ("R", "x", "z")]),
        (",query,a,b\n0,Q,x,y\n", [("Q", "x", "y")]),  # pandas numbers its rows
        ("query,a,b\nQ,TRUE,1e3\n", [("Q", "TRUE", "1e3")]),
    ],
)
def test_tables_of_spreadsheet_programs(tmp_path, text, rows):
    assert csv_pairs(tmp_path, text) == rows


def test_candidates_of_a_csv(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('id;response\n1;"a;\nb"\n2;007\n', encoding="utf-8")
    assert read_candidates(str(path)) == ["a;\nb", "007"]
    for text, words in (("id,other\n1,x\n", "columns are id, other"), ("text\n", "no answers")):
        path.write_text(text)
        with pytest.raises(BadInput, match=words):
            read_candidates(str(path))


def test_rows_of_a_supervised_training():
    messages = [SYSTEM, user("Q")]
    for row, prompt in (
        ({"system": "S", "question": "Q", "answer": "x"}, messages),
        ({"system": "S", "messages": [user("Q"), assistant("x")]}, messages),
        ({"system": "S", "prompt": [user("Q")], "completion": "x"}, messages),
        ({"system": "S", "prompt": [user("Q")], "completion": [assistant("x")]}, messages),
        ({"messages": json.dumps([user("Q"), assistant("x")])}, messages[1:]),
        ({"prompt": json.dumps(messages), "completion": json.dumps([assistant("x")])}, messages),
        ({"prompt": "Q", "completion": "x", "system": ""}, "Q"),
    ):
        assert read_row(row, "f line 1") == (prompt, "x"), row
    for name in ("system", "input", "history"):
        with pytest.raises(BadInput, match=f"f line 1: {name} beside a prompt that is text"):
            read_row({"prompt": "Q", "completion": "x", name: "y"}, "f line 1")


def test_cells_of_matches_stay_text(tmp_path):
    def read(text):
        (tmp_path / "m.csv").write_text(text)
        return read_matches(tmp_path / "m.csv")

    assert read("i;j;score\n007;7;1\n")[1] == ["007", 7]
    assert read("left , right,winner\nfig , pear, tie \npear,fig,left\n") == (
        [(0, 1, 0.5), (1, 0, 1.0)],
        ["fig", "pear"],
    )
    assert read('{"left": "fig ", "right": "pear", "winner": "tie"}')[1] == ["fig", "pear"]
    assert read("i,j,score\n01,0,1\n")[1] == ["01", 0]


# ---- output ----


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252:strict"},
    ],
)
def test_output_survives_any_terminal(tmp_path, environment):
    (tmp_path / "m.csv").write_text("left,right,winner\nè,日,left\n日,è,tie\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "elo.py", "--matches", tmp_path / "m.csv"],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u65e5" in done.stdout


# ---- rows as public sets and exports have them ----


def test_contents_may_be_lists_of_texts(loaded):
    """Anthropic's and OpenAI's messages; parquet adds null for the fields of images."""
    part = {"type": "text", "text": "Q", "image_url": None}
    side = [turn("assistant", [{"type": "text", "text": "good "}, {"type": "text", "text": "one"}])]
    row = {"prompt": [user([part])], "chosen": side, "rejected": [assistant("bad")]}
    pair, _ = loaded(row)
    assert (pair.messages, pair.answers) == ([user("Q")], ("good one", "bad"))
    for other in ({"type": "image"}, {"type": "text", "text": "Q", "image_url": "a.png"}):
        with pytest.raises(BadInput, match="line 1: content in prompt is"):
            loaded(row | {"prompt": [user([part, other])]})


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "refusal", "images"])
def test_a_field_of_a_turn_that_no_one_would_see_is_refused(loaded, field):
    side = [turn("assistant", "good") | {field: "seen by no judge"}]
    with pytest.raises(BadInput, match=f"line 1: chosen has a turn with {field}.*: remove it"):
        loaded({"prompt": "Q", "chosen": side, "rejected": [assistant("bad")]})
    empty = [turn("assistant", "good") | {field: None}]
    assert loaded({"prompt": "Q", "chosen": empty, "rejected": [assistant("bad")]})


def test_columns_that_are_not_in_the_prompt_are_named(loaded):
    extra = {"context": "The text.", "tools": [], "images": ["a.png"], "label": 1}
    row = {"id": "7", "source": "s", "prompt": "Q", **ANSWERS}
    assert "not in the prompt: context, images, label, tools)" in loaded(row | extra)[1]
    own = {"query": "Q", "a": "x", "b": "y"}
    assert "not in the prompt: preferred)" in loaded(own | {"preferred": "b"})[1]
    assert "not in the prompt" not in loaded(row)[1]
    assert "not in the prompt" not in loaded(own | {"label": 1})[1]


def test_a_prompt_of_hh_rlhf_is_a_conversation(loaded):
    """Dahoas/full-hh-rlhf has the transcript as a prompt of its own."""
    prompt = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    pair, _ = loaded({"prompt": prompt, "chosen": " good", "rejected": " bad"})
    assert pair.messages == [user("one"), assistant("two"), user("three")]
    pair, _ = loaded({"prompt": "Human: rights?", **ANSWERS})
    assert pair.messages == [user("Human: rights?")]


LMSYS = {"id": 1, "model_a": "m", "model_b": "n", "prompt": '["Q"]', "response_a": '["x"]'}
LMSYS |= {"response_b": '["y"]', "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}


def test_rows_of_lmsys_arena(loaded):
    pair, _ = loaded(LMSYS)
    assert (pair.messages, pair.answers, pair.label) == ([user("Q")], ("x", "y"), 1)
    tie = {"winner_model_b": 0, "winner_tie": 1}
    assert loaded(LMSYS | tie, keep_ties=True)[0].label == 0.5
    for wrong in (
        {"winner_tie": 1},
        {"response_b": "[null]"},
        {"response_b": "y"},
        {"prompt": "[]"},
    ):
        with pytest.raises(BadInput, match="line 1"):
            loaded(LMSYS | wrong)
    two = {name: '["1", "2"]' for name in ("prompt", "response_a", "response_b")}
    with pytest.raises(BadInput, match="1 rows with two different prompts dropped"):
        loaded(LMSYS | two)


def test_a_prompt_of_another_name_is_advised(loaded):
    row = {
        "context_messages": [user("Q")],
        "chosen": [assistant("x")],
        "rejected": [assistant("y")],
    }
    with pytest.raises(BadInput, match="prompt is missing: name it prompt, .*context_messages"):
        loaded(row)


def test_the_first_line_of_excel_names_the_separator(tmp_path):
    path = tmp_path / "pairs.csv"
    for first in ("sep=;\r\n", '"sep=;"\r\n', ""):
        path.write_bytes(f"\ufeff{first}query;a;b\r\nq, really;007;7\r\n".encode())
        (pair,) = load_pairs(path)
        assert pair.messages == [user("q, really")] and pair.answers == ("007", "7")


def test_what_is_no_message_is_shown_as_it_is(loaded):
    """Columns of pandas' to_json: the message named a role that the file does not have."""
    row = {name: {"0": "q", "1": "r"} for name in ("query", "a", "b")}
    with pytest.raises(BadInput, match="query is {'0': 'q', '1': 'r'}, expected text"):
        loaded(row)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_field_that_stands_twice_is_refused(tmp_path, name):
    """Python would keep the second one, and nobody knows which was meant."""
    path = tmp_path / name
    path.write_text('{"query": "1+1", "a": "2", "b": "3", "a": "4"}\n')
    with pytest.raises(BadInput, match="rows.json.*names a field twice"):
        load_pairs(path)
