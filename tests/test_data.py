"""data.py: every format by hand-made rows, real files by their known counts, placement."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import data
import formats
from cli import BadInput
from data import Pair, balanced_orders, load_pairs, load_questions, place
from questions import question_key

DATA = Path(os.environ.get("RRM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder (set RRM_DATA): {DATA}")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pair_of(tmp_path):
    def load(row, **options):
        pairs = load_pairs(write(tmp_path / "rows.jsonl", [row]), **options)
        assert len(pairs) == 1
        return pairs[0]

    return load


@pytest.fixture
def question_of(tmp_path):
    def load(row):
        questions = load_questions(write(tmp_path / "rows.jsonl", [row]))
        assert len(questions) == 1
        return questions[0]

    return load


USER, GOOD, BAD = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "good"},
    {"role": "assistant", "content": "bad"},
)
SYSTEM = {"role": "system", "content": "S"}


# ---- one test a format ----


@pytest.mark.parametrize(
    "row, messages",
    [
        ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, [USER]),  # TRL, RewardBench 1
        (
            {"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD]},
            [SYSTEM, USER],
        ),  # TRL, conversational
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),  # TRL implicit, Skywork
        (
            {
                "prompt": "Q",
                "chosen": [USER, GOOD],
                "rejected": [USER, BAD],
                "messages": [USER, GOOD],
            },
            [USER],
        ),  # UltraFeedback
        (
            {"prompt": "Q", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
            [SYSTEM, USER],
        ),
        (
            {"prompt": [USER], "chosen": [BAD, USER, GOOD], "rejected": [BAD, USER, BAD]},
            [USER, BAD, USER],
        ),  # TRL, answers of several turns
    ],
)
def test_preference(pair_of, row, messages):
    pair = pair_of(row)
    assert (pair.messages, pair.answers, pair.label) == (messages, ("good", "bad"), 0)
    assert "messages" not in pair.meta


def test_preference_meta_and_ties(pair_of, tmp_path):
    row = {
        "prompt": "Q",
        "prompt_id": "p7",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
        "score_chosen": 8.0,
        "score_rejected": 7.5,
    }
    pair = pair_of(row)
    assert pair.id == "p7" and pair.meta["score_chosen"] == 8.0 and pair.label == 0
    with pytest.raises(BadInput, match="1 ties dropped"):
        pair_of(row | {"score_rejected": 8.0})
    assert pair_of(row | {"score_rejected": 8.0}, keep_ties=True).label == 0.5
    skywork = pair_of({"chosen": [USER, GOOD], "rejected": [USER, BAD], "source": "magpie"})
    assert (
        skywork.meta["source"] == "magpie" and skywork.source == "rows" and skywork.id == "rows-1"
    )


@pytest.mark.parametrize(
    "field, first, second",
    [
        ("preference_strength", "response_1", "response_2"),
        ("overall_preference", "response1", "response2"),
    ],
)
def test_helpsteer_negative_means_first_is_better(pair_of, field, first, second):
    prompt = {"prompt": "Q"} if field == "preference_strength" else {"context": [USER, BAD, USER]}
    for strength, label in [(-3, 0), (-1, 0), (0, 0.5), (1, 1), (3, 1)]:
        pair = pair_of({**prompt, first: "one", second: "two", field: strength}, keep_ties=True)
        assert (pair.answers, pair.label, pair.meta[field]) == (("one", "two"), label, strength)
    assert len(pair.messages) == (1 if "prompt" in prompt else 3)


def test_hh_transcripts(pair_of, tmp_path, capsys):
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tell me\nmore."
    pair = pair_of({"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant:"})
    assert pair.messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Tell me\nmore."},
    ]
    assert pair.answers == ("good", "") and pair.label == 0  # an empty answer is valid
    path = write(
        tmp_path / "hh.jsonl",
        [
            {"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant: bad"},
            {"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: y"},
        ],
    )
    capsys.readouterr()
    assert len(load_pairs(path)) == 1
    assert "1 rows with two different prompts dropped" in capsys.readouterr().err


def test_answer_that_looks_like_a_transcript_stays_whole_beside_a_prompt(pair_of):
    trick = "\n\nHuman: x\n\nAssistant: y"
    assert pair_of({"prompt": "Q", "chosen": trick, "rejected": "bad"}).answers == (trick, "bad")


def test_pandalm(pair_of):
    row = {
        "idx": 157,
        "cmp_key": "bloom-7b_llama-7b",
        "instruction": "True or false?",
        "input": "Sky is blue",
        "response1": True,
        "response2": "True.",
        "annotator1": 1,
        "annotator2": 1,
        "annotator3": 0,
    }
    pair = pair_of(row)
    assert pair.answers == ("True", "True.") and pair.label == 0 and pair.id == "157"
    assert pair.messages[0]["content"] == "True or false?\n\nSky is blue" and pair.meta[
        "generators"
    ] == ["bloom-7b", "llama-7b"]
    assert pair_of(row | {"input": ""}).messages[0]["content"] == "True or false?"
    assert pair_of(row | {"annotator1": 2, "annotator3": 2}).label == 1
    assert pair_of(row | {"annotator1": 0}, keep_ties=True).label == 0.5  # 0, 1, 0
    assert pair_of(row | {"annotator1": 2}, keep_ties=True).label == 0.5  # 2, 1, 0: no majority


def test_labels_of_benchmarks(pair_of):
    llmbar = {"input": "Q", "output_1": "one", "output_2": "two"}
    assert [pair_of(llmbar | {"label": label}).label for label in (1, 2)] == [0, 1]
    judgebench = {
        "pair_id": "x-1",
        "source": "mmlu-pro-law",
        "question": "Q",
        "response_A": "one",
        "response_B": "two",
    }
    assert [pair_of(judgebench | {"label": label}).label for label in ("A>B", "B>A")] == [0, 1]
    assert (
        pair_of(judgebench | {"label": "B>A"}).id == "x-1"
        and pair_of(judgebench | {"label": "A>B"}).meta["source"] == "mmlu-pro-law"
    )
    ppe = {"question_id": "q1", "prompt": "Q", "response_1": "one", "response_2": "two"}
    assert [
        pair_of(ppe | {"winner": winner}, keep_ties=True).label
        for winner in ("model_a", "model_b", "tie")
    ] == [0, 1, 0.5]


def test_rmb(pair_of, question_of, tmp_path):
    turns = [{"content": "Q", "language": "English", "role": "user"}]
    pair = pair_of(
        {
            "pair_uid": "7",
            "conversation_input": turns,
            "chosen": {"answer": "good", "llm_name": "m1"},
            "reject": {"answer": "bad", "llm_name": "m2"},
            "category_path": "c",
        }
    )
    assert (pair.messages, pair.answers, pair.label, pair.id) == ([USER], ("good", "bad"), 0, "7")
    assert pair.meta == {"pair_uid": "7", "category_path": "c", "generators": ["m1", "m2"]}
    best_of_n = {
        "bon_uid": "9",
        "conversation_input": turns,
        "bon_best": {"answer": "good", "llm_name": "m1"},
        "loser_list": [{"answer": "bad", "llm_name": "m2"}, {"answer": "worse", "llm_name": "m3"}],
    }
    question = question_of(best_of_n)
    assert (question.candidates, question.scores, question.answer) == (
        ["good", "bad", "worse"],
        [1.0, 0.0, 0.0],
        None,
    )
    pairs = load_pairs(write(tmp_path / "bon.jsonl", [best_of_n]))
    assert [(pair.answers, pair.id, pair.meta["generators"]) for pair in pairs] == [
        (("good", "bad"), "9-0-1", ["m1", "m2"]),
        (("good", "worse"), "9-0-2", ["m1", "m3"]),
    ]


def test_rm_bench_and_reward_bench_2(tmp_path):
    row = {
        "id": 8,
        "prompt": "Q",
        "chosen": ["c0", "c1", "c2"],
        "rejected": ["r0", "r1", "r2"],
        "subset": "chat",
    }
    pairs = load_pairs(write(tmp_path / "rm.jsonl", [row]))
    assert [(pair.answers, pair.meta["styles"]) for pair in pairs] == [
        ((f"c{i}", f"r{j}"), [i, j]) for i in range(3) for j in range(3)
    ]
    assert {pair.label for pair in pairs} == {0} and len({pair.id for pair in pairs}) == 9
    two = {
        "id": "t1",
        "prompt": "Q",
        "chosen": ["a", "b"],
        "rejected": ["c", "d"],
        "num_correct": 2,
        "subset": "Ties",
    }
    (question,) = load_questions(write(tmp_path / "rb2.jsonl", [two]))
    assert (
        question.scores == [1, 1, 0, 0]
        and question.meta["num_correct"] == 2
        and "styles" not in question.meta
    )


def test_gsm8k(question_of):
    question = question_of(
        {"question": "How many?", "answer": "2*540=<<2*540=1,080>>1,080.\n#### 1,080"}
    )
    assert (question.answer, question.meta["rationale"]) == ("1080", "2*540=<<2*540=1,080>>1,080.")
    assert question.candidates is None and question.scores is None


def test_gsm8k_solutions(tmp_path, capsys):
    row = {"question": "How many?", "ground_truth": "So 1,018.\nA: 1,018"}
    row |= {
        name: {"is_correct": right, "solution": name + "!"}
        for name, right in [("a", False), ("b", True), ("c", False), ("d", True)]
    }
    all_wrong = row | {name: {"is_correct": False, "solution": name} for name in "bd"}
    path = write(tmp_path / "solutions.jsonl", [row, all_wrong])
    question = load_questions(path)[0]
    assert (question.answer, question.candidates, question.scores) == (
        "1018",
        ["a!", "b!", "c!", "d!"],
        [0, 1, 0, 1],
    )
    capsys.readouterr()
    pairs = load_pairs(path)
    note = capsys.readouterr().err
    assert [pair.answers for pair in pairs] == [
        ("b!", "a!"),
        ("b!", "c!"),
        ("d!", "a!"),
        ("d!", "c!"),
    ]
    assert (
        pairs[0].meta["generators"] == ["b", "a"]
        and pairs[0].meta["question"] == "How many?"
        and pairs[0].id == "solutions-1-1-0"
    )
    assert (
        "TEST questions of GSM8K" in note
        and "1 rows without a winner" in note
        and note.count("\n") == 1
    )


@pytest.mark.parametrize(
    "row, messages, answer",
    [
        (
            {"problem": "Q", "answer": "\\frac{1}{2}", "unique_id": "t/1.json"},
            [USER],
            "\\frac{1}{2}",
        ),
        (
            {
                "prompt": [USER],
                "reward_model": {"ground_truth": "34", "style": "rule"},
                "extra_info": {"index": "i"},
            },
            [USER],
            "34",
        ),
        ({"prompt": [USER], "reward_model": {"ground_truth": 34}}, [USER], "34"),
        ({"question": "Q", "answer": "blue", "answer_type": "text"}, [USER], "blue"),
        (
            {"messages": [USER, GOOD], "ground_truth": "5", "dataset": "gsm8k"},
            [USER],
            "5",
        ),  # Tulu: prompt = messages[:-1]
        ({"prompt": "Q"}, [USER], None),
        ({"messages": [SYSTEM, USER], "id": "m"}, [SYSTEM, USER], None),
    ],
)
def test_verifiable(question_of, row, messages, answer):
    question = question_of(row)
    assert (question.messages, question.answer, question.candidates) == (messages, answer, None)


def test_question_with_candidates_and_pairs_by_score(question_of, tmp_path):
    row = {"id": "q", "query": "Q", "candidates": ["x", "y", "z"], "scores": [0.5, 2, 0.5]}
    assert question_of(row).scores == [0.5, 2.0, 0.5]
    assert [pair.answers for pair in load_pairs(write(tmp_path / "s.jsonl", [row]))] == [
        ("y", "x"),
        ("y", "z"),
    ]
    assert question_of({"query": "Q", "candidates": ["x"]}).scores is None


def test_judge_input(pair_of):
    for label in (0, 1, 0.5, None):
        assert (
            pair_of(
                {"id": "k", "query": "Q", "a": "x", "b": "y", "label": label}, keep_ties=True
            ).label
            == label
        )
    pair = pair_of({"messages": [SYSTEM, USER], "a": "", "b": "y"})
    assert pair.label is None and pair.messages == [SYSTEM, USER] and pair.answers == ("", "y")


def test_a_pair_read_as_question(question_of):
    row = {"query": "Q", "a": "x", "b": "y"}
    for label, scores in [(0, [1, 0]), (1, [0, 1]), (0.5, [0.5, 0.5]), (None, None)]:
        question = question_of(row | {"label": label})
        assert (
            question.candidates == ["x", "y"]
            and question.scores == scores
            and question.answer is None
        )


# ---- the real files ----


def longest_wins(pairs):
    """Percent of pairs in which the longer answer is better; equal lengths count half."""
    lengths = [(len(pair.answers[pair.label]), len(pair.answers[1 - pair.label])) for pair in pairs]
    return (
        100
        * sum((right > wrong) + 0.5 * (right == wrong) for right, wrong in lengths)
        / len(lengths)
    )


@needs_data
def test_real_gsm8k():
    train = load_questions(DATA / "gsm8k/train.jsonl")
    assert len(train) == 7473 and all(
        re.fullmatch(r"-?\d+(\.\d+)?", question.answer) for question in train
    )
    assert load_questions(DATA / "gsm8k")[0] == train[0]  # the split picks train.jsonl
    questions, pairs = (
        load_questions(DATA / "gsm8k/model_solutions.jsonl"),
        load_pairs(DATA / "gsm8k/model_solutions.jsonl"),
    )
    assert (
        len(questions) == 1000
        and len(pairs) == 1863
        and len({question_key(pair) for pair in pairs}) == 561
    )
    assert [sum(question.scores[model] for question in questions) for model in range(4)] == [
        219,
        400,
        348,
        574,
    ]
    assert round(longest_wins(pairs), 1) in (54.0, 54.1)
    assert not {question_key(question) for question in train} & {
        question_key(question) for question in questions
    }

    def final(solution):
        return solution.rpartition("A:")[2].strip().replace(",", "").rstrip(".")

    agree = sum(
        (final(text) == question.answer) == bool(score)
        for question in questions
        for text, score in zip(question.candidates, question.scores)
    )
    assert agree == 4000  # the labels belong to their solutions: final answers reproduce them


@needs_data
def test_real_pandalm():
    pairs = load_pairs(DATA / "pandalm/testset-v1.json", keep_ties=True)
    assert Counter(pair.label for pair in pairs) == {0.5: 105, 0: 422, 1: 472}
    assert {pair.id for pair in pairs for answer in pair.answers if answer == "True"} >= {
        "157",
        "158",
        "159",
        "161",
        "162",
        "164",
    }
    decided = load_pairs(DATA / "pandalm/testset-v1.json")
    assert len(decided) == 894 and round(longest_wins(decided), 1) == 67.4
    assert len({question_key(pair) for pair in pairs}) == 170


@needs_data
@pytest.mark.parametrize(
    "name, rows, first, longest",
    [
        ("Natural", 100, 42.0, 56.5),
        ("Neighbor", 134, 56.0, 11.9),
        ("GPTInst", 92, 48.9, 13.0),
        ("GPTOut", 47, 46.8, 44.7),
    ],
)
def test_real_llmbar(name, rows, first, longest):
    pairs = load_pairs(DATA / f"llmbar/{name}.json")
    assert (
        len(pairs) == rows
        and round(100 * sum(pair.label == 0 for pair in pairs) / rows, 1) == first
    )
    assert round(longest_wins(pairs), 1) == longest


@needs_data
def test_real_judgebench():
    pairs = load_pairs(DATA / "judgebench/gpt-4o.jsonl")
    assert (
        Counter(pair.label for pair in pairs) == {0: 193, 1: 157}
        and round(longest_wins(pairs), 1) == 46.0
    )
    assert pairs[0].meta["source"].startswith("mmlu-pro")
    judged = load_pairs(DATA / "judgebench/gpt-4o.judged-by-o1-mini.jsonl")
    assert [(pair.id, pair.label) for pair in judged] == [(pair.id, pair.label) for pair in pairs]
    assert (
        Counter(game["decision"] for pair in judged for game in pair.meta["judgments"])["A>B"]
        == 367
    )


@needs_data
def test_real_rmb_and_rm_bench():
    pairs = load_pairs(DATA / "rmb/pairwise_train.json")
    questions = load_questions(DATA / "rmb/pairwise_train.json")
    assert len(questions) == 3708 and len({question_key(question) for question in questions}) == 994
    assert (
        len(pairs) == len({pair.id for pair in pairs}) == 3705 and 64 < longest_wins(pairs) < 66
    )  # three rows hold one answer twice
    best_of_n = load_questions(DATA / "rmb/bon_dev.json")
    assert Counter(len(question.candidates) - 1 for question in best_of_n) == {
        2: 242,
        3: 50,
        4: 6,
        5: 2,
    }
    assert (
        round(
            100
            * sum(
                max(question.candidates, key=len) == question.candidates[0]
                for question in best_of_n
            )
            / 300,
            1,
        )
        == 49.3
    )
    assert sum(len(question.messages) > 1 for question in best_of_n) == 39
    assert len(load_pairs(DATA / "rmb/bon_dev.json")) == 2 * 242 + 3 * 50 + 4 * 6 + 5 * 2
    grid = load_pairs(DATA / "rm_bench")
    assert Counter(tuple(pair.meta["styles"]) for pair in grid) == {
        (i, j): 129 for i in range(3) for j in range(3)
    }

    def wins(keep):
        chosen = [pair for pair in grid if keep(*pair.meta["styles"])]
        return round(
            100 * sum(len(pair.answers[0]) > len(pair.answers[1]) for pair in chosen) / len(chosen),
            1,
        )

    assert (wins(lambda i, j: i > j), wins(lambda i, j: i == j), wins(lambda i, j: i < j)) == (
        81.1,
        28.4,
        2.6,
    )


@needs_data
def test_real_math500():
    questions = load_questions(DATA / "math500/test.jsonl")
    assert Counter(question.meta["level"] for question in questions) == {
        1: 43,
        2: 90,
        3: 105,
        4: 128,
        5: 134,
    }
    assert (
        questions[0].id == "test/precalculus/807.json"
        and questions[0].answer == "\\left( 3, \\frac{\\pi}{2} \\right)"
    )


# ---- questions ----


def some_pairs(count, seed=0):
    """Three pairs a question, with different case and whitespace; random labels and lengths."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        prompt = f"What is  {number // 3} + 1?" if number % 3 else f"WHAT is {number // 3}\n+ 1? "
        answers = tuple("x" * draw.randint(1, 40) + str(side) for side in range(2))
        pairs.append(
            Pair(
                f"id-{number}", [{"role": "user", "content": prompt}], answers, draw.choice([0, 1])
            )
        )
    return pairs


def test_question_key():
    def key(*turns):
        return question_key(
            Pair("", [{"role": role, "content": content} for role, content in turns], ("", ""))
        )

    assert key(("user", "  What\u00a0is\n STRASSE? ")) == key(
        ("system", "Be brief."), ("user", "what is straße?")
    )
    assert key(("user", "a"), ("assistant", "b"), ("user", "c")) != key(
        ("user", "a"), ("assistant", "d"), ("user", "c")
    )


# ---- placement ----


def test_place_is_a_fair_coin_of_seed_and_id():
    pairs = some_pairs(4000)
    orders = [place(pair) for pair in pairs]
    assert all(order in ([0, 1], [1, 0]) for order in orders)
    assert (
        abs(sum(order[0] == pair.label for order, pair in zip(orders, pairs)) - 2000) < 130
    )  # four standard deviations
    assert (
        abs(sum(place(pair, 0) == place(pair, 1) for pair in pairs) - 2000) < 130
    )  # seeds are independent
    swapped = [Pair(pair.id, pair.messages, pair.answers[::-1], 1 - pair.label) for pair in pairs]
    assert [place(pair) for pair in swapped] == orders  # blind to label and texts


def test_place_does_not_change_between_processes():
    code = (
        "from data import Pair, place; "
        "print([place(Pair(str(n), [], ('', '')), 5)[0] for n in range(40)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(data.__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "12"
    }
    assert runs == {str([place(Pair(str(n), [], ("", "")), 5)[0] for n in range(40)]) + "\n"}


@pytest.mark.parametrize("count", [1, 2, 7, 100, 999])
@pytest.mark.parametrize("labels", ["random", "always 0", "with ties"])
def test_balanced_orders(count, labels):
    for seed in range(5):
        pairs = some_pairs(count, seed)
        for number, pair in enumerate(pairs):
            pair.label = {
                "random": pair.label,
                "always 0": 0,
                "with ties": [0, 1, 0.5, None, 0][number % 5],
            }[labels]
        orders = balanced_orders(pairs, seed)
        labelled = [(pair, order) for pair, order in zip(pairs, orders) if pair.label in (0, 1)]
        assert abs(2 * sum(order[0] == pair.label for pair, order in labelled) - len(labelled)) <= 1
        for label in (0, 1):  # within each label, and on each side of the longer answer, too
            for longer in (False, True):
                group = [
                    order[0]
                    for pair, order in labelled
                    if pair.label == label
                    and (len(pair.answers[0]) > len(pair.answers[1])) == longer
                ]
                assert abs(2 * sum(group) - len(group)) <= 1
        mixed = random.Random(seed).sample(range(count), count)
        assert balanced_orders([pairs[index] for index in mixed], seed) == [
            orders[index] for index in mixed
        ]  # not the order of rows


def test_balanced_orders_cannot_be_guessed_from_label_id_order_or_length():
    pairs = some_pairs(4000)
    orders = balanced_orders(pairs, seed=2)
    better_first = [order[0] == pair.label for pair, order in zip(pairs, orders)]
    guesses = {
        "label": [pair.label == 0 for pair in pairs],
        "even id": [number % 2 == 0 for number in range(4000)],
        "first half": [number < 2000 for number in range(4000)],
        "same as before": [True, *better_first[:-1]],
        "first answer longer": [len(pair.answers[0]) > len(pair.answers[1]) for pair in pairs],
        "better is longer": [
            len(pair.answers[pair.label]) > len(pair.answers[1 - pair.label]) for pair in pairs
        ],
        "place": [place(pair, 2)[0] == pair.label for pair in pairs],
        "another seed": [
            order[0] == pair.label for pair, order in zip(pairs, balanced_orders(pairs, seed=3))
        ],
    }
    for name, guess in guesses.items():
        hits = sum(guessed == truth for guessed, truth in zip(guess, better_first))
        assert abs(hits - 2000) < 130, name  # four standard deviations of a fair coin
    shown_longer_first = sum(
        len(pair.answers[order[0]]) > len(pair.answers[order[1]])
        for pair, order in zip(pairs, orders)
    )
    assert abs(shown_longer_first - 2000) < 130


def test_a_plain_file_of_pairs_loads_data_py_alone(tmp_path):
    """The default training reads tiny/train.jsonl."""
    rows = {
        "pairs": {"query": "Q", "a": "x", "b": "y", "label": 0},
        "questions": {"question": "Q", "answer": "so\n#### 1"},
        "preference": {"prompt": "Q", "chosen": "x", "rejected": "y"},
    }
    paths = [write(tmp_path / f"{name}.jsonl", [row]) for name, row in rows.items()]
    code = (
        "import sys, data\n"
        "def loaded(load, path):\n"
        "    load(path)\n"
        "    names = 'datafiles', 'formats', 'questions'\n"
        "    return [name for name in names if name in sys.modules]\n"
        "for path in sys.argv[1:3]:\n"
        "    assert loaded(data.load_pairs, path) == [], path\n"
        "assert loaded(data.load_questions, sys.argv[3]) == ['formats', 'questions']\n"
        "assert loaded(data.load_pairs, sys.argv[4]) == ['formats', 'questions']\n"
    )
    core = Path(data.__file__).parent
    command = [sys.executable, "-c", code, core / "tiny/train.jsonl", *paths]
    subprocess.run(command, check=True, cwd=core)


@pytest.mark.parametrize("known", formats.pair_formats(), ids=lambda known: known[0])
def test_no_common_format_takes_the_row_of_an_uncommon_one(known):
    row = {names.split("|")[0]: "x" for names in known[1].split()}
    assert formats.find_format(row) == known
    assert formats.find_format(row | {"ground_truth": "x", "id": 1}) == known
