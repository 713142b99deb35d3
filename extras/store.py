"""Where `extras.make_data` keeps its rows: an interrupted command goes on from them; and the formats that only data making meets."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import cli
import data
from cli import BadInput, setting
from data import checked_text, load_pairs, to_messages, two_answers
from resume import resumable_rows
from runlog import append_rows

# ---- formats that only data making meets (data.py reads the others) ----


def step_pairs(row, place):
    """xinlai/Math-Step-DPO-10K: two solutions that share their first steps."""
    row.update(
        {
            side: checked_text(row["initial_reason_steps"], "initial_reason_steps", place)
            + checked_text(row.pop(f"full_{side}"), f"full_{side}", place)
            for side in ("chosen", "rejected")
        }
    )
    return two_answers(row, place, "prompt", "chosen", "rejected", 0)


BLOCKS = [
    re.compile(
        rf"{head}\[The {start} Chatbot A{end}\]\n(.*)\n\[The {stop} Chatbot A{end}\]\n\n\[The {start} Chatbot B{end}\]\n(.*)\n"
        rf"\[The {stop} Chatbot B{end}\]",
        re.DOTALL,
    )
    for head, start, stop, end in (
        (r"\[Client Question\]\n(.*?)\n\n", "Start of", "End of", "'s Response"),
        (
            "",
            "Start of the Conversation between",
            "End of the Conversation between",
            " and the Client",
        ),
    )
]


def rm_r1_prompt(row, place):
    """gaotang/RM-R1-...: ready prompts, taken apart again. Its conversations name one side "Chabot B" where side A is the better one: the
    names go. None where the two conversations differ in more than their last answer."""
    label = data.label_of(row, "winner", place, {"model_a": 0, "model_b": 1})
    asked = to_messages(row.pop("context_messages"), "context_messages", place)[-1]["content"]
    single, several = (pattern.search(asked) for pattern in BLOCKS)
    if single:
        return data.Pair(
            "", [{"role": "user", "content": single[1]}], (single[2], single[3]), label
        )
    if not several:
        raise BadInput(
            f"{place}: context_messages holds no blocks of Chatbot A and B: give the prompts as they were published"
        )
    sides = []
    for talk in several.groups():
        pieces = re.split(r"(?:^|\n)(User|Cha(?:t?)bot [AB]): ", talk)[1:]
        sides.append(
            [
                {"role": "user" if who == "User" else "assistant", "content": said}
                for who, said in zip(pieces[::2], pieces[1::2])
            ]
        )
    if sides[0][:-1] != sides[1][:-1] or any(
        not side or side[-1]["role"] != "assistant" for side in sides
    ):
        return None
    return data.Pair("", sides[0][:-1], (sides[0][-1]["content"], sides[1][-1]["content"]), label)


data.FORMATS[:0] = [
    ("Math-Step-DPO", "prompt initial_reason_steps full_chosen full_rejected", step_pairs),
    (
        "Code-Preference-Pairs",
        "input accepted rejected",
        lambda row, place: two_answers(row, place, "input", "accepted", "rejected", 0),
    ),
    ("RM-R1 prompts", "context_messages winner", rm_r1_prompt),
]


# ---- files ----

MOVES = "base_url", "second_base_url"  # what may change between two calls: a server


@dataclass
class Base:
    data: Optional[str] = setting(None, "files or hub datasets, joined by commas")
    out: Optional[str] = setting(
        None, "JSON lines to write; OUT.report.json has settings and counts"
    )
    seed: int = setting(0, "decides everything that is random")


class Store:
    """OUT in the making: rows by key in OUT.partial, whose first line holds the settings, until `finish` writes OUT.

    Raises BadInput where OUT or OUT.partial was made with other settings. `done`: OUT is there already.
    """

    def __init__(self, command, settings):
        self.out, self.rows = Path(settings.out), {}
        self.partial, self.report = (
            self.out.with_name(self.out.name + end) for end in (".partial", ".report.json")
        )
        given = asdict(settings)
        files = [
            Path(part.partition("=")[0].strip())
            for name in ("data", "judged", "against")
            for part in (given.get(name) or "").split(",")
        ]
        inputs = {
            str(file): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for file in files
            if file.is_file()
        }  # not those of a hub
        self.settings = (
            {"command": command}
            | {name: given[name] for name in given if name not in ("out", "concurrency")}
            | {"inputs": inputs}
        )
        self.done = self.out.exists()
        earlier = None
        if self.done:
            if not self.report.exists():
                raise BadInput(f"--out: {self.out} was not made by this command: give another file")
            earlier = cli.parse_json(cli.read_text(self.report, "--out"), self.report).get(
                "settings"
            )
        elif self.partial.exists():
            rows = [row for _, row in resumable_rows(self.partial, "--out")]
            if rows:
                earlier = rows[0]
                self.rows = {row["key"]: row for row in rows[1:]}
        for name in self.settings if earlier is not None else ():
            if name not in MOVES and earlier.get(name) != self.settings[name]:
                raise BadInput(
                    f"--{name}: {self.out} was begun with {earlier.get(name)!r}, not {self.settings[name]!r}: use that, or another --out"
                )
        self.fresh = earlier is None

    def add(self, rows):
        """Keeps rows, each with its "key", on the disk before the next ones are made."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        append_rows(self.partial, [self.settings, *rows] if self.fresh else rows)
        self.fresh = False
        self.rows.update((row["key"], row) for row in rows)

    def finish(self, lines, counts, **more):
        """OUT and its report, whole or not at all; the counts go to standard output."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        content = (
            json.dumps(
                {"settings": self.settings, "counts": counts} | more, indent=1, allow_nan=False
            )
            + "\n"
        )
        for path, written in (
            (self.report, content),
            (self.out, "".join(line + "\n" for line in lines)),
        ):  # OUT last: it says that all is done
            path.with_name(path.name + ".new").write_text(written, encoding="utf-8")
            os.replace(path.with_name(path.name + ".new"), path)
        self.partial.unlink(missing_ok=True)
        print(json.dumps(counts))


def named_pairs(name, keep_ties=False):
    """load_pairs, with a row's own field "source" as the source: the parts of a mixture keep their names."""
    pairs = load_pairs(name, keep_ties=keep_ties)
    for pair in pairs:
        pair.source = str(pair.meta.get("source") or pair.source)
    return pairs
