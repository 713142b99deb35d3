"""How far a judge agrees with people, over any labelled pairs: confusion matrix, Cohen's kappa.

    agreement(rows)     # {"n": 60, "kappa": [0.93, 0.77, 0.98], "confusion": {"a": {"a": 34, ...}}}

The classes of people are a, b and tie; a judge may also say none: no verdict, or even votes.
"""

import math

from extras.scoring import add_cells, intervals, question_cells, votes_of, with_better
from verdicts import majority

GOLD = "a", "b", "tie"
SAID = *GOLD, "none"


def agreement_cells(row):
    """{(what people said, what the judge says): (count, 0)} of a row's pairs."""
    names = {0: "a", 1: "b", "tie": "tie"}
    cells = []
    for match, better in with_better(row):
        gold = names.get(better, "tie")
        cells.append({(gold, names.get(majority(votes_of(match)), "none")): (1, 0)})
    return add_cells(cells)


def mirrored(totals):
    """The cells of all pairs, and of all pairs with a and b exchanged."""
    swap = {"a": "b", "b": "a"}
    turned = {
        (swap.get(gold, gold), swap.get(said, said)): cell for (gold, said), cell in totals.items()
    }
    return add_cells([totals, turned])


def kappa(totals):
    """Cohen's kappa: (observed - chance) / (1 - chance), None where chance is 1, or without pairs.

    observed: the share of pairs on which both agree. chance: what this share would be if the judge
    kept the frequencies of its classes, but did not look. "none" agrees with nothing.
    """
    counts = {key: count for key, (count, _) in totals.items()}
    size = sum(counts.values()) or math.nan
    observed = sum(counts.get((name, name), 0) for name in GOLD) / size
    chance = 0
    for name in GOLD:
        golds = sum(count for (gold, _), count in counts.items() if gold == name)
        saids = sum(count for (_, said), count in counts.items() if said == name)
        chance += golds * saids / size**2
    return (observed - chance) / (1 - chance) if chance < 1 else None  # nan is not below 1


def agreement(rows):
    """Counts, kappa with its 95 % interval over questions, and the confusion matrix.

    Many files store the better answer first. Chance would then agree as often as the judge says
    "a", and kappa would be 0 for every judge. So kappa counts such pairs in both directions.
    """
    table = question_cells(agreement_cells, rows)
    totals = add_cells(table.values())
    both_directions = not {"a", "b"} <= {gold for gold, _ in totals}

    def numbers(cells):
        value = kappa(mirrored(cells) if both_directions else cells)
        return {"kappa": None if value is None else (1 + value) / 2}  # a share, for `intervals`

    found = intervals([table], numbers)["kappa"]
    confusion = {}
    for gold in GOLD:
        row = {said: int(totals.get((gold, said), (0, 0))[0]) for said in SAID}
        if any(row.values()):
            confusion[gold] = row
    return {
        "n": int(sum(count for count, _ in totals.values())),
        "kappa": found and [2 * value - 1 for value in found],
        "both_directions": both_directions,
        "confusion": confusion,
    }


def show_agreement(found):
    """Prints the matrix, and kappa below it."""
    print(f"{'agreement with the labels':34} {'n':>6}" + "".join(f"{said:>9}" for said in SAID))
    for gold, row in found["confusion"].items():
        label = "labelled as a tie" if gold == "tie" else f"labelled: {gold} is better"
        cells = "".join(f"{count:9}" for count in row.values())
        print(f"{label:34} {sum(row.values()):6}{cells}")
    if found["kappa"]:
        value, low, high = found["kappa"]
        rest = ", each pair in both directions" if found["both_directions"] else ""
        print(f"Cohen's kappa {value:.3f}, 95 % interval {low:.3f} to {high:.3f}{rest}")
