"""6 and 7. GRPO on pairs with other labels, and on other pairs than those it is tested on.

    python runs/miniature/other_pairs.py teachers|transfer          (see rl.py for SEEDS, STEPS, ...)

teachers: the judges of gold labels, of labels flipped at random (20 %), and of a teacher who is right in 80 % and errs in favour of the longer
answer only. Judge minus teacher is taken on held-out pairs, where both teachers are right in 80 % by construction, as on the training pairs.
The rule: reproduced if the interval of judge minus teacher lies above 0 for both teachers, partly for one; the first base decides.

transfer: sums of four digits (the base learned from such, RL did not see them) and of five (neither did), lines with four constraints
(neither did); and RL on one family alone, tested on the other.
The rule: reproduced if the gains on all five lie above 0, partly if at least one does.
Cut with one seed: transfer from one base, 100 pairs of each harder kind.
"""

import json
import sys

import numpy as np
import rl
import world
from measure import told
from rl import OUT, ROOT, SEEDS, THINK, difference, estimate, path_of, share

from seeding import stable_hash

STARTS = ("weak", "mixed")  # of the teachers; transfer from the last
FLIPPED = 0.2
SETS = {
    "sums, 4 digits": ("sums4", dict(levels=(4,), share_lines=0)),
    "sums, 5 digits": ("sums5", dict(levels=(5,), share_lines=0)),
    "lines, 4 constraints": ("lines4", dict(lines=(4,), share_lines=1)),
}


def training_pairs():
    return [json.loads(line) for line in open(ROOT / "tiny/train.jsonl")]


def trained(arm, start, data=None):
    """{name of its games: folder} of GRPO on these pairs, one a seed; without other data the runs of experiment 1."""
    name = f"{arm}-{start}" if data else f"grpo-{start}"
    jobs = {
        f"{name}-{seed}": rl.grpo(name, rl.base(start), seed, data or ROOT / "tiny/train.jsonl")
        for seed in SEEDS
    }
    rl.run_all(jobs.values())
    return {name: folder for name, (folder, _) in jobs.items()}


def family_table(paths, family=None, value=rl.right):
    return rl.table(paths, value, keep=lambda game: family in (None, game["family"]))


# ---- 6: teachers ----


def flip(rows, may_flip):
    """The rows with a fifth of all labels flipped, drawn by a hash of the ids among those that may be."""
    candidates = sorted(
        (row for row in rows if may_flip(row)), key=lambda row: stable_hash("flip", row["id"])
    )
    flipped = {row["id"] for row in candidates[: round(FLIPPED * len(rows))]}
    if len(flipped) < round(FLIPPED * len(rows)):
        raise ValueError(f"only {len(flipped)} of {len(rows)} labels may be flipped")
    return [row | {"label": 1 - row["label"]} if row["id"] in flipped else row for row in rows]


def worse_is_longer(row):
    return len(row["ab"[1 - row["label"]]]) > len(row["ab"[row["label"]]])


def teacher_rows(start, runs, teachers):
    """(rows of the table, claims, claim of the whole) of one base. runs: {labels: {name of games: folder}}; teachers: {labels: share right}."""
    held_out = [json.loads(line) for line in (ROOT / "tiny/test.jsonl").read_text().splitlines()][
        : rl.LIMIT
    ]
    longer_wrong = {row["id"] for row in held_out if worse_is_longer(row)}
    rows, right, bias, over = [], {}, {}, {}
    for labels, names in runs.items():
        paths = [path_of(name) for name in names]
        right[labels], bias[labels] = rl.table(paths), rl.table(paths, rl.chose_longer)
        over[labels] = estimate(
            lambda value, teacher=teachers[labels]: value - teacher, right[labels]
        )
        fooled = rl.table(paths, keep=lambda game: game["id"] in longer_wrong)
        cycles = np.mean([rl.cycle_rate(path_of(f"{name}-triples")) for name in names])
        rows.append(
            [
                start,
                labels,
                f"{teachers[labels]:.3f}",
                told(rl.accuracy(right[labels])),
                told(over[labels]),
                told(rl.accuracy(bias[labels])),
                told(rl.accuracy(fooled)),
                share(rl.table(paths, rl.thinks)),
                f"{cycles:.2f}",
            ]
        )
    wrong = list(runs)[1:]
    cost, more = (
        difference(right["gold"], right["flipped at random"]),
        difference(bias["prefers longer"], bias["gold"]),
    )
    claims = [
        [
            f"Wrong labels cost accuracy: {start}, gold - flipped at random",
            told(cost),
            rl.verdict(cost),
        ],
        [
            f"A teacher's length bias is handed on: {start}",
            f"length bias, against gold labels {told(more)}",
            rl.verdict(more),
        ],
    ]
    whole = [
        f"A judge can be better than the teacher that labelled its pairs: {start}",
        "judge - teacher: " + ", ".join(f"{labels} {told(over[labels])}" for labels in wrong),
        ("not at this size", "partly", "reproduced")[sum(over[labels][1] > 0 for labels in wrong)],
    ]
    return rows, claims, whole


