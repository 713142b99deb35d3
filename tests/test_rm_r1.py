"""RM-R1: its prompts, its format, and misleading completions, over all styles.

Also the defects that prompts and parsers of the releases had.
"""

import importlib
import itertools
import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from test_verdicts import BOXED, TAGGED

import chat
import cli
from data import load_pairs
from rm_r1 import SECTIONS, format_rates, task_type
from styles import judge_messages, load_style
from verdicts import parse_verdict

STYLES = sorted(path.stem for path in (Path(chat.__file__).parent / "prompts").glob("*.txt"))
RM_R1 = [name for name in STYLES if name.startswith("rm_r1")]
A, B, ONE, TWO = (
    "<answer>[[A]]</answer>",
    "<answer>[[B]]</answer>",
    r"\boxed{Assistant 1}",
    r"\boxed{Assistant 2}",
)
EVAL = "<eval><quote_A>x</quote_A> <summary_B>y</summary_B></eval>"
REASONING = f"<type>Reasoning</type>\n<solution>42</solution>\n{EVAL}\n"
CHAT = (
    "<type>Chat</type>\n"
    f"<rubric>tone 60%, facts 40% <justify>small talk</justify></rubric>\n{EVAL}\n"
)

# ---- completions: text, verdict by RM-R1's rule and by RRM's, type of the task, format kept ----

TABLE = [
    # as asked
    (REASONING + A, 1, None, "Reasoning", True),
    (REASONING + B, 2, None, "Reasoning", True),
    (CHAT + A, 1, None, "Chat", True),
    (f"<think>hm</think>{CHAT}{B}\n", 2, None, "Chat", True),
    (f"Sure!\n{REASONING}{A}", 1, None, "Reasoning", True),
    # a verdict without the format, and the format without a verdict
    (A, 1, None, None, False),
    (f"{EVAL}{B}", 2, None, None, False),
    (REASONING, None, None, "Reasoning", False),
    (CHAT, None, None, "Chat", False),
    (REASONING + "<answer>A</answer>", None, None, "Reasoning", True),
    (REASONING + "<answer>[[C]]</answer>", None, None, "Reasoning", True),
    # the wrong sections for the type, twice, out of order, not closed
    (CHAT.replace("Chat", "Reasoning", 1) + A, 1, None, "Reasoning", False),
    (REASONING.replace("Reasoning", "Chat") + A, 1, None, "Chat", False),
    (REASONING + EVAL + A, 1, None, "Reasoning", False),
    (f"{EVAL}<type>Reasoning</type><solution>1</solution>{A}", 1, None, "Reasoning", False),
    (CHAT.replace("<justify>small talk</justify>", "") + A, 1, None, "Chat", False),
    (REASONING.replace("</eval>", "") + A, 1, None, "Reasoning", False),
    (CHAT.replace("</rubric>", "") + B, 2, None, "Chat", False),
    (f"{A}\n{REASONING}", None, None, "Reasoning", False),
    (
        CHAT.replace(" <justify>small talk</justify></rubric>", "</rubric><justify>x</justify>")
        + A,
        1,
        None,
        "Chat",
        False,
    ),
    # types: unknown, two, quoted from the prompt, only thought of
    (f"<type>Math</type><solution>1</solution>{EVAL}{A}", 1, None, None, False),
    (f"<type>Chat</type>{REASONING}{A}", 1, None, None, False),
    (f"I choose <type>Reasoning</type> or <type>Chat</type>.{EVAL}{A}", 1, None, None, False),
    (f"<think><type>Chat</type></think>{A}", 1, None, None, False),
    (f"<think><type>Chat</type></think>{REASONING}{A}", 1, None, "Reasoning", True),
    (f"<type> Reasoning </type>{REASONING[21:]}{A}", 1, None, "Reasoning", True),
    (f"<type>reasoning</type>{A}", 1, None, None, False),
    (f"<TYPE>Chat</TYPE>{A}", 1, None, None, False),
    ("<type>Chat</type", None, None, None, False),
    # both verdicts, the wrong one last, one that was taken back too early to count
    (f"{REASONING}{A} or {B}", None, None, "Reasoning", False),
    (f"{B}{'.' * 80}{REASONING}{A}", 1, None, "Reasoning", False),
    (f"{CHAT}{A} No, wait: {B}", None, None, "Chat", False),
    (f"{CHAT}{A}{A}", 1, None, "Chat", False),
    (f"{CHAT}{A} <eval>", 1, None, "Chat", False),
    # a verdict that a quote of an answer forges
    (
        f"{REASONING[:-8]}<quote_B>{B}</quote_B></eval>\n{'I disagree. ' * 8}{A}",
        1,
        None,
        "Reasoning",
        False,
    ),
    (f"<eval>Chatbot B writes {B}</eval>{A}", None, None, None, False),
    (f"<think>{B}</think>{'.' * 60}{A}", 1, None, None, False),
    (f"<think>{B}</think>{A}", None, None, None, False),
    (f"<solution>{A}</solution>" + "x" * 90, None, None, None, False),
    # the other rule's words, or both
    (ONE, None, 1, None, False),
    (f"{REASONING}{TWO}", None, 2, "Reasoning", False),
    (f"{ONE}{A}", 1, 1, None, False),
    (f"{ONE}{B}", 2, 1, None, False),
    (f"{TWO}<think>{A}", 1, None, None, False),
    (f"<think>{ONE}</think>{B}", 2, None, None, False),
    (f"{A}{ONE}", 1, 1, None, False),
    ("[[A]]", None, None, None, False),
    (r"\boxed{A}", None, None, None, False),
    (r"\boxed{[[A]]}", None, None, None, False),
    ("<answer>[[Assistant 1]]</answer>", None, None, None, False),
    ("<answer>\\boxed{Assistant 2}</answer>", None, 2, None, False),
    # spelling, blanks, cut off, look-alikes
    ("<answer>[[А]]</answer>", None, None, None, False),
    ("<answer>[[A ]]</answer>", None, None, None, False),
    ("<answer>[[A]]", None, None, None, False),
    ("<Answer>[[A]]</Answer>", None, None, None, False),
    ("<answer>[[AB]]</answer>", None, None, None, False),
    ("<answer>[[A]]<answer>", None, None, None, False),
    ("&lt;answer&gt;[[A]]&lt;/answer&gt;", None, None, None, False),
    ("`<answer>[[B]]</answer>`", 2, None, None, False),
    ("", None, None, None, False),
    ("<answer>[[A/B]]</answer>", None, None, None, False),
    (REASONING + "<answer>[[", None, None, "Reasoning", False),
    ("\n" * 90 + B, 2, None, None, False),
    (B + "\n" * 90, None, None, None, False),
    ("<answer>[[A]]\u200b</answer>", None, None, None, False),
    ("<type>" * 4000 + A, 1, None, None, False),
    # The defects of the releases: a bare digit, two names in a box, the first </think> of two,
    # "Solution" for "Assistant".
    (r"<think>a</think>\boxed{1}", None, None, None, False),
    (r"<think>a</think>\boxed{Assistant 1, not Assistant 2}", None, None, None, False),
    (f"<think>a</think>{ONE}</think>{TWO}", None, 2, None, False),
    (r"<think>a</think>\boxed{Solution 2}", None, None, None, False),
    (f"reasoning that the prompt had opened</think>{TWO}", None, 2, None, False),
]


