"""Settings from dataclasses, `@path` and `-` values, and one clear line for bad input.

Every command of this project follows the same three rules, and they live here:

1. The settings of a command are one dataclass; `--help` is its manual. `transformers.HfArgumentParser` does the work.
2. A text value `@path` is read from that file and `-` from standard input (`@@x` is the literal text `@x`).
3. Whatever the user can get wrong raises `BadInput`: one line on standard error that says where and what to do, exit code 2.

This file imports no torch, so that arguments and files are checked before the slow imports start.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path


class BadInput(Exception):
    """The user's input is wrong. The message is one line: place (file, line, field), problem, what to do."""


def setting(default, text):
    """A field of a settings dataclass: its default and the line that --help prints."""
    return dataclasses.field(default=default, metadata={"help": text.replace("%", "%%")})  # argparse formats it


def parse_settings(settings_class, argv=None, text_fields=(), description=None):
    """Reads command-line arguments into `settings_class`, a dataclass whose fields carry `metadata={"help": ...}`.

    `text_fields` names the fields in which `@path` and `-` are replaced by the content they point to.
    Abbreviations, repeated flags and leftover arguments are refused. Raises BadInput; `--help` exits with 0.
    """
    from transformers import HfArgumentParser  # 1 s, and no torch behind it

    class Parser(HfArgumentParser):
        def error(self, message):  # argparse would print its usage dump first
            hint = ": a text that begins with - is written --flag=-text" if message.endswith("expected one argument") else ""
            raise BadInput(f"{message}{hint} (--help lists every flag)")

    argv = sys.argv[1:] if argv is None else argv
    flags = [argument.split("=")[0].replace("-", "_") for argument in argv if re.match(r"--[A-Za-z]", argument)]
    parser = Parser(settings_class, description=description, allow_abbrev=False)
    known = {option.replace("-", "_") for option in parser._option_string_actions}
    for flag in flags:
        if flag in known and flags.count(flag) > 1:
            raise BadInput(f"--{flag.lstrip('_')} is given {flags.count(flag)} times: give it once")
    settings, leftover = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if leftover:
        name = leftover[0].split("=")[0]
        near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
        hint = f"did you mean --{near[0].lstrip('_')}?" if near else "--help lists every flag"
        raise BadInput(f"unknown argument {leftover[0]!r:.200}: {hint}")
    reads_stdin = [name for name in text_fields if getattr(settings, name) == "-"]
    if len(reads_stdin) > 1:
        raise BadInput(f"--{reads_stdin[0]} and --{reads_stdin[1]} both read standard input: only one value can be '-'")
    for name in text_fields:
        if getattr(settings, name) is not None:
            setattr(settings, name, read_value(getattr(settings, name), f"--{name}"))
    return settings


def read_value(value, flag):
    """A literal text, or the content of the file named by `@path`, or standard input for `-`; one final newline is dropped."""
    if value.startswith("@@"):
        return value[1:]
    if value == "-":
        text, place = sys.stdin.read(), "standard input"
    elif value.startswith("@"):
        text, place = read_text(value[1:], flag), value[1:]
    else:
        return value
    if not text.strip():
        raise BadInput(f"{flag}: {place} is empty: put the text into it (an empty answer is written {flag} '')")
    return text.removesuffix("\n")


def read_text(path, flag):
    """The text of a UTF-8 file. Raises BadInput with the flag and the file's name."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{flag}: {path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"{flag}: cannot read {path} ({error.strerror}): check the path") from error


def parse_json(text, place, kind=(dict,)):
    """One JSON value of an expected kind; `place` (such as `pairs.jsonl line 3`) opens the message of BadInput."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not valid JSON ({error}): each line must be one whole JSON object") from error
    if not isinstance(value, kind):
        wanted = " or ".join({dict: "an object", list: "a list", str: "a string"}[k] for k in kind)
        raise BadInput(f"{place}: expected {wanted}, got {type(value).__name__}")
    return value