def teachers():
    pairs = training_pairs()
    changed = {
        "gold": pairs,
        "flipped at random": flip(pairs, lambda row: True),
        "prefers longer": flip(pairs, worse_is_longer),
    }
    right = {
        labels: float(np.mean([row["label"] == gold["label"] for row, gold in zip(rows, pairs)]))
        for labels, rows in changed.items()
    }
    arms = {labels: f"teacher-{labels.split()[-1]}" for labels in list(changed)[1:]}
    files = {
        labels: rl.write_rows(OUT / f"data/{arm}.jsonl", changed[labels])
        for labels, arm in arms.items()
    }
    rows, claims, wholes = [], [], []
    for start in STARTS:
        runs = {"gold": trained("", start)} | {
            labels: trained(arm, start, files[labels]) for labels, arm in arms.items()
        }
        folders = {name: folder for part in runs.values() for name, folder in part.items()}
        rl.play_all(
            [
                *(rl.games(name, folder) for name, folder in folders.items()),
                *rl.triple_games(folders),
            ]
        )
        rl.write_logs(folders)
        more, found, whole = teacher_rows(start, runs, right)
        rows, claims, wholes = rows + more, claims + found, wholes + [whole]
    due = np.mean([worse_is_longer(row) for row in pairs])
    notes = [
        f"The worse answer is the longer one in {due:.2f} of the training pairs; the biased teacher is wrong in {FLIPPED / due:.2f} of these and nowhere "
        "else. Length bias: share of verdicts for the longer answer less one half, which is its due here.",
        "The bases judge above a coin before RL: what is tested is whether wrong labels spoil a judge that can work the answer out.",
    ]
    columns = [
        "base",
        "labels",
        "teacher right",
        "judge right",
        "judge - teacher",
        "length bias",
        "right where the longer is worse",
        "thinks",
        "cycle rate",
    ]
    rl.write_result("teachers", wholes + claims, [["Labels", columns, rows]], notes)


# ---- 7: transfer ----


def harder_sets():
    """{what: file} of test questions of sizes that RL does not see."""
    return {
        what: rl.write_rows(
            OUT / f"data/{name}.jsonl",
            world.pairs(f"transfer:{name}", max(4, rl.LIMIT // 2), True, **options),
        )
        for what, (name, options) in SETS.items()
    }


def transfer():
    start, files, rows = STARTS[-1], harder_sets(), training_pairs()
    alone = {
        family: rl.write_rows(
            OUT / f"data/only-{family}.jsonl", [row for row in rows if row["family"] == family]
        )
        for family in ("sums", "lines")
    }
    runs = {"both": trained("", start)} | {
        family: trained(f"only-{family}", start, file) for family, file in alone.items()
    }
    folders = {f"base-{start}": rl.base(start)} | {
        name: folder for part in runs.values() for name, folder in part.items()
    }
    play = []
    for name, folder in folders.items():
        harder = (
            {f"{name}-{SETS[what][0]}": file for what, file in files.items()}
            if name in runs["both"] or name == f"base-{start}"
            else {}
        )
        for end, forced in (("", ""), ("-think", THINK)):
            play += [
                rl.games(name + end, folder, forced),
                *(rl.games(one + end, folder, forced, pairs=file) for one, file in harder.items()),
            ]
    rl.play_all([*play, *rl.triple_games(folders)])
    rl.write_logs(folders)

    def compared(data, what, ending="", family=None):
        """(row of the table, gain, gain when both are made to think): base and trained judge on one kind of pairs."""
        before, before_think = (
            family_table(path_of(f"base-{start}{ending}{end}"), family) for end in ("", "-think")
        )
        after, after_think = (
            family_table([path_of(name + ending + end) for name in runs[data]], family)
            for end in ("", "-think")
        )
        thinks = family_table([path_of(name + ending) for name in runs[data]], family, rl.thinks)
        gain, within = difference(after, before), difference(after_think, before_think)
        return (
            [
                start,
                data,
                what,
                *(told(rl.accuracy(arm)) for arm in (before, before_think, after)),
                share(thinks),
                told(gain),
                told(within),
            ],
            gain,
            within,
        )

    known = [
        compared("both", "the sizes of RL"),
        compared("sums", "sums", "", "sums"),
        compared("lines", "lines", "", "lines"),
    ]
    new = [compared("both", what, f"-{name}") for what, (name, _) in SETS.items()]
    new += [compared("sums", "lines", "", "lines"), compared("lines", "sums", "", "sums")]
    claims = [
        [
            f"RL on {row[1]} carries to {row[2]}: {start}",
            f"gain {told(gain)}; made to think {told(within)}",
            rl.verdict(gain)
            + (
                " (within the mode too)"
                if within[1] > 0
                else " (by its mode)"
                if gain[1] > 0
                else ""
            ),
        ]
        for row, gain, within in new
    ]
    shown = sum(gain[1] > 0 for _, gain, _ in new)
    word = "reproduced" if shown == len(new) else "partly" if shown else "not at this size"
    whole = [
        f"What RL teaches carries to harder sizes and to a family held out: {start}",
        f"{shown} of {len(new)} gains above 0: "
        + ", ".join(f"{row[2]} {told(gain)}" for row, gain, _ in new),
        word,
    ]
    notes = [
        "No test question is in any training set. Sums of 4 digits are in what the bases learned from; 5 digits and 4 constraints are not.",
        "A prompt rule against order and length cannot be tested at this size: this model reads no English, so a rule in its prompt is noise to it.",
    ]
    columns = [
        "base",
        "RL on",
        "tested on",
        "base",
        "base, made to think",
        "after RL",
        "thinks",
        "gain",
        "gain, both made to think",
    ]
    rl.write_result(
        "transfer",
        [whole, *claims],
        [["Kinds of pairs", columns, [row for row, *_ in known + new]]],
        notes,
    )


if __name__ == "__main__":
    commands = {"teachers": teachers, "transfer": transfer}
    if sys.argv[1:2] == [] or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
