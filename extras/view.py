"""One HTML page, whole in itself, to read what was generated: filters, search, both orders side by side, tokens coloured by probability.

    python -m extras.view out/run                                    its rollouts; out/run/view.html
    python -m extras.view out/run/rollouts/eval-50.jsonl             the held-out pairs that it judged, or questions that it solved, after step 50
    python -m extras.view judged.jsonl --data pairs.jsonl            what judge.py wrote, beside the texts that it judged
    python -m extras.view out/gsm8k/results.json                     what evaluate.py wrote

A page holds some 10 MB of texts and 25 steps, spread evenly over what there is; the page says what it left out. A completion with
"logprobs": [[text of a token, log-probability], ...] gets colours (of a run: those of the first prompt of every step). The texts of models
are data for the page's script and never HTML, and the page's policy forbids every other script and every connection.
"""

import base64
import hashlib
import html
import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, setting
from data import Pair, load_pairs, load_questions
from extras import split_arguments
from extras.scoring import outcome
from verdicts import majority, vote_of

MAX_STEPS = 25  # of a run, unless --steps names them
FACTS = {
    "advantage": "advantage {:+.2f}",
    "tokens": "{} tokens",
    "p_verdict": "{:.2f} for the first",
    "forced": "verdict forced",
}


@dataclass
class Settings:
    out: Optional[str] = setting(
        None, "the page; default: view.html in the folder of the run, or the file's name with .html"
    )
    steps: Optional[str] = setting(
        None, f"of a run, such as 1,50,100; default: {MAX_STEPS} at most, spread evenly"
    )
    data: Optional[str] = setting(
        None,
        "what was judged, as --pairs of judge.py or --data of evaluate.py: shows the texts, and who is right",
    )
    megabytes: float = setting(
        10.0, "of input on the page, about; beyond it, entries are left out evenly"
    )


# ---- from rows to cards: {id, step, facts, outcome?, texts: [[title, text]], games: [{side, badge, outcome, reward?, facts, text, logprobs?}]} ----


def game_card(game, side, badge, outcome=None):
    """One completion. side: the order that it belongs to; outcome: what the filter goes by, the badge unless the card has one of its own."""
    facts = [
        form.format(game[name])
        for name, form in FACTS.items()
        if game.get(name) is not None and game[name] is not False
    ]
    extra = {
        name: game[name]
        for name in ("reward", "think_tokens", "logprobs")
        if game.get(name) is not None
    }
    return {
        "side": side,
        "badge": badge,
        "outcome": outcome or badge,
        "facts": ", ".join(facts),
        "text": game.get("text") or "",
        **extra,
    }


def verdict_badge(game, right):
    """right: the place, 1 or 2, of the better answer."""
    return (
        game["status"]
        if game["verdict"] is None
        else "right"
        if game["verdict"] == right
        else "wrong"
    )


def answer_badge(game, correct):
    """Of a solver's completion; correct: None where nobody checked it."""
    if correct or game.get("finish_reason") == "length":
        return "right" if correct else "truncated"
    return (
        "unanswered"
        if not game.get("answered", True)
        else "unchecked"
        if correct is None
        else "wrong"
    )


def rollout_card(rows, step):
    """The rows of one prompt in a step of training: one, or those of a pair's two orders."""
    texts, games, facts = [], [], []
    for row in rows:
        count, right = len(row["completions"]), row.get("right_verdict")
        side = f"better answer {['first', 'second'][right - 1]}" if right else ""
        badges = [
            verdict_badge(game, right) if right else answer_badge(game, correct)
            for game, correct in zip(row["completions"], row.get("correct") or [None] * count)
        ]
        games += [game_card(game, side, badge) for game, badge in zip(row["completions"], badges)]
        texts += [
            [message["role"] + f", {side}" * (len(rows) > 1), message["content"]]
            for message in row["prompt"]
        ]
        if row.get("matches"):
            texts.append(
                [
                    "matches",
                    "\n".join(
                        f"completion {i + 1} against {j + 1}: {score:g}"
                        for i, j, score in row["matches"]
                    ),
                ]
            )
        facts.append(
            side or (f"reference {row['answer']}" if row.get("answer") is not None else "")
        )
    return {
        "id": rows[0]["id"],
        "step": step,
        "facts": facts if len(rows) == 1 else [],
        "texts": texts,
        "games": games,
    }


