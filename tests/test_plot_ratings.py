"""The figure of ratings: what it draws, and files that it cannot draw."""

import pytest

import elo
from cli import BadInput
from extras import plot_ratings

MATCHES = "left,right,winner\n" + 9 * "b,a,left\n" + "a,b,left\nq,p,left\np,q,left\n"


@pytest.fixture
def ratings(tmp_path, capsys):
    (tmp_path / "matches.csv").write_text(MATCHES)
    path = tmp_path / "ratings.csv"
    elo.main(["--matches", str(tmp_path / "matches.csv"), "--out", str(path)])
    capsys.readouterr()
    return path


def test_points_are_ratings_and_lines_their_intervals(ratings, capsys):
    pytest.importorskip("matplotlib")
    groups = plot_ratings.read_ratings(ratings)
    assert [[row["player"] for row in rows] for rows in groups.values()] == [["b", "a"], ["q", "p"]]
    plot_ratings.main([str(ratings)])
    assert capsys.readouterr().out == f"{ratings.with_suffix('.png')}\n"
    figure = plot_ratings.plot_ratings(ratings, ratings.with_suffix(".svg"))
    first, second = figure.axes
    interval, point, *_ = first.lines
    low, middle, high = (float(groups[1][0][f"rating{end}"]) for end in ("_low", "", "_high"))
    assert list(interval.get_xdata()) == [low, high] and list(point.get_xdata()) == [middle]
    assert [label.get_text() for label in first.get_yticklabels()] == ["b", "a"]
    assert [text.get_text() for text in second.texts[1:]] == ["1", "1", "rank"]  # after the unit
    assert figure.texts[0].get_text() == "b leads; no clear leader: q, p"


def test_a_high_figure_with_long_names(ratings):
    """The title ends within the figure, and a panel's heading stands above its unit."""
    pytest.importorskip("matplotlib")
    header, *_ = ratings.read_text(encoding="utf-8-sig").splitlines()
    values = dict.fromkeys(header.split(","), "1")
    rows = [values | {"player": f"PLATYPUS-2 Instruct ({n}0B)"} for n in range(60)]
    lines = [header, *(",".join(row.values()) for row in rows)]
    ratings.write_text("\n".join(lines) + "\n")
    figure = plot_ratings.plot_ratings(ratings, ratings.with_suffix(".png"))
    figure.draw_without_rendering()
    title, (axis,) = figure.texts[0], figure.axes
    assert title.get_window_extent().x1 <= figure.bbox.x1
    heading = axis._left_title.get_window_extent()
    assert heading.y0 >= axis.texts[0].get_window_extent().y1


def test_names_of_any_kind_and_cells_that_are_no_numbers(ratings, tmp_path):
    long, odd = "x" * 140_000, "two\u2028lines\nand a third"
    (tmp_path / "matches.csv").write_text(f'left,right,winner\n"{long}","{odd}",left\n')
    elo.main(["--matches", str(tmp_path / "matches.csv"), "--out", str(tmp_path / "odd.csv")])
    rows = plot_ratings.read_ratings(tmp_path / "odd.csv")[1]
    assert [row["player"] for row in rows] == [long, odd]
    header = "rank,player,rating,rating_low,rating_high,matches,group"
    for line, problem in (
        ("1,a,1000,900,1100,,1", "line 2: matches is '', expected a number"),
        ("1,a,x,900,1100,3,1", "line 2: rating is 'x', expected a number"),
        ("1,a,1000,nan,1100,3,1", "line 2: rating_low is 'nan', expected a number"),
        ("1,a,1000", "line 2: does not fit line 1"),
    ):
        (tmp_path / "bad.csv").write_text(f"{header}\n{line}\n")
        with pytest.raises(BadInput, match=problem):
            plot_ratings.read_ratings(tmp_path / "bad.csv")


def test_files_without_ratings(ratings, tmp_path):
    for source in ([], [str(ratings), str(ratings)]):
        with pytest.raises(BadInput, match="give one csv of elo.py"):
            plot_ratings.main(source)
    with pytest.raises(BadInput, match="has no column rank"):
        plot_ratings.main([str(tmp_path / "matches.csv")])
    lines = ratings.read_text(encoding="utf-8").splitlines()
    (tmp_path / "none.csv").write_text(lines[0] + "\n")
    with pytest.raises(BadInput, match="no player with a match"):
        plot_ratings.main([str(tmp_path / "none.csv")])
