"""tournament.py and ranking.py: knockout, tree, cache of matches, files of candidates, command."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import chat, text_of
from tiny_models import COIN, make_scripted_folder

import cli
import elo
import ranking
import tournament
from cli import BadInput
from ranking import RankSettings, cached, judged_play, read_candidates
from tournament import draw_tree, knockout

ROOT = Path(__file__).parents[1]


def by_number(pairs):
    return [float(i > j) for i, j in pairs]


@settings(deadline=None, max_examples=120)
@given(
    st.integers(1, 200),
    st.integers(0, 5),
    st.sampled_from(
        [
            by_number,
            lambda pairs: [0.5] * len(pairs),
            lambda pairs: [(i * 7 + j) % 5 / 4 for i, j in pairs],
        ]
    ),
)
def test_any_number_of_players(num_players, seed, play):
    batches = []
    bracket = knockout(num_players, lambda pairs: batches.append(pairs) or play(pairs), seed)
    matches = [match for matches in bracket.rounds for match in matches]
    assert bracket.num_matches == len(matches) == num_players - 1
    assert len(bracket.rounds) == math.ceil(math.log2(num_players))
    assert batches == [
        [match[:2] for match in matches] for matches in bracket.rounds
    ]  # a round is one batch
    alive, rested = set(range(num_players)), Counter()
    for matches in bracket.rounds:
        players = [player for match in matches for player in match[:2]]
        assert (
            len(players) == len(set(players)) and set(players) <= alive
        )  # nobody plays twice in a round, or after a defeat
        rested.update(alive - set(players))
        for i, j, score, winner in matches:
            assert winner in (i, j) and (score == 0.5 or winner == (i if score > 0.5 else j))
            alive.remove(i + j - winner)
    assert alive == {bracket.winner} and max(rested.values(), default=0) <= 1
    if play is by_number:
        assert bracket.winner == num_players - 1
    assert knockout(num_players, play, seed) == bracket


def test_all_sizes_to_200():
    for num_players in range(1, 201):
        assert knockout(num_players, by_number).winner == num_players - 1


def test_pairing_and_coins_depend_on_the_seed_alone():
    winners = Counter(
        knockout(8, lambda pairs: [0.5] * len(pairs), seed).winner for seed in range(800)
    )
    assert set(winners) == set(range(8)) and all(
        60 < count < 140 for count in winners.values()
    )  # 100 each, 4.3 standard deviations
    coins = Counter(
        knockout(2, lambda pairs: [0.5], seed).rounds[0][0][3]
        == knockout(2, lambda pairs: [0.5], seed).rounds[0][0][0]
        for seed in range(400)
    )
    assert 160 < coins[True] < 240


@pytest.mark.parametrize("scores", [[2.0], [math.nan], [], [-0.1]])
def test_impossible_scores(scores):
    with pytest.raises(ValueError):
        knockout(2, lambda pairs: scores)
    with pytest.raises(ValueError):
        knockout(0, by_number)


def test_tree():
    bracket = knockout(5, by_number, seed=3)
    lines = draw_tree(bracket, "player {}".format)
    assert len(lines) == 4 and lines[0].startswith("player 4 beats")
    assert draw_tree(knockout(1, by_number), str) == ["0"]
    played = [
        f"player {winner} beats player {i + j - winner} 1.00"
        for matches in bracket.rounds
        for i, j, _, winner in matches
    ]
    assert sorted(line.lstrip("│├└─ ") for line in lines) == sorted(played)
    assert (
        draw_tree(knockout(2, lambda pairs: [0.5]), str)[0].endswith("0.50 (coin)")
        and bracket.num_coins == 0
    )
    assert knockout(4, lambda pairs: [0.5, 0.75][: len(pairs)]).num_coins == 2  # one in each round
    depth = [len(line) - len(line.lstrip("│├└─ ")) for line in lines]
    assert depth == [0, 3, 6, 3] or depth == [0, 3, 3, 6]


# ---- cache ----


class Recorder:
    def __init__(self):
        self.calls = []

    def __call__(self, pairs, repetitions):
        self.calls += list(zip(pairs, repetitions))
        return [(3 * i + j + n) % 4 / 4 for (i, j), n in zip(pairs, repetitions)]


def test_cache(tmp_path):
    path, names = str(tmp_path / "c.jsonl"), ["b", "a", "c", "a"]
    first = Recorder()
    play = cached(first, path, names)
    scores = play([(0, 1), (1, 2), (1, 3), (0, 1), (1, 0)])
    assert first.calls == [
        ((1, 0), 0),
        ((1, 2), 0),
        ((1, 0), 1),
        ((1, 0), 2),
    ]  # one direction, repetitions counted, twins not judged
    assert scores == [1 - 0.75, 1.25 % 1, 0.5, 1 - 0.0, 0.25]
    assert play([(0, 3)]) == [1 - 0.75] and len(first.calls) == 4  # 3 is the twin of 1
    second = Recorder()
    assert (
        cached(second, path, names)([(0, 1), (1, 2), (1, 3), (0, 1), (1, 0)]) == scores
        and second.calls == []
    )
    cached(second, path, names)([(0, 2)])
    assert second.calls == [((0, 2), 0)]
    without = Recorder()
    assert (
        cached(without, None, names)([(0, 1), (1, 2), (1, 3), (0, 1), (1, 0)]) == scores
        and without.calls == first.calls[:4]
    )


def test_matches_that_another_process_wrote_before_the_lock_are_known(tmp_path, monkeypatch):
    path, names = str(tmp_path / "c.jsonl"), ["a", "b"]

    def other_process(path):  # holds the lock until now
        Path(path).write_text('{"i": "a", "j": "b", "repetition": 0, "score": 0.25}\n')

    monkeypatch.setattr(ranking, "lock", other_process)
    judge = Recorder()
    assert cached(judge, path, names)([(0, 1)]) == [0.25] and judge.calls == []


def test_a_greedy_judge_ranks_equal_candidates(tmp_path):
    """Matches of twins with a third answer are one match, not a repeated one."""
    coin = make_scripted_folder(tmp_path / "coin", COIN)
    settings = RankSettings(query="2+2", model=str(coin), temperature=0.0, num_votes=1)
    settings.max_completion_length, settings.dtype = 24, "float32"
    play = judged_play(settings, ["4", "4", "5"], 3)
    first, second, equal = play([(0, 2), (1, 2), (0, 1)])
    assert first == second and equal == 0.5


def test_cut_off_and_foreign_files(tmp_path):
    path = tmp_path / "c.jsonl"
    cached(Recorder(), str(path), ["a", "b", "c"])([(0, 1), (1, 2), (0, 2)])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Recorder()
        cached(again, str(path), ["a", "b", "c"])([(0, 1), (1, 2), (0, 2)])
        assert path.read_bytes() == whole and len(again.calls) == 3 - whole[:cut].count(b"\n")
    for text in (
        "fig\nice\n",
        "fig",
        '{"i": "a", "j": "b", "score": 0.5}\n',
        '{"i": "a", "j": "b", "repetition": 0, "score": 7.0}\n',
        "[]\n",
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match="c.jsonl line 1"):
            cached(Recorder(), str(path), ["a", "b"])
        assert path.read_text() == text
    with pytest.raises(BadInput, match="--cache"):
        cached(Recorder(), str(tmp_path), ["a", "b"])


# ---- candidates ----


@pytest.mark.parametrize(
    "text, name, expected",
    [
        ("fig\n\nice cream\r\n", "c.txt", ["fig", "ice cream"]),
        ('"fig"\n{"response": "ice\\n2"}\n{"text": ""}\n', "c.jsonl", ["fig", "ice\n2", ""]),
        ('{"text": "fig", "id": 3}\n', "c.txt", ["fig"]),
        ('"so he said", or not\nfig', "c.txt", ['"so he said", or not', "fig"]),
        ("42\n", "c.txt", ["42"]),
        ('{"response": "a", "text": "b"}', "c.txt", ["a"]),
        ("a\u2028b\nc", "c.txt", ["a\u2028b", "c"]),
    ],
)
def test_candidate_files(text, name, expected, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_candidates(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ('"a"\n3\n', "line 2"),
        ('{"text": 3}', "line 1"),
        ('"\\ud800"', "line 1"),
        ('"a"\nb', "line 2"),
    ],
)
def test_bad_candidate_files(text, words, tmp_path):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(BadInput, match=words):
        read_candidates(str(tmp_path / "c.jsonl"))


def test_csv_candidates(tmp_path):
    """The header of a csv file names its columns and is no candidate."""
    for text, name in (
        ('answer\nfig\n"ice, 2"\n', "a.csv"),
        ("\ufeffid;Response\n7;fig\n8;ice, 2\n", "b.CSV"),
        ("note\ttext\nx\tfig\ny\tice, 2\n", "c.tsv"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_candidates(str(tmp_path / name)) == ["fig", "ice, 2"]
    for text, words in (
        ("fig\nice\n", "line 1: columns are fig: expected one of answer, response"),
        ("answer,text\nfig,ice\n", "found answer and text"),
        ("answer\n", "no answers below its first line"),
        ("question,answer\nq,fig\n", "has questions of its own"),
    ):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(BadInput, match=words):
            read_candidates(str(tmp_path / "c.csv"))


# ---- a file of questions ----

ROWS = [
    {"id": "sum", "question": "347+586", "candidates": ["933", "923", "1033"]},
    {"query": "12+30", "candidates": [{"response": "42"}, {"text": "41"}]},
    {"messages": [{"role": "user", "content": "100+11"}], "candidates": ["111", "101"]},
]
SHORT = ["--max_completion_length", "60", "--device", "cpu", "--dtype", "float32"]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("ranker", [tournament, elo])
def test_many_questions(ranker, tmp_path, capsys, monkeypatch):
    import ranking
    from extras import rank_file

    loads = []
    monkeypatch.setattr(rank_file, "judge_of", lambda s: loads.append(s) or ranking.judge_of(s))
    questions = write_rows(tmp_path / "q.jsonl", ROWS)
    out = tmp_path / "out.jsonl"
    call = ["--candidates", questions, "--out", str(out), *SHORT]
    ranker.main(call)
    assert capsys.readouterr().out == f"3 questions are ranked: {out}\n" and len(loads) == 1
    whole = out.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == ["sum", "q-2", "q-3"]
    best = [row["winner" if ranker is tournament else "best"] for row in rows]
    assert best == [0, 0, 0]  # the embedded judge adds
    assert [row["num_matches"] for row in rows] == (
        [2, 1, 1] if ranker is tournament else [3, 1, 1]
    )
    # an interrupted call, and one that is complete
    for cut in 0, 100, whole.index(b"\n") + 1, len(whole) - 5, len(whole):
        out.write_bytes(whole[:cut])
        ranker.main(call)
        assert out.read_bytes() == whole
    assert len(loads) == 5  # not for the complete one
    # other questions, other settings
    with pytest.raises(BadInput, match="--seed: .* was made with 0, not 1"):
        ranker.main([*call, "--seed", "1"])
    write_rows(tmp_path / "q.jsonl", ROWS[1:])
    with pytest.raises(BadInput, match="line 1 is of question sum, not question 1"):
        ranker.main(call)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("ranker", [tournament, elo])
def test_rounds_of_several_questions_are_one_batch(ranker, tmp_path, monkeypatch):
    """Each question gets the matches and scores that it would get alone, and so does a resume."""
    import judge
    from extras import rank_file

    sizes, play = [], judge.Judge.judge
    monkeypatch.setattr(
        judge.Judge,
        "judge",
        lambda self, pairs, **options: sizes.append(len(pairs)) or play(self, pairs, **options),
    )
    monkeypatch.setattr(rank_file, "CHUNK_MATCHES", 4)
    rows = [
        {"question": f"{a}+{b}", "candidates": [str(a + b + n) for n in range(a % 4 + 1)]}
        for a, b in [(23, 5), (41, 7), (34, 1), (13, 30), (31, 20)]  # 4, 2, 3, 2, 4 answers
    ]
    out = tmp_path / "out.jsonl"
    call = ["--candidates", write_rows(tmp_path / "q.jsonl", rows), "--out", str(out), *SHORT]
    ranker.main(call)
    # knockouts of questions 1 and 2, then 3 to 5, with two rounds each; elo: 1, 2 and 3, 4 and 5
    assert sizes == ([3, 1, 4, 2] if ranker is tournament else [6, 4, 7])
    whole = out.read_bytes()
    alone = []
    monkeypatch.setattr(rank_file, "CHUNK_MATCHES", 1)
    for number, row in enumerate(rows, start=1):
        row["id"] = f"q-{number}"
        one = ["--candidates", write_rows(tmp_path / "one.jsonl", [row])]
        ranker.main([*one, "--out", str(tmp_path / f"{number}.jsonl"), *SHORT])
        alone.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert b"".join(alone) == whole
    monkeypatch.setattr(rank_file, "CHUNK_MATCHES", 4)
    ends = [place for place, byte in enumerate(whole, start=1) if byte == ord("\n")]
    for end in ends[:-1]:
        out.write_bytes(whole[:end])
        ranker.main(call)
        assert out.read_bytes() == whole


def test_a_question_that_fails_ends_the_others():
    from extras.rank_file import rank_together

    def fails(judge):
        judge.judge([1])
        raise ZeroDivisionError

    class Echo:
        def judge(self, pairs):
            return pairs

    echo = [lambda judge, n=n: judge.judge([n, n]) + judge.judge([n]) for n in range(3)]
    assert rank_together(echo, Echo) == [[n, n, n] for n in range(3)]
    with pytest.raises(ZeroDivisionError):
        rank_together([*echo, fails], Echo)


def test_all_of_a_prompt_is_read(tmp_path):
    from extras.rank_file import read_questions

    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
    rows = [
        {"query": "q", "system": "be brief", "candidates": ["a"]},
        {"messages": turns, "candidates": ["a"]},
    ]
    for row in rows:
        (found,) = read_questions(write_rows(tmp_path / "q.jsonl", [row]))
        assert found.messages == turns


def test_rubrics_of_questions_reach_the_judge(tmp_path, serve):
    rows = [{"question": "q", "candidates": ["a", "b"], "rubric": "be kind"}]
    server = serve(lambda request, attempt: chat(r"\boxed{Assistant 1}"))
    for number, ranker in enumerate((tournament, elo)):
        out = tmp_path / f"{number}.jsonl"
        call = ["--candidates", write_rows(tmp_path / "q.jsonl", rows), "--out", str(out)]
        call += ["--base_url", server.url, "--model", "m", "--style"]
        ranker.main([*call, "rubric"])
        assert "be kind" in text_of(server.seen[-1]) and len(server.seen) == 2 * (number + 1)
        write_rows(tmp_path / "q.jsonl", [rows[0] | {"rubric": "be brief"}])
        with pytest.raises(BadInput, match="its texts are others"):
            ranker.main([*call, "rubric"])
    rows = [{"question": "q", "answer": text, "rubric": text} for text in "ab"]
    call[1] = write_rows(tmp_path / "q.jsonl", rows)
    with pytest.raises(BadInput, match="line 2: .*rubric differs from an earlier row"):
        tournament.main([*call[:3], str(tmp_path / "new.jsonl"), *call[4:], "rubric"])


def test_questions_in_csv(tmp_path, capsys):
    """Rows of one question belong together, wherever they stand."""
    from extras.rank_file import read_questions

    path = tmp_path / "q.csv"
    path.write_text("Question, Answer\n347+586,933\n12+30,42\n347+586,923\n12+30,41\n")
    found = read_questions(str(path))
    assert [(one.id, one.messages[0]["content"], one.candidates) for one in found] == [
        ("q-2", "347+586", ["933", "923"]),
        ("q-3", "12+30", ["42", "41"]),
    ]
    out = tmp_path / "best.csv"
    tournament.main(["--candidates", str(path), "--out", str(out), "--json", *SHORT])
    assert json.loads(capsys.readouterr().out) == {"questions": 2, "out": str(out)}
    assert out.read_text(encoding="utf-8-sig").splitlines() == [
        "id,query,best,answer,matches",
        "q-2,347+586,0,933,1",
        "q-3,12+30,0,42,1",
    ]


@pytest.mark.parametrize(
    "text, name, words",
    [
        ('{"question": "q", "candidates": []}', "q.jsonl", "line 1: candidates is \\[\\]"),
        ('{"question": "q", "candidates": "a"}', "q.jsonl", "line 1: candidates is 'a'"),
        ('{"question": "q", "candidates": ["a", 3]}', "q.jsonl", "line 1: 3 is no answer"),
        ('{"candidates": ["a"]}', "q.jsonl", "line 1: columns are candidates: expected a question"),
        ('{"question": "q"}', "q.jsonl", "line 1: columns are question: expected one of answer"),
        ('{"question": 3, "candidates": ["a"]}', "q.jsonl", "line 1: question is 3"),
        ("question,reply\nq,a\n", "q.csv", "columns are question, reply: expected one of answer"),
        ("question,answer\n", "q.csv", "holds no rows"),
        ("question,answer\n1+1,2\n,3\n", "q.csv", "q.csv line 3: the question is empty"),
        ("a\nb\n", "q.txt", "--query is missing"),
    ],
)
def test_bad_files_of_questions(text, name, words, tmp_path):
    (tmp_path / name).write_text(text)
    for ranker in tournament, elo:
        with pytest.raises(BadInput, match=words):
            ranker.main(["--candidates", str(tmp_path / name), "--out", str(tmp_path / "o.jsonl")])
    with pytest.raises(BadInput, match="--candidates and --out"):
        tournament.main(["--candidates", str(tmp_path / name)])
    for ranker, problem in (
        (tournament, "leave --query out"),
        (elo, "exists or does not end in .csv"),
    ):
        with pytest.raises(BadInput, match=problem):
            ranker.main(
                ["--query", "q", "--candidates", str(tmp_path / name), "--out", str(tmp_path / "o")]
            )
    assert not (tmp_path / "o.jsonl").exists()


# ---- command ----


def command(*arguments):
    words = [sys.executable, ROOT / "tournament.py", *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def test_command(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("fig\nice\ndate\x1b[2J\n")
    done = command(
        "--query",
        "347+586",
        "--candidates",
        path,
        "--max_completion_length",
        60,
        "--num_votes",
        2,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    bracket = json.loads(done.stdout)
    assert (
        bracket["num_matches"] == 2
        and len(bracket["rounds"]) == 2
        and bracket["text"] == path.read_text().splitlines()[bracket["winner"]]
    )
    scores = [match[2] for matches in bracket["rounds"] for match in matches]
    assert all(
        score in (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1) for score in scores
    )  # four games, half for an invalid one
    shown = command(
        "--query", "347+586", "--candidates", path, "--max_completion_length", 60, "--num_votes", 2
    )
    *tree, empty, best = shown.stdout.splitlines()
    assert (
        shown.returncode == 0
        and len(tree) == 2
        and empty == ""
        and "\x1b" not in shown.stdout
        and "judging took 8 calls, " in shown.stderr
    )
    assert tree[0].startswith(f"{bracket['winner']}: ") and best.startswith(
        f"best answer: {bracket['winner']}: "
    )
    assert (
        bracket["num_coins"] == scores.count(0.5) == sum(line.endswith("(coin)") for line in tree)
    )
    assert (f"{bracket['num_coins']} of 2 matches had no winner: a coin decided" in best) == (
        bracket["num_coins"] > 0
    )


def test_what_was_judged_is_reported(tmp_path, capsys):
    """Both rankers, within this process; what the cache holds costs nothing."""
    model = make_scripted_folder(tmp_path / "coin", COIN)
    (tmp_path / "c.txt").write_text("fig\nice\ndate\n")
    arguments = ["--query", "q", "--candidates", tmp_path / "c.txt", "--model", model]
    arguments += "--num_votes 8 --max_completion_length 30 --device cpu --cache".split()

    def notes_of(main):
        with cli.at_end:
            main([str(word) for word in [*arguments, tmp_path / "cache.jsonl"]])
        return capsys.readouterr().err

    assert "judging took 32 calls, " in notes_of(tournament.main)
    assert "judging took 16 calls, " in notes_of(elo.main)  # the third pair
    assert "judging took" not in notes_of(elo.main)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--query", "q"], "--query and --candidates are needed"),
        (["--candidates", "C"], "--query"),
        (["--query", "q", "--candidates", "none.txt"], "none.txt"),
        (["--query", "q", "--candidates", "C", "--temperature", "-1"], "--temperature"),
        (["--query", "q", "--candidates", "C", "--stop", "likely"], "unknown argument"),
        (["--query", "q", "--candidates", "C", "--votes", "1"], "--votes"),
    ],
)
def test_bad_input(arguments, words, tmp_path):
    (tmp_path / "c.txt").write_text("a\nb\n")
    done = command(*(tmp_path / "c.txt" if word == "C" else word for word in arguments))
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and words in done.stderr
    )
