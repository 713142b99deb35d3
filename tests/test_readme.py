"""README.md and the pages: links, commands and flags exist; diffs and code blocks work."""

import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

import checkpoint
import elo
from model import Model
from rollout import MicroBatch
from sampler import generate
from styles import load_style
from verdicts import parse_verdict

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "runs" / "README.md"]
RUN_PAGES = [ROOT / "tiny" / "README.md", *sorted(ROOT.glob("runs/*/README.md"))]
TORCHRUN_FLAGS = {"nnodes", "nproc_per_node", "rdzv_backend", "rdzv_endpoint"}
OPERATORS = {"&&", "||", "|", ";", ">", "2>", "|&"}


def read(page):
    return page.read_text(encoding="utf-8")


@cache
def fenced(page):
    """[(language, code)] of the fenced code blocks of a page, and the text without them."""
    code, prose, fence = [], [], None
    for line in read(page).splitlines(keepends=True):
        if line.startswith("```") and fence is None:
            fence = line[3:].strip(), []
        elif line.startswith("```"):
            code.append((fence[0], "".join(fence[1])))
            fence = None
        else:
            (prose if fence is None else fence[1]).append(line)
    assert fence is None, f"{page.name}: a code block without an end"
    return code, "".join(prose)


def blocks(page, language):
    """The code blocks of a page in one language ("" for those without a name)."""
    return [code for name, code in fenced(page)[0] if name == language]


# ---- links ----


def anchors(page):
    """The anchors of a page's headings, as GitHub spells them."""
    titles = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("**/*.md")), ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_links(page):
    if {".venv", "out", "models"} & set(page.relative_to(ROOT).parts):
        pytest.skip("not a page of the project")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", read(page)):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


# ---- commands ----


def command_lines(page):
    """Lines of shell blocks and inline code in which a program of ours is started."""
    code = blocks(page, "") + blocks(page, "bash")
    code = [block for block in code if not block.startswith("git checkout")]  # finished studies
    shell = "\n".join(code).replace("\\\n", " ")
    inline = re.findall(r"`([^`\n]+)`", fenced(page)[1])
    lines = [line.removeprefix("$ ") for line in shell.splitlines()] + inline
    return [line for line in lines if re.search(r"(^|\s)(python|torchrun|bash) \S", line)]


def programs(line):
    """[(program, its arguments)] of a command line: X.py, "-m extras.X" or a shell script."""
    words = shlex.split(line.replace("...", ""), comments=True)
    found = []
    while words:
        end = next((i for i, word in enumerate(words) if word in OPERATORS), len(words))
        part, words = words[:end], words[end + 1 :]
        while part and part[0] not in ("python", "torchrun", "bash"):
            part = part[1:]
        start = next((i for i, word in enumerate(part) if word.endswith((".py", ".sh"))), None)
        if "-m" in part:
            start = part.index("-m") + 1
        if start is not None:
            found.append((part[start], part[start + 1 :]))
    return found


@cache
def help_of(*command):
    """What `--help` of a command prints."""
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def known_flags(program, arguments):
    """A text that names the flags of a program: its help, or the source of a script in runs/."""
    if program.startswith("extras."):
        subcommands = arguments[:1] if program == "extras.make_data" else []
        return help_of("-m", program, *subcommands)
    source = read(ROOT / program)
    if "/" not in program or "parse_settings" in source or "argparse" in source:
        return help_of(program)
    return "".join(f"--{name} " for name in re.findall(r"^ +(\w+): ", source, re.MULTILINE))


