"""Commands that are stopped: too little memory, full disks, kill -9, Ctrl-C, a lost process.

And model folders that do not fit.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_models import (
    COIN,
    make_model_folder,
    make_scripted_folder,
    make_tokenizer,
    random_model,
)

import cli
import distributed
import elo
import judge
import judge_file
import ranking
import sampler
import tournament
import train_grpo
import train_sft
from cli import BadInput
from distributed import Policy, Runtime
from extras import evaluate, make_data, rank_file, score, store, train_dpo
from judge import Judge
from resume import file_hash, resumable_rows
from runlog import append_rows, sole_writer

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
QUIET = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", "llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def coin(tmp_path_factory):
    return make_scripted_folder(tmp_path_factory.mktemp("model") / "coin", COIN)


def rows_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


# ---- two at once ----


def test_a_second_process_into_the_same_folder_or_file_is_refused(folder, coin, tmp_path, capsys):
    """An open file is locked, so this process may hold the lock; it ends with its holder."""
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "judged.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"id": f"p{n}", "query": f"say {n}", "a": "yes", "b": "no", "label": n % 2})
            + "\n"
            for n in range(4)
        )
    )
    common = [
        "--model",
        coin,
        "--max_completion_length",
        40,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    runs = {
        "train": (
            lambda arguments: train_grpo.main(cli.parse_settings(train_grpo.Settings, arguments)),
            [
                "--train_data",
                pairs,
                "--max_steps",
                1,
                "--prompts_per_step",
                1,
                "--num_generations",
                2,
                "--resume",
                "--output_dir",
                tmp_path / "train",
                *common,
            ],
        ),
        "evaluated": (
            evaluate.main,
            [
                "--benchmark",
                "pairs",
                "--data",
                pairs,
                "--output_dir",
                tmp_path / "evaluated",
                *common,
            ],
        ),
        "judged.jsonl": (judge.main, ["--pairs", pairs, "--out", out, *common]),
    }
    for name, (main, arguments) in runs.items():
        path = tmp_path / name
        path.touch() if path.suffix else path.mkdir()
        with (
            sole_writer(path),
            pytest.raises(BadInput, match=f"{name}: another process is writing to it"),
        ):
            main(list(map(str, arguments)))
        main(
            list(map(str, arguments))
        )  # nothing was lost, and the one that was refused has left no lock
    assert out.read_text().count("\n") == 4
    code = (
        "import sys, time\nfrom runlog import sole_writer\n"
        "with sole_writer(sys.argv[1]):\n    print(flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(BadInput, match="another process"), sole_writer(out):
            pass
        other.kill()
    with sole_writer(out):
        pass


# ---- JSON lines that a second call goes on with ----


def test_a_row_that_a_kill_cut_off_is_written_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert list(resumable_rows(path, "--out")) == []
    append_rows(path, [{"id": "é\u2028"}, {"id": 2}])
    whole = path.read_bytes()
    for cut in (b"{", b'{"id": 3', b'{"id": "\xc3'):
        path.write_bytes(whole + cut)
        rows = list(resumable_rows(path, "--out", b'{"id": '))
        assert rows == [(1, {"id": "é\u2028"}), (2, {"id": 2})] and path.read_bytes() == whole + cut
        append_rows(path, [{"id": 3}])
        assert path.read_bytes() == whole + b'{"id": 3}\n'
    path.write_bytes(b'{"i')  # the first row
    assert list(resumable_rows(path, "--out", b'{"id": ')) == []
    append_rows(path, [{"id": 1}])
    assert path.read_bytes() == b'{"id": 1}\n'


def test_a_file_of_another_kind_is_not_shortened(tmp_path):
    path = tmp_path / "thesis.tex"
    path.write_text("all of my work")
    with pytest.raises(BadInput, match=r"--out: .*thesis.tex line 1: not valid JSON"):
        list(resumable_rows(path, "--out", b'{"id": '))
    assert path.read_text() == "all of my work"
    with pytest.raises(BadInput, match="--out: .* cannot be written"):
        list(resumable_rows(tmp_path, "--out"))


# ---- what a results file rests on ----

MINE = "verdict: boxed\n=== user\n{query} 2: {answer_1} 1: {answer_2}\n"


@pytest.fixture
def judging(tmp_path):
    """{name of a result: (main, arguments)} of the commands that complete an earlier result.

    The judge is the folder `model` with the prompt `mine.txt`.
    """
    make_scripted_folder(tmp_path / "model", COIN)
    (tmp_path / "mine.txt").write_text(MINE)
    rows = [{"id": f"p{n}", "query": f"say {n}", "a": "yes", "b": "no"} for n in range(4)]
    lines = [json.dumps(row | {"label": 0}) + "\n" for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    (tmp_path / "answers.txt").write_text("one\ntwo\nthree\n")
    common = f"--model {tmp_path}/model --style {tmp_path}/mine.txt --max_completion_length 40"
    common += " --device cpu --dtype float32"
    pairs, ranked = tmp_path / "pairs.jsonl", f"--query q --candidates {tmp_path}/answers.txt"
    judged = f"--pairs {pairs} --out {tmp_path}/judged.jsonl"
    evaluated = f"--benchmark pairs --data {pairs} --output_dir {tmp_path}/evaluated"
    return {
        "judged.jsonl": (judge.main, f"{common} {judged}".split()),
        "evaluated": (evaluate.main, f"{common} {evaluated}".split()),
        "cache.jsonl": (elo.main, f"{common} {ranked} --cache {tmp_path}/cache.jsonl".split()),
    } | more_judging(tmp_path, common)


def more_judging(tmp_path, common):
    """Rankings of a file of questions, scores of single answers, answers to questions."""
    rows = [{"id": f"q{n}", "query": f"say {n}", "candidates": ["yes", "no"]} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "score.txt").write_text("scale: 1 10\n=== user\n{query} {answer} 2:\n")
    ranked = f"--candidates {tmp_path}/questions.jsonl --out {tmp_path}/ranked.jsonl"
    scored = f"{common} --data {tmp_path}/pairs.jsonl --out {tmp_path}/scores.jsonl".split()
    scored[scored.index(f"{tmp_path}/mine.txt")] = f"{tmp_path}/score.txt"
    sampled = f"sample --data {tmp_path}/questions.jsonl --out {tmp_path}/made.jsonl --chunk 1"
    sampled += f" --model {tmp_path}/model --max_completion_length 40 --num_answers 2"
    return {
        "ranked.jsonl": (elo.main, f"{common} {ranked}".split()),
        "scores.jsonl": (score.main, scored),
        "made.jsonl": (make_data.main, sampled.split()),
    }


def content_of(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file.read_bytes() for file in files]


def players_of(cache):
    return [json.loads(line)["i"] for line in cache.read_text().splitlines()]


def other_weights(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_prompt(folder):
    (folder.parent / "mine.txt").write_text(MINE.replace("2:", "Two:"))


def other_template(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("{", "{ ", 1))


@pytest.mark.parametrize(
    "change, flag",
    [(other_weights, "--model"), (other_prompt, "--style"), (other_template, "--model")],
)
def test_other_content_behind_the_same_path_does_not_get_into_a_result(
    judging, tmp_path, change, flag
):
    for main, arguments in judging.values():
        main(arguments)
    names = players_of(tmp_path / "cache.jsonl")
    # a copy with other time stamps is the same model
    subprocess.run(["cp", "-r", tmp_path / "model", tmp_path / "copy"], check=True)
    subprocess.run(["rm", "-r", tmp_path / "model"], check=True)
    (tmp_path / "copy").rename(tmp_path / "model")
    before = {name: content_of(tmp_path / name) for name in judging}
    for main, arguments in judging.values():
        main(arguments)
    assert {name: content_of(tmp_path / name) for name in judging} == before

    change(tmp_path / "model")
    for name in ("judged.jsonl", "evaluated"):
        main, arguments = judging[name]
        with pytest.raises(BadInput, match=f"^{flag}: .*{name} was made with other content .*now"):
            main(arguments)
        assert content_of(tmp_path / name) == before[name]
    main, arguments = judging["cache.jsonl"]
    main(arguments)  # the matches of the other judge stay, those of this one are added
    later = players_of(tmp_path / "cache.jsonl")
    assert later[: len(names)] == names and not set(later[len(names) :]) & set(names)


def test_files_of_older_versions_are_continued_unless_a_value_is_unknown(judging, tmp_path):
    """A flag that did not exist had its default. Of hashes and the date nobody knows."""
    path = tmp_path / "judged.jsonl"
    main, arguments = judging[path.name]
    main(arguments)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for name in ("adapter", "num_votes"):
            del row["settings"][name]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    main(arguments)
    assert len(path.read_text().splitlines()) == 4
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(BadInput, match="--num_votes: .* was made with 1, not 2"):
        main([*arguments, "--num_votes", "2"])
    for name in ("chat_date", "style_hash", "model_hash"):
        del rows[0]["settings"][name]
        path.write_text(json.dumps(rows[0]) + "\n")
        with pytest.raises(BadInput, match=f"older version wrote it and did not record {name}"):
            main(arguments)


def test_a_large_weight_file_is_hashed_by_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("resume.WHOLE_FILE", 1000)
    monkeypatch.setattr("resume.SAMPLE", 10)
    path, content = tmp_path / "weights", bytes(range(250)) * 100
    path.write_bytes(content)
    known = file_hash(path)
    for changed in (content[:-1] + b"!", b"!" + content[1:], content + b"!", content[::-1]):
        path.write_bytes(changed)
        assert file_hash(path) != known
    path.write_bytes(content)
    assert file_hash(path) == known


@pytest.mark.parametrize("name", ["ranked.jsonl", "scores.jsonl", "made.jsonl"])
def test_other_weights_complete_no_ranking_score_or_answer(judging, tmp_path, name):
    main, arguments = judging[name]
    main(arguments)
    before = content_of(tmp_path / name)
    main(arguments)
    other_weights(tmp_path / "model")
    with pytest.raises(BadInput, match="--model: .*(other content|was begun with)"):
        main(arguments)
    assert content_of(tmp_path / name) == before


@pytest.mark.parametrize("name", ["judged.jsonl", "ranked.jsonl"])
def test_a_result_that_is_shortened_while_it_is_made_ends_the_command(
    judging, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(judge_file, "CHUNK_PAIRS", 1)
    monkeypatch.setattr(rank_file, "CHUNK_MATCHES", 1)
    main, arguments = judging[name]
    judged, calls = Judge.judge, []

    def shorten_then_judge(self, *given, **options):
        calls.append(name)
        if len(calls) == 3:
            (tmp_path / name).write_text("")
        return judged(self, *given, **options)

    monkeypatch.setattr(Judge, "judge", shorten_then_judge)
    with pytest.raises(BadInput, match=f"{name}"):
        main(arguments)


def test_scores_have_one_writer(judging, tmp_path):
    main, arguments = judging["scores.jsonl"]
    (tmp_path / "scores.jsonl").touch()
    with sole_writer(tmp_path / "scores.jsonl"), pytest.raises(BadInput, match="another process"):
        main(arguments)


def test_rows_of_another_process_are_not_mixed_with_those_of_make_data(tmp_path):
    settings = store.Base(data="d", out=str(tmp_path / "out.jsonl"))
    made = store.Store("chains", settings)
    (tmp_path / "out.jsonl.partial").touch()
    with sole_writer(made.partial), pytest.raises(BadInput, match="another process"):
        made.add([{"key": "1"}])
    made.add([{"key": "1"}])
    made.partial.unlink()
    with pytest.raises(BadInput, match="was deleted while this command wrote"):
        made.add([{"key": "2"}])


@pytest.mark.parametrize("name", ["judged.jsonl", "evaluated", "cache.jsonl"])
def test_a_result_that_is_deleted_while_it_is_made_ends_the_command(
    judging, tmp_path, monkeypatch, name
):
    for module, size in (
        (judge_file, "CHUNK_PAIRS"),
        (evaluate, "CHUNK_ITEMS"),
        (ranking, "CHUNK_MATCHES"),
    ):
        monkeypatch.setattr(module, size, 1)
    main, arguments = judging[name]
    judged, calls = Judge.judge, []

    def delete_then_judge(self, *given, **options):
        calls.append(name)
        if len(calls) == 3:
            subprocess.run(["rm", "-r", tmp_path / name], check=True)
        return judged(self, *given, **options)

    monkeypatch.setattr(Judge, "judge", delete_then_judge)
    with pytest.raises(BadInput, match=f"{name}.*: was deleted while this command wrote to it"):
        main(arguments)
    assert not (tmp_path / name).exists()
    main(arguments)
    assert (tmp_path / name).exists()


def test_a_cache_has_one_writer(judging, tmp_path):
    main, arguments = judging["cache.jsonl"]
    (tmp_path / "cache.jsonl").touch()
    with sole_writer(tmp_path / "cache.jsonl"), pytest.raises(BadInput, match="another process"):
        main(arguments)
    main(arguments)
    with pytest.raises(BadInput, match="another process"), sole_writer(tmp_path / "cache.jsonl"):
        pass


# ---- memory and disk ----


def failure(error, capsys, **options):
    def fail():
        if isinstance(error, Exception):
            raise error
        error()

    cli.at_end.pop_all()  # what judges of other tests would tell at the end of this process
    with pytest.raises(SystemExit) as ended:
        cli.run(fail, **options)
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.count("\n") == 1 and "Traceback" not in told
    return told


def sampling_without_memory():
    model = random_model("qwen2")

    def no_memory(*_):
        raise MemoryError

    model.norm.register_forward_hook(no_memory)
    sampler.generate(model, [[1, 2]], 1, 2)


def test_too_little_memory_names_what_to_lower(capsys):
    told = failure(
        lambda: torch.empty(1 << 55), capsys, memory="lower --micro_batch_tokens"
    )  # PyTorch's own words
    assert "can't allocate memory" in told and told.endswith("lower --micro_batch_tokens\n")
    assert "--max_completion_length" in failure(MemoryError(), capsys)
    assert "20.00 MiB" in failure(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..."),
        capsys,
    )
    told = failure(sampling_without_memory, capsys)  # wherever below the sampler it happens
    assert "(while sampling, model.py line" in told
    with pytest.raises(RuntimeError, match="shapes"):  # any other keeps its traceback
        cli.run(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))


def test_the_three_training_commands_name_their_own_flags():
    for script in ("train_grpo.py", "train_sft.py", "extras/train_dpo.py"):
        advice = re.search(
            r'lambda: main\(.*\),\s*memory=((?:\s*"[^"]*")+)',
            (ROOT / script).read_text(),
        )[1]
        fields = {
            "train_grpo.py": train_grpo,
            "train_sft.py": train_sft,
            "extras/train_dpo.py": train_dpo,
        }[script].Settings.__dataclass_fields__
        assert "--micro_batch_tokens" in advice and all(
            flag in fields for flag in re.findall(r"--(\w+)", advice)
        )


def timeless(folder):
    return [
        {key: value for key, value in row.items() if "time" not in key} for row in rows_of(folder)
    ]


def test_full_disks_kills_and_interrupts_of_supervised_training(
    folder, tmp_path, monkeypatch, capsys
):
    """A run that meets all three has the metrics and weights of one that nobody disturbed."""
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    data.write_text(
        "".join(
            json.dumps({"prompt": f"say {n}", "completion": "yes" * n}) + "\n" for n in range(1, 9)
        )
    )
    flags = dict(
        model=str(folder),
        train_data=str(data),
        batch_size=2,
        max_steps=18,
        save_every=2,
        device="cpu",
        dtype="float32",
    )

    def stopped(code):  # what a run that goes on has told when it ends early
        with pytest.raises(SystemExit) as ended:
            cli.run(
                lambda: train_sft.main(
                    train_sft.Settings(**flags, output_dir=str(run), resume=True)
                )
            )
        told = capsys.readouterr().err
        assert ended.value.code == code and "Traceback" not in told
        return told.splitlines()[-1]

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (20_000, before[1])
    )  # bytes that a file may have: less than a checkpoint's weights
    try:
        told = stopped(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (
        "File too large" in told
        and "--resume" in told
        and re.search(r"\((checkpoint|distributed).py line \d+\)", told)
    )
    assert not list(run.glob("checkpoint-?"))

    command = [
        sys.executable,
        ROOT / "train_sft.py",
        *(f"--{name}={value}" for name, value in flags.items()),
        "--output_dir",
        run,
        "--resume",
    ]
    process = subprocess.Popen(
        command, env=QUIET, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.time() + 300
    while not (run / "checkpoint-6").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "save_checkpoint", lambda *_: signal.raise_signal(signal.SIGINT))
        assert stopped(130) == "interrupted"
    for path, resume in ((run, True), (tmp_path / "whole", False)):
        train_sft.main(train_sft.Settings(**flags, output_dir=str(path), resume=resume))
    assert timeless(run) == timeless(tmp_path / "whole") and len(timeless(run)) == 18
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert (run / "checkpoint-18" / name).read_bytes() == (
            tmp_path / "whole" / "checkpoint-18" / name
        ).read_bytes()


def stops(monkeypatch, owner, name, call):
    """Sends Ctrl-C into the call of this number; returns a list that grows with every call."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


