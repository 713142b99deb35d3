"""Two judges without thinking, trained by plain PyTorch from a base: what a thinking judge has to beat (direct.py compares them).

verdict  cross-entropy of the verdict's token behind the prompt of a pair:    margin = logit of "1" - logit of "2"
scalar   Bradley-Terry: a linear head on the last token of a question with one answer:   margin = r(first) - r(second)

Both minimise -log sigmoid(margin of the better one). Two amounts of training: `once`, as many pairs as the GRPO run draws, each seen once;
`all`, all training pairs, as many passes as help, PASSES at most. The learning rate (by `once`) and the number of passes (by `all`) are those
with the least loss on a tenth of the pairs that is kept apart.
"""

import copy
import json
import math
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import forced  # noqa: E402
import rl  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from forced import ORDERS  # noqa: E402
from measure import load_rows  # noqa: E402

from chat import encode_chat  # noqa: E402
from kernels.packed_attention import packed_attention  # noqa: E402
from model import pack_groups  # noqa: E402

LEARNING_RATES = 3e-4, 1e-3, 3e-3
PAIRS_OF_GRPO, ALL_PAIRS = rl.STEPS * rl.PROMPTS_PER_STEP, min(8000, 150 * rl.STEPS)
BATCH, PASSES, PATIENCE, WARMUP = 64, 4, 2, 20
NOTE = (
    f"Simple judges: learning rates {', '.join(f'{rate:g}' for rate in LEARNING_RATES)}, chosen by the loss on a tenth of the training pairs kept "
    f"apart; AdamW, {BATCH} games an update; `all`: {PASSES} passes at most; they take the likelier answer. In its "
    "supervised stage the base has seen which answer is better only at the end of workings, elsewhere coins."
)


def last_hidden(model, contexts):
    """Hidden states of the last tokens of lists of token ids, (contexts, hidden_size)."""
    pack = pack_groups([(context, [[0]]) for context in contexts], model.device)
    return model(pack.tokens, pack.positions, packed_attention(pack))[pack.predictors]


def verdict_margins(model, head, tokenizer, games):
    """games: [(row, order)] -> log odds of verdict 1, (games,). `head` is not used: the model's own output layer is."""
    common, one, two = forced.verdict_tokens(tokenizer)
    hidden = last_hidden(
        model, [forced.prompt_of(tokenizer, row, order) + common for row, order in games]
    )
    return hidden @ (model.head_weight[one] - model.head_weight[two])


def scalar_margins(model, head, tokenizer, games):
    """games: [(row, order)] -> reward of the answer shown first less that of the other, (games,)."""
    contexts = [
        encode_chat(
            tokenizer,
            [{"role": "user", "content": f"{row['query']} first: {row['ab'[index]]} better?"}],
        )
        for row, order in games
        for index in order
    ]
    rewards = head(last_hidden(model, contexts))[:, 0].view(-1, 2)
    return rewards[:, 0] - rewards[:, 1]


KINDS = {"verdict": verdict_margins, "scalar": scalar_margins}


