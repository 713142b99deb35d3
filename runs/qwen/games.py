"""Judges pairs in both orders and keeps every game; a game without a verdict also gets a forced one.

    python runs/qwen/games.py --model models/qwen2.5-coder-1.5b --adapter out/qwen/main/checkpoint-30 \\
        --pairs out/qwen/test_pairs.jsonl --out out/qwen/games-main-30.jsonl

One line a pair: {"id", "label", "games": [...]}, two games a vote. A game holds its order, its text,
its verdict (1, 2 or null) and `forced`: the verdict, or where it is missing the likelier one of
\\boxed{Assistant 1} and \\boxed{Assistant 2} after the text. Called again, it goes on where it stopped.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).parents[2]))

import cli  # noqa: E402
from cli import note, setting  # noqa: E402
from data import load_pairs  # noqa: E402
from judge import JudgeSettings, check_judge, judge_of  # noqa: E402

CHUNK = 8  # pairs judged and written together
FORCED = ("\n\n\\boxed{Assistant 1}", "\n\n\\boxed{Assistant 2}")


@dataclass
class Settings(JudgeSettings):
    pairs: Optional[str] = setting(None, "labelled pairs, in a format that data.py reads")
    out: Optional[str] = setting(None, "JSON lines, one a pair; what is there already is kept")
    limit: int = setting(10**9, "so many pairs, from the beginning of the file")


def main():
    settings = cli.parse_settings(Settings, description=__doc__.split("\n")[0])
    check_judge(settings)
    pairs = [pair for pair in load_pairs(settings.pairs) if pair.label in (0, 1)][: settings.limit]
    out = Path(settings.out)
    write_settings(out, settings)
    done = {row["id"] for _, row in cli.read_json_lines(out)} if out.exists() else set()
    todo = [pair for pair in pairs if pair.id not in done]
    note(f"{len(pairs) - len(todo)} of {len(pairs)} pairs are judged already")
    judge = judge_of(settings) if todo else None
    for start in range(0, len(todo), CHUNK):
        started, chunk = time.perf_counter(), todo[start : start + CHUNK]
        judgments = judge.judge(
            chunk,
            settings.num_votes,
            temperature=settings.temperature,
            max_completion_length=settings.max_completion_length,
        )
        with open(out, "a", encoding="utf-8") as file:
            for pair, judgment in zip(chunk, judgments):
                games = [with_forced(judge, pair, game) for game in judgment.games]
                row = {"id": pair.id, "label": int(pair.label), "games": games}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        note(f"{start + len(chunk)} of {len(todo)} pairs, {time.perf_counter() - started:.0f} s")


def write_settings(out, settings):
    """OUT.settings.json beside the games; refuses to go on with other settings."""
    place, own = out.with_name(out.name + ".settings.json"), asdict(settings) | {"limit": None}
    out.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and json.loads(place.read_text()) != own:
        raise cli.BadInput(f"--out: {out} was made with other settings ({place}): give a new name")
    place.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")


def with_forced(judge, pair, game):
    if game["verdict"] is not None:
        return game | {"forced": game["verdict"]}
    return game | {"forced": forced_verdict(judge, pair, game)}


def forced_verdict(judge, pair, game):
    """1 or 2: the likelier verdict after the game's text."""
    import torch

    from model import pack_groups, packed_attention

    tokens = lambda text: judge.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    prompt = judge.encode(pair, game["order"], 1) + tokens(game["text"])
    layout = pack_groups([(prompt, [tokens(text) for text in FORCED])], judge.model.device)
    attend = packed_attention(layout)
    with torch.inference_mode():
        logprobs, _ = judge.model(
            layout.tokens, layout.positions, attend, layout.predictors, layout.targets
        )
    sums = [logprobs[layout.sequence_ids == number].sum().item() for number in (0, 1)]
    return 1 if sums[0] >= sums[1] else 2


if __name__ == "__main__":
    cli.run(main)
