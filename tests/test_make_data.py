"""extras.make_data: cleaning, pairing, mixing by hand.

Sampling and chains are killed half-way and resumed; commands run as they are typed.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from loopback import chat, text_of
from tiny_models import make_model_folder

import cli
from cli import BadInput
from data import load_pairs
from extras import ask, make_data, mixture
from extras.store import Store
from seeding import stable_hash

ROOT = Path(make_data.__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
EVAL = "<eval><quote_A>x</quote_A></eval>"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


# ---- cleaning ----


def test_planted_benchmark_items_are_all_removed(tmp_path):
    """Fifty GSM8K test questions among 40 clean pairs.

    They are wrapped, cut and re-spelt, and are in prompts, early turns and answers.
    """
    if not DATA.is_dir():
        pytest.skip("no data folder beside the project")
    benchmark, rng = DATA / "gsm8k" / "model_solutions.jsonl", random.Random(0)
    questions = [json.loads(line)["question"] for line in benchmark.read_text().split("\n")[:50]]
    other = [
        json.loads(line)["question"]
        for line in (DATA / "gsm8k" / "train.jsonl").read_text().split("\n")[:40]
    ]
    rows = [
        {
            "id": f"clean{number}",
            "prompt": question,
            "chosen": f"It is {number}.",
            "rejected": "I do not know.",
        }
        for number, question in enumerate(other)
    ]
    for number, question in enumerate(questions):
        cut = " ".join(question.split()[: 2 + len(question.split()) * 3 // 4])
        spelt = [question, question.upper(), f"Please solve: {question}\nBe brief.", cut][
            number % 4
        ]
        row = {"id": f"planted{number}", "prompt": spelt, "chosen": "1", "rejected": "2"}
        if number % 5 == 3:
            row |= {"prompt": "Ask me something.", "chosen": f"{number} {spelt}"}
        if number % 5 == 4:
            row |= {
                "prompt": [
                    {"role": "user", "content": spelt},
                    {"role": "assistant", "content": "?"},
                    {"role": "user", "content": f"go on {number}"},
                ]
            }
        rows.append(row)
    rng.shuffle(rows)
    write(tmp_path / "pairs.jsonl", rows)
    make_data.main(
        [
            "clean",
            "--data",
            str(tmp_path / "pairs.jsonl"),
            "--against",
            str(benchmark),
            "--out",
            str(tmp_path / "out.jsonl"),
        ]
    )
    expected = {f"clean{number}" for number in range(40)} - {
        "clean20"
    }  # Bella's stamps: GSM8K asks the same of Max, in its test set
    assert {row["id"] for row in read(tmp_path / "out.jsonl")} == expected
    assert (
        json.loads((tmp_path / "out.jsonl.report.json").read_text())["counts"]["contaminated"] == 51
    )


def test_clean_drops_sources_and_reads_back(tmp_path, capsys):
    """magpie_ultra: rejected answers carry a stray <im_start>, so RM-R1 leaves that source out."""
    turns = [{"role": "user", "content": "u"}]
    rows = [
        {
            "chosen": [*turns, {"role": "assistant", "content": f"c{number}"}],
            "rejected": [*turns, {"role": "assistant", "content": f"r{number} <im_start>"}],
            "source": ["magpie_ultra", "helpsteer2", "wildguard"][number % 3],
        }
        for number in range(30)
    ]
    source, out = write(tmp_path / "sky.jsonl", rows), tmp_path / "out.jsonl"
    arguments = [
        "clean",
        "--data",
        str(source),
        "--drop_sources",
        "magpie_ultra",
        "--out",
        str(out),
    ]
    make_data.main(arguments)
    assert json.loads(capsys.readouterr().out) == {
        "read": 30,
        "unwanted source or tie": 10,
        "repeated": 0,
        "contradictory": 0,
        "identical answers": 0,
        "kept": 20,
    }
    back = load_pairs(out)
    assert len(back) == 20 and all(item.answers[0][0] == "c" and item.label == 0 for item in back)
    assert {item.meta["source"] for item in back} == {"helpsteer2", "wildguard"}
    saved = json.loads(Path(f"{out}.report.json").read_text())
    assert (
        saved["report"]["wildguard"]["pairs"] == 10
        and saved["settings"]["drop_sources"] == "magpie_ultra"
    )
    make_data.main(arguments)  # made already
    assert "made already" in capsys.readouterr().err
    with pytest.raises(
        BadInput, match="--drop_sources: .* was begun with 'magpie_ultra', not 'wildguard'"
    ):
        make_data.main([*arguments[:4], "wildguard", *arguments[5:]])
    write(source, rows[:9])
    with pytest.raises(BadInput, match="--inputs"):
        make_data.main(arguments)
    with pytest.raises(BadInput, match="magpie_ulta is no source"):
        make_data.main([*arguments[:4], "magpie_ulta", "--out", str(tmp_path / "other.jsonl")])


# ---- formats ----


def test_formats_of_rm_r1(tmp_path):
    single = (
        "[Client Question]\n{}\n\n"
        "[The Start of Chatbot A's Response]\n{}\n[The End of Chatbot A's Response]\n\n"
        "[The Start of Chatbot B's Response]\n{}\n[The End of Chatbot B's Response]"
    )
    talk = (
        "[The Start of the Conversation between Chatbot {} and the Client]\n{{}}\n"
        "[The End of the Conversation between Chatbot {} and the Client]"
    )
    several = talk.format("A", "A") + "\n\n" + talk.format("B", "B")

    def row(user, winner):
        return {
            "context_messages": [
                {"role": "system", "content": "judge"},
                {"role": "user", "content": user},
            ],
            "winner": winner,
        }

    rows = [
        row(single.format("q\n\nr", "one\n\ntwo", "other"), "model_b"),
        row(
            several.format(
                "User: u\nChatbot A: a\nUser: v\n\nw\nChatbot A: good",
                "User: u\nChabot B: a\nUser: v\n\nw\nChabot B: bad",
            ),
            "model_a",
        ),
        row(several.format("User: u\nChatbot A: a", "User: other\nChatbot B: b"), "model_a"),
    ]
    pairs = load_pairs(write(tmp_path / "rm.jsonl", rows))
    assert [(item.messages, item.answers, item.label) for item in pairs] == [
        ([{"role": "user", "content": "q\n\nr"}], ("one\n\ntwo", "other"), 1),
        (
            [
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "v\n\nw"},
            ],
            ("good", "bad"),
            0,
        ),
    ]
    with pytest.raises(
        BadInput, match="winner is 'model_c'"
    ):  # the release's reward raises there as well
        load_pairs(write(tmp_path / "bad.jsonl", [row(single.format("q", "a", "b"), "model_c")]))
    steps = {
        "prompt": "1+1+1?",
        "initial_reason_steps": "1+1=2. ",
        "chosen": "x",
        "rejected": "y",
        "full_chosen": "2+1=3",
        "full_rejected": "2+1=4",
    }
    code = {"input": "sort", "accepted": "sorted(x)", "rejected": "x.sort"}
    (step,), (program,) = (
        load_pairs(write(tmp_path / "s.jsonl", [steps])),
        load_pairs(write(tmp_path / "c.jsonl", [code])),
    )
    assert step.answers == ("1+1=2. 2+1=3", "1+1=2. 2+1=4") and program.answers == (
        "sorted(x)",
        "x.sort",
    )


# ---- judged pairs ----


def judged(name, votes, consistent, winner="a"):
    games = [
        {
            "order": [0, 1],
            "verdict": None if vote is None else vote + 1,
            "status": "unparsable" if vote is None else "valid",
        }
        for vote in votes
    ]
    texts = stable_hash([{"role": "user", "content": f"q{name}"}], ("x", "y"))
    row = {"id": name, "pair": f"{texts:016x}", "winner": winner, "consistent": consistent}
    return row | {"games": games}


def test_labels_and_difficulty_from_judgments(tmp_path, capsys):
    write(
        tmp_path / "pairs.jsonl",
        [{"id": str(number), "query": f"q{number}", "a": "x", "b": "y"} for number in range(4)],
    )
    rows = [
        judged("0", [0, 0], True),
        judged("1", [0, 1], False),
        judged("2", [None, 0], False),
        judged("3", [1, 1], True, "b"),
    ]
    write(tmp_path / "judged.jsonl", rows)
    common = ["--data", str(tmp_path / "pairs.jsonl"), "--judged", str(tmp_path / "judged.jsonl")]
    make_data.main(["label", *common, "--out", str(tmp_path / "labelled.jsonl")])
    assert json.loads(capsys.readouterr().out) == {
        "kept": 2,
        "orders disagree": 1,
        "invalid verdicts": 1,
    }
    assert [(item.id, item.label) for item in load_pairs(tmp_path / "labelled.jsonl")] == [
        ("0", 0),
        ("3", 1),
    ]
    write(
        tmp_path / "pairs.jsonl",
        [
            {"id": str(number), "query": f"q{number}", "a": "x", "b": "y", "label": 0}
            for number in range(4)
        ],
    )
    make_data.main(
        ["difficulty", *common, "--hardest", "0.25", "--out", str(tmp_path / "hard.jsonl")]
    )
    assert json.loads(capsys.readouterr().out) == {"too easy": 1, "kept": 2, "too hard": 1}
    assert [(row["id"], row["chance"]) for row in read(tmp_path / "hard.jsonl")] == [
        ("1", 0.5),
        ("2", 0.5),
    ]
    write(tmp_path / "judged.jsonl", [judged("0", [0], None)])
    swapped = [{"id": "0", "query": "q0", "a": "y", "b": "x", "label": 1}]
    for written, data, problem in [
        ([judged("0", [0], None)], None, "no judgment of 3 pairs, the first is 1"),
        (rows, swapped, "line 1 judges another pair 0"),
        ([*rows, judged("3", [0, 0], True)], None, "line 5: id '3' stands already at line 4"),
        ([*rows[:3], rows[3] | {"games": []}], None, "pair 3 has no games"),
        ([*rows[:3], rows[3] | {"winner": "c"}], None, "line 4 has no winner"),
    ]:
        write(tmp_path / "judged.jsonl", written)
        if data:
            write(tmp_path / "swapped.jsonl", data)
        name = "swapped.jsonl" if data else "pairs.jsonl"
        for command in "label", "difficulty":
            with pytest.raises(BadInput, match=problem):
                make_data.main(
                    [command, "--data", str(tmp_path / name), *common[2:], "--out"]
                    + [str(tmp_path / "other.jsonl")]
                )


# ---- what models write ----

QUESTIONS = [
    {"question": f"What is {number} + {number}?", "answer": f"#### {2 * number}"}
    for number in range(12)
]


def solver(request, attempt):
    """Right for even seeds; thinks first; some texts are cut off."""
    number, seed = int(text_of(request).split()[2]), request["seed"]
    if seed % 7 == 0:
        return chat("so it is", 9, "length")
    return chat(
        f"<think>\\boxed{{0}}</think>{'long ' * (seed % 3)}\\boxed{{{2 * number + seed % 2}}}", 9
    )


def test_answers_from_a_server_are_checked_and_paired(tmp_path, capsys, serve):
    server, questions = serve(solver), write(tmp_path / "q.jsonl", [*QUESTIONS, QUESTIONS[0]])
    common = [
        "--data",
        str(questions),
        "--base_url",
        server.url,
        "--model",
        "m",
        "--num_answers",
        "6",
    ]
    make_data.main(["sample", *common, "--out", str(tmp_path / "answers.jsonl")])
    counts, rows = json.loads(capsys.readouterr().out), read(tmp_path / "answers.jsonl")
    assert (
        counts["questions"] == 12
        and counts["repeated"] == 1
        and counts["right"] + counts["wrong"] + counts["truncated"] == 72
    )
    assert text_of(server.seen[0]).endswith(ask.BOXING) and "instruct" not in json.dumps(rows)
    for number, row in enumerate(rows):  # in the order of the file
        assert row["messages"][0]["content"] == f"What is {number} + {number}?" and row[
            "answer"
        ] == str(2 * number)
        for candidate, status in zip(row["candidates"], row["status"]):
            assert "<think>" not in candidate and (status == "truncated") == (
                "boxed" not in candidate
            )
            assert status == "truncated" or (status == "right") == (
                f"{{{2 * number}}}" in candidate
            )
    make_data.main(["sample", *common, "--limit", "3", "--out", str(tmp_path / "few.jsonl")])
    few = read(tmp_path / "few.jsonl")
    assert (
        len(few) == 3 and few != rows[:3] and all(row in rows for row in few)
    )  # chosen by a hash; the same answers
    make_data.main(
        ["pairs", "--data", str(tmp_path / "answers.jsonl"), "--out", str(tmp_path / "pairs.jsonl")]
    )
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert pairs and all(
        f"{{{2 * int(item.messages[0]['content'].split()[2])}}}" in item.answers[int(item.label)]
        for item in pairs
    )
    assert mixture.describe(pairs)["longer is better"] in (0.5, None)


def test_a_server_that_fails_leaves_the_rest_for_the_next_call(tmp_path, monkeypatch, serve):
    def behave(request, attempt):
        if broken and " 7 +" in text_of(request):
            return 500, {}, b""
        return (400, {}, b"no") if " 5 +" in text_of(request) else solver(request, attempt)

    broken, server, questions = True, serve(behave), write(tmp_path / "q.jsonl", QUESTIONS)
    arguments = [
        "sample",
        "--data",
        str(questions),
        "--base_url",
        server.url,
        "--model",
        "m",
        "--num_answers",
        "2",
        "--out",
        str(tmp_path / "a.jsonl"),
    ]
    monkeypatch.setattr("extras.endpoint.MAX_PAUSE", 0.01)
    with pytest.raises(RuntimeError, match="1 questions got no answer"):
        make_data.main(arguments)
    assert not (tmp_path / "a.jsonl").exists()
    broken, count = False, len(server.seen)
    make_data.main(arguments)
    assert len(server.seen) - count == 2  # only the question that was left
    assert [row["status"] for row in read(tmp_path / "a.jsonl")][5] == [
        "refused",
        "refused",
    ]  # refused for good: kept as such


def test_questions_that_do_not_fit_the_context_are_said(tmp_path, capsys):
    questions, out = write(tmp_path / "q.jsonl", QUESTIONS[:2]), tmp_path / "a.jsonl"
    flags = f"--model tiny-base --num_answers 2 --max_completion_length 4095 --out {out}"
    make_data.main(["sample", "--data", str(questions), *flags.split()])
    assert "2 of the next 2 questions are refused: " in capsys.readouterr().err
    assert [row["status"] for row in read(out)] == [["refused"] * 2] * 2


def test_sampling_that_is_killed_goes_on_to_the_same_result(tmp_path, monkeypatch, capsys):
    """Our sampler ends after its first chunk, with half a line at the end of its file."""
    model = make_model_folder(tmp_path / "model")
    questions = write(
        tmp_path / "q.jsonl",
        [{"question": f"What is {number}?", "answer": str(number)} for number in range(40)],
    )
    arguments = [
        "sample",
        "--data",
        str(questions),
        "--model",
        str(model),
        "--num_answers",
        "3",
        "--max_completion_length",
        "12",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--out",
    ]
    with cli.at_end:
        make_data.main([*arguments, str(tmp_path / "whole.jsonl")])
    assert f"{model} took 120 calls, 0 retries, " in capsys.readouterr().err
    add, partial = Store.add, tmp_path / "cut.jsonl.partial"

    def add_and_die(store, rows):
        add(store, rows)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", add_and_die)
        with pytest.raises(SystemExit):
            make_data.main([*arguments, str(tmp_path / "cut.jsonl")])
    assert (
        not (tmp_path / "cut.jsonl").exists() and partial.read_text().count("\n") == 1 + ask.CHUNK
    )
    with open(partial, "ab") as file:
        file.write(b'{"key": "q-40", "id')
    with pytest.raises(BadInput, match="--num_answers: .* was begun with 3, not 4"):
        make_data.main([*arguments[:6], "4", *arguments[7:], str(tmp_path / "cut.jsonl")])
    drawn = []
    monkeypatch.setattr(
        ask,
        "checked_rows",
        lambda chunk, *rest, checked=ask.checked_rows: (
            drawn.append(len(chunk)) or checked(chunk, *rest)
        ),
    )
    make_data.main([*arguments, str(tmp_path / "cut.jsonl")])
    assert (
        (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
        and not partial.exists()
        and drawn == [8]
    )
    assert len(read(tmp_path / "cut.jsonl")) == 40


def teacher(request, attempt):
    """Reads which answer holds "good".

    The first teacher is wrong for odd questions. The second one mentions its hint at question 9.
    """
    asked = text_of(request)
    number = int(asked.split("question ")[1].split("\n")[0])
    right = "A" if asked.index("good") < asked.index("bad") else "B"
    wrong = {"A": "B", "B": "A"}[right]
    told = "(A note" in asked
    head = f"<think>as I was told</think><type>Reasoning</type><solution>{number}</solution>"
    if number == 4:
        return chat(f"<answer>[[{right}]]</answer>")  # right, but not in the format
    if number == 6:
        return chat(head, 9, "length")
    if told and number == 9:
        return chat(
            f"{head}<eval>The correct verdict was given: {right}</eval><answer>[[{right}]]</answer>"
        )
    if told and number == 11:
        return chat(f"{head}{EVAL}<answer>[[{wrong}]]</answer>")
    return chat(f"{head}{EVAL}<answer>[[{wrong if number % 2 and not told else right}]]</answer>")


def test_chains_of_two_teachers(tmp_path, capsys, monkeypatch, serve):
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("SECOND_API_KEY", "two")
    server = serve(teacher)
    pairs = write(
        tmp_path / "p.jsonl",
        [
            {"id": f"p{n}", "query": f"question {n}", "a": "good", "b": "bad", "label": 0}
            for n in range(12)
        ],
    )
    arguments = [
        "chains",
        "--data",
        str(pairs),
        "--base_url",
        server.url,
        "--model",
        "first",
        "--second_model",
        "second",
        "--out",
        str(tmp_path / "c.jsonl"),
    ]
    make_data.main(arguments)
    assert json.loads(capsys.readouterr().out) == {
        "pairs": 12,
        "chains": 8,
        "teacher 1: kept": 4,
        "teacher 1: malformed": 1,
        "teacher 1: truncated": 1,
        "teacher 1: wrong": 6,
        "teacher 2: contaminated": 1,
        "teacher 2: kept": 4,
        "teacher 2: wrong": 1,
    }
    rows = read(tmp_path / "c.jsonl")
    assert [row["id"] for row in rows] == [f"p{n}" for n in (0, 1, 2, 3, 5, 7, 8, 10)] and [
        row["teacher"] for row in rows
    ][:2] == ["first", "second"]
    places = Counter()
    for row in rows:
        system, user, chain = row["messages"]
        assert (
            "note" not in user["content"]
            and "<think>" not in chain["content"]
            and "told" not in chain["content"]
        )
        right = "AB"[user["content"].index("good") > user["content"].index("bad")]
        assert chain["content"].endswith(f"<answer>[[{right}]]</answer>")
        places[right] += 1
    assert len(places) == 2
    assert {(entry["model"], entry["authorization"]) for entry in server.seen} == {
        ("first", "Bearer one"),
        ("second", "Bearer two"),
    }
    hints = [text_of(entry) for entry in server.seen if entry["model"] == "second"]
    assert len(hints) == 6 and all("<answer>[[" in text and "<solution>" in text for text in hints)
    assert json.loads((tmp_path / "c.jsonl.report.json").read_text())["format"] == {
        "judge/type_reasoning": 1.0,
        "judge/type_chat": 0.0,
        "judge/format": 1.0,
    }
    from train_sft import read_row

    prompt, completion = read_row(rows[0], "row")  # what the supervised stage reads
    assert [turn["role"] for turn in prompt] == ["system", "user"] and completion == rows[0][
        "messages"
    ][-1]["content"]


def test_chains_go_on_where_the_teacher_broke_off(tmp_path, serve):
    pairs = write(
        tmp_path / "p.jsonl",
        [
            {"id": f"p{n}", "query": f"question {n}", "a": "good", "b": "bad", "label": 0}
            for n in range(12)
        ],
    )

    def run(server, out):
        make_data.main(
            [
                "chains",
                "--data",
                str(pairs),
                "--base_url",
                server.url,
                "--model",
                "m",
                "--second_model",
                "s",
                "--concurrency",
                "2",
                "--out",
                str(tmp_path / out),
            ]
        )

    steady = serve(teacher)
    run(steady, "whole.jsonl")
    server = serve(
        lambda request, attempt: (
            (401, {}, b"") if len(server.seen) > 7 else teacher(request, attempt)
        )
    )
    for stop in (7, 14):
        server.behave = lambda request, attempt, stop=stop: (
            (401, {}, b"") if len(server.seen) > stop else teacher(request, attempt)
        )
        with pytest.raises(BadInput, match="401"):
            run(server, "cut.jsonl")

    def settings_of(name):
        return {
            field: value
            for field, value in json.loads((tmp_path / name).read_text())["settings"].items()
            if field != "base_url"
        }

    asked = len(steady.seen)
    run(steady, "cut.jsonl")  # the teacher has moved to another address
    assert (tmp_path / "cut.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert settings_of("cut.jsonl.report.json") == settings_of("whole.jsonl.report.json")
    assert (
        len(server.seen) + len(steady.seen) - asked <= asked + 4
    )  # nothing that was there is asked again


def test_no_chain_at_all_is_said(tmp_path, serve):
    pairs = write(
        tmp_path / "p.jsonl",
        [{"id": "p", "query": "question", "a": "good", "b": "bad", "label": 0}],
    )
    with pytest.raises(BadInput, match="no chain of 1 pairs can be kept.*malformed"):
        make_data.main(
            [
                "chains",
                "--data",
                str(pairs),
                "--base_url",
                serve(lambda request, attempt: chat("I cannot say.")).url,
                "--model",
                "m",
                "--out",
                str(tmp_path / "c.jsonl"),
            ]
        )
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    "chain, stage, fate",
    [
        (
            f"<type>Chat</type><rubric>r<justify>j</justify></rubric>{EVAL}<answer>[[A]]</answer>",
            1,
            "kept",
        ),
        (f"<type>Chat</type><rubric>r</rubric>{EVAL}<answer>[[A]]</answer>", 1, "malformed"),
        ("<answer>[[A]]</answer>", 1, "malformed"),
        ("", 1, "malformed"),
        (f"<type>Reasoning</type><solution>1</solution>{EVAL}<answer>[[B]]</answer>", 1, "wrong"),
        (
            "<type>Reasoning</type><solution>1</solution>"
            "<eval>the previous judgment</eval><answer>[[A]]</answer>",
            1,
            "kept",
        ),
        (
            "<type>Reasoning</type><solution>1</solution>"
            "<eval>the previous judgment</eval><answer>[[A]]</answer>",
            2,
            "contaminated",
        ),
        (
            "<type>Reasoning</type><solution>1</solution>"
            "<eval>As I was told, A</eval><answer>[[A]]</answer>",
            2,
            "contaminated",
        ),
        (
            "<type>Reasoning</type><solution>the correct answer is 4</solution>"
            "<eval>A is right</eval><answer>[[A]]</answer>",
            2,
            "kept",
        ),
    ],
)
def test_fates_of_chains(chain, stage, fate):
    from styles import load_style

    assert ask.fate_of(chain, 1, load_style("rm_r1"), stage) == fate


# ---- the command ----


def test_commands_as_they_are_typed(tmp_path, capsys):
    write(
        tmp_path / "a.jsonl",
        [
            {"id": str(n), "query": f"q{n}", "a": "x" * (n % 5 + 1), "b": "yy", "label": n % 2}
            for n in range(36)
        ],
    )
    write(
        tmp_path / "b.jsonl",
        [{"id": str(n), "query": f"r{n}", "a": "x", "b": "yy", "label": 1} for n in range(20)],
    )
    parts = f"{tmp_path}/a.jsonl=3,{tmp_path}/b.jsonl=1"
    command = [
        sys.executable,
        "-m",
        "extras.make_data",
        "mix",
        "--data",
        parts,
        "--size",
        "40",
        "--out",
        tmp_path / "m.jsonl",
    ]
    mixed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert mixed.returncode == 0 and json.loads(mixed.stdout)["kept"] == 40
    refused = subprocess.run(
        [*command[:5], "nowhere.jsonl", *command[6:]], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        refused.returncode == 2
        and "m.jsonl was begun with" in refused.stderr
        and len(refused.stderr.splitlines()) == 1
    )
    make_data.main(
        [
            "mix",
            "--data",
            parts.replace("=3", "").replace("=1", ""),
            "--out",
            str(tmp_path / "whole.jsonl"),
        ]
    )  # no weights: all there is
    assert json.loads(capsys.readouterr().out)["kept"] == 56
    make_data.main(["report", "--data", str(tmp_path / "m.jsonl")])
    shown = capsys.readouterr().out
    assert "longer is better" in shown and shown.split()[:3] == ["a", "b", "all"]


def test_bad_input_is_one_line(tmp_path):
    questions = write(tmp_path / "q.jsonl", QUESTIONS)
    good = ["--data", str(questions), "--out", str(tmp_path / "o.jsonl")]
    for arguments, words in [
        (["mix"], "--data: is missing"),
        (["make"], "'make' is no command"),
        (["clean", "--data", "x"], "--out: is missing"),
        (["mix", "--data", f"{questions}=0", *good[2:]], "weights above 0"),
        (["sample", *good], "--model"),
        (
            ["sample", *good, "--model", "m", "--base_url", "http://h", "--num_answers", "0"],
            "--num_answers",
        ),
        (["pairs", *good], "is no row of `make_data sample`"),
        (["chains", *good, "--model", "m"], "--base_url"),
        (["chains", *good, "--model", "m", "--base_url", "http://h", "--style", "nix"], "no style"),
        (["label", *good], "--judged"),
        (["sample", *good, "--model", "m", "--base_url", "nix"], "no address"),
        (
            ["sample", *good, "--model", "tiny", "--limit", "0"],
            "--limit: must be at least 1, got 0",
        ),
        (["sample", *good, "--model", "tiny", "--temperature", "nan"], "--temperature: .* got nan"),
        (["pairs", *good, "--pairs_per_question", "-1"], "must be at least 1, got -1"),
        (["clean", *good, "--sample", "0"], "--sample: must be at least 1, got 0"),
        (["mix", *good, "--size", "-1"], "--size: must be at least 1, got -1"),
        (["chains", *good, "--limit", "-1"], "--limit: must be at least 1, got -1"),
        (["chains", *good, "--concurrency", "0"], "--concurrency: must be at least 1"),
        (["chains", *good, "--temperature", "-2"], "--temperature: must not be negative"),
        (["difficulty", *good, "--easiest", "nan"], "--easiest: .* from 0 to 1, got nan"),
        (["difficulty", *good, "--hardest", "1", "--easiest", "0"], "--hardest: 1.0 is above"),
    ]:
        with pytest.raises(BadInput, match=words):
            make_data.main(arguments)
    assert not list(tmp_path.glob("o.jsonl*"))
    (tmp_path / "o.jsonl").write_text("mine")
    with pytest.raises(BadInput, match="was not made by this command"):
        make_data.main(["clean", *good])
    assert Store.__doc__ and (tmp_path / "o.jsonl").read_text() == "mine"


def test_parts_of_a_mixture_keep_their_shares(tmp_path, capsys):
    """A pair that is in two parts, or twice in one, is drawn once, and counts before drawing."""
    pairs = [
        {"id": str(n), "query": f"q{n}", "a": "x", "b": "y", "label": 0, "rubric": "short"}
        for n in range(8)
    ]
    first = write(tmp_path / "a.jsonl", [*pairs[:4], *pairs[:4]])
    second = write(tmp_path / "b.jsonl", pairs[2:])
    out = tmp_path / "mixed.jsonl"
    make_data.main(["mix", "--data", f"{first}=1,{second}=1", "--size", "8", "--out", str(out)])
    assert json.loads(capsys.readouterr().out) | {"contradictory": 0} == {
        "read": 14,
        "repeated": 6,
        "contradictory": 0,
        "identical answers": 0,
        "kept": 8,
    }
    assert sorted(row["messages"][0]["content"] for row in read(out)) == [f"q{n}" for n in range(8)]
    assert all(row["rubric"] == "short" for row in read(out))
    with pytest.raises(BadInput, match="no labelled pair of its own"):
        data = f"{first},{write(tmp_path / 'c.jsonl', pairs[:2])}"
        make_data.main(["mix", "--data", data, "--out", str(tmp_path / "other.jsonl")])


def test_inputs_are_the_files_that_are_read(tmp_path, monkeypatch):
    """Not what else lies in the current folder, OUT for one."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", [{"query": "q", "a": "x", "b": "y", "label": 0}])
    (tmp_path / "other.bin").write_bytes(b"x")
    for _ in range(2):
        make_data.main(["clean", "--data", "p.jsonl", "--out", "o.jsonl"])
    report = json.loads((tmp_path / "o.jsonl.report.json").read_text())
    assert list(report["settings"]["inputs"]) == ["p.jsonl"]
    with pytest.raises(BadInput, match="--out: .* is the input or lies in its folder"):
        make_data.main(["clean", "--data", str(tmp_path), "--out", "new.jsonl"])


