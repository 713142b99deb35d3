"""docs/integrations.md: its pieces run with the programs that they are for, where installed."""

import asyncio
import importlib.util
import inspect
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from extras import serve_judge, serve_reward
from judge import Judge

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")


def piece(heading):
    """The Python code under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    return code


@pytest.fixture(scope="module")
def tiny():
    return Judge("tiny")


@pytest.fixture()
def serve(start, tiny):
    """serve(**settings) -> port of a server with all routes."""
    fixed = {"port": 0, "max_completion_length": 96}

    def begin(**settings):
        return start(serve_judge.make_server(tiny, serve_reward.Settings(**fixed | settings)))

    return begin


def test_pieces_are_short():
    for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE):
        section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        for code in re.findall(r"```py\n(.*?)```", section, re.DOTALL):
            assert len([line for line in code.splitlines() if line.strip()]) <= 10
            compile(code, heading, "exec")


def test_trl(tmp_path):
    pytest.importorskip("trl")
    code = piece("TRL").replace("out/trl", str(tmp_path)).replace("tiny/", f"{ROOT}/tiny/")
    code = code.replace("use_cpu=True", "use_cpu=True, bf16=False, max_completion_length=64")
    scope = {}
    exec(code.replace('GRPOTrainer("', 'trainer = GRPOTrainer("').replace(").train()", ")"), scope)
    scope["trainer"].train()
    history = scope["trainer"].state.log_history[-1]
    assert scope["trainer"].state.global_step == 2
    log = str(scope["trainer"].state.log_history)
    assert "judge_reward" in log and history


def test_openrlhf(serve, monkeypatch):
    """Four completions of a prompt, sent one by one by OpenRLHF's own code."""
    pytest.importorskip("aiohttp")
    found = importlib.util.find_spec("openrlhf")
    if found is None:
        pytest.skip("could not import 'openrlhf'")
    # the file alone: the package imports ray and vLLM
    logs = SimpleNamespace(init_logger=logging.getLogger)
    monkeypatch.setitem(sys.modules, "openrlhf.utils.logging_utils", logs)
    path = Path(found.submodule_search_locations[0]) / "utils" / "agent.py"
    spec = importlib.util.spec_from_file_location("openrlhf_agent", path)
    agent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agent)
    url = f"http://127.0.0.1:{serve(group_size=4, wait=60.0)}/get_reward"

    async def run():
        executor = agent.SingleTurnAgentExecutor([url])
        answers = ["923", "933", "1", "2"]
        return await asyncio.gather(
            *(executor._fetch_rewards_via_http(["347+586" + a], ["347+586"], [""]) for a in answers)
        )

    replies = [reply for (reply,) in asyncio.run(run())]
    rewards = [reply["rewards"][0] for reply in replies]
    assert rewards.index(max(rewards)) == 1 and [reply["scores"] for reply in replies] == [
        [value] for value in rewards
    ]
    assert sum(rewards) == pytest.approx(2.0)


def test_verl(serve):
    pytest.importorskip("aiohttp")
    port = serve(group_size=3, wait=60.0)
    scope = {}
    exec(piece("verl").replace("8765", str(port)), scope)
    compute_score = scope["compute_score"]

    async def run(score):
        return await asyncio.gather(*(score(answer) for answer in ("923", "933", "1")))

    def alone(answer):
        return compute_score("d", answer, "", {"question": "347+586"})

    rewards = asyncio.run(run(alone))
    assert rewards[1] == max(rewards) and sum(rewards) == pytest.approx(1.5)
    pytest.importorskip("verl")
    naive = pytest.importorskip("verl.experimental.reward_loop.reward_manager.naive")
    import numpy as np
    import torch
    from verl import DataProto

    class Digits:
        def decode(self, ids, skip_special_tokens):
            return "".join(str(int(token)) for token in ids)

    def through_verl(answer):
        digits = torch.tensor([[int(digit) for digit in answer]])
        data = DataProto.from_dict(
            tensors={"responses": digits, "attention_mask": torch.ones_like(digits)},
            non_tensors={
                "data_source": np.array(["d"], dtype=object),
                "reward_model": np.array([{"ground_truth": ""}], dtype=object),
                "extra_info": np.array([{"question": "347+586"}], dtype=object),
            },
        )
        manager = naive.NaiveRewardManager(SimpleNamespace(), Digits(), compute_score)
        return manager.run_single(data)

    results = asyncio.run(run(through_verl))
    assert [one["reward_score"] for one in results] == rewards


def test_verifiers(tiny, monkeypatch):
    vf = pytest.importorskip("verifiers.v1")
    scope = {}
    exec(piece("verifiers"), scope)
    assert inspect.signature(scope["JudgedEnv"].finalize).parameters.keys() == (
        inspect.signature(vf.Env.finalize).parameters.keys()
    )
    traces = [vf.Trace.model_construct(root_reply=text, rewards={}) for text in ("923", "933", "1")]
    task = SimpleNamespace(data=vf.TaskData(prompt="347+586"))
    asyncio.run(scope["JudgedEnv"].finalize(None, task, SimpleNamespace(traces=traces)))
    rewards = [trace.rewards["judge"].score for trace in traces]
    assert rewards[1] == max(rewards) and sum(rewards) == pytest.approx(1.5)


def test_openai(serve, capsys):
    pytest.importorskip("openai")
    port = serve()
    scope = {}
    exec(piece("OpenAI's client").replace("8765", str(port)), scope)
    text, usage = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert text.endswith(r"\boxed{Assistant 1}") and re.fullmatch(r"\d+ \d+", usage)
    assert [model.id for model in scope["client"].models.list()] == ["tiny"]
    create = scope["client"].chat.completions.create
    plain = create(model="tiny", messages=[scope["question"]], n=2, seed=1, max_tokens=5)
    assert len(plain.choices) == 2 and plain.usage.completion_tokens <= 10
    with pytest.raises(Exception, match="unsupported parameter: 'tools'") as caught:
        tool = {"type": "function", "function": {"name": "f"}}
        create(model="tiny", messages=[scope["question"]], tools=[tool])
    assert type(caught.value).__name__ == "BadRequestError"


def test_notebook(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first, second = piece("A notebook").split("\n\n")
    cells = [nbformat.v4.new_code_cell(code) for code in (first, second)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    texts = [one["text"] for one in outputs if one.get("name") == "stdout"]
    assert texts == ["a 1.0 True\n"] or texts == ["0 1.0 True\n"]
