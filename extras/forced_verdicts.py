"""`evaluate.py --force_verdict` and `--confidence`: the probability of each verdict.

Budget forcing closes the thinking of a completion that was cut off and takes the likelier verdict.
"""

import torch

from chat import opens_think
from extras.ask import VERDICTS
from model import pack_groups, split_by_budget
from verdicts import find_verdicts


def read_verdicts(judge, games, settings):
    """Adds p_verdict to games [(Pair, game)]: the probability of place 1 at the verdict token.

    Both verdicts are written where the completion has its own one, and their first different token
    decides. With force_verdict truncated games get a verdict too, after their closed thinking.
    """
    groups, read = [], []
    for pair, game in games:
        if is_readable(game, settings.force_verdict):
            prompt = judge.encode(pair, game["order"], settings.max_completion_length)
            groups.append(both_verdicts(judge, prompt, game))
            read.append(game)

    def prefix_length(index):
        prefix, _ = groups[index]
        return len(prefix)

    for batch in split_by_budget(range(len(groups)), prefix_length, 8192):
        probabilities = first_place_probabilities(
            judge.backend.model, [groups[index] for index in batch]
        )
        for index, probability in zip(batch, probabilities):
            game = read[index]
            game["p_verdict"] = round(probability, 6)
            if game["status"] == "truncated":
                verdict = 1 if probability >= 0.5 else 2
                game.update(verdict=verdict, status="valid", forced=True)


def is_readable(game, force_verdict):
    if not game["tokens"]:  # its prompt did not fit into the context
        return False
    return game["status"] == "valid" or (force_verdict and game["status"] == "truncated")


def both_verdicts(judge, prompt, game):
    """(prefix, [[token], [token]]): the two continuations that name place 1 and place 2."""
    rule, text = judge.style.verdict, game["text"]
    found = find_verdicts(text, rule)
    if found:
        text = text[: found[0][0]]
    elif text.rfind("<think>") > text.rfind("</think>"):
        text += "\n</think>\n\n"
    else:
        text += "\n\n"
    if opens_think(judge.tokenizer, prompt):
        text = text.removeprefix("<think>")
    first, second = (
        judge.tokenizer(text + verdict, add_special_tokens=False)["input_ids"]
        for verdict in VERDICTS[rule]
    )
    same = next(place for place, (a, b) in enumerate(zip(first, second)) if a != b)
    return prompt + first[:same], [[first[same]], [second[same]]]


def first_place_probabilities(model, groups):
    """The share of place 1 in the probability of both verdicts, one number a group."""
    pack = pack_groups(groups, model.device)
    with torch.inference_mode():
        logprobs, _ = model.logprobs(pack)
    return logprobs.view(-1, 2).softmax(dim=1)[:, 0].tolist()
