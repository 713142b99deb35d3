"""6 and 7. GRPO on pairs with other labels, and on other pairs than those it is tested on.

python runs/miniature/other_pairs.py teachers|transfer
"""

import sys

import lab
import world
from measures import as_text, difference, estimate, judged, judged_together, read_rows, write_rows

from seeding import stable_hash

FLIPPED = 0.2  # share of wrong labels
SIZES = {  # of questions that RL does not see: digits of sums, constraints of lines
    "sums4": {"levels": (4,), "share_lines": 0},
    "sums5": {"levels": (5,), "share_lines": 0},
    "lines4": {"lines": (4,), "share_lines": 1},
}


# ---- 6: teachers ----


def worse_is_longer(row):
    return len(row["ab"[1 - row["label"]]]) > len(row["ab"[row["label"]]])


def flip(rows, candidates):
    """The rows with a fifth of all labels flipped, drawn by a hash among the candidates."""
    count = round(FLIPPED * len(rows))
    drawn = sorted(candidates, key=lambda row: stable_hash("flip", row["id"]))[:count]
    if len(drawn) < count:
        raise ValueError(f"only {len(drawn)} of {len(rows)} labels may be flipped")
    flipped = {row["id"] for row in drawn}
    return [row | {"label": row["label"] ^ (row["id"] in flipped)} for row in rows]


def teachers():
    pairs = read_rows(lab.TRAIN)
    labels = {
        "random": flip(pairs, pairs),
        "longer": flip(pairs, [row for row in pairs if worse_is_longer(row)]),
    }
    files = {
        kind: write_rows(lab.OUT / f"data/{kind}.jsonl", rows) for kind, rows in labels.items()
    }
    rows, claims = [], []
    for base in ("weak", "mixed"):
        gaps = []
        for kind, path in files.items():
            trained = lab.grpo_runs(f"teacher-{kind}-{base}", lab.FOLDERS[base], train_data=path)
            games = lab.recorded_runs(trained)
            gap = estimate(lambda value: value - (1 - FLIPPED), lab.right(games))
            gaps.append(gap)
            rows.append(
                [base, kind, lab.accuracy_text(games), as_text(gap), lab.thinks_text(games)]
            )
        gold = lab.recorded_runs(lab.default_runs(base))
        rows.append([base, "gold", lab.accuracy_text(gold), "-", lab.thinks_text(gold)])
        figure = f"judge - teacher: wrong at random {as_text(gaps[0])}, "
        figure += f"for the longer answer {as_text(gaps[1])}"
        claim = f"A judge can be better than the teacher that labelled its pairs: {base}"
        claims.append([claim, figure, judged_together(gaps)])
    columns = ["base", "wrong labels", "judge right", "judge - teacher", "thinks"]
    lab.write_result("teachers", claims, columns, rows)


# ---- 7: transfer ----


def compared(runs, kind, family=None, **options):
    """(accuracies before and after RL, gain, gain when both are made to think) on `kind`."""
    base = lab.FOLDERS["mixed"]
    before = [lab.recorded(f"base-mixed{kind}", base, **options)]
    before_think = [lab.recorded(f"base-mixed{kind}-think", base, start=lab.THINK, **options)]
    after = lab.recorded_runs(runs, kind, **options)
    after_think = lab.recorded_runs(runs, f"{kind}-think", start=lab.THINK, **options)
    gain = difference(lab.right(after, family), lab.right(before, family))
    within = difference(lab.right(after_think, family), lab.right(before_think, family))
    return [lab.accuracy_text(before, family), lab.accuracy_text(after, family)], gain, within


def transfer():
    pairs, found = read_rows(lab.TRAIN), {}
    both = lab.default_runs("mixed")
    for size, options in SIZES.items():
        harder = world.pairs(f"transfer:{size}", max(4, lab.LIMIT // 2), True, **options)
        path = write_rows(lab.OUT / f"data/{size}.jsonl", harder)
        found["both", size] = compared(both, f"-{size}", pairs=path, limit=None)
    for family, other in (("sums", "lines"), ("lines", "sums")):
        own = [row for row in pairs if row["family"] == family]
        path = write_rows(lab.OUT / f"data/only-{family}.jsonl", own)
        alone = lab.grpo_runs(f"only-{family}-mixed", lab.FOLDERS["mixed"], train_data=path)
        found[family, other] = compared(alone, "", other, pairs=lab.TEST)
    rows, gains, claims = [], [], []
    for (trained, tested), (accuracies, gain, within) in found.items():
        rows.append([trained, tested, *accuracies, as_text(gain), as_text(within)])
        gains.append(gain)
        claim = f"RL on {trained} carries to {tested}: mixed"
        claims.append([claim, as_text(gain), judged(gain)])
    above = sum(low > 0 for _, low, _ in gains)
    claim = "What RL teaches carries to harder sizes and to a family held out: mixed"
    figure = f"{above} of {len(gains)} gains above 0"
    claims.insert(0, [claim, figure, judged_together(gains)])
    columns = ["RL on", "tested on", "base", "after RL", "gain", "gain, both made to think"]
    lab.write_result("transfer", claims, columns, rows)


if __name__ == "__main__":
    commands = {"teachers": teachers, "transfer": transfer}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
