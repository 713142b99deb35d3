"""What a completion is worth: plain functions with the signature that users of TRL know.

    reward(prompts, completions, **columns) -> list[float]

One entry a completion; a prompt's completions stand side by side, and every column is a list as long as `completions`. A function of
your own, in a module on the Python path, is given to the trainer as `--reward MODULE:FUNCTION`.
"""

import importlib
import os
import sys

from cli import BadInput
from judge import parse_verdict


def verdict_reward(prompts, completions, right_verdict, style, **columns):
    """+1 for the right verdict, -1 for a wrong one and for none (RRM section 3.2; RM-R1 section 2.3.2: no extra reward for the format).

    completions: generated texts, with "<think>" in front where the prompt opened it; right_verdict: 1 or 2 each; style: judging style each.
    """
    verdicts = [parse_verdict(text, name) for text, name in zip(completions, style, strict=True)]
    return [1.0 if verdict == right else -1.0 for verdict, right in zip(verdicts, right_verdict, strict=True)]


def load_reward(name):
    """`verdict`, or MODULE:FUNCTION, which is imported: the only place where the trainer runs code that it is given by name."""
    if name == "verdict":
        return verdict_reward
    module, _, function = name.partition(":")
    if not module or not function:
        raise BadInput(f"--reward: {name!r} is not known: use verdict, or MODULE:FUNCTION for a function of your own")
    sys.path.insert(0, os.getcwd())  # a module beside the user's files, wherever this script lies
    try:
        reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--reward: {name}: {error}: the module must be on the Python path and hold that function") from error
    if not callable(reward):
        raise BadInput(f"--reward: {name} is not a function")
    return reward
