"""A pair judged in both orders by 1.5 billion parameters: ours, transformers, llama-cpp-python.

    pip install llama-cpp-python && gunzip -k runs/qwen/logs/pairs_300.jsonl.gz
    python runs/bench_pair.py models/qwen2.5-coder-1.5b model.gguf runs/qwen/logs/pairs_300.jsonl

The prompts are those of `rrm`, of about 600 tokens each. Every arm writes 300 tokens to each of
them; no token ends a text, so all do the same work. The arms run by turns in one process. The GGUF
file is the publisher's of Q4_K_M (Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF), a third of the size of
the bf16 weights. With `none` in its place llama-cpp-python is left out.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import sampler  # noqa: E402
from chat import load_tokenizer  # noqa: E402
from data import load_pairs  # noqa: E402
from extras.bench import show  # noqa: E402
from extras.bench_inference import logprob_gap  # noqa: E402
from extras.peers import alternate, load_both, peer_generate, rows_of  # noqa: E402
from judge import Judge  # noqa: E402
from verdicts import BOTH_ORDERS  # noqa: E402

NEW_TOKENS, PROMPT_TOKENS, REPEATS = 300, 600, 2


def llama_arm(path, prompts):
    from llama_cpp import Llama

    threads = dict.fromkeys(("n_threads", "n_threads_batch"), torch.get_num_threads())
    model = Llama(path, n_ctx=2048, verbose=False, **threads)

    def write():
        model.reset()
        completions = []
        for prompt in prompts:  # it keeps the keys of what the prompts have in common
            tokens = model.generate(
                prompt, top_k=0, top_p=1.0, min_p=0.0, temp=1.0, repeat_penalty=1.0
            )
            completions.append([next(tokens) for _ in range(NEW_TOKENS)])
        return completions

    return write


def main(folder, gguf, pairs):
    device = torch.device("cpu")
    model, peer = load_both(folder, device, torch.bfloat16)
    judge = Judge(model, load_tokenizer(folder), "rrm")

    def distance(pair):
        return abs(len(judge.encode(pair, BOTH_ORDERS[0], 1)) - PROMPT_TOKENS)

    pair = min(load_pairs(pairs), key=distance)
    prompts = [judge.encode(pair, order, NEW_TOKENS) for order in BOTH_ORDERS]
    arms = {
        "ours": lambda: sampler.generate(model, prompts, 1, NEW_TOKENS),
        "generate, a batch": lambda: peer_generate(peer, prompts, 1, NEW_TOKENS, 1.0),
        "generate, one by one": lambda: [
            peer_generate(peer, [prompt], 1, NEW_TOKENS, 1.0)[0] for prompt in prompts
        ],
    }
    if gguf != "none":
        arms["llama-cpp-python, Q4_K_M"] = llama_arm(gguf, prompts)
    runs = alternate(arms, REPEATS, device)
    mean, largest = logprob_gap(peer, prompts, runs["ours"][-1]["result"])
    checks = {"ours": (f"log-probs {mean:.1e} ({largest:.1e})", mean <= 0.1)}
    for name in list(arms)[1:]:
        tokens = sum(map(len, runs[name][-1]["result"]))
        checks[name] = (f"{tokens} tokens", tokens == 2 * NEW_TOKENS)
    rows = rows_of(runs, 0.0, device, checks, prompt_tokens=sum(map(len, prompts)))
    for row in rows:
        del row["of_limit"]  # no limit was calculated
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, pair {pair.id}")
    show(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