def test_a_folder_whose_files_changed_is_read_again(tmp_path):
    folder, out = tmp_path / "data", tmp_path / "o.jsonl"
    folder.mkdir()
    row = {"query": "q", "a": "x", "b": "y", "label": 0}
    write(folder / "train.jsonl", [row])
    equals = write(tmp_path / "a=b.jsonl", [row])
    for data, file in ((folder, folder / "train.jsonl"), (equals, equals)):
        out = tmp_path / f"{file.name}.out.jsonl"
        command = ["clean", "--data", str(data), "--out", str(out)]
        make_data.main(command)
        make_data.main(command)  # is made already
        write(file, [row, row | {"query": "q2"}])
        with pytest.raises(BadInput, match="--inputs: .* was begun with"):
            make_data.main(command)


def test_a_question_with_two_references_is_refused(tmp_path):
    row = {"id": "q", "messages": [{"role": "user", "content": "1+1"}], "source": "s"}
    row |= {"candidates": ["2", "3"], "status": ["right", "wrong"], "generators": ["m", "m"]}
    answers = write(tmp_path / "a.jsonl", [row | {"answer": "2"}, row | {"answer": "3"}])
    with pytest.raises(BadInput, match="a.jsonl line 2: answer is '3', and '2' in an earlier row"):
        make_data.main(["pairs", "--data", str(answers), "--out", str(tmp_path / "o.jsonl")])


