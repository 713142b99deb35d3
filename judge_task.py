"""A judge in training: preference pairs become judging prompts, and its verdicts earn rewards.

    comparison = Comparison(pair, order=[1, 0])     # pair.answers[1] is shown first
    comparison.right_verdict                        # 1 if that one is better, else 2

`JudgeTask` has what train_grpo.py and rollout.py need to know about a judge. `SolveTask` in
solve_task.py has the same methods for a solver of questions, so neither caller asks which task it
runs. Nothing here needs torch.
"""

import itertools
import random
from dataclasses import asdict, dataclass

from cli import BadInput
from data import Pair, balanced_orders, load_pairs
from seeding import hash64, stable_hash
from styles import judge_messages, load_style
from verdicts import BOTH_ORDERS, conclude, parse_verdict, read_completion


@dataclass(frozen=True)
class Comparison:
    """A pair as a judge reads it: the answer with index order[0] is shown first."""

    pair: Pair
    order: list

    @property
    def id(self):
        return self.pair.id

    @property
    def answers(self):
        """The answers in the order in which they are shown."""
        return [self.pair.answers[index] for index in self.order]

    @property
    def right_verdict(self):
        """The place of the better answer, counted from 1."""
        return self.order.index(int(self.pair.label)) + 1

    @property
    def longer(self):
        """The place of the longer answer, counted from 1; None if they are equally long."""
        lengths = [len(answer) for answer in self.answers]
        longest = max(lengths)
        return lengths.index(longest) + 1 if lengths.count(longest) == 1 else None


def comparison_stream(pairs, seed, both_orders=False):
    """Comparisons without end: each epoch shows every pair once, in a new random order.

    Comparisons come in couples: one has the better answer in the first place, the other has it in
    the second. An odd pair stays alone at the end of an epoch. So each step of an even number of
    prompts is balanced, up to one couple that an odd pair has shifted. After a few unbalanced steps
    a weak judge always names one place, and equal rewards teach it nothing. both_orders: each pair
    comes twice, in one order and then in the other.
    """
    for epoch in itertools.count():
        orders = balanced_orders(pairs, seed=f"{seed}:{epoch}")
        rng = random.Random(f"order:{seed}:{epoch}")
        shown = [Comparison(pair, order) for pair, order in zip(pairs, orders)]
        shown = rng.sample(shown, len(shown))
        better_first = [comparison for comparison in shown if comparison.right_verdict == 1]
        better_second = [comparison for comparison in shown if comparison.right_verdict != 1]
        for couple in itertools.zip_longest(better_first, better_second):
            couple = [comparison for comparison in couple if comparison is not None]
            for comparison in rng.sample(couple, len(couple)):
                yield comparison
                if both_orders:
                    yield Comparison(comparison.pair, comparison.order[::-1])


# ---- rewards ----


def verdict_reward(prompts, completions, right_verdict, style, verdict=None, **columns):
    """+1 for the right verdict, else -1; nothing for the format (RRM 3.2; RM-R1 2.3.2).

    completions: generated texts, with "<think>" in front where the prompt had opened it.
    right_verdict: 1 or 2 for each completion. style: the judging style of each.
    verdict: one for each completion, None where it was cut off; if not given, the texts are parsed.
    """
    given = verdict or map(parse_verdict, completions, style)
    return [1.0 if one == right else -1.0 for one, right in zip(given, right_verdict, strict=True)]


# ---- metrics ----


def game_metrics(games, style):
    """The judge/... metrics of games; 0.0 where there is nothing to divide by.

    A game: verdict (1, 2, "tie", None), right (1 or 2: place of the better answer), longer (1, 2,
    None: equally many characters), think_tokens, text.

    Four games, the better and longer answer first in each: verdicts 1, 1, 2 and none, after 5,
    50, 50 and 50 thinking tokens. Then accuracy is 2/4, position_bias 2/3 - 1/2, length_bias
    2/3 - 3/3 (two of three verdicts name the longer answer, which is better in all three),
    parse_fail 1/4, think_empty 1/4, think_length 105/3. A judge that is always right has length
    bias 0, however often the longer answer is the better one.
    """
    valid = [game for game in games if game["verdict"] is not None]
    unequal = [game for game in valid if game["longer"] and game["verdict"] != "tie"]
    for_longer = mean(game["verdict"] == game["longer"] for game in unequal)
    longer_right = mean(game["right"] == game["longer"] for game in unequal)
    lean_to_first = {1: 0.5, "tie": 0.0, 2: -0.5}
    metrics = {
        "judge/accuracy": mean(game["verdict"] == game["right"] for game in games),
        "judge/position_bias": mean(lean_to_first[game["verdict"]] for game in valid),
        "judge/length_bias": for_longer - longer_right,
        "judge/parse_fail": mean(game["verdict"] is None for game in games),
        "judge/think_empty": sum(game["think_tokens"] < 8 for game in valid) / max(len(games), 1),
        "judge/think_length": mean(game["think_tokens"] for game in valid),
    }
    if "<type>" in style.system + style.user:
        from rm_r1 import format_rates

        metrics |= format_rates([game["text"] for game in games])
    return metrics