def judged_card(row, match, players, better, item, answers, facts):
    """The games between two players, of a judgment or of an evaluation's match. better: 0, 1 or None; item, answers: what was judged, or None."""
    winner = majority([vote_of(game) for game in match["games"]])
    named = (
        outcome(match, better)
        if better is not None
        else "no winner"
        if winner is None
        else f"for the {['first', 'second'][winner]}"
    )
    games = []
    for game in match["games"]:
        voted = vote_of(game)
        badge = (
            f"for {players[voted]}"
            if better is None and voted is not None
            else verdict_badge(game, game["order"].index(better or 0) + 1)
        )
        games.append(game_card(game, f"{players[game['order'][0]]} in first place", badge, named))
    texts = [[message["role"], message["content"]] for message in item.messages] if item else []
    texts += (
        [
            [player + ", better" * (index == better), answers[index]]
            for index, player in enumerate(players)
        ]
        if item
        else []
    )
    return {
        "id": row.get("id", ""),
        "step": None,
        "outcome": named,
        "facts": facts,
        "texts": texts,
        "games": games,
    }


def row_cards(rows, step, judged):
    """Cards of one row, or of the two with both orders of a pair, whatever command wrote them; judged: {id: Pair or Question}."""
    row, item = rows[0], judged.get(rows[0].get("id"))
    if "scores" in row:  # of evaluate.py
        for match in row["matches"]:
            scores, players = (
                [row["scores"][player] for player in match["pair"]],
                [f"answer {player + 1}" for player in match["pair"]],
            )
            better = None if scores[0] == scores[1] else scores.index(max(scores))
            answers = item and [item.candidates[player] for player in match["pair"]]
            yield judged_card(
                row,
                match,
                players,
                better,
                item,
                answers,
                [row["group"], f"scores {scores[0]:g} and {scores[1]:g}"],
            )
    elif (
        "games" in row
    ):  # of judge.py, or of an evaluation in training, which holds what was judged
        item = (
            Pair(row["id"], row["messages"], row["answers"], row["label"])
            if "answers" in row
            else item
        )
        better = item.label if item and item.label in (0, 1) else None
        facts = [
            f"{row['p_first']:.2f} for a",
            {True: "orders agree", False: "orders disagree", None: "one order"}[row["consistent"]],
        ]
        yield judged_card(
            row, row, ["answer a", "answer b"], better, item, item and item.answers, facts
        )
    else:  # of training; a solver's held-out answers are rows without a group
        yield rollout_card(
            [
                row
                if "completions" in row
                else {
                    "id": row["id"],
                    "prompt": [],
                    "completions": [row],
                    "correct": [row["correct"]],
                }
                for row in rows
            ],
            step,
        )


def cards_of(placed, step, judged):
    """Cards of [(place, row), ...]. Raises BadInput."""
    for _, group in groupby(placed, key=lambda entry: entry[1].get("id", entry[0])):
        places, rows = zip(*group)
        try:
            both = sorted(row.get("order", []) for row in rows) == [
                [0, 1],
                [1, 0],
            ]  # a run that trains on one after the other
            for members in [rows] if both else [[row] for row in rows]:
                yield from row_cards(members, step, judged)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise BadInput(
                f"{places[0]}: is no rollout, judgment or evaluation ({error!r}): give the folder of a run, or a file that judge.py "
                "or evaluate.py wrote"
            ) from error


# ---- from files to a page ----


