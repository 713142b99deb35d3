"""Options of a training that most runs do without: dynamic sampling and mini-batches.

train_grpo.py and rollout.py load this file only where one of them is chosen.
"""

import itertools

import rollout

# ---- --dynamic_sampling ----


def redraw(groups, stream, step, policy, task, settings, group_advantages):
    """New prompts take the place of groups with equal rewards, `dynamic_sampling` times.

    This is the dynamic sampling of DAPO (arXiv 2503.14476, section 3.2). Groups that are flat after
    the last time stay. Returns (this process's groups, how many prompts all processes drew again).
    """
    runtime, drawn = policy.runtime, settings.prompts_per_step
    for _ in range(settings.dynamic_sampling):
        groups = with_signal(task, groups)
        (num_kept,) = runtime.sum(len(groups))
        items = list(itertools.islice(stream, settings.prompts_per_step - int(num_kept)))
        if not items:
            break
        new_groups = rollout.own_groups(task, items, step, settings, runtime, first=drawn)
        drawn += len(items)
        rollout.sample(policy, task, new_groups, settings.num_generations, settings)
        rewards = rollout.rewards(task, new_groups, settings)
        advantages = group_advantages(rewards, settings.scale_rewards)
        rollout.set_advantages(new_groups, rewards, advantages)
        groups = groups + new_groups
    return groups, drawn - settings.prompts_per_step


def with_signal(task, groups):
    """The groups without those whose rewards are equal; adjacent ones stay or go together."""
    size = task.adjacent_groups
    units = [groups[start : start + size] for start in range(0, len(groups), size)]
    units = [unit for unit in units if any(any(group.advantages) for group in unit)]
    return list(itertools.chain(*units))


# ---- --num_mini_batches ----


def split_by_number(groups, num_parts, runtime):
    """This process's groups of each part of the step, whatever the number of processes is."""
    numbers = runtime.gather([group.number for group in groups])
    numbers, parts = sorted(itertools.chain(*numbers)), [[] for _ in range(num_parts)]
    for group in groups:
        parts[numbers.index(group.number) * num_parts // len(numbers)].append(group)
    return parts