def mean(values):
    """The mean of numbers; 0.0 of none."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


# ---- the task ----


def make_task(settings):
    """The task that --reward chooses."""
    if settings.reward in ("answer", "judge") or settings.reward.startswith("solve:"):
        from solve_task import SolveTask

        return SolveTask(settings)
    return JudgeTask(settings)


class JudgeTask:
    """The task of judging: what train_grpo.py and rollout.py ask of it."""

    embedded_data = ("train.jsonl", "test.jsonl")  # beside the embedded model
    eval_temperature = 0.6  # that of judge.py

    def __init__(self, settings):
        """Checks the settings and loads the pairs. Raises BadInput."""
        self.settings = settings
        self.style = load_style(settings.style)
        self.judge_style = self.style  # a checkpoint remembers it
        self.both_orders = settings.reward == "consistency"
        # consecutive groups that must share a process
        self.adjacent_groups = len(BOTH_ORDERS) if self.both_orders else 1
        if settings.prompts_per_step % self.adjacent_groups:
            raise BadInput("--prompts_per_step: give an even number for --reward consistency")
        if settings.judge_model:
            raise BadInput("--judge_model: only for --reward judge")
        self.reward_function = verdict_reward
        if settings.reward != "verdict":
            from rewards import import_reward

            self.reward_function = import_reward(settings.reward)

    def load_items(self, name, flag, split):
        """The labelled pairs of --train_data or --eval_data. Raises BadInput if there is none."""
        pairs = [pair for pair in load_pairs(name, split) if pair.label is not None]
        if not pairs:
            raise BadInput(f"{flag}: {name}: no pair has a label: say which answer is better")
        return pairs

    def load(self, tokenizer, stops, runtime):
        """Stores tokenizer and stop tokens; called after torch is imported."""
        self.tokenizer = tokenizer
        self.stops = stops

    def stream(self, pairs):
        return comparison_stream(pairs, self.settings.seed, self.both_orders)

    def all_prompts(self, pair):
        """The messages of every prompt that this pair may become."""
        return [self.messages(Comparison(pair, order)) for order in BOTH_ORDERS]

    def messages(self, comparison):
        pair = comparison.pair
        return judge_messages(self.style, pair.messages, *comparison.answers, pair.meta)

    def read(self, completion, opened_think):
        """The record of a completion: verdict, status, text, tokens, think_tokens."""
        return read_completion(self.tokenizer, completion, self.style, opened_think, self.stops)

    def rewards(self, groups):
        """One reward for each completion, group after group."""
        games = [(group, game) for group in groups for game in group.records]
        return self.reward_function(
            prompts=[group.messages for group, _ in games],
            completions=[game["text"] for _, game in games],
            right_verdict=[group.item.right_verdict for group, _ in games],
            style=[self.settings.style] * len(games),
            pair=[group.item.pair for group, _ in games],
            order=[group.item.order for group, _ in games],
            verdict=[game["verdict"] for _, game in games],
        )

    def describe(self, group):
        """How the group's line in rollouts/STEP.jsonl begins."""
        item = group.item
        places = {"right_verdict": item.right_verdict, "longer": item.longer}
        return {"id": item.id, "order": item.order} | places

    def metrics(self, rows):
        """The metrics of a step; rows: the lines of its rollouts/STEP.jsonl."""
        games = []
        for row in rows:
            places = {"right": row["right_verdict"], "longer": row["longer"]}
            games += [game | places for game in row["completions"]]
        return game_metrics(games, self.style)

    # evaluation: every held-out pair once in each order

    def eval_items(self, pairs):
        """[(comparison, seed of its sampling), ...]: equal to those of `Judge.judge`."""
        items = []
        for pair in pairs:
            for order in BOTH_ORDERS:
                seed = hash64(self.settings.seed, stable_hash(pair.id), order[0])
                items.append((Comparison(pair, order), seed))
        return items

    def eval_rows(self, groups, path):
        """The lines of rollouts/eval-STEP.jsonl; groups of a pair stand side by side."""
        rows = []
        for _, members in itertools.groupby(groups, key=lambda group: group.item.id):
            games = []
            for group in members:
                item = group.item
                places = {"order": item.order, "right": item.right_verdict, "longer": item.longer}
                games.append(places | group.records[0])
            names = "id", "source", "messages", "answers", "label"
            row = {name: getattr(item.pair, name) for name in names}
            rows.append(row | asdict(conclude(games)))
        return rows

    def eval_metrics(self, rows):
        games = [game for row in rows for game in row["games"]]
        metrics = game_metrics(games, self.style)
        metrics["judge/consistency"] = mean(bool(row["consistent"]) for row in rows)
        return metrics | {"completions/mean_length": mean(game["tokens"] for game in games)}
