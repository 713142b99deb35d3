"""Any file gives the documented result or BadInput, never another exception, never a hang.

Texts and arguments: test_fuzz_text.py.
"""

import csv
import gzip
import io
import json
import math
import signal
import sys
import warnings
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import chat
import data
import elo
import ranking
from checkpoint import check_model_folder
from cli import BadInput
from extras import benchmarks, evaluate, scoring
from extras.items import labelled_items
from runlog import append_rows
from styles import PLACEHOLDERS, VERDICT_RULES, default_style, judge_messages, load_style
from tables import one_line

ROOT = Path(__file__).parents[1]


def fuzz(examples):
    """Bounded, the same examples on every machine; a failing one is shrunk."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def time_limit(seconds, what):
    """Endless work fails by name: counts processor seconds; regular expressions notice signals."""

    def late(*_):
        raise TimeoutError(f"{what!r:.200} took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def result_or_bad_input(function, *arguments, **options):
    """What it returns, or None after a BadInput of one line; a hang fails. Notes are not shown."""
    with time_limit(10, arguments), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments, **options)
        except BadInput as error:
            assert str(error).strip() and len(" ".join(str(error).split())) < 2000
            return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# ---- texts ----

DIGITS = "9" * 400
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.just(10**400),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", "1", "a", "tie", "model_a", "\ud800", "../x", "True", "1e999", "０"]),
)
JSON = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NASTY = [
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"{",
    b"}",
    b"[" * 3000,
    b"]",
    b",",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    DIGITS.encode(),
    b"9" * 5000,
    b"'",
    b"#",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\x99\x82",
    b'{"a": 1}',
    b"i,j,score",
    b"\x1f\x8b",
    b"PAR1",
]


@st.composite
def damaged(draw, originals):
    """One of the files with a few stretches replaced by nasty bytes, or any bytes."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        content = (
            content[:start]
            + draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=6)))
            + content[start + draw(st.integers(0, 12)) :]
        )
    return content


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# ---- data.py ----

TURN, REPLY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}
ROWS = [
    {"query": "Q é", "a": "x", "b": "y", "label": 0},
    {"query": "R", "a": "", "b": 'y, "z"', "label": 0.5},
]
TRL = [
    {
        "chosen": [TURN, REPLY],
        "rejected": [TURN, {"role": "assistant", "content": "bad"}],
        "score_chosen": 1,
        "score_rejected": 2,
    }
]
MANY = [
    {"id": 7, "question": "Q", "candidates": ["x", "y", "z"], "scores": [1, 0.5, 0]},
    {"question": "R", "candidates": ["x"], "scores": [1]},
]
TABLE = b'query,a,b,label\r\nQ,x,"y, 2",1\r\n"[{""role"": ""user"", ""content"": ""Q""}]",x,y,0\r\n'


@pytest.fixture(scope="module")
def parquet():
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file.getvalue()


def check_items(path):
    for load, kind in ((data.load_pairs, data.Pair), (data.load_questions, data.Question)):
        items = result_or_bad_input(load, path)
        assert items is None or items and all(isinstance(item, kind) for item in items)
        for item in items or []:
            turns = [turn["content"] for turn in item.messages]
            assert all(
                text.encode() is not None
                for text in [
                    item.id,
                    *turns,
                    *(item.answers if kind is data.Pair else item.candidates or []),
                ]
            )
            assert kind is data.Pair or item.scores is None or all(map(math.isfinite, item.scores))


@pytest.mark.parametrize(
    "ending, originals",
    [
        (".jsonl", [lines(ROWS), lines(TRL), lines(MANY)]),
        (".csv", [TABLE]),
        (".json", [json.dumps(MANY).encode(), json.dumps({"data": TRL}).encode(), lines(ROWS)]),
    ],
)
def test_damaged_data(folder, ending, originals):
    @fuzz(250)
    @given(damaged(originals))
    def check(content):
        path = folder / f"data{ending}"
        path.write_bytes(content)
        check_items(path)

    check()


def test_damaged_archives_and_tables(folder, parquet):
    @fuzz(60)
    @given(damaged([gzip.compress(lines(ROWS), mtime=0)]), damaged([parquet]))
    def check(archive, table):
        for name, content in (("d.jsonl.gz", archive), ("d.parquet", table)):
            (folder / name).write_bytes(content)
            check_items(folder / name)

    check()


