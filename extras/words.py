"""Results and settings in words, for the top of a page or a figure."""

from pathlib import Path

from extras.scoring import compared

# Without one of these, the results of a file are none of an evaluation.
RESULTS = {"benchmark", "items", "questions", "rule", "protocol", "baselines", "outcomes"}
SETTINGS = {  # of an evaluation or of a training, in this order
    "base_url": "on {}",
    "adapter": "adapter {}",
    "train_data": "trained on {}",
    "style": "style {}",
    "reward": "reward {}",
    "strategy": "strategy {}",
    "placements": "placements {}",
    "num_votes": "votes {}",
    "prompts_per_step": "{} prompts a step",
    "num_generations": "{} completions a prompt",
    "batch_size": "{} rows a step",
    "learning_rate": "learning rate {:g}",
    "beta": "beta {:g}",
    "loss_type": "loss {}",
    "lora_rank": "LoRA rank {}",
    "temperature": "temperature {:g}",
    "max_completion_length": "at most {} tokens",
    "limit": "limit {}",
    "seed": "seed {}",
}


def has_results(content):
    """Whether the content of a results.json has settings, and the numbers of an evaluation."""
    settings, results = content.get("settings"), content.get("results")
    is_known = isinstance(settings, dict) and isinstance(results, dict)
    return is_known and results.keys() >= RESULTS


def model_words(settings):
    """Who was judged or trained: the model, or the file with the verdicts of another one."""
    if settings.get("predictions"):
        return f"verdicts of {Path(settings['predictions']).name}"
    return Path(str(settings.get("model") or "unknown model")).name


def settings_words(settings):
    """The settings that decide a result, on one line."""
    if settings.get("predictions"):
        return "judged elsewhere: its settings are unknown here"
    words = []
    if "one_order" in settings:
        words.append("one order" if settings["one_order"] else "both orders")
    is_solver = str(settings.get("reward")).startswith(("answer", "solve:"))
    for name, form in SETTINGS.items():
        if name == "style" and is_solver:  # which is not asked to judge
            continue
        value = settings.get(name)
        if value is not None and value != "" and not (name in ("beta", "lora_rank") and not value):
            words.append(form.format(value))
    return ", ".join(words)


def headline(result):
    """(name, [value, low, high]) of the first score that is known; (None, None) without one."""
    for name, value in result["rule"].items():
        if value is not None:
            return name, value
    return None, None


def percent(value):
    return f"{value * 100:.1f}"


def result_words(result):
    """The headline of an evaluation, and whether it is above the best trivial judge."""
    name, value = headline(result)
    if name is None:
        return "no score: rows or matches are missing, or all are ties"
    middle, low, high = map(percent, value)
    words = f"{name} {middle} % (95 %: {low} to {high}), {result['items']} items"
    trivial = {}
    for kind, scores in result.get("baselines", {}).items():
        if scores.get(name) is not None:
            trivial[kind] = scores[name]
    if trivial:
        kind = max(trivial, key=trivial.get)
        place = "above" if value[1] > trivial[kind] else "not clearly above"
        if value[2] < trivial[kind]:
            place = "below"
        words += f", {place} the best trivial judge ({kind}, {percent(trivial[kind])} %)"
    return words


def winner_words(found, names, benchmark):
    """Which of several evaluations is best, and whether its lead on the second one is clear.

    found: contents of results.json. The difference is paired over the questions that both have.
    """
    name, _ = headline(found[0]["results"])
    scored = []
    for own_name, entry in zip(names, found):
        value = entry["results"]["rule"].get(name)
        if value is not None:
            scored.append((value[0], own_name, entry))
    if len(scored) < 2:
        return ""
    scored.sort(key=lambda one: -one[0])
    (first, best, entry), (second, runner_up, other) = scored[:2]
    words = f"best {name}: {best} {percent(first)} %, then {runner_up} {percent(second)} %"
    questions = [{(row["id"], row["question"]) for row in one["rows"]} for one in (entry, other)]
    if not questions[0] & questions[1]:
        return f"{words}; they share no items"
    difference = compared(benchmark, entry["rows"], other["rows"])["rule"].get(name)
    if difference is None:
        return words
    _, low, high = difference
    clear = "a clear lead" if low > 0 else "no clear lead"
    return f"{words}: {clear} (95 %: {low * 100:+.1f} to {high * 100:+.1f} points)"
