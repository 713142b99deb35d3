"""Any text gives a parser's documented result or BadInput, and no regular expression hangs."""

import ast
import email.utils
import json
import math
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import JSON, VALUES, damaged, fuzz, result_or_bad_input, time_limit

import cli
import datafiles
import judge
import train_grpo
import train_sft
from cli import BadInput
from extras import endpoint, equality, evaluate
from extras.endpoint import Reply, TransientError
from extras.server import disarm
from rm_r1 import task_type
from styles import judge_messages, load_style
from verdicts import find_verdicts

ROOT = Path(__file__).parents[1]
CORE = sorted([*ROOT.glob("*.py"), *ROOT.glob("kernels/*.py")])
CHECKER = [ROOT / "extras" / name for name in ("equality.py", "formulas.py", "verify.py")]
STYLES = sorted(path.stem for path in (ROOT / "prompts").glob("*.txt"))

# ---- verdicts ----

PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "\\boxed{",
        "Assistant 1",
        "Assistant 2",
        "}",
        "{",
        " ",
        "\n",
        "\x1c",
        "\\boxed{Assistant 1}",
        "\\boxed{ Assistant 2\t}",
        "<answer>",
        "[[A]]",
        "[[B]]",
        "</answer>",
        "<answer>[[A]]</answer>",
        "<answer>[[B]]</answer>",
        "x" * 30,
        "é",
        "\ud800",
        "１",
    ]
)


def slow_verdict(text, rule):
    """The rules of judge.py once more, with str methods alone."""
    if rule == "answer_tag":
        tail = text[-80:]
        said = {
            number
            for number, tag in ((1, "<answer>[[A]]</answer>"), (2, "<answer>[[B]]</answer>"))
            if tag in tail
        }
    else:
        spoken = text.split("</think>")[-1]
        boxes = (
            [
                piece.partition("}")[0].strip()
                for piece in spoken.split("\\boxed{")[1:]
                if "}" in piece
            ]
            if "<think>" not in spoken
            else []
        )
        said = {int(box[-1]) for box in boxes if box in ("Assistant 1", "Assistant 2")}
        if rule == "boxed_or_tie" and "Tie" in boxes:
            said.add("tie")
    return said.pop() if len(said) == 1 else None


@pytest.mark.parametrize("style", STYLES)
def test_verdicts_of_any_text(style):
    rule = load_style(style).verdict

    @fuzz(200)
    @given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
    def check(text):
        assert judge.parse_verdict(text, style) == slow_verdict(text, rule)
        for offset, verdict in find_verdicts(text, rule):
            assert verdict in (1, 2, "tie") and text[offset] in "\\<"
        kind, formed = task_type(text)
        assert kind in ("Reasoning", "Chat", None) and not (formed and kind is None)

    check()


@fuzz(200)
@given(
    st.lists(
        PIECES
        | st.sampled_from(
            [
                "####",
                "1" * 5000,
                "1,000",
                "3 1/2",
                "0/0",
                "1e999",
                '["',
                '"]',
                "[" * 2000,
                "\\text{",
                "$",
                "٣",
            ]
        ),
        max_size=8,
    ).map("".join),
    st.lists(
        st.sampled_from(
            [
                "7",
                "1" * 5000,
                "1e999",
                "-3/4",
                '["',
                "1",
                '",',
                "]",
                "[" * 2000,
                "yes",
                "\\frac{1}{2}",
                "٣",
            ]
        ),
        min_size=1,
        max_size=4,
    ).map("".join),
)
def test_answers_and_references_of_any_text(answer, reference):
    with time_limit(5, answer):
        stated = equality.stated_answer(answer)
        assert stated is None or isinstance(stated, str)
        for option in equality.alternatives(reference):
            assert equality.quick_check(answer if stated is None else stated, option) in (
                True,
                False,
                None,
                "ask",
            )


# ---- servers ----

MESSAGE = st.dictionaries(
    st.sampled_from(["content", "reasoning", "reasoning_content"]),
    st.sampled_from(["x", "", None, "\ud800", "</think>"]) | JSON,
)
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE | JSON},
    optional={"finish_reason": st.sampled_from(["stop", "length"]) | JSON},
)
USAGE = (
    st.fixed_dictionaries({"completion_tokens": VALUES | st.sampled_from([7, -1, math.inf, "7"])})
    | JSON
)
COMPLETION = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2) | JSON}, optional={"usage": USAGE}
)