def ended(main, arguments, capsys):
    """(exit code, the last line on standard error) of a command that fails."""
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: main(list(map(str, arguments))))
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return caught.value.code, told.strip().splitlines()[-1]


def test_ctrl_c_and_a_full_disk_while_evaluating(coin, tmp_path, monkeypatch, capsys):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"id": f"p{n}", "query": f"say {n}", "a": "yes", "b": "no", "label": n % 2})
            + "\n"
            for n in range(8)
        )
    )
    monkeypatch.setattr(evaluate, "CHUNK_ITEMS", 2)
    arguments = [
        "--benchmark",
        "pairs",
        "--data",
        pairs,
        "--model",
        coin,
        "--max_completion_length",
        40,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    evaluate.main(list(map(str, [*arguments, "--output_dir", tmp_path / "whole"])))
    arguments += ["--output_dir", tmp_path / "run"]
    with monkeypatch.context() as patch:
        stops(patch, evaluate, "judge_items", 3)
        assert ended(evaluate.main, arguments, capsys) == (130, "interrupted")
    rows = (tmp_path / "run" / "rows.jsonl").read_text()
    assert (
        rows.count("\n") == 5 and not (tmp_path / "run" / "results.json").exists()
    )  # a head and two chunks of two
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (len(rows.encode()) + 9, before[1])
    )  # bytes that a file may have
    try:
        code, told = ended(evaluate.main, arguments, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and "File too large" in told and "make room and call again" in told
    assert (
        (tmp_path / "run" / "rows.jsonl").read_text().startswith(rows)
    )  # what it had is still there
    chunks = stops(monkeypatch, evaluate, "judge_items", 0)
    evaluate.main(list(map(str, arguments)))
    assert len(chunks) == 2 and "4 of 8 items are judged already" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.json").read_bytes() == (
        tmp_path / "whole" / "results.json"
    ).read_bytes()