@pytest.mark.parametrize(
    "field", ["query", "a", "label", "id", "candidates", "scores", "extra_info", "meta"]
)
def test_values_that_no_field_expects(folder, field):
    for value in (
        "1" + "0" * 400,
        "NaN",
        "Infinity",
        "-1e999",
        "[" * 800 + "]" * 800,
        "[" * 950 + "]" * 950,
        '{"a":' * 900 + "1" + "}" * 900,
        '"\\ud800"',
        f"[1{'0' * 400}, 0]",
        "[NaN, 1]",
        '["x", "\\udcff"]',
        "9" * 5000,
        "[[]]",
        "{}",
        '""',
        "true",
    ):
        for rest in (
            '"query": "q", "a": "x", "b": "y"',
            '"query": "q", "candidates": ["x", "y"], "scores": [1, 0]',
        ):
            (folder / "value.jsonl").write_text(
                '{%s, "%s": %s}\n' % (rest, field, value)
            )  # of two equal names the last one counts
            check_items(folder / "value.jsonl")


@fuzz(200)
@given(
    st.text(st.sampled_from("ab/:@~.,\n -*[]\\é\udcff"), max_size=12),
    st.sampled_from(["", ".jsonl", ".csv", ".parquet.gz"]),
)  # what an argument can hold
def test_names_of_data(name, ending):
    assume(not (ROOT / (name + ending)).is_file())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            sys.modules, "datasets", None
        )  # no network, if the library happens to be there
        assert result_or_bad_input(data.load_pairs, name + ending) is None


# ---- candidates, matches, caches ----


@fuzz(250)
@given(
    damaged([b"one\ntwo\n", lines(["x", {"response": "y"}, {"text": "z"}]), b'"quoted"\nplain']),
    st.sampled_from(["c.txt", "c.jsonl"]),
)
def test_candidates(folder, content, name):
    path = folder / name
    path.write_bytes(content)
    answers = result_or_bad_input(ranking.read_candidates, str(path))
    assert answers is None or answers and all(answer.encode() is not None for answer in answers)
    assert all(len(one_line(answer)) <= 60 for answer in answers or [])


MATCHES = [
    b"i,j,score\n1,2,1\nfig,pear,0.5\n",
    b'left, right, winner\na,"b, c",left\nb,a,tie\n',
    lines([{"i": 0, "j": 1, "score": 1}, {"i": "x", "j": 1, "score": 0.25}]),
    lines([{"left": "x", "right": "y", "winner": "tie"}]),
]
MATCH = st.fixed_dictionaries(
    {},
    optional={name: VALUES | JSON for name in ("i", "j", "score", "left", "right", "winner", "x")},
)


def check_matches(path):
    csv.field_size_limit(131_072)  # csv's own; data.py raises it for the whole process
    found = result_or_bad_input(elo.read_matches, path)
    if found is not None:
        matches, players = found
        rows = elo.rate(matches, len(players)) if len(players) < 30 else []
        assert all(
            math.isfinite(row[key]) for row in rows for key in ("strength", "low", "high", "elo")
        )
        for player in players:  # what the command prints
            assert one_line(str(player)).encode() is not None


@fuzz(250)
@given(damaged(MATCHES))
def test_damaged_match_files(folder, content):
    with redirect_stderr(io.StringIO()):
        (folder / "m.csv").write_bytes(content)
        check_matches(folder / "m.csv")


@fuzz(150)
@given(st.lists(MATCH | JSON, min_size=1, max_size=3))
def test_match_files_with_any_values(folder, rows):
    with redirect_stderr(io.StringIO()):
        (folder / "m.jsonl").write_bytes(lines(rows))
        check_matches(folder / "m.jsonl")


def test_a_very_long_cell_in_a_match_file(folder):
    (folder / "long.csv").write_text("i,j,score\n" + "x" * 200_000 + ",b,1\n")
    check_matches(folder / "long.csv")


@fuzz(150)
@given(damaged([lines([{"i": "x", "j": "y", "repetition": 0, "score": 0.5}] * 2)]))
def test_caches_of_matches(folder, content):
    path = folder / "cache.jsonl"
    path.write_bytes(content)
    known = result_or_bad_input(ranking.read_cache, str(path))
    assert path.read_bytes() == content  # reading changes nothing: the file may be somebody else's
    if known is not None:
        assert all(0 <= score <= 1 for score in known.values())
        row = {"i": "x", "j": "z", "repetition": 9, "score": 0.25}
        append_rows(path, [row])  # after what was cut off
        assert ranking.read_cache(str(path)) == known | {("x", "z", 9): 0.25}


