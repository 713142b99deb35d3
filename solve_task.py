"""A solver in training: questions are asked as they are, and answers earn rewards.

    answer                  1 for an answer that equals the question's reference, else 0
    judge                   a pairwise judge compares the answers of a group (rewards.py)
    solve:MODULE:FUNCTION   a function of the user's own

`SolveTask` has the methods of `JudgeTask` in judge_task.py, so train_grpo.py and rollout.py run
either without asking which one it is.
"""

import importlib.util
import itertools
import random
from dataclasses import dataclass

import cli
from chat import decode_completion
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note, read_json_lines
from data import Question, load_questions
from plugins import load_extra
from rewards import (
    GroupMatches,
    answer_reward,
    compare_groups,
    cut_answers,
    final_answer,
    import_reward,
    num_matches,
)
from seeding import hash64, stable_hash
from styles import default_style, load_style

JUDGE_SCALE = "shrunk"  # from matches to rewards: see match_rewards in rewards.py


@dataclass
class Exercise:
    """A question of a step, and how the completions of its group did."""

    question: Question
    correct: list | None = None  # per completion: equal to the reference? None: no result
    comparison: GroupMatches | None = None  # where a judge compared the answers

    @property
    def source(self):
        return self.question.source


class SolveTask:
    """The task of solving questions: what train_grpo.py and rollout.py ask of it."""

    embedded_data = None  # the embedded model has pairs only
    adjacent_groups = 1  # consecutive groups that must share a process
    judge_style = None  # a solver's checkpoint has no judging prompt

    def __init__(self, settings):
        """Checks the settings and imports a reward function. Raises BadInput."""
        self.settings = settings
        self.eval_temperature = settings.temperature
        load_extra("verify")  # what checks answers
        if importlib.util.find_spec("math_verify") is None:
            raise BadInput(
                f"--reward {settings.reward}: checking answers needs the package math-verify: "
                "pip install math-verify"
            )
        self.judge = None
        if settings.reward == "judge":
            check_judge(settings)
            return
        if settings.judge_model:
            raise BadInput(f"--judge_model: goes with --reward judge, not {settings.reward}")
        self.reward_function = answer_reward
        if settings.reward != "answer":
            self.reward_function = import_reward(settings.reward.removeprefix("solve:"))

    def load_items(self, name, flag, split):
        """The questions of --train_data or --eval_data. Raises BadInput if there is none."""
        questions = load_questions(name, split)
        if self.settings.reward != "answer" and flag == "--train_data":
            return questions
        answered = [question for question in questions if question.answer is not None]
        if not answered:
            raise BadInput(f"{flag}: {name}: no question has an answer to compare with")
        if len(answered) < len(questions):
            note(f"{flag}: {len(questions) - len(answered)} questions without an answer left out")
        return answered

    def load(self, tokenizer, stops, runtime):
        """Stores tokenizer and stop tokens, and loads the judge; called after torch is imported."""
        self.tokenizer = tokenizer
        self.stops = stops
        settings = self.settings
        if settings.reward != "judge":
            return
        from judge import Judge

        name, base_url = judge_and_server(settings)
        self.judge = Judge(
            name,
            style=settings.style,
            base_url=base_url,
            device=runtime.device,
            dtype=runtime.dtype,
            seed=settings.seed,
        )
        usage = self.judge.backend.usage
        where = " in the first process" if runtime.world_size > 1 else ""
        cli.at_end.callback(lambda: usage.calls and note(f"judging took {usage.in_words()}{where}"))
        matches = num_matches(settings.num_generations, settings.judge_opponents)
        note(
            f"judge: {matches} matches a group, at most {matches * settings.prompts_per_step} "
            "judgments a step"
        )

    def stream(self, questions):
        """Exercises without end: each epoch asks every question once, in a new random order."""
        for epoch in itertools.count():
            rng = random.Random(f"order:{self.settings.seed}:{epoch}")
            for question in rng.sample(questions, len(questions)):
                yield Exercise(question)

    def all_prompts(self, question):
        """The messages of every prompt that this question may become."""
        return [question.messages]

    def messages(self, exercise):
        return exercise.question.messages

    def read(self, completion, opened_think):
        """The record of a completion: text, tokens, answered (it ended, after its thinking)."""
        opening = "<think>" if opened_think else ""
        text = opening + decode_completion(self.tokenizer, completion.tokens, self.stops)
        return {
            "text": text,
            "tokens": len(completion.tokens),
            "answered": completion.finish_reason == "stop" and final_answer(text) != "",
        }

    def rewards(self, groups):
        """One reward for each completion, group after group; fills in the groups' Exercises."""
        columns = {"prompts": [], "completions": []}
        columns |= {"answer": [], "correct": [], "question": []}
        for group in groups:
            check_answers_of(group)
            size = len(group.records)
            question = group.item.question
            columns["prompts"] += [group.messages] * size
            columns["completions"] += [record["text"] for record in group.records]
            columns["answer"] += [question.answer] * size
            columns["correct"] += group.item.correct or [None] * size
            columns["question"] += [question] * size
        result = self.reward_function(**columns) if self.judge is None else self.compare(columns)
        if not isinstance(result, tuple):
            return result
        rewards, comparisons = result  # of a judge, or of a function that calls compare_groups
        for group, comparison in zip(groups, comparisons, strict=True):
            group.item.comparison = comparison
        return rewards

    def compare(self, columns):
        return compare_groups(
            self.judge,
            columns["prompts"],
            columns["completions"],
            opponents=self.settings.judge_opponents,
            scale=JUDGE_SCALE,
            group_size=self.settings.num_generations,
            seed=self.settings.seed,
            max_completion_length=self.settings.judge_max_completion_length,
        )

    def describe(self, group):
        """How the group's line in rollouts/STEP.jsonl begins."""
        question, comparison = group.item.question, group.item.comparison
        row = {"id": question.id, "answer": question.answer, "correct": group.item.correct}
        return row | {"matches": comparison and comparison.matches}

    # metrics: counts are summed over processes, then become rates

    def counts(self, groups):
        """Counts over completions and a judge's games: the same names in the same order always."""
        checked = [right for group in groups for right in group.item.correct or []]
        records = [record for group in groups for record in group.records]
        comparisons = [group.item.comparison for group in groups if group.item.comparison]
        shares = [share for group in groups for share in shares_of_right_answers(group.item)]
        return {
            "completions": len(records),
            "checked": len(checked),
            "right": sum(right is True for right in checked),
            "errors": sum(right is None for right in checked),
            "unanswered": sum(not record["answered"] for record in records),
            "compared_groups": len(comparisons),
            "matches": sum(len(comparison.matches) for comparison in comparisons),
            "games": sum(comparison.num_games for comparison in comparisons),
            "tokens": sum(comparison.num_tokens for comparison in comparisons),
            "invalid": sum(comparison.num_invalid for comparison in comparisons),
            "cut": sum(comparison.num_cut for comparison in comparisons),
            "reliability": sum(comparison.reliability for comparison in comparisons),
            "decided": len(shares),
            "shares": sum(shares),
        }

    def rates(self, counts):
        """The reward/... metrics of `counts`; 0.0 where there is nothing to divide by.

        oracle: share of right completions among those whose question has a reference (checked:
        the share of these). judge_accuracy: what the judge gave to the right answer in a match
        against a wrong one; a draw counts half. judge_matches, judge_games, judge_tokens (of its
        completions): numbers of the step; identical and empty answers are not judged.
        judge_reliability: mean over groups (`match_rewards`).
        """

        def share(part, total):
            return counts[part] / counts[total] if counts[total] else 0.0

        return {
            "reward/oracle": share("right", "checked"),
            "reward/checked": share("checked", "completions"),
            "reward/verifier_error": share("errors", "checked"),
            "reward/unanswered": share("unanswered", "completions"),
            "reward/judge_matches": counts["matches"],
            "reward/judge_games": counts["games"],
            "reward/judge_tokens": counts["tokens"],
            "reward/judge_invalid": share("invalid", "games"),
            "reward/judge_accuracy": share("shares", "decided"),
            "reward/judge_reliability": share("reliability", "compared_groups"),
            "reward/judge_cut": share("cut", "completions"),
        }

    # evaluation: every held-out question once

    def eval_items(self, questions):
        """[(exercise, seed of its sampling), ...]"""
        seeds = [hash64(self.settings.seed, stable_hash(question.id)) for question in questions]
        return [(Exercise(question), seed) for question, seed in zip(questions, seeds)]

    def eval_rows(self, groups):
        rows = []
        for group in groups:
            check_answers_of(group)
            (correct,) = group.item.correct or [None]
            rows.append({"id": group.item.question.id, "correct": correct} | group.records[0])
        return rows

    def eval_counts(self, groups, folder):
        wins = self.wins_against_start(groups, folder) if self.judge else 0.0
        return self.counts(groups) | {"wins": wins}

    def wins_against_start(self, groups, folder):
        """How often the judge prefers the answers of now to those of step 0, in both orders.

        That is what the judge believes, to be compared with reward/oracle. An equal answer
        counts half.
        """
        limit = self.settings.judge_max_completion_length
        rows = [row for _, row in read_json_lines(folder / "eval-0.jsonl")]
        texts_at_start = {row["id"]: row["text"] for row in rows}
        wins, duels = 0.0, []
        for group in groups:
            texts = [group.records[0]["text"], texts_at_start[group.item.question.id]]
            answers = [final_answer(text) for text in texts]
            now, at_start = cut_answers(self.judge, group.messages, answers, limit)
            if now == at_start:
                wins += 0.5
            else:
                duels.append((group.messages, now, at_start))
        judgments = self.judge.judge(duels, max_completion_length=limit) if duels else []
        return wins + sum(judgment.p_first for judgment in judgments)

    def eval_rates(self, counts):
        rates, names = self.rates(counts), ["reward/unanswered"]
        if counts["checked"]:  # else the questions have no references
            names += ["reward/oracle", "reward/verifier_error"]
        metrics = {name: rates[name] for name in names}
        return metrics | {"reward/win_rate": counts["wins"] / counts["completions"]}


