"""Files, folders and hub datasets -> rows, each with its place in the file.

Read are .jsonl, .json, .csv, .tsv (each also .gz) and .parquet; a folder with a file for each
split; and datasets of the Hugging Face hub, `owner/name[/data_dir][:config][@split]`. Commas join
several.
"""

import gzip
import os
import re
import sys
import zlib
from pathlib import Path

from cli import BadInput, decode, parse_json, parse_lines, read_text
from formats import find_format
from tables import read_csv

ENDING = re.compile(r"(\.jsonl|\.json|\.csv|\.tsv|\.parquet)(\.gz)?$", re.IGNORECASE)


def file_rows(path):
    """Yields (`line N` or `row N`, row) of one file, counted from 1. Raises BadInput."""
    kind, zipped = ENDING.search(path.name.lower()).groups()
    try:
        if kind == ".parquet":
            yield from numbered(parquet_rows(path), path)
            return
        content = path.read_bytes()
        if zipped:
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file: check the path") from error
    # what damaged files raise; pyarrow's errors are ValueErrors
    except (OSError, EOFError, ValueError, NotImplementedError, ImportError, zlib.error) as error:
        raise BadInput(
            f"{path}: cannot be read ({str(error)!r:.300}): check the path, fetch it again, or "
            "pip install pyarrow (for parquet)"
        ) from error
    text = decode(content, path)
    if kind == ".json":
        yield from json_rows(path, text)
    elif kind == ".jsonl":
        yield from line_rows(parse_lines(text, path))
    else:
        yield from line_rows(read_csv(path, text)[1])


def line_rows(rows):
    return ((f"line {number}", row) for number, row in rows)


def numbered(rows, path):
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadInput(f"{path} row {number}: expected an object, got {row!r:.80}: correct it")
        yield f"row {number}", row


def parquet_rows(path):
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
        yield from batch.to_pylist()


def json_rows(path, text):
    """A list of rows, an object with "data" or with one list, a single row, or one row a line."""
    try:
        value = parse_json(text, path, (dict, list))
    except BadInput as error:
        if "(Extra data" in str(error):
            return line_rows(parse_lines(text, path))
        raise
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        if find_format(value):
            value = [value]
        elif "data" in value:
            value = value["data"]
        elif len(lists) == 1:
            value = lists[0]
    if not isinstance(value, list):
        raise BadInput(
            f'{path}: expected a list of rows, or an object with one list such as "data", '
            f"got {value!r:.80}: correct the file"
        )
    return numbered(value, path)


def hub_rows(name, split):
    path, _, own_split = name.partition("@")
    path, _, config = path.partition(":")
    parts = path.split("/")  # owner/name/data_dir
    try:
        import datasets

        rows = datasets.load_dataset(
            "/".join(parts[:2]),
            config or None,
            data_dir="/".join(parts[2:]) or None,
            split=own_split or split,
        )
    except Exception as error:  # the package is missing, or whatever hub and network raise
        raise BadInput(
            f"{name}: no such file, folder or hub dataset ({str(error)!r:.300}): "
            "check it, or pip install datasets"
        ) from error
    return numbered(rows, name)


def files_of_split(folder, split):
    """The file of a split in a folder or in its data/, or its shards (train-00000-of-00002...)."""
    files = [*folder.glob("*"), *folder.glob("data/*")]
    files = sorted(file for file in files if ENDING.search(file.name))
    for end in (".", "-", "_"):
        named = [file for file in files if file.name.startswith(split + end)]
        if named:
            files = named
            break
    if len({re.sub(r"-\d+-of-\d+\..*", "", file.name) for file in files}) != 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files) or "no data file"
        raise BadInput(
            f"{folder}: which file holds the split {split}? The folder has {names}: name one file"
        )
    return files


def sources(name_or_path, split):
    """Yields (name for messages, source, rows) of each file or hub dataset."""
    names = [str(name_or_path)]
    if not os.path.exists(name_or_path):
        names = [name.strip() for name in names[0].split(",")]
    files_of_names = [files_named(name, split) for name in names]
    source_of = source_names({file for files in files_of_names for file in files})
    for name, files in zip(names, files_of_names):
        if not files:
            yield name, name, hub_rows(name, split)
        for file in files:
            yield str(file), source_of[file], file_rows(file)


def files_named(name, split):
    """The files that one of the names stands for; none for a hub dataset."""
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return files_of_split(path, split)
    if ENDING.search(name):
        return [path]
    if os.path.exists(path) or not re.match(r"\w", name):
        raise BadInput(
            f"{name}: no such file, or of unknown ending: give a .jsonl, .json, .csv, .tsv (each "
            "also .gz) or .parquet; save a spreadsheet as csv"
        )
    return []


def source_names(files):
    """{file: the name of its set}: the file's name, with folders in front where sets share it.

    The shards of one set (train-00000-of-00002) share their name. LLMBar calls every file dataset,
    so that name always has its folder in front.
    """
    paths = {}
    for file in files:
        stem = ENDING.sub("", str(file.absolute()))
        paths[file] = Path(re.sub(r"-\d+-of-\d+$", "", stem))
    found = {}
    for file, path in paths.items():
        depth = 2 if path.name == "dataset" else 1
        others = [other for other in paths.values() if other != path]
        while any(other.parts[-depth:] == path.parts[-depth:] for other in others):
            depth += 1
        found[file] = "/".join(path.parts[-depth:])
    return found


# ---- values of flags ----


def read_text_fields(settings, names):
    """Replaces `@path` and `-` in these fields by the text that they point to."""
    from_stdin = [name for name in names if getattr(settings, name) == "-"]
    if len(from_stdin) > 1:
        raise BadInput(f"--{from_stdin[0]} and --{from_stdin[1]} cannot both be standard input")
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            setattr(settings, name, read_value(value.lstrip("\ufeff"), f"--{name}"))


def read_value(value, flag):
    """`@path`: the text of that file; `-`: standard input; `@@x`: the text `@x`.

    One final newline is dropped.
    """
    if value.startswith("@@"):
        return value[1:]
    if value == "-":
        place = "standard input"
        text = decode(sys.stdin.buffer.read(), f"{flag}: {place}")
    elif value.startswith("@"):
        text, place = read_text(value[1:], flag), value[1:]
    else:
        return value
    if not text.strip():
        raise BadInput(f"{flag}: {place} is empty (an empty answer is written {flag} '')")
    return text.removesuffix("\n")
