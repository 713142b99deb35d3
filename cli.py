"""Command lines: settings from dataclasses, `@path` and `-` values, one clear line for bad input.

The settings of a command are one dataclass, and `--help` is its manual. Whatever a user can get
wrong raises `BadInput`: one line on standard error, exit code 2. This file imports no torch, so
that arguments and files are checked before the slow imports start.
"""

import argparse
import atexit
import codecs
import contextlib
import dataclasses
import json
import os
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent
at_end = contextlib.ExitStack()  # what `run` does after the command, whatever happens
# what commands a terminal, for str.translate
CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


class BadInput(Exception):
    """Wrong input of the user. The message is one line: place (file, line, field), problem, fix."""


# ---- settings ----


def setting(default, text, group=None):
    """A field of a settings dataclass: its default and the line that --help prints.

    group: the heading in --help of this setting and of those after it.
    """
    return dataclasses.field(default=default, metadata={"help": text, "group": group})


class Parser(argparse.ArgumentParser):
    def error(self, message):  # argparse itself would print its usage and exit
        if message.endswith("expected one argument"):
            message += ": a text that begins with - is written --flag=-text"
        raise BadInput(f"{message} (--help lists every flag)")

    def format_help(self):  # on one screen: no blank lines between groups, --json for --json []
        head, flags = super().format_help().replace(" []", "   ").split("options:\n")
        return head + flags.partition("\n\n")[2].replace("\n\n", "\n")  # without --help itself


def parse_settings(settings_class, argv=None, text_fields=(), description=""):
    """Reads command-line arguments into a settings dataclass. Raises BadInput; --help exits with 0.

    Dashes and underscores are alike in flags. Abbreviations and repeated flags are refused.
    text_fields: names of the fields in which `@path` and `-` are replaced by what they point to.
    description: the docstring of the command; --help begins with its first two paragraphs.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser(settings_class, description)
    flags = {f"--{field.name}" for field in dataclasses.fields(settings_class)}
    argv = [with_underscores(argument, flags) for argument in argv]
    check_repeated(argv, flags)
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        from failures import suggestion

        raise BadInput(f"unknown argument {unknown[0]!r:.200}: {suggestion(unknown[0], flags)}")
    settings = settings_class(**vars(values))
    if text_fields:
        from datafiles import read_text_fields

        read_text_fields(settings, text_fields)
    return settings


def make_parser(settings_class, description):
    parser = Parser(
        description="\n\n".join(description.split("\n\n")[:2]),
        usage=argparse.SUPPRESS,  # the description has examples
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 31),
        allow_abbrev=False,
    )
    types = typing.get_type_hints(settings_class)
    groups, group = {}, "settings"
    for field in dataclasses.fields(settings_class):
        group = field.metadata.get("group") or group
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        options = type_options(types[field.name])
        notes = [", ".join(options["choices"])] if "choices" in options else []
        if field.default not in (None, "") and field.default is not False:
            notes.append(f"default: {field.default}")
        text = field.metadata.get("help", "") + (f" ({'; '.join(notes)})" if notes else "")
        groups[group].add_argument(
            f"--{field.name}",
            default=field.default,
            help=text.replace("%", "%%"),  # argparse formats it
            **options,
        )
    return parser


def type_options(hint):
    """What argparse needs for a field of type bool, int, float, str, Literal or Optional of one."""
    if type(None) in typing.get_args(hint):  # Optional[int] is Union[int, None]
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint), "metavar": "NAME"}
    if hint is bool:  # --flag, --flag true, --flag false
        return {"type": as_bool, "nargs": "?", "const": True, "metavar": ""}
    return {"type": hint, "metavar": {int: "N", float: "X", str: "TEXT"}[hint]}


def as_bool(text):
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def with_underscores(argument, flags):
    """--num-votes=3 -> --num_votes=3; anything but a known flag stays as it is."""
    name, equals, value = argument.partition("=")
    name = name[:2] + name[2:].replace("-", "_")
    return name + equals + value if name in flags else argument


def check_repeated(argv, flags):
    names = [argument.split("=")[0] for argument in argv]
    for flag in flags:
        if names.count(flag) > 1:
            raise BadInput(f"{flag} is given {names.count(flag)} times: give it once")


# ---- files ----


def read_text(path, flag):
    """The text of a file; path 0 is standard input. Raises BadInput with the flag and the name."""
    name = "standard input" if path == 0 else path
    try:
        with open(path, "rb", closefd=path != 0) as file:
            return decode(file.read(), f"{flag}: {name}")
    except OSError as error:
        raise BadInput(f"{flag}: cannot read {name} ({error.strerror}): check the path") from error


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


def read_json_lines(path, flag="file", kind=(dict,)):
    """Yields (line number from 1, JSON value) of a JSON-lines file; blank lines are passed over.

    Lines end at "\\n" alone: `str.splitlines` would also cut inside strings, at U+2028 for one.
    """
    for number, line in enumerate(read_text(path, flag).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path} line {number}", kind)


# ---- messages and failures ----


def note(message):
    """Prints what is not a result to standard error; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(str(message).translate(CONTROL), file=sys.stderr, flush=True)


def run(main, memory="use a smaller model or lower --max_completion_length"):
    """Runs a command's main function and returns what it returns.

    Known failures become one line and an exit code: 2 for bad input, 130 for Ctrl-C, 1 for too
    little memory (`memory` says what to do), a full disk, numbers that are not finite and a closed
    pipe. Any other exception keeps its traceback and Python's exit code 1.
    """
    sys.excepthook = short_failure
    # Sums of MKL otherwise depend on the alignment of memory. MKL reads this when it is first used.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # no gaps on a GPU
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal cannot show is written as \\u2192
            stream.reconfigure(errors="backslashreplace")
    try:
        with at_end:
            result = main()
        sys.stdout.flush()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            leave_at_once()
        return result
    except BadInput as error:
        from failures import print_failure

        is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # of its machine, whose files are wrong
        print_failure(" ".join(str(error).split()), is_first)
        sys.exit(2)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    except Exception as error:
        from failures import advice_on, describe, print_failure

        advice = advice_on(error, memory)
        if advice is None:
            raise
        print_failure(describe(error) + advice)
        sys.exit(1)


def leave_at_once():
    """Ends a process of torchrun with exit code 0, without Python's own shutdown.

    Threads of gloo outlive their process group. If one of them frees a tensor during Python's
    shutdown, the process aborts.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def short_failure(kind, error, trace):
    """sys.excepthook of our commands: one line for Ctrl-C and for a package that is missing."""
    if kind is KeyboardInterrupt:
        note("interrupted")
        os._exit(130)
    if kind is not ModuleNotFoundError:
        return sys.__excepthook__(kind, error, trace)
    from failures import print_failure

    print_failure(f"{error}: pip install it, or all of requirements.txt")


main_file = Path(getattr(sys.modules["__main__"], "__file__", None) or "x").resolve()
if main_file.parent in (ROOT, ROOT / "extras"):  # a command of ours, which still imports its files
    sys.excepthook = short_failure
