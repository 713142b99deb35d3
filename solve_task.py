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
from judge_task import mean
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
            self.reward_function = import_reward(settings.reward)

    def load_items(self, name, flag, split):
        """The questions of --train_data or --eval_data. Raises BadInput if there is none."""
        questions, reward = load_questions(name, split), self.settings.reward
        if reward == "judge" or (reward != "answer" and flag == "--train_data"):
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
            mark_answers(group)
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
        item, comparison = group.item, group.item.comparison
        row = {"id": item.question.id, "answer": item.question.answer, "correct": item.correct}
        row |= {"matches": comparison and comparison.matches, "judging": None}
        if comparison:
            names = "num_games", "num_tokens", "num_invalid", "num_cut", "reliability"
            row["judging"] = {name: getattr(comparison, name) for name in names}
        return row

    def metrics(self, rows):
        """The reward/... metrics of a step; rows: the lines of its rollouts/STEP.jsonl.

        oracle: share of right completions among those whose question has a reference (checked:
        the share of these). judge_accuracy: what the judge gave to the right answer in a match
        against a wrong one; a draw counts half. judge_matches, judge_games, judge_tokens (of its
        completions): numbers of the step; identical and empty answers are not judged.
        judge_reliability: mean over groups (`match_rewards`).
        """
        completions = [one for row in rows for one in row["completions"]]
        checked = [right for row in rows for right in row["correct"] or []]
        judging = [row["judging"] for row in rows if row["judging"]]
        num_games = sum(one["num_games"] for one in judging)
        return {
            "reward/oracle": mean(right is True for right in checked),
            "reward/checked": len(checked) / len(completions),
            "reward/verifier_error": mean(right is None for right in checked),
            "reward/unanswered": mean(not one["answered"] for one in completions),
            "reward/judge_matches": sum(len(row["matches"] or []) for row in rows),
            "reward/judge_games": num_games,
            "reward/judge_tokens": sum(one["num_tokens"] for one in judging),
            "reward/judge_invalid": sum(one["num_invalid"] for one in judging) / max(num_games, 1),
            "reward/judge_accuracy": mean(itertools.chain(*map(shares_of_right_answers, rows))),
            "reward/judge_reliability": mean(one["reliability"] for one in judging),
            "reward/judge_cut": sum(one["num_cut"] for one in judging) / len(completions),
        }

    # evaluation: every held-out question once

    def eval_items(self, questions):
        """[(exercise, seed of its sampling), ...]"""
        seeds = [hash64(self.settings.seed, stable_hash(question.id)) for question in questions]
        return [(Exercise(question), seed) for question, seed in zip(questions, seeds)]

    def eval_rows(self, groups, path):
        """The lines of rollouts/eval-STEP.jsonl."""
        rows = []
        for group in groups:
            mark_answers(group)
            (correct,) = group.item.correct or [None]
            question = group.item.question
            row = {"id": question.id, "source": question.source, "answer": question.answer}
            rows.append(row | {"correct": correct} | group.records[0])
        if self.judge:
            self.add_wins(groups, rows, path)
        return rows

    def add_wins(self, groups, rows, path):
        """Adds to each row how far the judge prefers its answer to that of step 0, as "win".

        It judges in both orders; an equal answer counts half. That is what the judge believes, to
        be compared with reward/oracle.
        """
        limit = self.settings.judge_max_completion_length
        rows_at_start = rows
        if path.name != "eval-0.jsonl":
            rows_at_start = [row for _, row in read_json_lines(path.with_name("eval-0.jsonl"))]
        texts_at_start = {row["id"]: row["text"] for row in rows_at_start}
        judged, duels = [], []
        for group, row in zip(groups, rows):
            answers = [final_answer(text) for text in (row["text"], texts_at_start[row["id"]])]
            now, at_start = cut_answers(self.judge, group.messages, answers, limit)
            row["win"] = 0.5
            if now != at_start:
                judged.append(row)
                duels.append((group.messages, now, at_start))
        judgments = self.judge.judge(duels, max_completion_length=limit) if duels else []
        for row, judgment in zip(judged, judgments):
            row["win"] = judgment.p_first

    def eval_metrics(self, rows):
        metrics = {"reward/unanswered": mean(not row["answered"] for row in rows)}
        checked = [row["correct"] for row in rows if row["answer"] is not None]
        if checked:  # else the questions have no references
            metrics["reward/oracle"] = mean(right is True for right in checked)
            metrics["reward/verifier_error"] = mean(right is None for right in checked)
        if self.judge:
            metrics["reward/win_rate"] = mean(row["win"] for row in rows)
        return metrics | {"completions/mean_length": mean(row["tokens"] for row in rows)}


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


def mark_answers(group):
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


def shares_of_right_answers(row):
    """What the judge gave to the right answer, for each match of a right with a wrong one."""
    correct, shares = row["correct"], []
    if row["matches"] is None or correct is None:
        return []
    for i, j, score in row["matches"]:
        if (correct[i], correct[j]) == (True, False):
            shares.append(score)
        elif (correct[i], correct[j]) == (False, True):
            shares.append(1 - score)
    return shares