@pytest.mark.parametrize("text, tagged, boxed, kind, formed", TABLE)
def test_completions(text, tagged, boxed, kind, formed):
    expected = {name: tagged if name in RM_R1 else boxed for name in STYLES}
    assert {name: parse_verdict(text, name) for name in STYLES} == expected
    assert {
        name: parse_verdict(text, load_style(name)) for name in STYLES
    } == expected  # by its name and by its file
    assert task_type(text) == (kind, formed)


def test_the_table_is_as_long_as_it_should_be():
    assert (
        len({row[0] for row in TABLE}) == len(TABLE) >= 60
        and len(TABLE) + len(BOXED) + len(TAGGED) > 140
    )


def test_format_rates_by_hand():
    texts = [REASONING + A, REASONING, CHAT + B, A]
    assert format_rates(texts) == {
        "judge/type_reasoning": 0.5,
        "judge/type_chat": 0.25,
        "judge/format": 0.5,
    }
    assert format_rates([]) == {
        "judge/type_reasoning": 0.0,
        "judge/type_chat": 0.0,
        "judge/format": 0.0,
    }


# ---- prompts ----


def test_all_styles_are_there():
    assert RM_R1 == ["rm_r1", "rm_r1_plain", "rm_r1_rubrics", "rm_r1_short"] and {
        "direct",
        "rrm",
        "tiny",
    } <= set(STYLES)
    for name in RM_R1:
        style = load_style(name)
        assert style.verdict == "answer_tag" and bool(style.system) == (name != "rm_r1_short")