# ---- benchmarks ----

GAME = st.fixed_dictionaries(
    {
        "order": st.sampled_from([[0, 1], [1, 0]]) | JSON,
        "verdict": st.sampled_from([1, 2, None, 1.0, 2.0, True, 0]) | VALUES,
        "status": st.sampled_from(["valid", "unparsable", "truncated", "tie"]) | VALUES,
    }
)
PREDICTION = st.one_of(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["p", "q", 3]) | VALUES,
            "games": st.lists(GAME | JSON, max_size=3) | JSON,
        }
    ),
    st.fixed_dictionaries(
        {
            "pair_id": st.sampled_from(["p", "q"]),
            "judgments": st.lists(st.dictionaries(st.just("decision"), VALUES), max_size=3) | JSON,
        }
    ),
    st.fixed_dictionaries({"id": st.sampled_from(["p", "q"]), "winner": VALUES | JSON}),
    st.fixed_dictionaries({"idx": st.just("p"), "x_result": VALUES | JSON}),
    JSON,
)
ITEM = {
    "p": {"id": "p", "query": "Q", "a": "x", "b": "y", "label": 0},
    "q": {"id": "q", "query": "R", "a": "x", "b": "yy", "label": 1},
}


def numbers_in(value):
    return (
        [number for inner in value.values() for number in numbers_in(inner)]
        if isinstance(value, dict)
        else [value]
        if type(value) is float
        else []
    )


def test_predictions_of_any_form(folder):
    (folder / "items.jsonl").write_bytes(lines(ITEM.values()))
    with redirect_stderr(io.StringIO()):
        items = labelled_items(str(folder / "items.jsonl"))

    @fuzz(300)
    @given(st.lists(PREDICTION, max_size=3))
    def check(rows):
        (folder / "said.jsonl").write_bytes(lines([{"id": "p", "winner": "a"}, *rows]))
        judged = result_or_bad_input(evaluate.predicted_rows, str(folder / "said.jsonl"), items)
        for name in ("pairs", "judgebench", "llmbar", "pandalm") if judged else ():
            assert all(
                math.isfinite(number) and 0 <= number <= 1
                for number in numbers_in(scoring.score(benchmarks.BENCHMARKS[name], judged))
            )
        assert judged is None or json.dumps(judged, allow_nan=False)

    check()


@fuzz(100)
@given(
    st.dictionaries(
        st.sampled_from(["settings", "rows", "data", "id", "games"]),
        st.just({"benchmark": "pairs"}) | JSON | st.lists(JSON, max_size=2),
    )
)
def test_results_of_any_form(folder, content):
    (folder / "results.json").write_text(
        json.dumps({"settings": content.get("settings")} | content)
    )
    result_or_bad_input(evaluate.read_result, str(folder / "results.json"), "--compare", "pairs")


BENCHMARK_ROW = {
    "id": "ref:1",
    "subset": "Ties",
    "domain": "chat",
    "category_path": "BoN_set/Helpfulness/x",
    "bon_uid": "1",
    "source": "mmlu-pro-x",
    "sampled_conflict_pairs": [[0, 1]],
    "annotator1": 1,
    "scores": [1, 0],
}
BODIES = st.sampled_from(
    [
        {"prompt": "Q", "chosen": ["x", "y", "z"], "rejected": ["u", "v", "w"]},
        {"prompt": "Q", "chosen": ["x"], "rejected": ["y", "z"]},
        {"query": "Q", "a": "x", "b": "y", "label": 1},
        {"prompt": "Q", "candidates": ["x", "y", "z"], "scores": [1, 1, 1]},
        {"prompt": "Q", "response_1": "x", "response_2": "y", "scores": [True, False]},
        {
            "conversation_input": "Q",
            "bon_best": {"answer": "x"},
            "loser_list": [{"answer": "y"}, {"answer": "z"}],
        },
    ]
)