def files_of(source, steps):
    """([(step or None, path), ...], what was left out) of a run's folder or a single file. Raises BadInput."""
    if not source.is_dir():
        return [(None, source)], []
    files = {
        int(path.stem): path
        for path in (source / "rollouts").glob("*.jsonl")
        if path.stem.isdecimal()
    }
    if not files:
        raise BadInput(
            f"RUN_OR_FILE: {source} has no rollouts/STEP.jsonl: give the folder of a GRPO run, or a file of judgments"
        )
    chosen = sorted(files)
    if steps is not None:
        unknown = [
            word
            for word in steps.split(",")
            if not word.strip().isdecimal() or int(word) not in files
        ]
        if unknown:
            raise BadInput(
                f"--steps: {unknown[0]!r} is no step of {source}: give numbers from {chosen[0]} to {chosen[-1]}, joined by commas"
            )
        chosen = sorted({int(word) for word in steps.split(",")})
    elif len(chosen) > MAX_STEPS:  # the first and the last among them
        chosen = [
            chosen[index * (len(chosen) - 1) // (MAX_STEPS - 1)] for index in range(MAX_STEPS)
        ]
    return [(step, files[step]) for step in chosen], [
        f"{len(chosen)} of {len(files)} steps (--steps)"
    ] if len(chosen) < len(files) else []


def rows_of(path):
    """[(place, row), ...] of JSON lines, or of one JSON object, which may hold them as `rows`."""
    if path.suffix != ".json":
        return [
            (f"{path} line {line}", row) for line, row in cli.read_json_lines(path, "RUN_OR_FILE")
        ]
    whole = cli.parse_json(cli.read_text(path, "RUN_OR_FILE"), path)
    return [
        (f"{path} row {number}", row)
        for number, row in enumerate(whole.get("rows", [whole]), start=1)
    ]


def make_page(source, steps=None, data=None, megabytes=10.0):
    """The HTML text of a run's folder or of a file; data: names what was judged. Raises BadInput."""
    files, left_out = files_of(Path(source), steps)
    cards, found, judged = [], 0, None
    kept = min(
        1.0,
        megabytes * 1e6 / max(1, sum(path.stat().st_size for _, path in files if path.exists())),
    )
    for step, path in files:
        rows = rows_of(path)
        if judged is None:
            load = (
                load_questions
                if rows and "scores" in rows[0][1]
                else partial(load_pairs, keep_ties=True)
            )
            judged = {item.id: item for item in load(data)} if data else {}
        here = list(cards_of(rows, step, judged))
        count = min(len(here), max(1, round(len(here) * kept)))
        cards += [here[index * len(here) // count] for index in range(count)]
        found += len(here)
    if not cards:
        raise BadInput(f"RUN_OR_FILE: {source} holds no rows: give another file")
    left_out += [f"{len(cards):,} of {found:,} entries (--megabytes)"] if len(cards) < found else []
    content = json.dumps(
        {"left_out": ", ".join(left_out), "cards": cards}, ensure_ascii=False, allow_nan=False
    )
    parts = {"TITLE": html.escape(str(source)), "SCRIPT": SCRIPT, "HASH": base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
             "DATA": content.replace("<", "\\u003c")}  # fmt: skip  # without a < nothing can end the data's element, or open another in it
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], PAGE)


def main(argv=None):
    names, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(
        Settings,
        flags,
        description=__doc__,
    )
    if len(names) != 1:
        raise BadInput(
            f"RUN_OR_FILE: got {len(names)} names: give the folder of one run, or one file"
        )
    if not 0 < settings.megabytes < float("inf"):
        raise BadInput(f"--megabytes: must be above 0, got {settings.megabytes}")
    source = Path(names[0])
    path = (
        Path(settings.out)
        if settings.out
        else source / "view.html"
        if source.is_dir()
        else source.with_suffix(".html")
    )
    text = make_page(source, settings.steps, settings.data, settings.megabytes)
    try:
        path.write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )  # half a character from a model becomes its JSON escape
    except OSError as error:
        raise BadInput(
            f"--out: cannot write {path} ({error.strerror}): give another file"
        ) from error
    print(path)


