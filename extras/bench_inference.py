"""The benchmarks of the sampler and of the judge. Run by `python -m extras.bench`."""

import torch

import sampler
from chat import load_tokenizer
from cli import BadInput
from extras.peers import (
    alternate,
    load_both,
    load_items,
    peer_continuous,
    peer_generate,
    random_prompts,
    rollout_seconds,
    rows_of,
)
from extras.plan import sizes_of
from judge import Judge, as_pair
from styles import judge_messages
from verdicts import BOTH_ORDERS, parse_verdict


def logprob_gap(peer, prompts, results):
    """(mean, largest) difference of our log-probs from transformers', first of four prompts.

    The logits of transformers are computed in fp32 here: its own ones are bf16.
    """
    gaps = []
    for prompt, (completion, *_) in list(zip(prompts, results))[:4]:
        ids = torch.tensor([prompt + completion.tokens], device=peer.device)
        with torch.inference_mode():
            hidden = peer.base_model(ids).last_hidden_state[0, len(prompt) - 1 : -1].float()
            logits = hidden @ peer.get_output_embeddings().weight.float().T
        logprobs = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
        gaps.append((logprobs - torch.tensor(completion.logprobs)).abs())
    gaps = torch.cat(gaps)
    return gaps.mean().item(), gaps.max().item()


def greedy_tokens_equal(model, peer, prompts, new_tokens):
    for prompt in prompts:
        ours = sampler.generate(model, [prompt], 1, new_tokens, temperature=0.0)[0][0].tokens
        if ours != peer_generate(peer, [prompt], 1, new_tokens, 0.0)[0].tolist():
            return False
    return True


def bench_sampler(settings, folder, device, dtype, limits):
    model, peer = load_both(folder, device, dtype)
    prompts = random_prompts(settings, model.config.vocab_size)
    count, new_tokens = settings.generations, settings.new_tokens
    arms = {
        "ours": lambda: sampler.generate(model, prompts, count, new_tokens, seed=settings.seed),
        "generate": lambda: peer_generate(peer, prompts, count, new_tokens, 1.0),
    }
    if settings.continuous:
        arms["continuous"] = lambda: peer_continuous(peer, prompts, count, new_tokens)
    torch.manual_seed(settings.seed)
    sampler.generate(model, prompts[:1], 2, 2)
    peer_generate(peer, prompts[:1], 2, 2, 1.0)
    runs = alternate(arms, settings.repeats, device)
    mean, largest = logprob_gap(peer, prompts, runs["ours"][-1]["result"])
    text = f"log-probs {mean:.1e} ({largest:.1e})"
    passed = mean <= 0.1
    if dtype == torch.float32:
        same = greedy_tokens_equal(model, peer, prompts[:2], min(new_tokens, 16))
        text += f", greedy tokens equal: {same}"
        passed = largest <= 1e-3 and same
    rows = settings.prompts * count
    checks = {"ours": (text, passed)}
    for name in runs.keys() - {"ours"}:  # the same work for all
        tokens = sum(map(len, runs[name][-1]["result"]))
        checks[name] = (f"{tokens} tokens", tokens == rows * new_tokens)
    sizes = sizes_of(model.config.raw)
    floor = rollout_seconds(sizes, prompts, rows, new_tokens, dtype.itemsize, *limits)
    shape = dict(
        prompts=settings.prompts,
        generations=count,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=new_tokens,
    )
    table = rows_of(runs, floor, device, checks, **shape)
    return [row | {"tokens_per_second": rows * new_tokens / row["seconds"]} for row in table]


def pairs_that_fit(judge, settings):
    """Pairs whose prompts leave room for --new_tokens in the context. Raises BadInput for none."""
    items, pairs = load_items(settings, settings.pairs), []
    for pair in map(as_pair, items):
        longest = max(len(judge.encode(pair, order, 1)) for order in BOTH_ORDERS)
        if longest + settings.new_tokens <= judge.context:
            pairs.append(pair)
    if not pairs:
        raise BadInput(
            f"--data: none of {len(items)} pairs leaves room for --new_tokens "
            f"{settings.new_tokens} in the context: give less, or other data"
        )
    return pairs


def bench_judge(settings, folder, device, dtype, limits):
    model, peer = load_both(folder, device, dtype)
    tokenizer = load_tokenizer(folder)
    judge = Judge(model, tokenizer, "rrm", seed=settings.seed)
    pairs, stops = pairs_that_fit(judge, settings), judge.backend.stops
    messages, prompts = [], []
    for pair in pairs:
        for order in BOTH_ORDERS:
            answers = [pair.answers[index] for index in order]
            messages.append(judge_messages(judge.style, pair.messages, *answers))
            prompts.append(judge.encode(pair, order, settings.new_tokens))

    def encode():
        return [
            tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
            for message in messages
        ]

    def loop():  # what one writes first: one prompt after the other, its votes as one batch
        replies = []
        for prompt in encode():
            tokens = peer_generate(peer, [prompt], settings.votes, settings.new_tokens, 0.6, stops)
            for row in tokens.tolist():
                length = 0
                while length < len(row) and row[length] not in stops:
                    length += 1
                replies.append((tokenizer.decode(row[:length]), min(length + 1, len(row))))
        return replies

    def ours():
        return judge.judge(pairs, settings.votes, max_completion_length=settings.new_tokens)

    torch.manual_seed(settings.seed)
    peer_generate(peer, prompts[:1], 1, 2, 0.6)
    runs = alternate({"ours": ours, "loop": loop}, settings.repeats, device)
    games = [game for judgment in runs["ours"][-1]["result"] for game in judgment.games]
    replies, same = runs["loop"][-1]["result"], encode() == prompts
    own_valid = sum(game["verdict"] is not None for game in games)
    loop_valid = sum(parse_verdict(text, judge.style) is not None for text, _ in replies)
    checks = {
        "ours": (
            f"prompts equal: {same}, {own_valid} verdicts",
            same and len(games) == len(replies),
        ),
        "loop": (f"{loop_valid} verdicts", True),
    }
    tokens = [sum(game["tokens"] for game in games), sum(length for _, length in replies)]
    sizes, mean_tokens = sizes_of(model.config.raw), tokens[0] / len(games)
    floor = rollout_seconds(sizes, prompts, len(games), mean_tokens, dtype.itemsize, *limits)
    shape = dict(pairs=len(pairs), votes=settings.votes, new_tokens=settings.new_tokens)
    rows = rows_of(runs, floor, device, checks, **shape)
    return [row | {"tokens_per_game": count / len(games)} for row, count in zip(rows, tokens)]