def test_chains_have_the_rubric_in_the_prompt(tmp_path, serve):
    row = {"id": "p", "query": "question", "a": "good", "b": "bad", "label": 0, "rubric": "be kind"}
    command = ["chains", "--data", str(write(tmp_path / "p.jsonl", [row])), "--model", "m"]
    server = serve(lambda request, attempt: chat(r"\boxed{Assistant 1} \boxed{Assistant 2}"))
    command += ["--base_url", server.url, "--style", "rubric", "--out", str(tmp_path / "c.jsonl")]
    with pytest.raises(BadInput, match="no chain"):
        make_data.main(command)
    assert "be kind" in text_of(server.seen[0])


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"candidates": "abc"}, "candidates is 'abc': expected one text for each"),
        ({"candidates": [1, 2]}, r"candidates is \[1, 2\]"),
        ({"status": None}, "status is None"),
        ({"status": ["right"]}, r"status is \['right'\]: expected one text for each"),
        ({"messages": []}, r"messages is \[\]: expected a list of messages"),
        ({"messages": "hello"}, "messages is 'hello'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path, change, complaint):
    row = {
        "id": "q",
        "messages": [{"role": "user", "content": "1+1"}],
        "answer": "2",
        "source": "s",
        "candidates": ["2", "3"],
        "status": ["right", "wrong"],
        "generators": ["m", "m"],
    }
    answers = write(tmp_path / "answers.jsonl", [row | change])
    with pytest.raises(BadInput, match=f"answers.jsonl line 1: {complaint}"):
        make_data.main(["pairs", "--data", str(answers), "--out", str(tmp_path / "o.jsonl")])
    answers.write_text("")
    with pytest.raises(BadInput, match="holds no answers"):
        make_data.main(["pairs", "--data", str(answers), "--out", str(tmp_path / "o.jsonl")])


def test_a_file_that_cannot_be_written_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "questions.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    (tmp_path / "file").write_text("")
    given = ["sample", "--data", str(tmp_path / "questions.jsonl"), "--model", "tiny", "--out"]
    for out in (tmp_path / "file" / "answers.jsonl", tmp_path):
        with pytest.raises(BadInput, match="--out: .* cannot be written: give another file"):
            make_data.main([*given, str(out)])
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(BadInput, match="--out: .*new/answers.jsonl cannot be written"):
        make_data.main([*given, str(tmp_path / "new" / "answers.jsonl")])
    assert not (tmp_path / "new").exists()
