"""One HTML page to read what was generated: filters, search, both orders, token probabilities.

    python -m extras.view out/run                           its rollouts; out/run/view.html
    python -m extras.view out/run/rollouts/eval-50.jsonl    the evaluation after step 50
    python -m extras.view judged.jsonl --data pairs.jsonl   what judge.py wrote, with the texts
    python -m extras.view out/gsm8k/results.json            what evaluate.py wrote

A page has about 10 MB of texts and 25 steps, evenly spaced; it says what it leaves out. Completions
with "logprobs": [[text of a token, log-probability], ...] are coloured. In a run, those of the
first prompt of every step have them.

The top of the page says the result, the model and the settings. Each entry says its verdict.

The page is extras/view.html. The texts of models are data for its script and never HTML. The
content security policy of the page forbids every other script and every connection.
"""

import base64
import hashlib
import html
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, note, setting
from data import Pair, load_pairs, load_questions
from datafiles import numbered
from extras import split_arguments
from extras.plot import settings_of
from extras.results import results_file
from extras.scoring import outcome
from extras.words import has_results, model_words, result_words, settings_words
from judge_file import head_of
from progress import changes
from verdicts import BOTH_ORDERS, majority, vote_of

MAX_STEPS = 25  # of a run, unless --steps names them
PLACES = "first", "second"
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
        None, f"of a run, such as 1,50,100; default: at most {MAX_STEPS}, evenly spaced"
    )
    data: Optional[str] = setting(
        None,
        "what was judged, as --pairs of judge.py or --data of evaluate.py: adds texts and labels",
    )
    megabytes: float = setting(
        10.0, "about so much input on the page; beyond it, entries are left out evenly"
    )


# ---- from rows to cards ----
#
# A card is {id, step, facts, outcome?, texts: [[title, text]], games}.
# A game is {side, badge, outcome, reward?, facts, text, think_tokens?, logprobs?}.


def game_card(game, side, badge, outcome=None):
    """One completion.

    side: the order that it belongs to. outcome: what the filter uses; default: the badge.
    """
    facts = []
    for name, form in FACTS.items():
        if game.get(name) is not None and game[name] is not False:
            facts.append(form.format(game[name]))
    card = {
        "side": side,
        "badge": badge,
        "outcome": outcome or badge,
        "facts": ", ".join(facts),
        "text": game.get("text") or "",
    }
    for name in ("reward", "think_tokens", "logprobs"):
        if game.get(name) is not None:
            card[name] = game[name]
    return card


def verdict_badge(game, right):
    """right: the place, 1 or 2, of the better answer."""
    if game["verdict"] not in (1, 2):
        return game["verdict"] or game["status"]
    return "right" if game["verdict"] == right else "wrong"


def answer_badge(game, correct):
    """The badge of a solver's completion. correct: None where nobody checked it."""
    if correct:
        return "right"
    if game.get("finish_reason") == "length":
        return "truncated"
    if not game.get("answered", True):
        return "unanswered"
    return "unchecked" if correct is None else "wrong"


def rollout_card(rows, step):
    """The rows of one prompt in a step of training: one, or those of a pair's two orders."""
    texts, games, facts = [], [], []
    for row in rows:
        completions, right = row["completions"], row.get("right_verdict")
        side = f"better answer {PLACES[right - 1]}" if right else ""
        if right:
            badges = [verdict_badge(game, right) for game in completions]
        else:
            correct = row.get("correct") or [None] * len(completions)
            badges = [answer_badge(*known) for known in zip(completions, correct)]
        games += [game_card(game, side, badge) for game, badge in zip(completions, badges)]
        for message in row["prompt"]:
            title = message["role"] if len(rows) == 1 else f"{message['role']}, {side}"
            texts.append([title, message["content"]])
        if row.get("matches"):
            lines = [f"completion {i + 1} against {j + 1}: {s:g}" for i, j, s in row["matches"]]
            texts.append(["matches", "\n".join(lines)])
        if len(rows) == 1:
            has_reference = not right and row.get("answer") is not None
            facts.append(f"reference {row['answer']}" if has_reference else side)
    return {"id": rows[0]["id"], "step": step, "facts": facts, "texts": texts, "games": games}