@fuzz(400)
@given(
    (COMPLETION | JSON).map(lambda value: json.dumps(value).encode())
    | damaged([b'{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 3}}'])
)
def test_answers_of_a_server(content):
    try:
        reply = endpoint.read_reply(content)
    except TransientError:
        return
    assert (
        isinstance(reply, Reply)
        and type(reply.text) is str
        and type(reply.tokens) is int
        and reply.tokens >= 0
    )
    assert (
        reply.text.encode() is not None
        and reply.finish_reason in ("stop", "length")
        and reply.error is None
    )  # half a surrogate would end a run


DATE = st.lists(
    st.sampled_from(
        [
            "Mon",
            ",",
            " ",
            "01",
            "31",
            "Jan",
            "Dec",
            "0001",
            "9999",
            "99999",
            "00:00:00",
            "23:59:59",
            "+0000",
            "-9999",
            "+" + "9" * 30,
            "GMT",
            ":",
            "-",
        ]
    ),
    max_size=9,
).map(" ".join)


@fuzz(300)
@given(
    st.none()
    | DATE
    | st.text(max_size=10)
    | st.floats().map(str)
    | st.just(email.utils.formatdate(2**33))
)
def test_pauses_that_a_server_wishes_for(header):
    pause = endpoint.retry_after(header)
    assert pause is None or 0 < pause <= endpoint.MAX_RETRY_AFTER


@fuzz(200)
@given(
    st.tuples(
        st.sampled_from(["http://", "https://", "HTTP://", "", "//"]),
        st.text("ab.:[]@/?#%é \n\0\\0129-", max_size=14),
        st.sampled_from(["", "/v1", ":80", ":99999", "]"]),
    ).map("".join)
)
def test_addresses_of_a_server(address):
    url = result_or_bad_input(endpoint.check_base_url, address)
    if url:  # a request can be written to this host, port and path: only the network can fail
        parts = endpoint.urllib.parse.urlsplit(url)
        assert parts.port is None or parts.port > 0
        assert (
            parts.hostname.encode("idna")
            and url.isascii()
            and not re.search(r"[\s\x00-\x20\x7f]", url)
            and "@" not in parts.netloc
            and not parts.fragment
        )


@pytest.mark.parametrize("key", ["sk-1\nsk-2", "sk-…", "sk 1", "\x7f"])
def test_a_key_that_no_header_can_hold(monkeypatch, key, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BadInput, match="OPENAI_API_KEY") as error:
        endpoint.Endpoint("http://127.0.0.1:9/v1", "m")
    assert "sk" not in str(error.value).replace("ask", "") + "".join(capsys.readouterr())


# ---- arguments ----

SETTINGS = {
    "judge": judge.JudgeCommandSettings,
    "evaluate": evaluate.Settings,
    "train_grpo": train_grpo.Settings,
    "train_sft": train_sft.Settings,
}
WORDS = st.sampled_from(
    [
        "--",
        "-",
        "--model",
        "--model=",
        "--num_votes",
        "--num-votes=3",
        "--seed",
        "1e3",
        "9" * 5000,
        "nan",
        "inf",
        "-1",
        "true",
        "--json",
        "--json=maybe",
        "-x",
        "--temperature",
        "0.5",
        "--a=@",
        "@/nowhere",
        "@",
        "@@",
        "--query",
        "-q",
        "--=",
        "--=x",
        "---a",
        "--device",
        "tpu",
        "%s",
        "%(prog)s",
        "{}",
        "\udcff",
        "\0",
        "--resume",
        "--learning_rate",
        "١",
        "--style",
        "[",
        "\n",
        "--stop",
        "--eval_every=",
        "x" * 3000,
    ]
)


@pytest.mark.parametrize("name", SETTINGS)
def test_arguments(name, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)

    @fuzz(60)
    @given(
        st.lists(
            WORDS | st.text(max_size=6).filter(lambda word: not re.match("--?h", word)), max_size=5
        )
    )
    def check(arguments):
        if any(value == "-" or value.endswith("=-") for value in arguments):
            return  # would read standard input
        fields = ("query", "a", "b") if name == "judge" else ()
        found = result_or_bad_input(cli.parse_settings, SETTINGS[name], arguments)
        assert found is None or isinstance(found, SETTINGS[name])
        if found:
            result_or_bad_input(datafiles.read_text_fields, found, fields)

    check()


# ---- regular expressions ----


