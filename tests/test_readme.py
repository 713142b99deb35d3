"""README.md: its links lead somewhere, its flags exist, and what it tells a reader to change can be changed and does what it says."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import elo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OF_TORCHRUN = {"nnodes", "nproc_per_node", "rdzv_backend", "rdzv_endpoint"}


def changed(tmp_path, file, beginning):
    """A module made of `file` and the README's diff that holds the line `beginning`: every line of context and every one taken out is there once."""
    text = (ROOT / file).read_text(encoding="utf-8")
    block = next(
        block for block in re.findall(r"```diff\n(.*?)```", README, re.DOTALL) if beginning in block
    )
    for hunk in re.split(r"@@.*\n", block):
        old, new = (
            "".join(line[1:] + "\n" for line in hunk.splitlines() if line[0] in kinds)
            for kinds in (" -", " +")
        )
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / f"changed_{file}"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(
        spec
    )  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def test_links_and_flags():
    pytest.importorskip("extras.bench")  # whose flags are among them
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), (
            target
        )
    sources = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py")]
    )
    for flag in set(re.findall(r"--([a-z_]+)", README)) - OF_TORCHRUN:
        assert re.search(rf"^ +{flag}: ", sources, re.MULTILINE), flag


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gspo_by_hand(tmp_path, seed):
    """GSPO, arXiv 2507.18071, eq. 5 to 7: the mean over sequences of min(s A, clip(s) A), s the geometric mean of the token ratios."""
    train_grpo, generator = (
        changed(tmp_path, "train_grpo.py", "policy_losses"),
        torch.Generator().manual_seed(seed),
    )
    lengths, advantages = (
        torch.tensor([3, 5, 2, 7]),
        torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64),
    )
    ids = torch.repeat_interleave(torch.arange(4), lengths)
    old = -torch.rand(17, dtype=torch.float64, generator=generator)
    logprobs = (
        old + 0.02 * torch.randn(17, dtype=torch.float64, generator=generator)
    ).requires_grad_()
    settings = SimpleNamespace(epsilon=3e-4, epsilon_high=4e-4, importance_cap=2.0, beta=0.0)
    weights = train_grpo.sequence_weights(lengths.double(), "grpo", 4, 17, 99)
    loss = train_grpo.grpo_loss(logprobs, old, old, None, ids, advantages, weights, settings)
    ratios = torch.stack([(logprobs[ids == i] - old[ids == i]).mean().exp() for i in range(4)])
    expected = -torch.minimum(
        ratios * advantages, ratios.clamp(1 - 3e-4, 1 + 4e-4) * advantages
    ).mean()
    ours, theirs = (
        torch.autograd.grad(value, logprobs, retain_graph=True)[0] for value in (loss, expected)
    )
    assert (
        torch.allclose(loss, expected, rtol=0, atol=1e-15)
        and torch.allclose(ours, theirs, rtol=0, atol=1e-15)
        and (ours == 0).any()
    )


def test_another_schedule(tmp_path):
    schedules = changed(tmp_path, "elo.py", "king")
    matches = schedules.run_schedule(
        6, lambda pairs: [float(i > j) for i, j in pairs], "king", games=40
    )
    ratings, crowned = (
        elo.elo(matches, 6),
        next(number for number, match in enumerate(matches) if 5 in match[:2]),
    )
    assert len(matches) == 40 and max(range(6), key=ratings.__getitem__) == 5
    assert all(match[0] == 5 for match in matches[crowned + 1 :]) and all(
        match[0] == max(before[:2]) for before, match in zip(matches, matches[1:])
    )


def test_another_reward(tmp_path):
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "verdict_reward" in block
    )
    exec(code, names := {})
    texts = ["<think>a</think>\\boxed{Assistant 1}", "\\boxed{Assistant 2}"]
    values = names["reward"](
        ["q", "q"], texts, right_verdict=[1, 1], style=["rrm", "rrm"], pair=None, order=None
    )
    assert values == [
        pytest.approx(1 - 0.001 * len(texts[0])),
        pytest.approx(-1 - 0.001 * len(texts[1])),
    ]