def check_judge(settings):
    """Raises BadInput for what is wrong with the judge of --reward judge."""
    if not settings.judge_model:
        raise BadInput(
            "--judge_model: is needed with --reward judge: a judge's folder or hub name, or "
            "NAME@URL of a server that has it"
        )
    name, base_url = judge_and_server(settings)
    if base_url:
        load_extra("endpoint").Endpoint(base_url, name).check_there()
        load_style(settings.style or "rrm")
        return
    folder = resolve_model(name)
    config = check_model_folder(folder)
    load_style(settings.style or default_style(folder, config))


def judge_and_server(settings):
    """--judge_model as (name of the judge, URL of its server or None)."""
    name, at, address = settings.judge_model.partition("@http")
    return name, "http" + address if at else None


def check_answers_of(group):
    """Fills in which completions of a group equal the reference, if its question has one.

    One that was cut off does not: 7 may be the beginning of 72, and it should learn to stop.
    """
    reference = group.item.question.answer
    if reference is None:
        return
    answers = [
        final_answer(record["text"]) if record["answered"] else "" for record in group.records
    ]
    group.item.correct = load_extra("verify").check_answers(answers, [reference] * len(answers))


def shares_of_right_answers(exercise):
    """What the judge gave to the right answer, for each match of a right with a wrong one."""
    correct, shares = exercise.correct, []
    if exercise.comparison is None or correct is None:
        return []
    for i, j, score in exercise.comparison.matches:
        if (correct[i], correct[j]) == (True, False):
            shares.append(score)
        elif (correct[i], correct[j]) == (False, True):
            shares.append(1 - score)
    return shares