def judged_card(row, match, players, better, item, answers, facts):
    """The games between two players, of a judgment or of an evaluation's match.

    better: 0, 1 or None. item and answers: what was judged, or None.
    """
    winner = majority([vote_of(game) for game in match["games"]])
    if better is not None:
        match_outcome = outcome(match, better)
    else:
        outcomes = {0: "for the first", 1: "for the second", "tie": "tie", None: "no winner"}
        match_outcome = outcomes[winner]
    games = []
    for game in match["games"]:
        vote = vote_of(game)
        if better is None and vote in (0, 1):
            badge = f"for {players[vote]}"
        else:
            badge = verdict_badge(game, game["order"].index(better or 0) + 1)
        side = f"{players[game['order'][0]]} in first place"
        games.append(game_card(game, side, badge, match_outcome))
    titles = [f"{name}, better" if i == better else name for i, name in enumerate(players)]
    words, texts = verdict_words(match, players, winner), item_texts(item, titles, answers)
    return plain_card(row, words, facts, texts, games) | {"outcome": match_outcome}


def plain_card(row, words, facts, texts, games):
    card = {"id": row.get("id", ""), "step": None, "words": words, "facts": facts}
    return card | {"texts": texts, "games": games}


def item_texts(item, titles, answers):
    """[[title, text], ...] of what was judged; [] where it is unknown."""
    if item is None:
        return []
    messages = [[message["role"], message["content"]] for message in item.messages]
    return messages + [list(answer) for answer in zip(titles, answers)]


def verdict_words(match, players, winner):
    """The verdict of a match in words: who is better, and by how many votes."""
    votes = [vote_of(game) for game in match["games"]]
    if winner == "tie":
        return f"a tie: {votes.count('tie')} of {len(votes)} votes"
    if winner is not None:
        return f"{players[winner]} is better: {votes.count(winner)} of {len(votes)} votes"
    if not any(vote is not None for vote in votes):
        return "no verdict"
    return f"no winner: {votes.count(0)} and {votes.count(1)} of {len(votes)} votes"


def prompt_cards(row, item):
    """Cards of a row of rewardbench2.py: one for each placement, one for all ratings."""
    titles = [f"answer {number}" for number in range(1, len(row["scores"]) + 1)]
    texts = item_texts(item, titles, item and item.candidates)
    for choice in row.get("choices", []):
        places = ", ".join(f"answer {index + 1}" for index in choice["order"])
        games = []
        for game in choice["games"]:
            badge = "right" if game["verdict"] == choice["right"] else "wrong"
            badge = badge if game["verdict"] else game["status"]
            games.append(game_card(game, "", badge))
        words = f"score {choice['score']:g}: {choice['right']} is right"
        facts = [row["group"], f"A to D are {places}"]
        yield plain_card(row, words, facts, texts, games)
    if row.get("ratings"):
        games = []
        for answer in row["ratings"]:
            kind = "right" if row["scores"][answer["answer"]] > 0 else "wrong"
            for game in answer["games"]:
                badge = f"rated {game['verdict']}" if game["verdict"] else game["status"]
                side = f"answer {answer['answer'] + 1}, {kind}"
                games.append(game_card(game, side, badge))
        rated = ", ".join(f"{value:g}" for value in row["values"])
        yield plain_card(row, f"ratings {rated}", [row["group"]], texts, games)


def match_cards(row, item):
    """Cards of a row of evaluate.py, one for each match."""
    yield from prompt_cards(row, item)
    for match in row["matches"]:
        scores = [row["scores"][player] for player in match["pair"]]
        players = [f"answer {player + 1}" for player in match["pair"]]
        better = None if scores[0] == scores[1] else scores.index(max(scores))
        answers = item and [item.candidates[player] for player in match["pair"]]
        facts = [row["group"], f"scores {scores[0]:g} and {scores[1]:g}"]
        yield judged_card(row, match, players, better, item, answers, facts)


def judgment_card(row, item):
    """The card of a row of judge.py, or of an evaluation in training, which has the texts too."""
    if "answers" in row:
        item = Pair(row["id"], row["messages"], row["answers"], row["label"])
    better = item.label if item and item.label in (0, 1) else None
    agreement = {True: "orders agree", False: "orders disagree", None: "one order"}
    facts = [f"{row['p_first']:.2f} for a", agreement[row["consistent"]]]
    players = ["answer a", "answer b"]
    return judged_card(row, row, players, better, item, item and item.answers, facts)


def as_rollout(row, item):
    """A solver's held-out answer as a rollout of one completion; rollouts as they are."""
    if "completions" in row:
        return row
    known = {"prompt": item.messages, "answer": item.answer} if item else {"prompt": []}
    return known | {"id": row["id"], "completions": [row], "correct": [row["correct"]]}