def read_json_lines(path, flag="file", kind=(dict,)):
    """Yields (line number from 1, JSON value) of a JSON-lines file; blank lines are passed over.

    Lines are cut at "\\n" alone: `str.splitlines` would also cut inside strings, at U+2028 for one.
    """
    for number, line in enumerate(read_text(path, flag).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{path} line {number}", kind)


ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


FETCHED = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m"  # what extras.fetch makes


def is_embedded(name):
    return str(name) == "tiny" or str(name).startswith("tiny-")


def resolve_model(name):
    """A model name -> its local folder: a path, an embedded model (`tiny`, the judge; `tiny-base`, what it was trained from; all in tiny/)
    or a hub name, which is downloaded once."""
    folder = Path(__file__).parent / "tiny" / (str(name)[5:] or "judge") if is_embedded(name) else Path(name)
    if folder.is_dir():
        return folder
    if folder.name in FETCHED:
        raise BadInput(f"--model: no such folder {name}: make it with python -m extras.fetch {folder.name} {name}")
    if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise BadInput(f"--model: no such folder {name}: give a Hugging Face folder or a hub name such as Qwen/Qwen3-0.6B")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:  # weights as safetensors only: pickles are not even downloaded
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadInput(f"--model: {name} is no folder here and the hub did not give it ({reason}): check the name or the network") from error


def check_model_folder(folder):
    """The config.json of a model folder as a dict, once it is known that model.py can run it and that its weights are all there."""
    folder = Path(folder)
    raw = parse_json(read_text(folder / "config.json", "--model"), folder / "config.json")
    place, kind = folder / "config.json", raw.get("model_type")
    if "settings" in raw:
        raise BadInput(f"--model: {folder} is the folder of a run: give one of its checkpoints, {folder}/checkpoint-STEP")
    kinds = dict(model_type=str, architectures=list, rope_scaling=dict, rope_parameters=dict, layer_types=list, max_position_embeddings=int)
    for field in kinds:
        if not isinstance(raw.get(field), (kinds[field], type(None))):
            raise BadInput(f"{place}: field {field!r} is {raw[field]!r:.80}: take the file from the model's page")
    if kind not in ARCHITECTURES or (raw.get("architectures") or [ARCHITECTURES[kind]])[0] != ARCHITECTURES[kind]:
        found = kind if kind not in ARCHITECTURES else raw["architectures"][0]
        raise BadInput(f"{place}: architecture {found!r} is not supported: use a Llama, Qwen2 or Qwen3 causal language model")
    rope = {"rope_type": "default"} | (raw.get("rope_scaling") or {}) | (raw.get("rope_parameters") or {})
    rope_type = rope.get("type", rope["rope_type"])
    refused = {
        f"RoPE scaling {rope_type!r}": rope_type not in ("default", "llama3"),
        "a partial rotary embedding": rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0,
        "sliding-window attention": raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or []),
        f"activation {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
        "quantised weights": bool(raw.get("quantization_config")),
    }
    for feature, present in refused.items():
        if present:
            raise BadInput(f"{place}: {feature} is not supported: use a checkpoint without it")
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if not isinstance(raw.get(field), int) or raw[field] <= 0:
            raise BadInput(f"{place}: field {field!r} must be a positive integer, found {raw.get(field)!r}: take the file from the model's page")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = parse_json(read_text(index, "--model"), index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise BadInput(f"{index}: field 'weight_map' is missing or no map to file names: download the file again")
        for shard in sorted(set(weight_map.values())):
            if not (folder / shard).exists():
                raise BadInput(f"{folder}: shard {shard} is missing, which {index.name} names: download the folder again")
    elif not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: no *.safetensors file: pickled weights (*.bin, *.pt) are not read; convert them to safetensors first")
    return raw


def check_output_dir(folder, settings, free_to_change=()):
    """Refuses a folder that holds something (without --resume), or a run made with other settings (with it)."""
    if not str(folder).strip():
        raise BadInput("--output_dir: is empty: give a folder (is a variable of the shell unset?)")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output_dir: {folder} is a file: give a folder")
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--output_dir: {parent} cannot hold a new folder: give a folder elsewhere")
    if not settings.resume and folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"--output_dir: {folder} is not empty: give another folder, or --resume to go on with the run in it")
    config = folder / "config.json"
    if settings.resume and not config.exists() and folder.is_dir() and {path.name for path in folder.iterdir()} - {"config.json.partial"}:
        raise BadInput(f"--output_dir: {folder} holds other files and no run of this command: give the folder of a run, or a new one")
    if settings.resume and config.exists():
        before = parse_json(read_text(config, "--output_dir"), config).get("settings")
        if not isinstance(before, dict):
            raise BadInput(f"--output_dir: {config} was not written by this command: give the folder of a run, or a new one")
        for name, value in dataclasses.asdict(settings).items():
            if name not in free_to_change and before.get(name, value) != value:
                raise BadInput(f"--{name}: the run in {folder} has {before[name]!r}, now it is {value!r}: use the old value or another folder")


@contextlib.contextmanager
def sole_writer(path):
    """Holds a file or folder for as long as it is written to: two runs started into one would mix their rows. Raises BadInput where another
    process holds it. The system lets go of it when a process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"{path}: another process is writing to it: let it end, or give another name") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def note(message):
    """Everything that is not a result goes to standard error; of several processes the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


def note_every(seconds):
    """A `note` for long work that no progress bar shows: it says nothing until so many seconds have gone by since its last line."""
    last = time.monotonic()

    def say(message):
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            note(message)

    return say


FAILURES = {  # while running, as Python, PyTorch, safetensors or the system name them, and what to do
    r"OutOfMemoryError|MemoryError|can't allocate memory": "{memory}",
    r"No space left|File too large|Disk quota": "make room and call again; a training goes on with --resume",
    "FloatingPointError": "",
}


def interrupted(kind, error, trace):
    """Of sys.excepthook: Ctrl-C while a script still imports."""
    if kind is not KeyboardInterrupt:
        return sys.__excepthook__(kind, error, trace)
    note("interrupted")
    os._exit(130)


def run(main, memory="use a smaller model or lower --max_completion_length"):
    """Runs a command's main function, returns what it returns, and turns its failures into one line and an exit code: 2 bad input, 1 what
    FAILURES lists (`memory`: what to do where there is too little), 130 Ctrl-C. Any other exception keeps its traceback and Python's exit code 1.
    """
    sys.excepthook = interrupted
    name = Path(sys.argv[0]).name
    try:
        result = main()
        sys.stdout.flush()
        return result
    except BadInput as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine: its files may be what is wrong
            print(f"{name}: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        found = next((cause for cause in FAILURES if re.search(cause, told)), None)
        if found is None:
            raise
        here = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve().parent == Path(__file__).resolve().parent][-1]
        told, advice = " ".join(told.split())[:500], FAILURES[found].format(memory=memory)
        print(f"{name}: {told} ({Path(here.filename).name} line {here.lineno})" + f": {advice}" * bool(advice), file=sys.stderr, flush=True)
        sys.exit(1)