def use_of(path, call):
    """The function of re that an expression meets; of a compiled one the method, if it has one."""
    if call.func.attr != "compile":
        return call.func.attr
    text = path.read_text()
    name = text.split("\n")[call.lineno - 1].partition(" = re.compile(")[0]
    methods = set(re.findall(rf"\b{re.escape(name)}\.(\w+)\(", text))
    return methods.pop() if len(methods) == 1 else "compile"


def expressions():
    """(file and line, function, pattern) of all calls of re in core and checker of answers.

    "x" stands for the parts of an f-string.
    """
    for path in CORE + [path for path in CHECKER if path.exists()]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
            ):
                continue
            pieces = [node.args[0]]
            while any(isinstance(piece, ast.BinOp) for piece in pieces):
                pieces = [
                    side
                    for piece in pieces
                    for side in (
                        (piece.left, piece.right) if isinstance(piece, ast.BinOp) else (piece,)
                    )
                ]
            pieces = [
                inner
                for piece in pieces
                for inner in (piece.values if isinstance(piece, ast.JoinedStr) else (piece,))
            ]
            yield (
                f"{path.name}:{node.lineno}",
                use_of(path, node),
                "".join(
                    piece.value if isinstance(piece, ast.Constant) else "x" for piece in pieces
                ),
            )


def pumps(pattern, size):
    """Long texts that a pattern nearly matches: pieces and class members, repeated, in pairs."""
    words = (
        {word for word in re.split(r"[\\()\[\]{}?*+|^$.]+|[A-Z]?<?[!=:]", pattern) if word}
        | set('0a A\n"\\,.{}[]<>/-_:=@|\x00é')
        | set(re.findall(r"[^\\()\[\]?*+|^$.]", pattern))
    )
    for word in sorted(words):
        for before in ("", *sorted(words)[-3:], pattern[:1]):
            for after in ("\x00", "", word[:1] + "\n!"):
                yield before + word * (size // len(word)) + after
    draw = random.Random(0)
    for _ in range(60):
        yield "".join(draw.sample(sorted(words), 2)) * (size // 4) + "\x00"


FOUND = sorted(set(expressions()))


def test_the_expressions_are_found():
    """Among them the two that read verdicts, and one of an f-string."""
    assert len(FOUND) > 25 and {name for _, name, _ in FOUND} >= {
        "compile",
        "search",
        "fullmatch",
        "sub",
        "findall",
    }
    assert r"\\boxed\{\s*(Assistant 1|Assistant 2|Tie)\s*\}" in {
        pattern for *_, pattern in FOUND
    } and r"(?<![a-zA-Z0-9])x(?![a-zA-Z0-9])" in {pattern for *_, pattern in FOUND}
    with pytest.raises(TimeoutError), time_limit(0.5, "an expression that does hang"):
        re.fullmatch(r"(a+)+b", "a" * 40)


@pytest.mark.parametrize("place, function, pattern", FOUND)
def test_no_expression_hangs(place, function, pattern):
    """10,000 characters take milliseconds; quadratic or exponential work would take seconds."""
    compiled = re.compile(pattern)
    for text in pumps(pattern, 10_000):
        with time_limit(2, (place, pattern, text[:80])):
            start = time.process_time()
            # as it is used; one that is kept under a name is searched for or has to fit as a whole
            for call in {"fullmatch": [compiled.fullmatch], "match": [compiled.match]}.get(
                function, [compiled.fullmatch, compiled.findall]
            ):
                call(text)
            assert time.process_time() - start < 0.25, (place, pattern, text[:80])


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{",
        "\\boxed{ ",
        "<think>",
        "</think>",
        "<type> ",
        "<answer>",
        "[[A]]",
        "\n\nHuman:",
        "\n\nAssistant:",
        "\\text{",
        "1 ",
        "1,",
        "{answer_1}",
        "<|",
        "a\u0301",
    ],
)
def test_parsers_of_long_texts(unit):
    """What takes 20 ms for 200,000 characters is not quadratic."""
    text = unit * (200_000 // len(unit))
    with time_limit(5, unit):
        start = time.process_time()
        for style in STYLES:
            judge.parse_verdict(text, style)
        task_type(text)
        disarm(text)
        equality.stated_answer(text)
        equality.quick_check(text, "7"), equality.quick_check("7", text)
        judge_messages(load_style("rrm"), text, text, text)
        assert time.process_time() - start < 2.5
