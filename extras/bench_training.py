"""The benchmarks of log-probs and of shared prompts. Run by `python -m extras.bench`."""

import functools
import importlib.util

import torch

from extras.peers import alternate, rows_of, training_operations
from extras.plan import sizes_of
from kernels.logprob import token_logprobs
from model import Model, pack_groups

FULL_GRID = ",".join(
    f"{generations}/{prompt}/{new}"
    for generations in (4, 8, 16)
    for prompt in (256, 1024, 2048)
    for new in (128, 512)
)


def plain_logprobs(hidden, weight, targets):
    """What token_logprobs equals, with all logits at once."""
    logprobs = (hidden @ weight.T).float().log_softmax(-1)
    entropy = -(logprobs.detach().exp() * logprobs.detach()).sum(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], entropy


def logprob_arms(device):
    """{name: function of hidden, weight, targets}, which returns log-probs and entropy.

    The entropy is None where the package has none.
    """
    arms = {"ours": token_logprobs, "all logits": plain_logprobs}
    if device.type == "cuda":
        arms["torch.compile"] = torch.compile(plain_logprobs)
        if importlib.util.find_spec("liger_kernel"):
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger_loss = LigerFusedLinearCrossEntropyLoss(reduction="none")

            def liger(hidden, weight, targets):
                return -liger_loss(weight, hidden, targets), None

            arms["liger-kernel"] = liger
        if importlib.util.find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy

            def cut(hidden, weight, targets):
                return -linear_cross_entropy(hidden, weight, targets, reduction="none"), None

            arms["cut-cross-entropy"] = cut
    return arms


def logprob_error(function, hidden, weight, targets, coefficients):
    """Errors against float64, on the first 256 tokens.

    (largest of log-probs, largest of entropies or None, largest relative one of both gradients)
    """

    def results(function, dtype):
        x = hidden[:256].detach().to(dtype).requires_grad_()
        w = weight.detach().to(dtype).requires_grad_()
        logprobs, entropy = function(x, w, targets[:256])
        gradients = torch.autograd.grad((logprobs * coefficients[:256]).sum(), (x, w))
        return logprobs, entropy, gradients

    exact_logprob, exact_entropy, exact_gradients = results(exact_logprobs, torch.float64)
    logprobs, entropy, gradients = results(function, hidden.dtype)
    logprob_error = (exact_logprob - logprobs).abs().max().item()
    entropy_error = None
    if entropy is not None:
        entropy_error = (exact_entropy - entropy).abs().max().item()
    gradient_errors = [
        ((exact - own).norm() / exact.norm()).item()
        for exact, own in zip(exact_gradients, gradients)
    ]
    return logprob_error, entropy_error, max(gradient_errors)