@pytest.mark.parametrize("main", [tournament.main, elo.main])
def test_ctrl_c_while_ranking(main, coin, tmp_path, monkeypatch, capsys):
    (tmp_path / "candidates.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    monkeypatch.setattr(ranking, "CHUNK_MATCHES", 1)
    arguments = [
        "--query",
        "q",
        "--candidates",
        tmp_path / "candidates.txt",
        "--model",
        coin,
        "--max_completion_length",
        40,
        "--json",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    main(list(map(str, arguments)))
    whole = json.loads(capsys.readouterr().out)
    arguments += ["--cache", tmp_path / "cache.jsonl"]
    with monkeypatch.context() as patch:
        judged = stops(patch, Judge, "judge", 3)
        assert ended(main, arguments, capsys) == (130, "interrupted") and len(judged) == 3
    assert (tmp_path / "cache.jsonl").read_text().count("\n") == 2
    judged = stops(monkeypatch, Judge, "judge", 0)
    main(list(map(str, arguments)))
    assert (
        json.loads(capsys.readouterr().out) == whole
        and len(judged) == (4 if main is tournament.main else 10) - 2
    )


def test_ctrl_c_while_a_script_imports(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import cli\ncli.run(lambda: None)\nraise KeyboardInterrupt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    done = subprocess.run(
        [sys.executable, "-c", "import cli\ncli.run(lambda: None)\nraise ValueError('x')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "ValueError: x" in done.stderr


def test_ctrl_c_is_told_once_where_answers_are_checked():
    """The terminal sends it to the whole group; a worker that compares formulas says nothing."""
    code = (
        "import time, cli\n"
        "from extras import verify\n"
        "def wait():\n"
        "    print(verify.take_worker().pid, flush=True)\n"
        "    time.sleep(60)\n"
        "cli.run(wait)"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # a shell's background jobs ignore Ctrl-C, and so would this child of one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    worker = int(command.stdout.readline())
    os.killpg(command.pid, signal.SIGINT)
    _, told = command.communicate(timeout=60)
    assert (command.returncode, told) == (130, "interrupted\n")
    cmdline, deadline = Path(f"/proc/{worker}/cmdline"), time.time() + 30
    while cmdline.exists() and cmdline.read_bytes() and time.time() < deadline:
        time.sleep(0.1)  # it reads the end of its input
    assert time.time() < deadline


LOST = """
import os, signal, sys
import cli, train_grpo
loss = train_grpo.grpo_loss
def last_words(*terms):
    if os.environ["RANK"] == "1" and os.path.exists(sys.argv[1] + "/checkpoint-1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(*terms)
train_grpo.grpo_loss = last_words
settings = train_grpo.Settings(
    output_dir=sys.argv[1], prompts_per_step=2, num_generations=4, max_completion_length=48,
    save_every=1, eval_every=0, device="cpu", dtype="float32", max_steps=9,
)
cli.run(lambda: train_grpo.main(settings))
"""


def test_a_lost_process_ends_the_other_and_one_alone_goes_on(tmp_path):
    (tmp_path / "lost.py").write_text(LOST)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tmp_path / "lost.py",
        tmp_path / "run",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=QUIET | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert done.returncode == 1 and "SIGKILL" in done.stderr, done.stderr[-2000:]
    before = [row for row in rows_of(tmp_path / "run") if row["step"] == 1]
    settings = train_grpo.Settings(
        output_dir=str(tmp_path / "run"),
        prompts_per_step=2,
        num_generations=4,
        max_completion_length=48,
        save_every=1,
        eval_every=0,
        device="cpu",
        dtype="float32",
        max_steps=2,
        resume=True,
    )
    train_grpo.main(settings)
    rows = rows_of(tmp_path / "run")
    assert (
        [row["step"] for row in rows] == [1, 2]
        and rows[:1] == before
        and (tmp_path / "run" / "checkpoint-2").exists()
    )


# ---- folders that do not fit ----


def changed_config(folder, target, **changes):
    subprocess.run(["cp", "-r", folder, target], check=True)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_weights_and_tokenizers_of_another_model_are_refused(folder, tmp_path):
    cut = changed_config(folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    qwen = changed_config(
        folder, tmp_path / "qwen", model_type="qwen3", architectures=["Qwen3ForCausalLM"]
    )
    wide = changed_config(folder, tmp_path / "wide", hidden_size=64)
    for path, words in (
        (cut, "not a complete safetensors file"),
        (qwen, "q_norm|k_norm"),
        (wide, "do not match"),
    ):
        with pytest.raises(BadInput, match=words):
            Policy(path, ALONE)
    tokenizer = make_tokenizer(["<mine>"])  # a token for which nobody has made the embedding larger
    changed_config(folder, tmp_path / "added")
    tokenizer.save_pretrained(tmp_path / "added")
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"prompt": "a", "completion": word + "b"}) + "\n" for word in ("", "<mine> ")
        )
    )
    with pytest.raises(
        BadInput,
        match=f"rows.jsonl line 2: the tokenizer makes token {len(tokenizer) - 1} "
        f".* knows {len(tokenizer) - 1}",
    ):
        train_sft.main(
            train_sft.Settings(
                model=str(tmp_path / "added"),
                train_data=str(tmp_path / "rows.jsonl"),
                output_dir=str(tmp_path / "run"),
                device="cpu",
                dtype="float32",
            )
        )


def test_a_process_of_torchrun_skips_pythons_shutdown(tmp_path):
    """A thread of gloo that frees a tensor during the shutdown would abort the process."""
    script = """
import atexit, cli
class Late:
    def __del__(self):
        print("shutdown")
late = Late()
atexit.register(print, "atexit")
cli.run(lambda: print("main"))
"""
    for variables, output in [
        ({}, "main\natexit\nshutdown\n"),
        ({"TORCHELASTIC_RUN_ID": "none"}, "main\natexit\n"),
    ]:
        command = [sys.executable, "-c", script]
        environment = os.environ | variables
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