PAGE = r"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-@HASH@'">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --dim: light-dark(#666, #aaa); --soft: light-dark(#f6f6f6, #222) }
body { margin: 0; font: 14px/1.45 system-ui, sans-serif }
header { position: sticky; top: 0; z-index: 1; padding: 10px 20px; background: Canvas; border-bottom: 1px solid var(--line) }
h1 { font-size: 15px; margin: 0 0 8px; overflow-wrap: anywhere }
h1 small, .dim { color: var(--dim); font-weight: normal; font-size: 12.5px }
header div { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center }
#text { flex: 1 1 220px; max-width: 380px } input[type=number] { width: 5.5em } input, select { font: inherit }
.chip, .badge { border: 1px solid var(--tone, #888); border-radius: 9px; padding: 0 8px; background: none; color: inherit; font: inherit }
.chip { cursor: pointer } .chip[aria-pressed=true], .badge { background: color-mix(in srgb, var(--tone, #888) 22%, transparent) }
main { padding: 12px 20px } [hidden] { display: none !important }
article { border: 1px solid var(--line); border-radius: 8px; margin-bottom: 14px; padding: 8px 12px }
article > p { display: flex; flex-wrap: wrap; gap: 4px 12px; margin: 0 0 6px; align-items: baseline }
.games { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)) }
.sides { display: grid; gap: 16px; grid-template-columns: 1fr 1fr } .sides h2 { font-size: 13px; margin: 4px 0 }
.game { border-left: 3px solid var(--tone, #888); padding-left: 9px; min-width: 0 }
pre { font: 12.5px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; max-height: 32em; overflow: auto }
details pre { background: var(--soft); padding: 6px 8px } summary { cursor: pointer; color: var(--dim) } mark { background: #F0E442; color: #000 }
#scale { background: linear-gradient(90deg, transparent, #D55E00b3); border: 1px solid var(--line); width: 60px; height: 10px; display: inline-block }
</style></head><body>
<header><h1>@TITLE@ <small id="told"></small></h1>
<div><span id="outcomes"></span>
<label id="steps">step <select id="step"><option value="">all</option></select></label>
<label id="rewards">reward <input id="low" type="number" step="any"> to <input id="high" type="number" step="any"></label>
<input id="text" type="search" placeholder="search all texts" aria-label="search prompts, answers and thinking">
<label><input id="open" type="checkbox"> unfold thinking</label>
<label id="colours"><input id="colour" type="checkbox" checked> token probability 1 <span id="scale"></span> 0</label>
<span class="dim" id="count"></span></div></header>
<main></main><script type="application/json" id="data">@DATA@</script><script>@SCRIPT@</script></body></html>
"""

SCRIPT = r"""
"use strict";
const at = id => document.getElementById(id), page = document.querySelector("main"), data = JSON.parse(at("data").textContent);
const tones = {right: "#009E73", wrong: "#D55E00", tie: "#E69F00", inconsistent: "#CC79A7", truncated: "#56B4E9", unparsable: "#888"};
const all = data.cards.flatMap(card => card.games), rewards = all.map(game => game.reward).filter(value => value !== undefined);
const fields = ["step", "low", "high", "text"], state = new URLSearchParams(location.hash.slice(1));  // a link leads to what is seen
let wanted = new Set(state.getAll("outcome")), pattern = null, found = [], drawn = 0;

// Texts become text nodes: nothing that a model wrote is ever read as HTML.
function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children);
  return node;
}

function toned(node, outcome) {
  node.style.setProperty("--tone", tones[outcome] || "#888");
  return node;
}

function marked(text) {  // its pieces, with what was searched for in <mark>
  if (!pattern) return [text];
  return text.split(pattern).map((piece, index) => index % 2 ? make("mark", "", piece) : piece);
}

function body(game, from, to) {  // characters of the text, or the tokens that begin there
  if (!game.logprobs || !at("colour").checked) return marked(source(game).slice(from, to));
  let start = 0;
  return game.logprobs.flatMap(([piece, logprob]) => {
    const here = start >= from && start < to, p = Math.exp(logprob);
    start += piece.length;
    if (!here) return [];
    const span = make("span", "", ...marked(piece));
    span.style.background = `rgb(213 94 0 / ${0.7 * (1 - p)})`;
    span.title = `probability ${p.toPrecision(3)}`;
    return [span];
  });
}

const source = game => game.logprobs ? game.logprobs.map(token => token[0]).join("") : game.text;

function drawGame(game, number) {
  const text = source(game), closed = text.lastIndexOf("</think>");
  const verdict = Math.max(text.lastIndexOf("<answer>"), text.lastIndexOf("\\boxed{"));
  let end = closed >= 0 ? closed + 8 : text.startsWith("<think>") ? text.length : verdict > 80 ? verdict : 0;  // of the thinking
  if (end) end += text.slice(end).search(/\S|$/);
  const facts = (game.reward === undefined ? "" : `reward ${+game.reward.toFixed(3)}, `) + game.facts;
  const node = toned(make("div", "game", make("span", "badge", game.badge), make("span", "dim", ` ${number}: ${facts}`)), game.badge);
  if (end) {
    const title = game.think_tokens ? `thinking, ${game.think_tokens} tokens` : "thinking";
    const fold = make("details", "", make("summary", "", title), make("pre", "", ...body(game, 0, end)));
    fold.open = at("open").checked || (pattern && text.slice(0, end).search(pattern) >= 0);
    node.append(fold);
  }
  if (end < text.length) node.append(make("pre", "", ...body(game, end, text.length)));
  return node;
}

function drawCard([card, games]) {
  const head = make("p", "", make("b", "", ...marked(String(card.id))));
  if (card.step !== null) head.append(`step ${card.step}`);
  if (card.outcome) head.append(toned(make("span", "badge", card.outcome), card.outcome));
  head.append(make("span", "dim", card.facts.join(", ")));
  const node = make("article", "", head);
  for (const [title, text] of card.texts) {
    const start = text.trim().replace(/\s+/g, " ").slice(0, 140);
    const fold = make("details", "", make("summary", "", `${title}: `, ...marked(start)), make("pre", "", ...marked(text)));
    fold.open = pattern && start.search(pattern) < 0 && text.search(pattern) >= 0;
    node.append(fold);
  }
  const draw = list => make("div", "games", ...list.map(game => drawGame(game, card.games.indexOf(game) + 1)));
  const sides = [...new Set(card.games.map(game => game.side))].sort();
  const column = side => make("section", "", make("h2", "", side), draw(games.filter(game => game.side === side)));
  node.append(sides.length < 2 ? draw(games) : make("div", "sides", ...sides.map(column)));
  return node;
}

function more() {
  page.append(...found.slice(drawn, drawn += 20).map(drawCard));
  end.hidden = drawn >= found.length;
  page.append(end);
}

function update() {
  const [step, low, high, text] = fields.map(id => at(id).value), escaped = text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  pattern = text ? new RegExp(`(${escaped})`, "i") : null;
  const has = text => !pattern || text.search(pattern) >= 0, number = value => value === "" ? null : Number(value);
  const least = number(low), most = number(high);
  found = data.cards.filter(card => step === "" || card.step === Number(step)).map(card => {
    const whole = has(String(card.id)) || card.texts.some(([, text]) => has(text));
    return [card, card.games.filter(game => (!wanted.size || wanted.has(game.outcome)) && (least === null || game.reward >= least)
      && (most === null || game.reward <= most) && (whole || has(source(game))))];
  }).filter(([, games]) => games.length);
  const shown = found.reduce((sum, [, games]) => sum + games.length, 0), say = value => value.toLocaleString("en");
  at("count").textContent = `${say(found.length)} of ${say(data.cards.length)} entries, ${say(shown)} of ${say(all.length)} completions`;
  const query = new URLSearchParams([...wanted].map(name => ["outcome", name]).concat(fields.map(id => [id, at(id).value]).filter(pair => pair[1])));
  history.replaceState(null, "", "#" + query);
  page.replaceChildren();
  drawn = 0;
  if (!found.length) page.append(make("p", "dim", "nothing fits these filters"));
  more();
}

const end = make("div", "dim", "...");
new IntersectionObserver(([entry]) => entry.isIntersecting && drawn < found.length && more(), {rootMargin: "800px"}).observe(end);
at("told").textContent = data.left_out && `shows ${data.left_out}`;
const outcomes = new Set(all.map(game => game.outcome));
for (const name of new Set([...Object.keys(tones).filter(name => outcomes.has(name)), ...outcomes])) {
  const chip = toned(make("button", "chip", `${name} ${all.filter(game => game.outcome === name).length.toLocaleString("en")}`), name);
  chip.setAttribute("aria-pressed", wanted.has(name));
  chip.onclick = () => {
    wanted.delete(name) || wanted.add(name);
    chip.setAttribute("aria-pressed", wanted.has(name));
    update();
  };
  at("outcomes").append(chip, " ");
}
const steps = [...new Set(data.cards.map(card => card.step))];
at("step").append(...steps.filter(step => step !== null).map(step => make("option", "", String(step))));
at("steps").hidden = steps.length < 2;
at("rewards").hidden = !rewards.length;
at("low").placeholder = rewards.reduce((a, b) => Math.min(a, b), Infinity).toFixed(2);
at("high").placeholder = rewards.reduce((a, b) => Math.max(a, b), -Infinity).toFixed(2);
at("colours").hidden = !all.some(game => game.logprobs);
for (const id of fields) at(id).value = state.get(id) || "";
for (const id of [...fields, "open", "colour"]) at(id).addEventListener("input", update);
update();
"""

if __name__ == "__main__":
    cli.run(main)