def exact_logprobs(hidden, weight, targets):
    logprobs = (hidden @ weight.T).log_softmax(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def bench_logprob(settings, folder, device, dtype, limits):
    weight = Model.from_pretrained(folder, device, dtype).head_weight.detach()
    vocab, size = weight.shape
    torch.manual_seed(settings.seed)
    # Logits with a standard deviation of 3
    hidden = torch.randn(settings.tokens, size, device=device)
    hidden = (hidden * 3 / (weight.float().std() * size**0.5)).to(dtype)
    targets = torch.randint(vocab, (settings.tokens,), device=device)
    coefficients, rows = torch.randn(settings.tokens, device=device), []
    tolerance, gradient_tolerance = (1e-3, 1e-2) if dtype == torch.float32 else (0.05, 0.02)

    def forward(function):
        with torch.no_grad():
            function(hidden, weight, targets)

    def forward_backward(function):
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        torch.autograd.grad((function(x, w, targets)[0] * coefficients).sum(), (x, w))

    checks = {}
    for name, function in logprob_arms(device).items():
        logprob, entropy, gradient = logprob_error(function, hidden, weight, targets, coefficients)
        entropy_text = "-" if entropy is None else f"{entropy:.1e}"
        text = f"errors: log-prob {logprob:.1e}, entropy {entropy_text}, gradient {gradient:.1e}"
        passed = True
        if name == "ours":
            passed = max(logprob, entropy) <= tolerance and gradient <= gradient_tolerance
        checks[name] = (text, passed)
    for pass_name, factor, work in (
        ("forward", 1, forward),
        ("forward + backward", 3, forward_backward),
    ):
        arms = {
            name: functools.partial(work, function)
            for name, function in logprob_arms(device).items()
        }
        alternate(arms, 10 if device.type == "cuda" else 1, device)  # warm-up
        floor = factor * 2 * settings.tokens * vocab * size / limits[0]
        shape = {"tokens": settings.tokens, "vocab": vocab, "hidden": size, "pass": pass_name}
        rows += rows_of(alternate(arms, settings.repeats, device), floor, device, checks, **shape)
    return rows


def packs(prompt, completions, budget, shared):
    """Cuts completions into lists of at most `budget` tokens, or of one completion.

    shared: each list has the prompt once, else every completion has its own.
    """
    batch, size = [], 0
    for completion in completions:
        cost = len(completion) + (0 if shared and batch else len(prompt))
        if batch and size + cost > budget:
            yield batch
            batch, size, cost = [], 0, len(prompt) + len(completion)
        batch.append(completion)
        size += cost
    if batch:
        yield batch


def accumulated(model, prompt, completions, coefficients, budget, shared):
    """Gradients {name: tensor} of the sum of coefficient * log-prob, and the tokens computed."""
    model.zero_grad(set_to_none=True)
    computed, used = 0, 0
    for batch in packs(prompt, completions, budget, shared):
        groups = [(prompt, batch)]
        if not shared:
            groups = [(prompt, [completion]) for completion in batch]
        pack = pack_groups(groups, model.device)
        logprobs, _ = model.logprobs(pack)
        (logprobs * coefficients[used : used + len(logprobs)]).sum().backward()
        computed, used = computed + len(pack.tokens), used + len(logprobs)
    return {name: weight.grad for name, weight in model.named_parameters()}, computed


def distance(gradients, reference):
    """Norm of the difference over the norm of the reference, all parameters together."""
    difference, size = 0.0, 0.0
    for name, exact in reference.items():
        difference += (gradients[name].float() - exact.float()).norm() ** 2
        size += exact.float().norm() ** 2
    return (difference / size).sqrt().item()


def bench_packing(settings, folder, device, dtype, limits):
    model = Model.from_pretrained(folder, device, dtype)
    shapes = (FULL_GRID if settings.grid == "full" else settings.grid).split(",")
    return [row for shape in shapes for row in packing_rows(model, shape, settings, limits)]


def packing_rows(model, shape, settings, limits):
    """One table: our shared prompts, the same without sharing, and padded rows.

    shape: completions/prompt tokens/completion tokens. settings: seed, repeats, micro_batch_tokens.
    """
    device, dtype = model.device, model.head_weight.dtype
    vocab, sizes = model.config.vocab_size, sizes_of(model.config.raw)
    bound = 1e-4 if dtype == torch.float32 else 0.05
    count, prompt_tokens, new_tokens = map(int, shape.split("/"))
    torch.manual_seed(settings.seed)
    prompt = torch.randint(vocab, (prompt_tokens,)).tolist()
    # Evenly spaced from all new tokens to half of them
    shortest = new_tokens // 2
    lengths = [new_tokens - index * shortest // max(1, count - 1) for index in range(count)]
    completions = [torch.randint(vocab, (length,)).tolist() for length in lengths]
    coefficients = torch.randn(sum(lengths), device=device) / sum(lengths)
    padded = [completion + [0] * (new_tokens - len(completion)) for completion in completions]
    parts = coefficients.split(lengths)
    padded_coefficients = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).flatten()
    gradients = functools.partial(accumulated, model, prompt, budget=settings.micro_batch_tokens)
    arms = {
        "shared prompt": functools.partial(gradients, completions, coefficients, shared=True),
        "packed": functools.partial(gradients, completions, coefficients, shared=False),
        "padded": functools.partial(gradients, padded, padded_coefficients, shared=False),
    }
    runs = alternate(arms, settings.repeats, device)
    reference, checks = runs["padded"][-1]["result"][0], {}
    for name, measured in runs.items():
        own, computed = measured[-1]["result"]
        gap = distance(own, reference)
        text = f"gradient {gap:.1e} from padded, {computed} tokens computed"
        checks[name] = (text, gap <= bound)
    floor = training_operations(sizes, prompt_tokens + sum(lengths), sum(lengths)) / limits[0]
    shape = dict(generations=count, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    return rows_of(runs, floor, device, checks, **shape)