@pytest.mark.parametrize("name", benchmarks.GROUP_OF)
def test_benchmarks_of_any_rows(folder, name):
    @fuzz(60)
    @given(
        st.lists(
            st.tuples(
                BODIES,
                st.dictionaries(st.sampled_from(sorted(BENCHMARK_ROW)), VALUES | JSON),
                st.sets(st.sampled_from(sorted(BENCHMARK_ROW))),
            ),
            min_size=1,
            max_size=3,
        ),
        st.sampled_from([[], [1, 2], [None, 1], [2, None, 1]]),
    )
    def check(drawn, verdicts):
        rows = [
            {key: BENCHMARK_ROW[key] for key in kept} | changed | body
            for body, changed, kept in drawn
        ]
        (folder / "benchmark.jsonl").write_bytes(lines(rows))
        items = result_or_bad_input(benchmarks.load, name, str(folder / "benchmark.jsonl"))
        games = [
            {
                "order": [n % 2, 1 - n % 2],
                "verdict": verdict,
                "status": "valid" if verdict else "truncated",
            }
            for n, verdict in enumerate(verdicts)
        ]
        games = games or [{"order": [0, 1], "verdict": None, "status": "unparsable"}]
        judged = [
            evaluate.row_of(item, [{"pair": list(match), "games": games} for match in item.matches])
            for item in items or []
        ]
        assert (
            all(
                math.isfinite(number)
                for number in numbers_in(scoring.score(benchmarks.BENCHMARKS[name], judged))
            )
            if judged
            else True
        )

    check()


# ---- models and prompts ----

CONFIG = json.loads((ROOT / "tiny" / "judge" / "config.json").read_text())
FIELDS = [
    "model_type",
    "architectures",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "layer_types",
    "hidden_act",
    "vocab_size",
    "judge_style",
    "hidden_size",
    "use_sliding_window",
    "quantization_config",
    "settings",
    "max_position_embeddings",
    "eos_token_id",
]


@fuzz(150)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        VALUES | JSON | st.just(["LlamaForCausalLM"]),
        min_size=1,
        max_size=3,
    ),
    st.none() | JSON,
)
def test_config_files_with_any_values(folder, changes, shards):
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "model.safetensors").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards})) if shards is not None else index.unlink(
        missing_ok=True
    )
    raw = result_or_bad_input(check_model_folder, folder)
    style = result_or_bad_input(default_style, folder, raw) if raw else None
    assert (
        style is None or isinstance(style, str) and "/" not in style.removeprefix(str(folder) + "/")
    )
    assert raw is None or (raw.get("max_position_embeddings") or 1) + 1


TOKENIZER = (ROOT / "tiny" / "judge" / "tokenizer.json").read_bytes()
TEMPLATES = [
    b"{{ 1/0 }}",
    b"{{ 'a' + 1 }}",
    b"{{ range(10**9) | list }}",
    b"{{ 'x'.encode('nope') }}",
    b"{% for",
    b"{{ ''.__class__ }}",
    b"",
    b"\xff",
    b"{{ x.y }}",
    b"{{ messages }}",
    b"{{ messages[0].content }}{{ messages[0].content }}",
    b"{{ bos_token + messages[0].content }}",
    b"{{ messages[7].content }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_fail(tmp_path, template):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((ROOT / "tiny" / "judge" / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes(template)
    try:
        result_or_bad_input(chat.load_tokenizer, tmp_path)
    except ValueError as error:  # documented: a template that does more than insert and trim
        assert "chat template of" in str(error)


def test_damaged_tokenizers(folder):
    whole = json.loads(TOKENIZER)

    @fuzz(25)
    @given(
        st.sampled_from(sorted(whole)), JSON, st.sampled_from(sorted(whole["model"])), st.booleans()
    )
    def check(field, value, part, inner):
        changed = whole | ({"model": whole["model"] | {part: value}} if inner else {field: value})
        (folder / "broken").mkdir(exist_ok=True)
        for name in ("tokenizer_config.json", "chat_template.jinja"):
            (folder / "broken" / name).write_bytes((ROOT / "tiny" / "judge" / name).read_bytes())
        (folder / "broken" / "tokenizer.json").write_text(json.dumps(changed))
        result_or_bad_input(chat.load_tokenizer, folder / "broken")

    check()


@fuzz(150)
@given(
    damaged([(ROOT / "prompts" / f"{name}.txt").read_bytes() for name in ("rrm", "tiny", "rm_r1")])
)
def test_damaged_styles(folder, content):
    (folder / "style.txt").write_bytes(content)
    style = result_or_bad_input(load_style, folder / "style.txt")
    if style:
        assert style.verdict in VERDICT_RULES and all(
            f"{{{name}}}" in style.system + style.user for name in PLACEHOLDERS
        )
        filled = "".join(
            message["content"]
            for message in judge_messages(style, "{answer_1}", "first\\1", "{query}")
        )
        assert filled.count("first\\1") == (style.system + style.user).count("{answer_1}")
