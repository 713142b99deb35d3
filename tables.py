"""Reads csv files, also those of spreadsheet programs, and prints texts in one line. No torch."""

import csv
import io
import re

from cli import BadInput


def read_csv(path, text):
    """(names of the columns, iterator of (line, {name: cell})) of a csv file.

    The first line names the columns; outer blanks are no part of a name. It also shows whether
    commas, semicolons or tabs separate the cells, and whether blanks follow them. A cell is text as
    it stands there. A row is named by its last line. Raises BadInput.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses answers above 128 KiB
    text = re.sub(r"^\s*\"?sep=.\"?\r?\n", "\n", text)  # Excel's own first line
    head = re.sub('"[^"]*"', "", text.lstrip().partition("\n")[0])
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        skipinitialspace=f"{delimiter} " in head,
        strict=True,
    )
    rows = filled_rows(reader, path)
    _, names = next(rows, (1, []))
    names = [name.strip() for name in names]
    while names and not names[-1]:  # a column without a name and without cells
        names.pop()
    return names, rows_of(rows, names, path)


def filled_rows(reader, path):
    """Yields (line, cells); rows of blank cells are passed over, as blank lines are."""
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise BadInput(
            f"{path} line {reader.line_num}: not valid csv ({error}): "
            "quote cells with commas or line breaks"
        ) from error


def rows_of(rows, names, path):
    for line, cells in rows:
        while len(cells) > len(names) and not cells[-1]:
            cells = cells[:-1]
        if len(cells) != len(names) or len(set(names)) < len(names):
            raise BadInput(
                f"{path} line {line}: does not fit line 1, which names {len(names)} columns: "
                "one cell each, no name twice"
            )
        yield line, dict(zip(names, cells))


def one_line(text, width=60):
    """A user's text on one line of at most `width` characters, without control characters.

    Terminals obey those below 32 and from 127 to 159, and the marks that turn the direction of
    writing. Halves of characters (surrogates) cannot be printed.
    """
    unsafe = "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    text = " ".join(re.sub(unsafe, " ", text).split())
    return text if len(text) <= width else text[: width - 3] + "..."