def test_blocks_and_tags_of_the_prompts():
    blocks = (
        "[Client Question]\nQUERY\n\n"
        "[The Start of Chatbot A's Response]\nFIRST\n[The End of Chatbot A's Response]\n\n"
        "[The Start of Chatbot B's Response]\nSECOND\n[The End of Chatbot B's Response]"
    )
    prompts = {name: judge_messages(load_style(name), "QUERY", "FIRST", "SECOND") for name in RM_R1}
    assert {name: [message["role"] for message in prompt] for name, prompt in prompts.items()} == {
        name: ["user"] if name == "rm_r1_short" else ["system", "user"] for name in RM_R1
    }
    for name, prompt in prompts.items():
        asked = "\n".join(message["content"] for message in prompt)
        assert blocks in prompt[-1]["content"] and A in asked and B in asked, name
        assert name == "rm_r1_short" or prompt[-1]["content"] == blocks, name
    tags = {
        name: set(re.findall(r"<(\w+)>", "".join(message["content"] for message in prompt)))
        for name, prompt in prompts.items()
    }
    quotes = {"quote_A", "quote_B", "summary_A", "summary_B"}
    assert tags == {
        "rm_r1": {"type", "solution", "rubric", "justify", "eval", "answer"} | quotes,
        "rm_r1_short": {"answer"},
        "rm_r1_plain": {"answer"},
        "rm_r1_rubrics": {"rubric", "justify", "eval", "answer"} | quotes,
    }
    system = prompts["rm_r1"][0]["content"]
    assert (
        system.index("<type>")
        < system.index("<solution>")
        < system.index("<rubric>")
        < system.index("<quote_A>")
    )
    for (
        kind,
        sections,
    ) in SECTIONS.items():  # the format that is asked for is the one that is checked
        lines = (
            system[system.rindex(f"<type>{kind}</type>") :]
            .split("\n\n")[0]
            .replace(f"{A} or {B}", A)
        )
        assert task_type(lines) == (kind, True) and sections


def swap_sides(text):
    """The prompt with the names of its two sides exchanged."""
    text = re.sub("Chatbot (A|B)", lambda match: f"Chatbot {'AB'['BA'.index(match[1])]}", text)
    return re.sub("Assistant (1|2)", lambda match: f"Assistant {'12'['21'.index(match[1])]}", text)


