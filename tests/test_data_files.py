"""datafiles.py: files of all kinds, folders, hub; malformed ones give one line with the place."""

import csv
import gzip
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
import formats
import questions
from cli import BadInput
from data import Pair, Question, load_pairs, load_questions

USER, GOOD, BAD = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "good"},
    {"role": "assistant", "content": "bad"},
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- dropping, ids, limit, order ----


def test_identical_answers_and_ties_are_counted(tmp_path, capsys):
    rows = [
        {"query": "1", "a": "x", "b": "x \n", "label": 1},
        {"query": "2", "a": "x", "b": "y", "label": 0.5},
        {"query": "3", "a": "x", "b": "x"},
        {"query": "4", "a": "x", "b": "y", "label": 1},
    ]
    path = write(tmp_path / "j.jsonl", rows)
    assert [pair.id for pair in load_pairs(path)] == ["j-4"]
    assert (
        capsys.readouterr().err
        == f"data: 1 pairs from {path} (1 ties dropped, 2 identical answers dropped)\n"
    )
    assert [pair.id for pair in load_pairs(path, keep_ties=True)] == [
        "j-2",
        "j-3",
        "j-4",
    ]  # only the labelled contradiction goes


def test_ids_are_unique_and_do_not_depend_on_what_is_dropped(tmp_path):
    rows = [
        {"id": identity, "query": str(n), "a": "x", "b": "y", "label": 0.5 if n == 1 else 0}
        for n, identity in enumerate([5, 5, "5-2", 5, None, "", "5"])
    ]
    path = write(tmp_path / "ids.jsonl", rows)
    kept_all = [pair.id for pair in load_pairs(path, keep_ties=True)]
    assert kept_all == ["5", "5-2", "5-2-2", "5-3", "ids-5", "ids-6", "5-4"]
    assert [pair.id for pair in load_pairs(path)] == [
        identity for n, identity in enumerate(kept_all) if n != 1
    ]
    twice = load_pairs(f"{path},{path}")
    assert len({pair.id for pair in twice}) == len(twice) == 12


def test_the_order_of_the_rows_is_kept(tmp_path):
    rows = [{"query": str(n), "a": "x", "b": "x" if n % 2 else "y", "label": 0} for n in range(6)]
    path = write(tmp_path / "l.jsonl", rows)
    assert [pair.messages[0]["content"] for pair in load_pairs(path)] == ["0", "2", "4"]
    assert len(load_questions(path)) == 6


def test_repeated_rows_of_dapo_are_dropped_but_other_sets_with_equal_indices_are_not(
    tmp_path, capsys
):
    def row(prompt, index):
        return {
            "prompt": [{"role": "user", "content": prompt}],
            "reward_model": {"ground_truth": "1"},
            "extra_info": {"index": index},
        }

    rows = [
        row("A", "i"),
        row("A", "i"),
        row("B", "i"),
        row("A", "j"),
        row("A", "i"),
        row("C", None),
        row("C", None),
    ]
    questions = load_questions(write(tmp_path / "dapo.jsonl", rows))
    assert [question.id for question in questions] == [
        "dapo-1",
        "dapo-3",
        "dapo-4",
        "dapo-6",
        "dapo-7",
    ]
    assert "2 repeated rows dropped" in capsys.readouterr().err


def test_ppe_correctness(tmp_path):
    row = {
        "question_id": "q",
        "prompt": "Q",
        "question": "shorter",
        "scores": [n == 10 for n in range(1, 13)],
        "sampled_conflict_pairs": [[9, 0]],
    }
    row = {
        f"response_{n}": f"answer {n}" for n in (3, 10, 1, 12, 2, 4, 5, 6, 7, 8, 9, 11)
    } | row  # a table may have its columns in any order
    question = load_questions(write(tmp_path / "ppe.jsonl", [row]))[0]
    assert (
        question.candidates == [f"answer {n}" for n in range(1, 13)]
        and question.candidates[question.scores.index(1)] == "answer 10"
    )
    assert (
        question.messages[0]["content"] == "Q"
        and question.meta["sampled_conflict_pairs"] == [[9, 0]]
        and "response_3" not in question.meta
    )
    with pytest.raises(BadInput, match="line 1.*a number for each"):
        load_questions(write(tmp_path / "ppe.jsonl", [row | {"scores": [True]}]))


