"""The judge as a reward server for trainers: POST /get_reward in OpenRLHF's format.

    python -m extras.serve_reward --model MODEL --port 8765
    request:  {"query": [prompt + completion, ...], "prompts": [...], "labels": [...]}
    answer:   {"rewards": [...], "scores": [...], "extra_logs": {}}

A pairwise judge needs the complete group of a prompt. By default a request has complete groups.
With --group_size, completions of any connection wait for each other until their group is full or
--wait seconds have passed.

One thread judges everything that has arrived as one batch. A request that fails, such as one whose
prompt the judge's context cannot hold, fails alone. http_server.py has the limits of the server. It
listens on the loopback and has no passwords: put a proxy of your own in front of it before others
can reach it.
"""

import itertools
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, Optional

import cli
from cli import BadInput, note, setting
from data import checked_text
from extras.http_server import (
    JudgingThread,
    Server,
    ServerSettings,
    check_server_settings,
    outcomes,
)
from judge import JudgeSettings, check_judge, judge_of
from rewards import SCALES, judge_reward


@dataclass
class RewardSettings:
    opponents: int = setting(
        4, "number of other answers of its group that each answer is compared with", group="rewards"
    )
    scale: Literal[SCALES] = setting(
        "shrunk", "from matches to rewards: see match_rewards in rewards.py"
    )
    stop: str = setting(
        "", "text to remove from the end of completions, such as <|im_end|>", may_be_empty=True
    )
    group_size: Optional[int] = setting(
        None, "completions of a prompt that wait for each other; default: requests have full groups"
    )
    wait: float = setting(10.0, "at most so many seconds that an incomplete group waits")


@dataclass
class Settings(ServerSettings, RewardSettings, JudgeSettings):
    pass


def read_request(request, stop):
    """The [(prompt, completion), ...] of a request. Raises BadInput."""
    queries, prompts = request.get("query"), request.get("prompts")
    if (
        not isinstance(queries, list)
        or not isinstance(prompts, list)
        or not 0 < len(queries) == len(prompts)
    ):
        raise BadInput(
            "body: expected query and prompts, two lists of equal length with at least one entry"
        )
    items = []
    for number, (query, prompt) in enumerate(zip(queries, prompts)):
        query = checked_text(query, f"query {number}", "body")
        prompt = checked_text(prompt, f"prompts {number}", "body")
        if not query.startswith(prompt):
            raise BadInput(
                f"body: query {number} does not begin with prompts {number}: a query is a prompt "
                "followed by its completion"
            )
        completion = query[len(prompt) :]
        if stop:
            completion = completion.rstrip().removesuffix(stop)
        items.append((prompt, completion))
    return items


def take_groups(waiting, group_size, wait):
    """Removes the groups that can be judged now from `waiting`, [(job, index), ...]; returns them.

    Without group_size, a group is a job's completions of one prompt. With it, a group is group_size
    completions of one prompt in any jobs, or fewer if the first one has waited too long.
    """
    gathered = defaultdict(list)
    for job, index in waiting:
        prompt, _ = job.request[index]
        gathered[prompt if group_size else (id(job), prompt)].append((job, index))
    late, ready = time.monotonic() - wait, []
    for members in gathered.values():
        size = group_size or len(members)
        for start in range(0, len(members), size):
            group = members[start : start + size]
            first_job, _ = group[0]
            if len(group) == size or first_job.since <= late:
                ready.append(group)
    taken = {(id(job), index) for group in ready for job, index in group}
    waiting[:] = [(job, index) for job, index in waiting if (id(job), index) not in taken]
    return ready


def groups_judged_with(reward, group_size, wait):
    """A `judge_ready` for http_server.py: judges all groups that are ready in one call."""
    waiting = []  # (job, index of a completion)

    def judge_groups(groups):
        flat = [place for group in groups for place in group]
        ends = list(itertools.accumulate(map(len, groups), initial=0))
        spans = list(zip(ends, ends[1:]))
        prompts, completions = zip(*(job.request[index] for job, index in flat))
        rewards = reward(prompts, completions, spans=spans)
        return [rewards[start:end] for start, end in spans]

    def judge_ready(jobs):
        for job in jobs:
            if not job.parts:
                job.parts = [None] * len(job.request)
                waiting.extend((job, index) for index in range(len(job.request)))
        waiting[:] = [place for place in waiting if not place[0].future.done()]
        groups = take_groups(waiting, group_size, wait)
        for group, rewards in zip(groups, outcomes(judge_groups, groups)):
            if isinstance(rewards, Exception):
                rewards = [rewards] * len(group)
            for (job, index), value in zip(group, rewards, strict=True):
                job.parts[index] = value
        for job in [job for job in jobs if None not in job.parts or job.future.cancelled()]:
            jobs.remove(job)
            errors = [part for part in job.parts if isinstance(part, Exception)]
            job.finish(errors[0] if errors else as_reply(job.parts))

    return judge_ready


def as_reply(rewards):
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}


def reward_route(thread, reward, settings):
    """The function of POST /get_reward."""
    judge_ready = groups_judged_with(reward, settings.group_size, settings.wait)
    return lambda request: thread.add(judge_ready, read_request(request, settings.stop))


def make_server(reward, settings):
    """A server that is bound and judges; the caller runs serve_forever."""
    routes = {
        "POST /get_reward": reward_route(JudgingThread(), reward, settings),
        "GET /health": lambda request: {"status": "ok"},
    }
    return Server(routes, settings, remote=bool(settings.base_url))


def reward_of(judge, settings):
    """The reward function of Settings."""
    return judge_reward(
        judge,
        settings.opponents,
        settings.scale,
        num_votes=settings.num_votes,
        seed=settings.seed,
        temperature=settings.temperature,
        max_completion_length=settings.max_completion_length,
    )


def check(settings):
    """Raises BadInput for what can be wrong in Settings before torch is imported."""
    check_server_settings(settings, opponents=1, wait=0)
    if settings.group_size is not None and settings.group_size < 2:
        raise BadInput(f"--group_size: must be at least 2, got {settings.group_size}")
    check_judge(settings)


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    check(settings)
    server = make_server(reward_of(judge_of(settings), settings), settings)
    note("one judge, one thread that judges; stop with Ctrl-C")
    print(f"{server.url}/get_reward", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    cli.run(main)