class Learner:
    """A copy of the base, its scalar head and its optimizer."""

    def __init__(self, kind, base, learning_rate, steps=None):
        self.kind, (model, self.tokenizer, _) = kind, base
        self.model, self.head = (
            copy.deepcopy(model),
            torch.nn.Linear(model.config.hidden_size, 1, bias=False, device=model.device),
        )
        torch.nn.init.zeros_(self.head.weight)
        self.parameters = [
            *self.model.parameters(),
            *(self.head.parameters() if kind == "scalar" else []),
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.0)
        self.learning_rate, self.steps, self.step, self.seen, self.seconds = (
            learning_rate,
            steps,
            0,
            0,
            0.0,
        )

    def margins(self, games):
        return KINDS[self.kind](self.model, self.head, self.tokenizer, games)

    def learn(self, games):
        """One update; the learning rate falls to zero over `steps`, if that is known."""
        began, self.step = time.process_time(), self.step + 1
        falling = (
            1.0 if self.steps is None else 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
        )
        self.optimizer.param_groups[0]["lr"] = (
            self.learning_rate * min(1.0, self.step / WARMUP) * falling
        )
        signs = torch.tensor(
            [1.0 if order.index(row["label"]) == 0 else -1.0 for row, order in games],
            device=self.model.device,
        )
        loss = F.softplus(-signs * self.margins(games)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.seen += len(games)
        self.seconds += time.process_time() - began

    def judge(self, rows):
        """Games of all rows in both orders, as measure.py has them."""
        games = [(row, order) for row in rows for order in ORDERS]
        with torch.no_grad():
            chances = [
                chance
                for start in range(0, len(games), 256)
                for chance in torch.sigmoid(self.margins(games[start : start + 256])).tolist()
            ]
        return forced.judged(*zip(*games), chances)

    def loss(self, rows):
        return -sum(math.log(max(game["chance_right"], 1e-6)) for game in self.judge(rows)) / (
            2 * len(rows)
        )


def one_pass(learner, rows, rng):
    """Each pair once, in an order drawn by lot."""
    games = [(row, rng.choice(ORDERS)) for row in rng.sample(rows, len(rows))]
    for start in range(0, len(games), BATCH):
        learner.learn(games[start : start + BATCH])


def train_once(kind, base, rows, apart):
    """The learner of the learning rate with the least loss on the pairs kept apart, after one pass."""
    tried = []
    for learning_rate in LEARNING_RATES:
        learner = Learner(kind, base, learning_rate, steps=math.ceil(len(rows) / BATCH))
        one_pass(learner, rows, random.Random(0))
        tried.append((learner.loss(apart), learner))
        print(
            f"{kind}: learning rate {learning_rate:g}: loss {tried[-1][0]:.4f} after one pass of {len(rows)} pairs, {learner.seconds:.0f} s",
            file=sys.stderr,
        )
    return min(tried, key=lambda found: found[0])[1]


def train_all(kind, base, rows, apart, learning_rate):
    """Passes until PATIENCE of them in a row bring no smaller loss on the pairs kept apart; returns the learner of the least one."""
    learner, best, passes = Learner(kind, base, learning_rate), None, 0
    while passes < PASSES and (best is None or passes < best[2] + PATIENCE):
        passes += 1
        one_pass(learner, rows, random.Random(passes))
        loss = learner.loss(apart)
        print(f"{kind}: pass {passes}: loss {loss:.4f}, {learner.seconds:.0f} s", file=sys.stderr)
        if best is None or loss < best[0]:
            best = loss, copy.deepcopy(learner), passes
    return best[1]


def trained_all(base, held_out):
    """{name: (games on the pairs held out, (pairs seen, None for tokens, CPU seconds))}; what a training gave is kept in OUT/data."""
    torch.set_num_threads(1)
    rows, found = load_rows(rl.ROOT / "tiny/train.jsonl"), {}
    kept = {
        sibling
        for sibling in {row["sibling"] for row in rows}
        if random.Random(f"apart:{sibling}").random() < 0.1
    }
    apart, rows = (
        [row for row in rows if row["sibling"] in kept][: max(8, ALL_PAIRS // 20)],
        [row for row in rows if row["sibling"] not in kept],
    )
    random.Random("simple").shuffle(rows)  # the file has siblings side by side
    for kind in KINDS:
        path = rl.OUT / f"data/simple-{kind}.json"
        if not path.exists():
            torch.manual_seed(0)
            once = train_once(kind, base, rows[:PAIRS_OF_GRPO], apart)
            whole = train_all(kind, base, rows[:ALL_PAIRS], apart, once.learning_rate)
            rl.write_rows(
                path,
                [
                    {
                        f"{kind}, {arm}": [
                            learner.judge(held_out),
                            [learner.seen, None, learner.seconds],
                        ]
                        for arm, learner in (("once", once), ("all", whole))
                    }
                ],
            )
        found |= json.loads(path.read_text())
    return found
