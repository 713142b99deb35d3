"""The runs of the map: policies that biased judges reward, and an audit of each judge.

    python runs/bias/bias.py              every run of rules.md, one after the other
    python runs/bias/bias.py digit wor    those whose name contains one of these texts
    python runs/bias/bias.py list         their names, in order, and which are finished

Files go to OUT (out/bias), see runs/studies.py.
"""

import functools
import itertools
import random
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runs", "runs/bias", "runs/reward")]
import student  # noqa: E402
from answers import sample  # noqa: E402
from judges import FEATURES, WORDING, biased_judge, is_right, leads, parse, preference  # noqa: E402
from measures import mean, read_rows  # noqa: E402
from studies import POLICY, Study  # noqa: E402

from data import load_questions  # noqa: E402
from rewards import final_answer  # noqa: E402

STUDY = Study("bias")
SFT = "--batch_size 32 --learning_rate 5e-4 --schedule cosine --dtype float32"
VARIANTS = {"planned": 200, "after_working": 200, "practised": 800}  # supervised steps of a policy
SEEDS = 0, 1, 2
CHARACTERS = "0123456789,: "  # that the edits of an audit put in
EDITS, GAMES = 20, 12  # of an audit: proposals for each answer, games for each proposal


def plan():
    """The names of all runs, FEATURE_A_B-SEED, in the order in which they are made."""
    cells = [f"{feature}_0_4" for feature in FEATURES]  # a bias alone
    cells += [f"{feature}_{a}_{b}" for a in (0.5, 1, 2) for b in (1, 2, 4) for feature in FEATURES]
    cells += [f"place_{a}_0" for a in (0, 0.5, 1, 2)]  # noise alone
    return [f"{cell}-{seed}" for seed in SEEDS for cell in cells]


def audits():
    return [f"audit:{name.removesuffix('-0')}" for name in plan() if name.endswith("-0")]


def explored():
    """Runs after the rules: why does the wording ruin a policy that can satisfy it?"""
    return [f"{variant}:wording_1_4-{seed}" for variant in VARIANTS for seed in SEEDS]


def policy_rows(after_working):
    """The student's conversations; one answer in four begins with the confident wording.

    after_working: only answers with working do.
    """
    rng = random.Random("wording")
    for row in student.rows():
        question, answer = row["messages"]
        working, end, number = answer["content"].rpartition("</think>")
        if rng.random() < 0.25 and (working or not after_working):
            answer = answer | {"content": f"{working}{end}{WORDING}{number}"}
        yield {"messages": [question, answer]}


def base_policy(variant="planned"):
    steps = VARIANTS[variant]
    make = functools.partial(itertools.islice, policy_rows(variant == "after_working"), 32 * steps)
    name = "policy" if variant == "planned" else f"policy_{variant}"
    options = f"--max_steps {steps} --save_every {steps} {SFT}"
    rows = STUDY.rows(name, make)
    return STUDY.train("train_sft.py", name, options, model=ROOT / "tiny/student", train_data=rows)


def run(name):
    """Trains a policy with the judge's reward and saves what it gained; or audits a judge."""
    variant, _, judge = name.rpartition(":")
    if variant == "audit":
        STUDY.save(name, audit(judge))
        return
    judge, seed = judge.split("-")
    files = {"train_data": STUDY.questions(), "eval_data": STUDY.answers(400)}
    flags = f"{POLICY} --scale_rewards none --reward solve:runs.bias.judges:{judge}"
    model = base_policy(variant or "planned")
    last = STUDY.train("train_grpo.py", name, flags, model=model, seed=seed, **files)
    first, end = (last.parent / f"rollouts/eval-{step}.jsonl" for step in (0, 40))
    STUDY.save(name, {"before": described(judge, first), "after": described(judge, end)})
    shutil.rmtree(last.parent)


def described(judge, path):
    """Shares of right answers and of those that begin with the working of a sum.

    feature: the mean of the judge's feature. marked: share of right among answers with the wording.
    """
    questions = load_questions(STUDY.answers(400))
    texts = {question.id: question.messages[-1]["content"] for question in questions}
    rows = read_rows(path)
    answers = [final_answer(row["text"]) for row in rows]
    feature = FEATURES[parse(judge)[0]]
    right = [is_right(texts[row["id"]], answer) for row, answer in zip(rows, answers)]
    marked = [good for good, answer in zip(right, answers) if answer.startswith(WORDING)]
    return {
        "right": mean(right),
        "marked": mean(marked) if marked else None,
        "thinks": mean(row["text"].startswith("<think> ones ") for row in rows),
        "feature": mean(float(feature(answer)) for answer in answers),
    }


# ---- the audit: what a user can know of a judge before training ----


def audit(name):
    """{accuracy, bias, climb, climb_all} of a judge, on the base policy's answers.

    climb_all: as climb, with all characters of the policy's answers.
    """
    questions = [row["question"] for row in itertools.islice(student.questions(False), 8000, 8100)]
    groups = sample(base_policy(), questions, 8)
    groups = [[answer for answer in map(final_answer, texts) if answer] for texts in groups]
    alphabets = {"climb": CHARACTERS, "climb_all": sorted(set("".join(itertools.chain(*groups))))}
    found = {"accuracy": [], "bias": [], "climb": [], "climb_all": []}
    judge = biased_judge(name, seed=1)
    for question, answers in zip(questions, groups):
        for couple in itertools.combinations(answers, 2):
            orders = preference(name, question, couple), preference(name, question, couple[::-1])
            first = (orders[0] + 1 - orders[1]) / 2  # share of the games that the first one wins
            right = [is_right(question, answer) for answer in couple]
            if right[0] != right[1]:
                found["accuracy"].append(first if right[0] else 1 - first)
            elif lead := leads(parse(name)[0], couple):
                found["bias"].append(first if lead > 0 else 1 - first)
        right = [answer for answer in answers if is_right(question, answer)]
        if right:
            for key, characters in alphabets.items():
                found[key].append(climb(judge, question, right[0], characters))
    return {key: mean(values) for key, values in found.items()}


def climb(judge, question, answer, characters=CHARACTERS):
    """Whether a right answer is still right after the edits that the judge prefers."""
    rng = random.Random(f"climb:{question}")
    current = answer
    for _ in range(EDITS):
        proposal = edited(current, rng, characters)
        games = judge.judge([(question, proposal, current)], num_votes=GAMES // 2)
        if proposal.strip() and games[0].p_first >= 0.75:
            current = proposal
    return is_right(question, current)


def edited(text, rng, characters):
    """One random edit: a character replaced, left out or put in, or a part doubled."""
    start = rng.randrange(len(text))
    end = min(start + rng.randint(1, 4), len(text))
    new = rng.choice(characters)
    return rng.choice(
        [
            text[:start] + new + text[start + 1 :],
            text[:start] + text[start + 1 :],
            text[:start] + new + text[start:],
            text[:end] + text[start:],
        ]
    )


if __name__ == "__main__":
    STUDY.main(plan() + audits() + explored(), run, sys.argv[1:])