@pytest.mark.parametrize(
    "page", PAGES + RUN_PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_commands(page):
    """Every command names a file that exists, and only flags that its --help knows."""
    pytest.importorskip("extras.bench")
    for line in command_lines(page):
        for program, arguments in programs(line):
            if program in ("pip", "pytest", "http.server", "rrm"):
                continue
            if program.startswith("extras."):
                assert (ROOT / program.replace(".", "/")).with_suffix(".py").exists(), line
            elif program not in ("terse.py", "X.py"):
                assert (ROOT / program).exists(), line
            flags = [word for word in arguments if re.match(r"--[a-z]", word)]
            if not flags or program.endswith(".sh"):
                continue
            text = known_flags(program, arguments)
            for flag in flags:
                name = flag.partition("=")[0]
                assert re.search(rf"{name}\b", text), f"{name} in: {line}"


def test_flags_in_prose():
    """A flag that a page mentions outside of a command belongs to one of our commands."""
    pytest.importorskip("extras.bench")
    files = [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py"), *ROOT.glob("runs/**/*.py")]
    sources = "".join(map(read, files))
    for page in PAGES:
        if page.name == "changes.md":  # names flags that went
            continue
        for flag in set(re.findall(r"--([a-z_]+)", read(page))) - TORCHRUN_FLAGS:
            assert re.search(rf"^ +{flag}: ", sources, re.MULTILINE), f"{flag} in {page.name}"


def test_file_map():
    """The README's map names every file of the core, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", read(ROOT / "README.md"), re.MULTILINE)
    named = set(re.findall(r"`([a-z_0-9]+\.py)`", " ".join(rows)))
    assert named == {path.name for path in ROOT.glob("*.py")}


# ---- code blocks ----


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, capsys):
    """Python blocks run as they are. They print what their comments promise."""
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})
        promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == promised


def test_another_reward():
    code = next(code for code in blocks(ROOT / "README.md", "python") if "verdict_reward" in code)
    scope = {}
    exec(code, scope)
    texts = ["<think>a</think>\\boxed{Assistant 1}", "\\boxed{Assistant 2}"]
    values = scope["reward"](
        ["q", "q"], texts, right_verdict=[1, 1], style=["rrm", "rrm"], pair=None, order=None
    )
    assert values == pytest.approx([1 - 0.001 * len(texts[0]), -1 - 0.001 * len(texts[1])])


# ---- diffs ----


def diffs():
    """{(page name, number): (file, hunks)} of all diff blocks."""
    found = {}
    for page in PAGES:
        for number, block in enumerate(blocks(page, "diff")):
            head, _, rest = block.partition("\n")
            assert head.startswith("--- "), f"{page.name}: a diff begins with --- and its file"
            found[page.name, number] = head[4:].strip(), re.split(r"^@@.*\n", rest, flags=re.M)
    return found


def apply(text, hunks):
    """The text with a diff applied. The lines that a hunk replaces are there exactly once."""
    for hunk in hunks:
        if not hunk:
            continue
        lines = hunk.splitlines()
        old = "".join(line[1:] + "\n" for line in lines if line[:1] in " -")
        new = "".join(line[1:] + "\n" for line in lines if line[:1] in " +")
        assert text.count(old) == 1, f"not found once:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("key", diffs(), ids=lambda key: f"{key[0]}-{key[1]}")
def test_diffs_apply(key):
    file, hunks = diffs()[key]
    text = apply(read(ROOT / file), hunks)
    compile(text, file, "exec")
    too_long = [line for hunk in hunks for line in hunk.splitlines() if len(line) > 101]
    assert not too_long


def changed(tmp_path, beginning):
    """A module made by the diff that holds `beginning`, under a name of its own."""
    file, hunks = next(diff for diff in diffs().values() if beginning in "".join(diff[1]))
    path = tmp_path / f"changed_{file}"
    path.write_text(apply(read(ROOT / file), hunks), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def test_leave_one_out_by_hand(tmp_path):
    """RLOO, arXiv 2402.14740: the reward minus the mean reward of the other completions."""
    train_grpo = changed(tmp_path, "others")
    rewards = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    expected = torch.tensor([[2.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(train_grpo.group_advantages(rewards, "none"), expected)


def test_cispo_by_hand(tmp_path):
    """CISPO, arXiv 2506.13585, eq. 4: the gradient is that of min(ratio, cap) * A * log-prob."""
    train_grpo = changed(tmp_path, "detach")
    old = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64)
    logprobs = (old + torch.tensor([0.0, 2.0, -2.0])).requires_grad_()  # ratios 1, 7.39, 0.135
    advantages = torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64)
    train_grpo.policy_losses(logprobs, old, advantages, 0.2, 0.5).sum().backward()
    expected = torch.tensor([-1.0, -1.5, 2 * math.exp(-2)], dtype=torch.float64)
    assert torch.allclose(logprobs.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gspo_by_hand(tmp_path, seed):
    """GSPO, arXiv 2507.18071, eq. 5 to 7: the mean over sequences of min(s A, clip(s) A), where s
    is the geometric mean of the token ratios."""
    train_grpo = changed(tmp_path, "index_add")
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 5, 2, 7])
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    ids = torch.repeat_interleave(torch.arange(4), lengths)
    old = -torch.rand(17, dtype=torch.float64, generator=generator)
    noise = torch.randn(17, dtype=torch.float64, generator=generator)
    logprobs = (old + 0.02 * noise).requires_grad_()
    settings = train_grpo.Settings(epsilon=3e-4, epsilon_high=4e-4)
    pack = SimpleNamespace(sequence_ids=ids)
    batch = MicroBatch(pack, advantages, lengths.double(), old, (4, 17), old_logprobs=old)
    loss = train_grpo.grpo_loss(logprobs, batch, settings)

    ratios = torch.stack([(logprobs[ids == i] - old[ids == i]).mean().exp() for i in range(4)])
    clipped = ratios.clamp(1 - 3e-4, 1 + 4e-4)
    expected = -torch.minimum(ratios * advantages, clipped * advantages).mean()
    ours = torch.autograd.grad(loss, logprobs, retain_graph=True)[0]
    theirs = torch.autograd.grad(expected, logprobs)[0]
    assert torch.allclose(loss, expected, rtol=0, atol=1e-15)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-15)
    assert (ours == 0).any()  # some sequences are clipped


def test_changed_training(tmp_path):
    """Leave-one-out advantages, GSPO and the learning-rate schedule, all in one short run."""
    text, seen = read(ROOT / "train_grpo.py"), set()
    for file, hunks in diffs().values():
        if file == "train_grpo.py" and tuple(hunks) not in seen:  # README and page share one
            text = apply(text, hunks)
            seen.add(tuple(hunks))
    (tmp_path / "train_grpo.py").write_text(text, encoding="utf-8")
    flags = (
        "--max_steps 4 --prompts_per_step 4 --num_generations 4 --scale_rewards none "
        "--num_iterations 2 --epsilon 3e-4 --epsilon_high 4e-4 --eval_every 0"
    )
    command = [sys.executable, str(tmp_path / "train_grpo.py"), *flags.split()]
    run_folder = tmp_path / "run"
    done = subprocess.run(
        [*command, "--output_dir", str(run_folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in read(run_folder / "metrics.jsonl").splitlines()]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-5, 2e-5, 3e-5, 2.5e-5])
    assert all(row["grad_norm"] > 0 for row in rows)


def test_another_model(tmp_path, monkeypatch):
    """Mistral: greedy tokens and their log-probs equal those of transformers."""
    monkeypatch.setattr(checkpoint, "ARCHITECTURES", changed(tmp_path, "mistral").ARCHITECTURES)
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
    )
    theirs = transformers.MistralForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "mistral")
    model = Model.from_pretrained(tmp_path / "mistral", dtype=torch.float32)
    prompt = list(range(3, 12))
    completion = generate(model, [prompt], max_new_tokens=10, temperature=0)[0][0]
    tokens = torch.tensor([prompt + completion.tokens])
    with torch.no_grad():
        logprobs = theirs(tokens).logits.log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
    assert logprobs.argmax(dim=-1).tolist() == completion.tokens
    expected = logprobs.max(dim=-1).values
    assert torch.allclose(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-5)


def test_another_prompt(tmp_path):
    """A copy of prompts/rrm.txt with other words is a style that finds the same verdicts."""
    text = read(ROOT / "prompts" / "rrm.txt").replace("step by step", "in three sentences")
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    style = load_style(str(tmp_path / "mine.txt"))
    assert "in three sentences" in style.user
    assert parse_verdict("<think>a</think>\\boxed{Assistant 2}", style) == 2


def test_another_schedule(tmp_path):
    """king: the winner of a match plays the next one."""
    schedules = changed(tmp_path, "king")
    matches = schedules.run_schedule(
        6, lambda pairs: [float(i > j) for i, j in pairs], "king", games=40
    )
    ratings = elo.elo(matches, 6)
    crowned = next(number for number, match in enumerate(matches) if 5 in match[:2])
    assert len(matches) == 40 and max(range(6), key=ratings.__getitem__) == 5
    assert all(match[0] == 5 for match in matches[crowned + 1 :])
    assert all(match[0] == max(before[:2]) for before, match in zip(matches, matches[1:]))
