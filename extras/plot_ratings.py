"""A figure of ratings with their intervals, from the csv that elo.py writes.

    python elo.py --matches matches.csv --out ratings.csv
    python -m extras.plot_ratings ratings.csv                          ratings.png

A point is a rating on the scale of Elo, a line its 95 % interval, the number its rank. Players that
no chain of matches joins are in groups of their own: compare within a group only.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, setting
from extras import split_arguments
from extras.plot import COLOURS, GREY, new_figure, save_figure, style_axis
from tables import one_line, read_csv

RATINGS = "rating", "rating_low", "rating_high"
NEEDED = "rank", "player", *RATINGS, "matches", "group"
INCHES_A_PLAYER = 0.24


@dataclass
class Settings:
    out: Optional[str] = setting(None, "the figure: png, pdf or svg; default: beside the csv")


def read_ratings(path):
    """{group: [rows, the best first]} of players with a match. Raises BadInput."""
    names, lines = read_csv(path, cli.read_text(path, "RATINGS"))
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise BadInput(
            f"RATINGS: {path} has no column {missing[0]}: give the csv that elo.py --out writes"
        )
    groups = {}
    for line, row in lines:
        place = f"{path} line {line}"
        if number_in(row, "matches", place, int):
            numbers = {name: number_in(row, name, place, int) for name in ("rank", "group")}
            numbers |= {name: number_in(row, name, place, float) for name in RATINGS}
            groups.setdefault(numbers["group"], []).append(row | numbers)
    if not groups:
        raise BadInput(f"RATINGS: {path} has no player with a match: there is nothing to draw")
    for rows in groups.values():
        rows.sort(key=lambda row: -row["rating"])
    return groups


def number_in(row, name, place, kind):
    """A cell as an int or a finite float. Raises BadInput."""
    try:
        value = kind(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(
            f"{place}: {name} is {row[name]!r:.80}, expected a number: give the csv that elo.py "
            "--out writes"
        )
    return value


def plot_ratings(source, path):
    """Draws the ratings of a csv to `path`, and returns the figure. Raises BadInput."""
    groups = read_ratings(source)
    title = "; ".join(leader_words(rows) for rows in groups.values())
    lines = ["rating and 95 % interval; rank: 1 + how many intervals lie wholly above"]
    longest = max(map(len, groups.values()))
    size = 7.4, 0.9 + INCHES_A_PLAYER * longest
    figure, axes = new_figure(title, lines, [], (len(groups), 1), size)
    for axis, (number, rows) in zip(axes, groups.items()):
        name = f"Group {number}" if len(groups) > 1 else "Ratings"
        style_axis(axis, name, "Bradley-Terry on the scale of Elo, mean 1000")
        draw_group(axis, rows)
    save_figure(figure, path)
    return figure


def leader_words(rows):
    """Whose interval no other one lies above, in words."""
    leaders = [one_line(row["player"], 40) for row in rows if row["rank"] == 1]
    if len(leaders) == 1:
        return f"{leaders[0]} leads"
    return f"no clear leader: {', '.join(leaders[:4])}{' ...' if len(leaders) > 4 else ''}"


def draw_group(axis, rows):
    for place, row in enumerate(rows):
        low, middle, high = row["rating_low"], row["rating"], row["rating_high"]
        axis.plot([low, high], [place, place], color=COLOURS[0], linewidth=2, alpha=0.45)
        axis.plot(middle, place, "o", color=COLOURS[0], markersize=5)
        axis.annotate(
            str(row["rank"]),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=GREY,
        )
    place = dict(xycoords="axes fraction", xytext=(0, 4), textcoords="offset points")
    axis.annotate("rank", (1, 1), **place, fontsize=8.5, color=GREY)
    labels = [one_line(row["player"], 40) for row in rows]
    axis.set_yticks(range(len(rows)), labels, parse_math=False)
    axis.set_ylim(len(rows) - 0.5, -0.5)  # the best on top


def main(argv=None):
    sources, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if len(sources) != 1:
        raise BadInput("RATINGS: give one csv of elo.py --out")
    path = settings.out or Path(sources[0]).with_suffix(".png")
    plot_ratings(sources[0], path)
    print(path)


if __name__ == "__main__":
    cli.run(main)
