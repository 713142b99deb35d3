"""Drawing one token for each row of logits."""

import torch
import torch.nn.functional as F

from kernels.logprob import row_tiles

BLOCK = 256  # words of the vocabulary whose probabilities are summed before one is searched for


def sample_tokens(logits, temperature, top_p, uniform):
    """Draws one token per row -> (tokens, logprobs), both (rows,).

    At top_p 1 it equals the following lines but for rounding:

        probs = (logits / temperature).softmax(-1)                      # (rows, vocab)
        tokens = torch.searchsorted(probs.cumsum(-1), uniform[:, None], right=True)[:, 0]
        logprobs = probs.gather(1, tokens[:, None])[:, 0].log()

    logits: fp32 (rows, vocab). uniform: one number in [0, 1) per row. At temperature 0 the tokens
    are logits.argmax(-1). Below top_p 1 tokens come from the smallest set of likeliest tokens
    that holds this probability (nucleus sampling, arXiv 1904.09751, section 3.1). The log-probs,
    in nats, are always those of all tokens, and at temperature 0 those of temperature 1.
    """
    all_tokens, all_logprobs = [], []
    for rows in row_tiles(logits):
        scaled = logits[rows] / (temperature or 1)
        highest = scaled.amax(dim=-1, keepdim=True)
        weights = scaled.sub_(highest).exp_()  # (rows of the tile, vocab): probs * their sum
        if temperature == 0:
            tokens = logits[rows].argmax(dim=-1)
        elif top_p < 1:
            tokens = draw(likeliest(weights, top_p), uniform[rows])
        else:
            tokens = draw(weights, uniform[rows])
        chosen = weights.gather(1, tokens[:, None])[:, 0]
        all_tokens.append(tokens)
        all_logprobs.append(chosen.log() - weights.sum(dim=-1).log())
    return torch.cat(all_tokens), torch.cat(all_logprobs)


def likeliest(weights, top_p):
    """Sets to zero all weights (rows, vocab) outside the smallest set that holds top_p of them."""
    ordered, order = weights.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # the sum of all larger weights
    ordered[before >= top_p * ordered.sum(dim=-1, keepdim=True)] = 0
    return torch.zeros_like(weights).scatter_(1, order, ordered)


def draw(weights, uniform):
    """Draws one index per row, (rows,), with probabilities in proportion to weights (rows, vocab).

    It equals `torch.searchsorted(weights.cumsum(-1), uniform * weights.sum(-1), right=True)` but
    for rounding. It finds a block of the vocabulary first and then a word in it, because a
    cumulative sum over the vocabulary is slow.
    """
    vocab_size = weights.shape[1]
    padding = -vocab_size % BLOCK
    if padding:
        weights = F.pad(weights, (0, padding))
    blocks = weights.unflatten(1, (-1, BLOCK))  # (rows, blocks, BLOCK)
    block_sums = blocks.sum(dim=-1)  # (rows, blocks)
    target = uniform * block_sums.sum(dim=-1, dtype=torch.float64)  # (rows,)
    block, target = search(block_sums, target)
    rows = torch.arange(len(block), device=block.device)
    word, _ = search(blocks[rows, block], target)
    # an index beyond the vocabulary comes from NaN weights alone, which the sampler reports
    return (block * BLOCK + word).clamp(max=vocab_size - 1)


def search(weights, target):
    """Finds where the running sum of weights (rows, n) exceeds target (rows,).

    Returns the index (rows,), and by how much target is larger than the sum before that index.
    """
    # fp64: a GPU sums in parallel, and its fp32 running sums may fall from entry to entry
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(target, below_total)  # so that the weight that is found is above 0
    index = torch.searchsorted(cumulative, target[:, None], right=True)
    index = index.clamp(max=weights.shape[1] - 1)  # (rows, 1)
    before = (cumulative - weights).gather(1, index)[:, 0]
    return index[:, 0], (target - before).clamp(min=0)
