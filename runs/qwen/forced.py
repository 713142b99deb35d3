"""Gives every game of an evaluation a verdict: the likelier one where the judge wrote none.

    python runs/qwen/forced.py out/qwen/games/test-base

Reads results.json in the folder and writes forced.json beside it. `evaluate.py --force_verdict`
does this for completions that were cut off. Here it is done for unparsable ones too: a base model
that often forgets its verdict is otherwise compared by its format alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command  # noqa: E402

from extras.benchmarks import load  # noqa: E402
from extras.evaluate import Settings  # noqa: E402
from extras.forced_verdicts import read_verdicts  # noqa: E402
from extras.results import read_result  # noqa: E402
from judge import judge_of  # noqa: E402
from runlog import write_json  # noqa: E402


def main(folder):
    result = read_result(str(Path(folder) / "results.json"), "results", None)
    settings = Settings()
    vars(settings).update(result["settings"], force_verdict=True)
    items = load(settings.benchmark, settings.data, settings.limit, settings.seed)
    by_id = {item.id: item for item in items}
    missing = []
    for row in result["rows"]:
        for match in row["matches"]:
            pair = by_id[row["id"]].pair(*match["pair"])
            missing += [(pair, game) for game in match["games"] if game["verdict"] is None]
    for _, game in missing:
        game["status"] = "truncated"  # the only kind to which read_verdicts gives a verdict
    if missing:
        read_verdicts(judge_of(settings), missing, settings)
    write_json(Path(folder) / "forced.json", result)
    print(f"{folder}: {len(missing)} games had no verdict")


if __name__ == "__main__":
    command(main)