def cards_of(placed, step, judged):
    """Cards of [(place, row), ...], whatever command wrote them; judged: {id: Pair or Question}.

    A run that trains on both orders of a pair, one after the other, gets one card for them.
    Raises BadInput.
    """
    for _, group in groupby(placed, key=lambda entry: entry[1].get("id", entry[0])):
        places, rows = zip(*group)
        try:
            orders = sorted(row.get("order", []) for row in rows)
            for members in [rows] if orders == list(BOTH_ORDERS) else [[row] for row in rows]:
                row, item = members[0], judged.get(members[0].get("id"))
                if "scores" in row:
                    yield from match_cards(row, item)
                elif "games" in row:
                    yield judgment_card(row, item)
                else:
                    yield rollout_card([as_rollout(member, item) for member in members], step)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise BadInput(
                f"{places[0]}: is no rollout, judgment or evaluation: a ranking, a cache and a "
                "table hold no texts of a judge. Give the folder of a run, the --out of judge.py "
                "(not its csv) or a results.json"
            ) from error


# ---- from files to a page ----


def files_of(source, steps):
    """([(step or None, path), ...], what was left out) of a run's folder or a file.

    Raises BadInput.
    """
    if not source.is_dir():
        if steps is not None:
            raise BadInput(
                f"--steps: is for the folder of a run, and {source} is none: leave it out"
            )
        return [(None, source)], []
    files = {}
    for path in (source / "rollouts").glob("*.jsonl"):
        if path.stem.isdecimal():
            files[int(path.stem)] = path
    if not files:
        raise BadInput(
            f"RUN_OR_FILE: {source} has no rollouts/STEP.jsonl: give the folder of a GRPO run, or "
            "a file of judgments"
        )
    chosen = sorted(files)
    if steps is not None:
        for word in steps.split(","):
            if not word.strip().isdecimal() or int(word) not in files:
                raise BadInput(
                    f"--steps: {word!r} is no step of {source}: give numbers from {chosen[0]} to "
                    f"{chosen[-1]}, joined by commas"
                )
        chosen = sorted({int(word) for word in steps.split(",")})
    elif len(chosen) > MAX_STEPS:  # the first and the last are among them
        last = len(chosen) - 1
        chosen = [chosen[index * last // (MAX_STEPS - 1)] for index in range(MAX_STEPS)]
    left_out = []
    if len(chosen) < len(files):
        left_out.append(f"{len(chosen)} of {len(files)} steps (--steps)")
    return [(step, files[step]) for step in chosen], left_out


def rows_of(path):
    """[(place, row), ...] of JSON lines, or of one JSON object that may have them as `rows`."""
    if path.suffix.lower() == ".csv":
        raise BadInput(f"RUN_OR_FILE: {path} is a spreadsheet: open it as one, or give JSON lines")
    if path.suffix != ".json":
        rows = list(cli.read_json_lines(path, "RUN_OR_FILE"))
        if rows and rows[0][1].keys() == {"settings", "data"}:  # of an evaluation under way
            rows = rows[1:]
        return [(f"{path} line {line}", row) for line, row in rows]
    content = cli.parse_json(cli.read_text(path, "RUN_OR_FILE"), path)
    rows = content.get("rows", [content])
    if not isinstance(rows, list):
        raise BadInput(
            f"{path}: rows is {rows!r:.80}, expected a list: give what evaluate.py wrote"
        )
    return [(f"{path} {place}", row) for place, row in numbered(rows, path)]


def load_judged(data, rows):
    """{id: Question} for rows of evaluate.py and of a solver's evaluation, else {id: Pair}.

    Raises BadInput where a row was judged on other texts than `data` has under its id.
    """
    if not data:
        return {}
    if rows and {"scores", "correct"} & rows[0][1].keys():
        items = load_questions(data)
    else:
        items = load_pairs(data, keep_ties=True)
    judged, missing = {item.id: item for item in items}, []
    for place, row in rows:
        item = judged.get(str(row.get("id")))
        if item is None:
            missing.append(place)
        elif not has_texts_of(row, item):
            raise BadInput(
                f"{place}: --data has other texts under the id {item.id!r}, another order or other "
                "scores: give the file that was judged"
            )
    if missing:
        note(f"{len(missing)} of {len(rows)} rows have no texts in {data}, first {missing[0]}")
    return judged


def has_texts_of(row, item):
    """Whether a row was judged on the texts of an item: it keeps a hash, or lengths and scores."""
    if isinstance(item, Pair):
        own = head_of(item)["pair"]
        return row.get("pair", own) == own
    if "lengths" not in row:  # of a solver's evaluation
        return True
    lengths = [len(answer) for answer in item.candidates or []]
    return row["lengths"] == lengths and item.scores in (None, row["scores"])


def make_page(source, steps=None, data=None, megabytes=10.0):
    """The HTML text of a run's folder or of a file. data: names what was judged.

    Raises BadInput.
    """
    source = Path(results_file(source))
    if data and source.is_dir():
        raise BadInput(
            f"--data: is for a file: the rollouts of {source} have their texts: leave it out"
        )
    files, left_out = files_of(source, steps)
    size = sum(path.stat().st_size for _, path in files if path.exists())
    kept_share = min(1.0, megabytes * 1e6 / max(1, size))
    cards, found, judged = [], 0, None
    for step, path in files:
        rows = rows_of(path)
        if judged is None:
            judged = load_judged(data, rows)
        own = list(cards_of(rows, step, judged))
        count = min(len(own), max(1, round(len(own) * kept_share)))
        cards += [own[index * len(own) // count] for index in range(count)]
        found += len(own)
    if not cards:
        raise BadInput(f"RUN_OR_FILE: {source} holds no rows: give another file")
    if len(cards) < found:
        left_out.append(f"{len(cards):,} of {found:,} entries (--megabytes)")
    if not data and not any(card["texts"] for card in cards):
        note("the page has no questions and answers: --data FILE adds them")
    summary = summary_of(source, rows, cards)
    content = {"left_out": ", ".join(left_out), "summary": summary, "cards": cards}
    return fill_page(str(source), json.dumps(content, ensure_ascii=False, allow_nan=False))


def summary_of(source, rows, cards):
    """Lines for the top of the page: the result, the model and the settings.

    rows: those of the file; the first one has the settings of judge.py.
    """
    if source.is_dir():
        metrics, lines = source / "metrics.jsonl", []
        if metrics.exists():
            rows = [row for _, row in cli.read_json_lines(metrics, "RUN_OR_FILE")]
            lines.append(changes(rows, "eval/") or changes(rows))
        settings = settings_of(source)
        if settings:
            lines.append(f"{model_words(settings)}, {settings_words(settings)}")
        return [line for line in lines if line]
    if source.suffix == ".json":
        content = cli.parse_json(cli.read_text(source, "RUN_OR_FILE"), source)
        if has_results(content):
            result, settings = content["results"], content["settings"]
            title = f"{result['benchmark']}: {model_words(settings)}, {result_words(result)}"
            return [title, settings_words(settings)]
    counts = Counter(card["words"].split(":")[0] for card in cards if card.get("words"))
    lines = [", ".join(f"{count} x {words}" for words, count in counts.most_common(6))]
    outcomes = Counter(card.get("outcome") for card in cards)
    if outcomes["right"] + outcomes["wrong"]:
        lines[0] = f"right: {outcomes['right']} of {len(cards)}; {lines[0]}"
    settings = rows[0][1].get("settings")
    if isinstance(settings, dict) and settings:
        lines.append(f"{model_words(settings)}, {settings_words(settings)}")
    return lines


def fill_page(title, content):
    """view.html with its title, its data and the hash of its script."""
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    script = re.search("<script>(.*)</script>", page, re.DOTALL)[1]
    digest = hashlib.sha256(script.encode()).digest()
    parts = {
        "TITLE": html.escape(title),
        "HASH": base64.b64encode(digest).decode(),
        # Without a < nothing can end the element of the data, or open another one in it.
        "DATA": content.replace("<", "\\u003c"),
    }
    return re.sub("@(TITLE|HASH|DATA)@", lambda match: parts[match[1]], page)


def main(argv=None):
    names, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if len(names) != 1:
        raise BadInput(
            f"RUN_OR_FILE: got {len(names)} names: give the folder of one run, or one file"
        )
    if not 0 < settings.megabytes < float("inf"):
        raise BadInput(f"--megabytes: must be above 0, got {settings.megabytes}")
    source = Path(names[0])
    path = source / "view.html" if source.is_dir() else source.with_suffix(".html")
    if settings.out:
        path = Path(settings.out)
    text = make_page(source, settings.steps, settings.data, settings.megabytes)
    try:
        # Half a character from a model becomes its JSON escape.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise BadInput(
            f"--out: cannot write {path} ({error.strerror}): give another file"
        ) from error
    print(path)


if __name__ == "__main__":
    cli.run(main)