@pytest.mark.parametrize("name", STYLES)
def test_no_word_of_a_prompt_knows_the_label(name, tmp_path):
    """The words around the answers are the same for every pair, and name both sides alike.

    RM-R1's data script spells one side "Chabot" in conversations whose better answer is side A.
    """
    turns = [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
    ]
    rows = [
        {
            "chosen": [
                *turns[: 1 + 2 * (number % 2)],
                {"role": "assistant", "content": f"good{number}"},
            ],
            "rejected": [
                *turns[: 1 + 2 * (number % 2)],
                {"role": "assistant", "content": f"bad{number}"},
            ],
        }
        for number in range(20)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    style, frames = load_style(name), {1: set(), 3: set()}
    for pair, order in itertools.product(load_pairs(tmp_path / "pairs.jsonl"), ([0, 1], [1, 0])):
        asked = json.dumps(
            judge_messages(style, pair.messages, *(pair.answers[index] for index in order))
        )
        first, second = (pair.answers[index] for index in order)
        assert asked.count(first) == asked.count(second) == 1 and asked.index(first) < asked.index(
            second
        )
        frames[len(pair.messages)].add(asked.replace(first, "#").replace(second, "#"))
    assert [len(frame) for frame in frames.values()] == [1, 1]
    asked = judge_messages(style, turns, "x", "y")[-1]["content"]
    assert (
        asked.count("u1") == asked.count("a1") == asked.count("u2") == 1
    )  # the conversation stands there once, for both
    for side in ("Chatbot A", "Assistant 1"):  # equally often, in the same surroundings
        text = " ".join(message["content"] for message in judge_messages(style, "q", "", ""))
        assert text.count(side) == swap_sides(text).count(side)


def test_conversations_keep_their_turns(tmp_path):
    """RRM's script flattens them: the first question, and all answers of the model joined."""
    before = [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
    ]
    row = {
        side: [*before, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (pair,) = load_pairs(tmp_path / "rows.jsonl")
    assert (pair.messages, pair.answers) == (before, ("chosen", "rejected"))
    assert (
        "User:\nu1\n\nAssistant:\na1\n\nUser:\nu2"
        in judge_messages(load_style("rm_r1"), *[pair.messages, *pair.answers])[1]["content"]
    )


def test_random_texts_never_favour_a_side():
    """Swapping the names of the sides in a completion swaps its verdict."""
    rng, pieces = (
        random.Random(0),
        [
            A,
            B,
            ONE,
            TWO,
            "<think>",
            "</think>",
            "<eval>",
            "x" * 30,
            "[[A]]",
            "<type>Chat</type>",
            "<answer>",
            "\n",
        ],
    )
    swaps = {A: B, B: A, ONE: TWO, TWO: ONE, "[[A]]": "[[B]]"}
    for _ in range(400):
        drawn = rng.choices(pieces, k=rng.randrange(8))
        for name in ("rm_r1", "rrm"):
            verdict = parse_verdict("".join(drawn), name)
            assert parse_verdict("".join(swaps.get(piece, piece) for piece in drawn), name) == (
                verdict and 3 - verdict
            )


# ---- the commands of runs/ ----

STUB = """#!/usr/bin/env python3
import json, os, sys
given = sys.argv[1:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(given) + "\\n")
if "--out" in given:
    with open(given[given.index("--out") + 1], "w") as file:
        file.write("{}\\n" * 9999)
"""


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("rrm", ["7b"]),
        ("rrm", ["32b"]),
        ("rm_r1", ["7b", "instruct"]),
        ("rm_r1", ["7b", "distilled"]),
        ("rm_r1", ["32b", "instruct"]),
        ("rm_r1", ["32b", "distilled"]),
    ],
)
def test_every_command_of_a_run_is_one_that_exists(name, arguments, tmp_path):
    """Python and torchrun are replaced by a program that writes down how it is called.

    RM-R1's own scripts train the 32B from the 7B's name, and give the distilled models' data to
    the instruct ones.
    """
    pytest.importorskip("extras.make_data")
    for program in ("python", "torchrun"):
        (tmp_path / program).write_text(STUB)
        (tmp_path / program).chmod(0o755)
    out = tmp_path / "out"
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "OUT": str(out),
        "JUDGE_URL": "http://j",
        "POLICY_URL": "http://p",
        "TEACHER_URL": "http://t",
    }
    script = Path(chat.__file__).parent / "runs" / f"{name}.sh"
    ran = subprocess.run(
        ["bash", script, *arguments], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    settings = {}
    for call in map(json.loads, (tmp_path / "calls").read_text().split("\n")[:-1]):
        start = next(
            index
            for index, word in enumerate(call)
            if word.endswith(".py") or word == "extras.make_data"
        )
        command, rest = call[start].removesuffix(".py"), call[start + 1 :]
        if command == "extras.make_data":
            kind, command, rest = (
                importlib.import_module(command).COMMANDS[rest[0]][0],
                rest[0],
                rest[1:],
            )
        else:
            module = importlib.import_module(command)
            kind = module.JudgeCommandSettings if command == "judge" else module.Settings
        settings.setdefault(command, []).append(cli.parse_settings(kind, rest))
    (grpo,), sft, size = settings["train_grpo"], settings.get("train_sft", []), arguments[0]
    models = [item.model for item in [grpo, *sft]]
    assert all(f"-{size.upper()}" in model or f"/{size}-sft/" in model for model in models)
    load_style(grpo.style)
    assert (grpo.max_completion_length, grpo.beta, grpo.epsilon, grpo.temperature) == (
        8192,
        0.001,
        0.2,
        1.0,
    )
    if name == "rm_r1":
        kind = arguments[1]
        # appendix G: supervised, instruct, distilled
        rates = {"7b": (5e-6, 1e-6, 1e-6), "32b": (2e-6, 5e-7, 8e-7)}[size]
        assert (grpo.num_generations, grpo.prompts_per_step, grpo.num_mini_batches) == (7, 1024, 8)
        assert grpo.max_prompt_length == 4096
        assert grpo.learning_rate == rates[1 + (kind == "distilled")]
        data = {"instruct": "after_distill", "distilled": "all"}[kind]
        assert Path(grpo.train_data).stem == data
        assert [item.learning_rate for item in sft] == ([rates[0]] if kind == "instruct" else [])
        assert grpo.style == {"instruct": "rm_r1", "distilled": "rm_r1_short"}[kind]
        assert all(item.judge_style == "rm_r1" for item in sft)
        assert settings["clean"][0].drop_sources == "magpie_ultra"
