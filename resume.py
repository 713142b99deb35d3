"""What a call needs that goes on with the files of an earlier one.

Training loads this file only with --resume, or where it reads a second model. Commands that
complete a JSON-lines file use it too.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

from checkpoint import resolve_model, weight_files, with_adapter
from cli import BadInput, note, parse_json, read_text
from runlog import json_lines, sha256, write_atomically
from seeding import stable_hash
from styles import load_style

# ---- JSON lines ----


def resumable_rows(path, flag, prefix=b""):
    """Yields (line number, row) of a JSON-lines file that append_rows adds to; creates the file.

    A last line without its newline is left out if it begins with `prefix`, as the rows of the
    command do: a file of another kind is refused before append_rows could shorten it.
    Raises BadInput for a file that cannot be written and for a line that is not a JSON object.
    """
    try:
        with open(path, "a+b") as file:
            file.seek(0)
            *lines, last = file.read().split(b"\n")
    except OSError as error:
        raise BadInput(
            f"{flag}: {path} cannot be written ({error.strerror}): give another file"
        ) from error
    if not last.startswith(prefix[: len(last)]):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        yield number, parse_json(line, f"{flag}: {path} line {number}")


def check_same(before, settings, path, flag):
    """Raises BadInput where a file was made with other settings than the present ones."""
    for name, value in settings.items():
        if name not in before:
            raise BadInput(
                f"{path}: an older version wrote it and did not record {name}, which decides its "
                f"rows: give another {flag}"
            )
        if before[name] != value and name.endswith("_hash"):
            raise BadInput(
                f"--{name.removesuffix('_hash')}: {path} was made with other content under this "
                f"name ({name} {before[name]}, now {value}): use that, or another {flag}"
            )
        if before[name] != value:
            raise BadInput(
                f"--{name}: {path} was made with {before[name]!r}, not {value!r}: use that, or "
                f"another {flag}"
            )


# ---- models that a call rests on ----

WHOLE_FILE = 64 << 20  # bytes; of a larger file, samples are hashed
SAMPLE, NUM_SAMPLES = 64 << 10, 256


def model_hash(model, adapter=None):
    """A hash of weights, config, tokenizer and adapter; a copy of the folder has the same one."""
    folder = resolve_model(model)
    base, found = with_adapter(folder, adapter)
    paths = [*weight_files(base)]
    for part in {base, folder, found.folder if found else base}:
        for kind in "*.json", "*.jinja", "*.txt", "*.model", "adapter*.safetensors":
            paths += part.glob(kind)  # .txt, .model: of tokenizers (merges.txt)
    hashes = sorted({(path.name, file_hash(path)) for path in paths})
    return f"{stable_hash(hashes):016x}"


def file_hash(path):
    """SHA-256 of a file; of a large one, of its size and of samples all over it."""
    size = path.stat().st_size
    if size <= WHOLE_FILE:
        return sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for index in range(NUM_SAMPLES):
            file.seek(index * (size - SAMPLE) // (NUM_SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def model_hashes(settings):
    """{flag: hash} of the models that a training reads besides its checkpoints.

    These are the base of LoRA, an adapter that is trained further, the reference of a KL term, and
    a judge that is the reward.
    """
    hashes, judge = {}, vars(settings).get("judge_model")
    if settings.lora_rank or settings.adapter or vars(settings).get("beta"):
        hashes["model"] = model_hash(settings.model)
    if settings.adapter:
        files = resolve_model(settings.adapter, "--adapter").glob("adapter*")
        contents = sorted((path.name, file_hash(path)) for path in files)
        hashes["adapter"] = f"{stable_hash(contents):016x}"
    if judge and "@http" not in judge:  # else a server has it
        hashes["judge_model"] = model_hash(judge)
    return hashes


def style_hash(name):
    style = load_style(name)
    return f"{stable_hash(style.verdict, style.system, style.user):016x}"


# ---- a training run ----

# What a resumed run may change: it decides nothing but rounding, and where and how long to train.
MAY_CHANGE = """output_dir max_steps save_every keep report_to resume micro_batch_tokens
    gradient_checkpointing""".split()


def check_same_run(folder, settings, data):
    """Raises BadInput unless the folder's run has these settings, MAY_CHANGE aside, and data.

    data: {flag: hash}. A run of an older version has no hashes: a note says so. It was made with
    the defaults of settings that it lacks.
    """
    config = folder / "config.json"
    if not config.exists():
        if {path.name for path in folder.iterdir()} - {"config.json.partial"}:
            raise BadInput(
                f"--output_dir: {folder} holds other files and no run of this command: give the "
                "folder of a run, or a new one"
            )
        return
    earlier = parse_json(read_text(config, "--output_dir"), config)
    before = earlier.get("settings")
    if not isinstance(before, dict):
        raise BadInput(
            f"--output_dir: {config} was not written by this command: give the folder of a run, or "
            "a new one"
        )
    if before.get("train_data") is not None and before.get("eval_data") is None:
        before["eval_data"] = "none"  # of a version that held nothing out of --train_data
    if before.get("judge_base_url"):  # of a version that had a flag for it
        before["judge_model"] += "@" + before["judge_base_url"]
    if before.get("reward") == "judge" and "judge_style" in before:  # of an older version
        before["style"] = before["judge_style"]
        for name in ("style", "judge_style"):
            earlier.get("data", {}).pop(name, None)
    before = {field.name: field.default for field in dataclasses.fields(settings)} | before
    settings = vars(settings)
    for name in ("warmup_steps", "eval_temperature"):  # flags that train_grpo.py had
        if before.get(name) and name not in settings:
            note(f"{config}: --{name} {before[name]} is no longer followed: see docs/changes.md")
    # the same content may lie elsewhere
    free = [*MAY_CHANGE, *(data.keys() & earlier.get("data", {}).keys())]
    fixed = {name: value for name, value in settings.items() if name not in free}
    if settings.get("schedule", "constant") != "constant":  # it falls until the last step
        fixed["max_steps"] = settings["max_steps"]
    check_same(before, fixed, folder, "--output_dir")
    if "data" not in earlier:
        note(f"{config}: holds no hash of the data: whether it is the same is not checked")
        return
    for flag, content in earlier["data"].items():
        if data.get(flag, content) != content:
            raise BadInput(
                f"--{flag}: {folder} was trained with other content: use that, or another "
                "--output_dir"
            )


def continue_run(folder, config, step):
    """The rows of metrics.jsonl up to `step`; `config` gets what the run so far was made with, and
    its calls: when and where it was computed.

    Says what differs between now and then, and which of the run's files are damaged or missing.
    """
    path = folder / "config.json"
    before = parse_json(read_text(path, "--output_dir"), path) if path.exists() else {}
    config["calls"] = before.get("calls", []) + config["calls"]
    if step >= 0 and before:
        config["earlier"] = before.get("earlier", [])
        made_with = {name: before.get(name) for name in ("commit", "versions")}
        if made_with != {name: config[name] for name in made_with}:
            config["earlier"].append({"up_to_step": step} | made_with)
            note(f"{folder}: up to step {step} it was made with {differences(before, config)}")
    rows = cut_rows_past(folder / "metrics.jsonl", step)
    steps = [row["step"] for row in rows if row["step"] != 0]
    if steps != list(range(1, step + 1)) and step > 0:
        note(
            f"{folder / 'metrics.jsonl'}: holds {len(steps)} of the {step} steps so far: was it "
            "damaged or deleted? num_tokens goes on from its last row"
        )
    if "num_generations" in config["settings"]:  # rollouts are written whole, each step
        paths = [folder / "rollouts" / f"{number}.jsonl" for number in range(1, step + 1)]
        damaged = [path for path in paths if not ends_with_newline(path)]
        if damaged:
            note(f"{damaged[0]}: cut off or missing, {len(damaged)} such files: they stay so")
    return rows


def differences(before, now):
    """How two config.json differ, in words, as in "commit a (now b), torch 1 (now 2)"."""
    earlier = {"commit": before.get("commit")} | (before.get("versions") or {})
    later = {"commit": now["commit"]} | now["versions"]
    names = [name for name in later if earlier.get(name) != later[name]]
    return ", ".join(f"{name} {earlier.get(name)} (now {later[name]})" for name in names)


def ends_with_newline(path):
    try:
        with open(path, "rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"
    except OSError:  # missing or empty
        return False


def newest_checkpoint(folder, runtime, max_steps):
    """The newest complete checkpoint, or None; a damaged one is passed over with a note.

    Each process reads its share of a checkpoint's files, because a large one takes minutes. Raises
    BadInput where all checkpoints are damaged, where the newest has more than max_steps steps, and
    on a process that does not see the folder.
    """
    found = {}
    for path in Path(folder).glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", path.name):
            found[int(path.name.split("-")[1])] = str(path)
    (found, *_) = runtime.gather(found)
    for step in sorted(found, reverse=True):
        path = Path(found[step])
        if not path.is_dir():
            raise BadInput(
                f"--output_dir: {path} is not there on this machine: all processes need the same "
                "folder"
            )
        damage = runtime.gather(find_damage(path, runtime.rank, runtime.world_size))
        damage = next((problem for problem in damage if problem), None)
        if damage is None:
            if step > max_steps:
                raise BadInput(f"--max_steps: {path} is a later step: give {step} or more")
            return path
        note(f"{path}: damaged ({damage}): passed over")
    if found:  # starting again would overwrite what might still be saved
        raise BadInput(
            f"--resume: no checkpoint in {folder} is intact: repair one, or start in another folder"
        )
    return None


def find_damage(checkpoint, rank=0, world_size=1):
    """The name of a file that does not have its checksum, or what else is wrong; else None.

    Looks at one process's share of the files.
    """
    try:
        checksums = json.loads((checkpoint / "trainer" / "state.json").read_text())["sha256"]
        for name in sorted(checksums)[rank::world_size]:
            if sha256(checkpoint / name) != checksums[name]:
                return name
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    return None


def load_checkpoint(folder, policy, optimizer):
    """Gives the optimizer its moments back and returns state.json; any number of processes.

    The weights are not read here: they were loaded as the model itself.
    """
    import torch
    from safetensors import safe_open

    trainer = Path(folder) / "trainer"
    state = json.loads((trainer / "state.json").read_text())
    for path in sorted(trainer.glob("optimizer*.safetensors")):  # one for each writing process
        with safe_open(path, framework="pt") as moments:
            for key in moments.keys():  # noqa: SIM118  safe_open is not iterable
                moment, _, name = key.partition(".")
                master, tensor = policy.masters[name], moments.get_tensor(key)
                own = torch.zeros_like(master, requires_grad=False)
                if hasattr(master, "to_local"):  # a part of it, with FSDP
                    from sharding import own_shard

                    own.to_local().copy_(own_shard(master, tensor))
                else:
                    own.copy_(tensor)
                steps = torch.tensor(float(state["optimizer_steps"]), device=master.device)
                optimizer.state[master] |= {"step": steps, moment: own}
    return state


def cut_rows_past(path, step):
    """Drops the rows of a metrics.jsonl past `step`, which are done again. Returns the others."""
    rows = []
    for number, row in resumable_rows(path, "--output_dir"):
        if type(row.get("step")) is not int:
            raise BadInput(f"--output_dir: {path} line {number} has no step: remove the line")
        if row["step"] > step:
            break
        rows.append(row)
    write_atomically(path, json_lines(rows))
    return rows


BEST_BY = "eval/judge/accuracy", "eval/reward/oracle", "eval/reward/win_rate"


def prune(folder, keep, rows):
    """Removes the run's checkpoints except the last `keep` and the best one by evaluation."""
    steps = {row["step"] for row in rows if (folder / f"checkpoint-{row['step']}").exists()}
    scores = {}
    for row in rows:
        score = next((row[name] for name in BEST_BY if name in row), None)
        if score is not None and row["step"] in steps:
            scores[score, row["step"]] = row["step"]  # the later one of two equal ones
    best = scores[max(scores)] if scores else None
    for step in sorted(steps)[:-keep]:
        if step != best:
            path = folder / f"checkpoint-{step}"
            path.rename(path.with_name(path.name + ".partial"))
    for path in folder.glob("checkpoint-*.partial"):  # also what an earlier kill left
        shutil.rmtree(path)
