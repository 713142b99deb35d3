"""Command lines: settings from dataclasses, files of text and JSON, one clear line for bad input.

The settings of a command are one dataclass, and `--help` is its manual. Whatever a user can get
wrong raises `BadInput`: one line on standard error, exit code 2. This file imports no torch, so
that arguments and files are checked before the slow imports start.
"""

import codecs
import contextlib
import dataclasses
import json
import os
import re
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent
at_end = contextlib.ExitStack()  # what `run` does after the command, whatever happens


class BadInput(Exception):
    """Wrong input of the user. The message is one line: place (file, line, field), problem, fix."""


# ---- settings ----

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def setting(default, text, group=None, may_be_empty=False):
    """A field of a settings dataclass: its default and the line that --help prints.

    group: the heading in --help of this setting and of those after it.
    """
    metadata = {"help": text, "group": group, "may_be_empty": may_be_empty}
    return dataclasses.field(default=default, metadata=metadata)


def parse_settings(settings_class, argv=None, description=""):
    """Reads command-line arguments into a settings dataclass. Raises BadInput; --help exits with 0.

    A flag is `--name value` or `--name=value`, with dashes or underscores; `--name` alone is true.
    description: the docstring of the command; --help begins with its first two paragraphs.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    types, given = setting_types(settings_class), {}
    while arguments:
        argument = arguments.pop(0)
        if argument in ("-h", "--help"):
            from failures import manual

            print(manual(settings_class, description))
            sys.exit(0)
        flag, has_value, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in types:
            from failures import suggestion

            raise BadInput(f"unknown argument {argument!r:.200}: {suggestion(argument, types)}")
        if name in given:
            raise BadInput(f"--{name} is given 2 times: give it once")
        if not has_value:
            value = value_after(name, types[name], arguments)
        field = settings_class.__dataclass_fields__[name]
        if not value.strip() and not field.metadata.get("may_be_empty"):
            raise BadInput(f"--{name} is empty: give a value (is a variable of the shell unset?)")
        given[name] = convert(value, types[name], name)
    return settings_class(**given)


def setting_types(settings_class):
    """{name: bool, int, float, str or a Literal}; Optional[int] counts as int."""
    types = typing.get_type_hints(settings_class)
    for name, hint in types.items():
        if type(None) in typing.get_args(hint):
            types[name] = typing.get_args(hint)[0]
    return types


def value_after(name, kind, arguments):
    """Takes the value of a flag from the arguments after it."""
    if kind is bool and (not arguments or arguments[0].lower() not in BOOLEANS):
        return "true"
    if not arguments or re.fullmatch(r"--?[a-zA-Z]\S*", arguments[0]):  # looks like a flag
        raise BadInput(
            f"--{name}: expected one argument: a text that begins with - is written --flag=-text"
        )
    return arguments.pop(0)


def convert(text, kind, name):
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise BadInput(f"--{name}: {text!r:.80} is neither true nor false")
        return BOOLEANS[text.lower()]
    choices = typing.get_args(kind)
    if choices:
        if text not in choices:
            raise BadInput(f"--{name}: invalid choice {text!r:.80}: one of {', '.join(choices)}")
        return text
    try:
        return kind(text)
    except ValueError as error:
        raise BadInput(f"--{name}: invalid {kind.__name__} value {text!r:.80}") from error


# ---- files ----


def read_text(path, flag):
    """The text of a file. Raises BadInput with the flag and the path."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{flag}: cannot read {path} ({error.strerror}): check the path") from error
    return decode(content, f"{flag}: {path}")


def decode(content, place):
    """The text of bytes in UTF-8, or in UTF-16 with its byte-order mark; lines end with "\\n".

    The mark is dropped, also where it begins a later line: files were joined. Raises BadInput.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8")
        problem = "it holds a zero byte" if "\0" in text else None
    except UnicodeDecodeError as error:
        problem = f"byte {error.start}"
    if problem:
        raise BadInput(f"{place} is not UTF-8 text ({problem}): save it so, a spreadsheet as csv")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\n\ufeff", "\n").lstrip("\ufeff")


def unique_fields(pairs):
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("an object names a field twice")
    return fields


def parse_json(text, place, kind=(dict,)):
    """One JSON value of an expected kind; `place` (as `pairs.jsonl line 3`) opens the BadInput."""
    try:
        value = json.loads(text, object_pairs_hook=unique_fields)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not valid JSON ({error}): correct or remove it") from error
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "a string"}
        expected = " or ".join(names[k] for k in kind)
        raise BadInput(f"{place}: expected {expected}, got {type(value).__name__}")
    return value


def read_json_lines(path, flag="file"):
    """Yields (line number from 1, JSON object) of a JSON-lines file. Raises BadInput."""
    yield from parse_lines(read_text(path, flag), path)


def parse_lines(text, path):
    """The same for the text of a file; blank lines are passed over.

    Lines end at "\\n" alone: `str.splitlines` would also cut inside strings, at U+2028 for one.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path} line {number}")


# ---- messages and failures ----


def visible(text):
    """The text with a replacement character for each character that commands a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def note(message):
    """Prints what is not a result to standard error; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(visible(str(message)), file=sys.stderr, flush=True)


def run(main, memory="use a smaller model or lower --max_completion_length"):
    """Runs a command's main function and returns what it returns.

    A known failure becomes one line and an exit code (`failures.exit_code`); `memory` says what to
    do about too little memory. Any other exception keeps its traceback and Python's exit code 1.
    """
    # Sums of MKL otherwise depend on the alignment of memory. MKL reads this when it is first used.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # no gaps on a GPU
    if hasattr(sys.stdout, "reconfigure"):  # what the terminal cannot show is written as \u2192
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with at_end:
            result = main()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        from failures import exit_code

        code = exit_code(error, memory)
        if code is None:
            raise
        sys.exit(code)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from failures import leave_at_once

        leave_at_once()
    return result


def failed_import(kind, error, trace):
    """sys.excepthook of a command of ours that is still importing its files."""
    from failures import exit_code

    code = exit_code(error)
    if code is None:
        return sys.__excepthook__(kind, error, trace)
    os._exit(code)


main_file = Path(getattr(sys.modules["__main__"], "__file__", None) or "x").resolve()
if main_file.parent in (ROOT, ROOT / "extras"):
    sys.excepthook = failed_import