# ---- kinds of files ----

ROWS = [
    {"query": "Q é\u2028Q", "a": 'x, "1"\n2', "b": "y", "label": 0},
    {"query": "R", "a": "", "b": "y", "label": 1},
]


def same_rows(pairs):
    assert [(pair.messages[0]["content"], *pair.answers, pair.label) for pair in pairs] == [
        tuple(row.values()) for row in ROWS
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_files(tmp_path, ending, zipped, mark):
    if ending == ".csv":
        path = tmp_path / "plain.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
        content = path.read_bytes()
    else:
        lines = [
            json.dumps(row, ensure_ascii=False) for row in ROWS
        ]  # U+2028 stands raw inside a string
        content = ("\r\n".join(lines) if ending == ".jsonl" else f"[{','.join(lines)}]").encode()
    path = tmp_path / f"rows{ending}{'.gz' * zipped}"
    content = mark.encode() + content
    path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    pairs = load_pairs(path)
    same_rows(pairs)
    assert pairs[0].source == "rows"


def test_parquet_round_trip(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    same_rows(load_pairs(tmp_path / "rows.parquet"))
    rows = [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "source": "s"},
        {"chosen": [USER, BAD], "rejected": [USER, GOOD], "source": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "skywork.parquet")
    pairs = load_pairs(tmp_path / "skywork.parquet")
    assert [pair.answers for pair in pairs] == [("good", "bad"), ("bad", "good")] and pairs[
        0
    ].messages == [USER]
    assert (
        pairs[0].meta == {"source": "s"} and pairs[1].meta == {}
    )  # the nulls of a table are no fields


def test_json_objects_around_the_rows(tmp_path):
    for name, value in [
        ("data", {"data": ROWS, "other": [1]}),
        ("one_list", {"version": 1, "rows": ROWS}),
    ]:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        same_rows(load_pairs(path))
    (tmp_path / "single.json").write_text(
        json.dumps({"messages": [USER], "a": "x", "b": "y"}), encoding="utf-8"
    )
    assert load_pairs(tmp_path / "single.json")[0].messages == [USER]
    same_rows(load_pairs(write(tmp_path / "lines.json", ROWS)))


def test_csv_with_messages_and_large_cells(tmp_path):
    path = tmp_path / "m.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["chosen", "rejected"], [json.dumps([USER, GOOD]), json.dumps([USER, BAD])]]
        )
    assert load_pairs(path)[0].answers == ("good", "bad")
    path.write_text("prompt,chosen,rejected\nQ," + "x" * 200_000 + ",42\n", encoding="utf-8")
    assert load_pairs(path)[0].answers == (
        "x" * 200_000,
        "42",
    )  # beyond csv's own limit; a number stays text


def test_folder(tmp_path):
    def row(name):
        return [{"query": name, "a": "x", "b": "y"}]

    def loaded(split="train"):
        return [pair.messages[0]["content"] for pair in load_pairs(tmp_path, split)]

    write(tmp_path / "only.jsonl", row("only"))
    (tmp_path / "README.md").write_text("x")
    assert loaded() == ["only"]
    write(tmp_path / "training_notes.jsonl", row("notes"))
    with pytest.raises(BadInput, match="only.jsonl, training_notes.jsonl"):
        loaded()
    write(tmp_path / "train_a.jsonl", row("a"))
    assert loaded() == ["a"]
    write(tmp_path / "train-00001-of-00002.jsonl", row("s1"))
    write(tmp_path / "train-00000-of-00002.jsonl", row("s0"))
    assert loaded() == ["s0", "s1"]
    write(tmp_path / "train.jsonl", row("exact"))
    assert loaded() == ["exact"] and loaded("train_a") == ["a"]


def test_paths_are_read_one_after_the_other_and_formats_may_differ(tmp_path):
    write(tmp_path / "one.jsonl", [{"query": "1", "a": "x", "b": "y"}])
    write(tmp_path / "two.jsonl", [{"prompt": "2", "chosen": "x", "rejected": "y"}])
    pairs = load_pairs(f"{tmp_path / 'two.jsonl'}, {tmp_path / 'one.jsonl'}")
    assert [(pair.source, pair.label) for pair in pairs] == [("two", 0), ("one", None)]
    comma = write(tmp_path / "a,b.jsonl", [{"query": "1", "a": "x", "b": "y"}])
    assert len(load_pairs(str(comma))) == 1


@pytest.mark.parametrize(
    "files, expected",
    [
        (["one.jsonl", "two.jsonl"], ["one", "two"]),
        (["Natural/dataset.json"], ["Natural/dataset"]),
        (
            ["x/Natural/dataset.json", "Neighbor/dataset.json"],
            ["Natural/dataset", "Neighbor/dataset"],
        ),
        (["x/A/dataset.json", "y/A/dataset.json"], ["x/A/dataset", "y/A/dataset"]),
        (["x/test.jsonl", "y/test.jsonl", "z.jsonl"], ["x/test", "y/test", "z"]),
        (
            ["x/data/test-00000-of-00001.json", "y/data/test-00000-of-00001.json"],
            ["x/data/test", "y/data/test"],
        ),
        (["x/test-00000-of-00002.json", "x/test-00001-of-00002.json"], ["test", "test"]),
    ],
)
def test_sets_are_named_by_what_tells_them_apart(tmp_path, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / file, [{"query": "Q", "a": "x", "b": "y"}])
    pairs = load_pairs(",".join(str(tmp_path / file) for file in files))
    assert [pair.source for pair in pairs] == expected
    assert len({pair.id for pair in pairs}) == len(files)


def test_hub(monkeypatch):
    calls = []

    def load_dataset(path, name=None, data_dir=None, split=None):
        calls.append((path, name, data_dir, split))
        if "gone" in path:
            raise FileNotFoundError("Couldn't find\nany dataset")
        return [{"prompt": "Q", "chosen": "x", "rejected": "y"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert load_pairs("some-owner/some.set")[0].source == "some-owner/some.set"
    load_pairs("owner/set:main@test[:5]")
    load_pairs("owner/set/preference", split="validation")
    assert calls == [
        ("some-owner/some.set", None, None, "train"),
        ("owner/set", "main", None, "test[:5]"),
        ("owner/set", None, "preference", "validation"),
    ]
    with pytest.raises(BadInput, match="owner/gone: no such file.*Couldn't find") as error:
        load_pairs("owner/gone")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "datasets", None)  # makes its import fail
    with pytest.raises(BadInput, match="no such file.*pip install datasets"):
        load_pairs("owner/set")


def test_missing_pyarrow_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(BadInput, match="x.parquet.*pip install pyarrow"):
        load_pairs(tmp_path / "x.parquet")


def test_import_is_light():
    code = (
        "import sys, data; heavy = 'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(data.__file__).parent,
    )
    assert found.stdout.strip() == "[]"


# ---- malformed input: one line that names the place ----

OK = json.dumps({"query": "Q", "a": "x", "b": "y"})
TRL = json.dumps({"prompt": "Q", "chosen": "x", "rejected": "y"})


@pytest.mark.parametrize(
    "name, content, pieces",
    [
        ("half.jsonl", OK + '\n{"query": "Q", "a"', ["half.jsonl line 2", "not valid JSON"]),
        ("list.jsonl", OK + "\n[1]", ["list.jsonl line 2", "list"]),
        ("empty.jsonl", "\n \n", ["empty.jsonl", "no rows"]),
        ("empty.json", "", ["empty.json", "not valid JSON"]),
        ("none.json", "[]", ["none.json", "no rows"]),
        ("half.json", '[{"query": "Q"', ["half.json", "not valid JSON"]),
        ("number.json", "[1]", ["number.json row 1", "expected an object"]),
        ("object.json", '{"x": [1], "y": [2]}', ["object.json", "one list"]),
        ("deep.json", "[" * 100_000, ["deep.json", "not valid JSON"]),
        ("latin.jsonl", b'{"query": "\xe9"}', ["latin.jsonl", "UTF-8", "byte 11"]),
        (
            "broken.jsonl.gz",
            gzip.compress(OK.encode() * 50, mtime=0)[:-12],
            ["broken.jsonl.gz", "cannot be read"],
        ),
        ("plain.jsonl.gz", OK, ["plain.jsonl.gz", "cannot be read"]),
        ("broken.parquet", "PAR1 no", ["broken.parquet", "cannot be read"]),
        ("what.txt", OK, ["what.txt", "unknown ending"]),
        (
            "trl.jsonl",
            '{"prompt": "Q", "chosen": "x"}',
            ["trl.jsonl line 1", "rejected missing", "preference"],
        ),
        (
            "later.jsonl",
            TRL + "\n\n" + '{"prompt": "Q", "chosen": "x", "reject": "y"}',
            ["later.jsonl line 3", "rejected missing"],
        ),
        ("null.jsonl", TRL.replace('"y"', "null"), ["null.jsonl line 1", "rejected missing"]),
        (
            "judge.jsonl",
            '{"query": "Q", "a": "x"}',
            ["judge.jsonl line 1", "b missing", "judge input"],
        ),
        (
            "prompt.jsonl",
            '{"chosen": "x", "rejected": "y"}',
            ["prompt.jsonl line 1", "prompt is missing"],
        ),
        ("int.jsonl", TRL.replace('"x"', "5"), ["int.jsonl line 1", "chosen is 5"]),
        (
            "mixed.jsonl",
            json.dumps({"chosen": [USER, GOOD], "rejected": "y"}),
            ["mixed.jsonl line 1", "differ in type"],
        ),
        (
            "label.jsonl",
            OK + "\n" + OK[:-1] + ', "label": "x"}',
            ["label.jsonl line 2", "label is 'x'", "0.5"],
        ),
        ("bool.jsonl", OK[:-1] + ', "label": true}', ["bool.jsonl line 1", "label is True"]),
        ("two.jsonl", OK[:-1] + ', "label": 2}', ["two.jsonl line 1", "label is 2"]),
        (
            "llmbar.json",
            '[{"input": "Q", "output_1": "x", "output_2": "y", "label": 0}]',
            ["llmbar.json row 1", "label is 0"],
        ),
        (
            "steer.jsonl",
            json.dumps(
                {"context": "Q", "response1": "x", "response2": "y", "overall_preference": "-4"}
            ),
            ["steer.jsonl line 1", "overall_preference is -4"],
        ),
        (
            "role.jsonl",
            json.dumps({"chosen": [{"role": "human being", "content": "x"}], "rejected": []}),
            ["role.jsonl line 1", "chosen is", "role"],
        ),
        (
            "end.jsonl",
            json.dumps({"chosen": [USER], "rejected": [USER]}),
            ["end.jsonl line 1", "chosen ends with", "user"],
        ),
        (
            "content.jsonl",
            json.dumps({"chosen": [USER | {"content": 3}, GOOD], "rejected": [USER, BAD]}),
            ["content.jsonl line 1", "is 3"],
        ),
        (
            "surrogate.jsonl",
            '{"query": "Q", "a": "\\ud800", "b": "y"}',
            ["surrogate.jsonl line 1", "a is", "surrogate"],
        ),
        ("id.jsonl", OK[:-1] + ', "id": [1]}', ["id.jsonl line 1", "id is [1]"]),
        ("columns.csv", "Q,x,y\nR,x,z\n", ["columns.csv line 1:", "missing", "['Q', 'x', 'y']"]),
        (
            "spread.csv",
            'prompt,chosenn,rejected\n"a\nb",x,y\n',
            ["spread.csv line 1:", "chosen missing"],
        ),
        ("twice.csv", "query,a,a\nQ,x,y\n", ["twice.csv line 2", "no name twice"]),
        ("cells.csv", "query,a,b\nQ,x\n", ["cells.csv line 2", "does not fit line 1"]),
        ("many.csv", "query,a,b\nQ,x,y,z\n", ["many.csv line 2", "does not fit line 1"]),
        ("quote.csv", 'query,a,b\nQ,"x,y\n', ["quote.csv line", "not valid csv"]),
        ("header.csv", "query,a,b\n", ["header.csv", "no rows"]),
        (
            "solution.jsonl",
            json.dumps(
                {
                    "question": "Q",
                    "ground_truth": "\nA: 1",
                    "m": {"is_correct": "no", "solution": "s"},
                }
            ),
            ["solution.jsonl line 1", "number for each"],
        ),
        (
            "verl.jsonl",
            '{"prompt": "Q", "reward_model": {"style": "rule"}}',
            ["verl.jsonl line 1", "reward_model"],
        ),
        (
            "final.jsonl",
            '{"question": "Q", "answer": "so ####"}',
            ["final.jsonl line 1", "answer has no answer"],
        ),
        (
            "scores.jsonl",
            '{"query": "Q", "candidates": ["x", "y"], "scores": [1]}',
            ["scores.jsonl line 1", "number for each"],
        ),
        (
            "ties.jsonl",
            OK[:-1] + ', "label": 0.5}',
            ["ties.jsonl", "no pairs left", "1 ties dropped"],
        ),
        (
            "questions.jsonl",
            '{"question": "Q", "answer": "#### 1"}',
            ["questions.jsonl", "no pairs left"],
        ),
        (
            "rmb.jsonl",
            json.dumps({"conversation_input": "Q", "bon_best": {"answer": "x"}, "loser_list": "y"}),
            ["rmb.jsonl line 1", "answer 2 of 2"],
        ),
    ],
)
def test_malformed(tmp_path, name, content, pieces):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as error:
        load_pairs(path)
    message = str(error.value)
    assert (
        "\n" not in message and str(path) in message and all(piece in message for piece in pieces)
    ), message


@pytest.mark.parametrize(
    "name",
    ["nowhere.jsonl", "./nowhere", "/nowhere/x", "", "x" * 300 + ".jsonl", "~nobody-here/x.json"],
)
def test_missing_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as error:
        load_pairs(name)
    assert re.search(
        "no such file|No such file|too long", str(error.value), re.I
    ) and "\n" not in str(error.value)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
ROLES = st.one_of(st.sampled_from(["user", "assistant"]), SCALARS)
MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content", "x"]), ROLES), max_size=3)
INNER = st.sampled_from(["answer", "llm_name", "is_correct", "solution", "ground_truth", "index"])
VALUES = st.one_of(
    SCALARS,
    MESSAGES,
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(INNER, SCALARS, max_size=3),
)
EXTRA = [
    "scores",
    "label",
    "id",
    "extra_info",
    "cmp_key",
    "input",
    "generators",
    "styles",
    "score_chosen",
    "score_rejected",
    "meta",
]
ALL_FORMATS = formats.pair_formats() + questions.FORMATS
NAMES = (
    sorted(
        {
            name
            for _, fields, _ in ALL_FORMATS
            for group in fields.split()
            for name in group.split("|")
        }
    )
    + EXTRA
)
FITTING = st.sampled_from(ALL_FORMATS).flatmap(
    lambda entry: st.fixed_dictionaries(
        {group.split("|")[0]: st.one_of(st.just("text"), VALUES) for group in entry[1].split()},
        optional={name: VALUES for name in EXTRA if name not in entry[1]},
    )
)


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    rows=st.lists(
        st.one_of(FITTING, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), SCALARS),
        min_size=1,
        max_size=3,
    )
)
def test_random_rows_give_a_list_or_bad_input(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "random.jsonl"
    write(path, rows)
    for load, kind in ((load_pairs, Pair), (load_questions, Question)):
        try:
            items = load(path)
        except BadInput as error:
            assert "\n" not in str(error) and "random.jsonl" in str(error)
            continue
        assert items and all(isinstance(item, kind) for item in items)
        assert len({item.id for item in items}) == len(items)
        texts = [
            text
            for item in items
            for text in (item.answers if kind is Pair else item.candidates or [])
        ]
        texts += [turn["content"] for item in items for turn in item.messages]
        assert all(text.encode() is not None for text in texts)
