"""The sampler: independent rows, the trainer's log-probs, stopping, refilling, random numbers."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers

import kv_cache
import sampler
from model import Model, pack_groups
from sampler import Completion, generate, pack_prompts, sample_tokens
from seeding import hash64, signed, uniforms

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=211,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.15,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return Model.from_pretrained(folder, dtype=torch.float32)


def random_prompts(count, longest=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, 211, (length,), generator=generator).tolist() for length in lengths]


def trainer_logprobs(model, prompts, results, temperature):
    pack = pack_groups(
        [
            (prompt, [completion.tokens for completion in row])
            for prompt, row in zip(prompts, results)
        ]
    )
    with torch.no_grad():
        logprobs, _ = model.logprobs(pack, temperature)
    return logprobs


def flat(results, what="logprobs"):
    return [value for row in results for completion in row for value in getattr(completion, what)]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_the_trainers_with_ragged_prompts_and_refilled_rows(model, temperature):
    prompts, stops = random_prompts(7), tuple(range(0, 211, 9))
    results = generate(
        model, prompts, 6, 50, temperature=temperature, stop_token_ids=stops, seed=3, max_rows=5
    )
    lengths = [len(completion.tokens) for row in results for completion in row]
    assert len(set(lengths)) > 5  # ragged, so rows were refilled at different times
    gap = (
        (trainer_logprobs(model, prompts, results, temperature) - torch.tensor(flat(results)))
        .abs()
        .max()
        .item()
    )
    assert gap <= 1e-4


def test_prompts_that_begin_alike_are_packed_once(monkeypatch):
    monkeypatch.setattr(sampler, "LEAST_SAVED", 2)
    prompts = [[1, 1, 1, 2], [1, 1, 1, 3], [1, 1, 5], [7, 7, 7], [7, 7, 7], [9, 1, 1]]
    pack, places = pack_prompts(prompts, "cpu")
    # The third would share two tokens with the first two. That saves 4 in place of 3: one more.
    assert pack.tokens.tolist() == [1, 1, 1, 2, 3, 1, 1, 5, 7, 7, 7, 7, 9, 1, 1]
    assert pack.positions.tolist() == [0, 1, 2, 3, 3, 0, 1, 2, 0, 1, 2, 2, 0, 1, 2]
    assert pack.pieces == [(3, 0), (1, 0), (1, 0), (3, 3), (2, 4), (1, 4), (1, 4), (3, 7)]
    assert places[1] == [0, 1, 2, 4] and places[4] == [8, 9, 11]
    for prompt, own in zip(prompts, places):
        assert pack.tokens[own].tolist() == prompt


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prompts_that_begin_alike_get_the_completions_of_prompts_alone(model, dtype, monkeypatch):
    model = copy.deepcopy(model).to(dtype)
    system, ends = random_prompts(1, seed=4)[0] + [3] * 100, random_prompts(6, seed=5)
    prompts = [system + end for end in ends] + [system, system, ends[0]]
    computed = []  # the number of tokens of each pack

    def spy(prompts, device):
        pack, places = pack_prompts(prompts, device)
        computed.append(len(pack.tokens))
        return pack, places

    monkeypatch.setattr(sampler, "pack_prompts", spy)
    together = generate(model, prompts, 2, 20, seed=1)
    assert sum(computed) < sum(map(len, prompts)) - 6 * 100
    monkeypatch.setattr(sampler, "LEAST_SAVED", math.inf)
    alone = generate(model, prompts, 2, 20, seed=1)
    if dtype == torch.float32:
        assert flat(together, "tokens") == flat(alone, "tokens")
        assert flat(together) == pytest.approx(flat(alone), abs=1e-4)
    gap = trainer_logprobs(model, prompts, together, 1.0) - torch.tensor(flat(together))
    assert gap.abs().max() <= (1e-4 if dtype == torch.float32 else 0.1)


def test_real_model_logprobs_are_the_trainers(real_model):
    real = Model.from_pretrained(real_model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(20, 49000, (length,), generator=generator).tolist()
        for length in (900, 30, 300)
    ]
    results = generate(
        real,
        prompts,
        3,
        60,
        temperature=0.7,
        stop_token_ids=tuple(range(0, 49152, 40)),
        seed=1,
        max_rows=4,
    )
    gap = (
        (trainer_logprobs(real, prompts, results, 0.7) - torch.tensor(flat(results)))
        .abs()
        .max()
        .item()
    )
    assert gap <= 1e-4


def test_a_row_does_not_depend_on_what_runs_beside_it(model):
    """10,000 tokens are the same alone, together, in another order and with fewer rows.

    Their log-probs agree to 1e-5.
    """
    prompts = random_prompts(10, seed=1)
    seeds = [100 + index for index in range(10)]
    together = generate(model, prompts, 10, 100, seed=seeds)
    assert sum(len(completion.tokens) for row in together for completion in row) == 10_000
    alone = [
        generate(model, [prompt], 10, 100, seed=[seed])[0] for prompt, seed in zip(prompts, seeds)
    ]
    backwards = generate(model, prompts[::-1], 10, 100, seed=seeds[::-1], max_rows=7)[::-1]
    fewer = generate(model, prompts, 3, 100, seed=seeds, max_rows=4)
    for other in (alone, backwards):
        assert flat(other, "tokens") == flat(together, "tokens")
        torch.testing.assert_close(
            torch.tensor(flat(other)), torch.tensor(flat(together)), atol=1e-5, rtol=0
        )
    assert [row[:3] for row in together] == [
        [Completion(c.tokens, pytest.approx(c.logprobs, abs=1e-5), c.finish_reason) for c in row]
        for row in fewer
    ]


def test_generations_of_a_prompt_differ_from_the_first_token_on(model):
    rows = generate(model, [[1, 2, 3]], 32, 2, temperature=1.0)[0]
    assert len({completion.tokens[0] for completion in rows}) > 8


def test_equal_prompts_get_different_numbers_unless_told_otherwise(model):
    first, second = generate(model, [[1, 2, 3]] * 2, 1, 20, seed=5)
    assert first[0].tokens != second[0].tokens
    first, second = generate(model, [[1, 2, 3]] * 2, 1, 20, seed=[5, 5])
    assert first[0].tokens == second[0].tokens


def test_greedy_logprobs_are_those_of_temperature_one(model):
    prompts = random_prompts(3)
    results = generate(model, prompts, 1, 20, temperature=0)
    torch.testing.assert_close(
        torch.tensor(flat(results)),
        trainer_logprobs(model, prompts, results, 1.0),
        atol=1e-4,
        rtol=0,
    )


def test_stop_tokens_and_finish_reasons(model):
    stops = (7, 50, 51, 52, 120)
    rows = [
        completion
        for row in generate(
            model, random_prompts(6), 8, 40, stop_token_ids=stops, seed=2, max_rows=9
        )
        for completion in row
    ]
    assert {completion.finish_reason for completion in rows} == {"stop", "length"}
    for completion in rows:
        assert len(completion.tokens) == len(completion.logprobs) <= 40
        assert not any(token in stops for token in completion.tokens[:-1])
        assert (completion.tokens[-1] in stops) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.tokens) == 40
    last = {completion.tokens[-1] for completion in rows if completion.finish_reason == "stop"}
    assert len(last) >= 3  # several of them do stop
    endless = generate(model, [[1]], 4, 40)[0]
    assert all(
        completion.finish_reason == "length" and len(completion.tokens) == 40
        for completion in endless
    )


def test_a_stop_in_the_last_place_counts_as_stop(model):
    free = generate(model, [[4, 5]], 1, 10, seed=1)[0][0]
    again = generate(model, [[4, 5]], 1, 10, seed=1, stop_token_ids=(free.tokens[9],))[0][0]
    if free.tokens[9] in free.tokens[:9]:
        pytest.fail("choose another seed: the last token came before")
    assert again.tokens == free.tokens and again.finish_reason == "stop"
    assert generate(model, [[4, 5]], 1, 1, seed=1)[0][0].tokens == free.tokens[:1]


def test_no_work_for_finished_rows(model, monkeypatch):
    """Tokens computed = prompt tokens once + generated tokens that are followed by another one."""
    computed = []
    forward = Model.forward
    monkeypatch.setattr(
        Model,
        "forward",
        lambda self, tokens, *rest: computed.append(len(tokens)) or forward(self, tokens, *rest),
    )
    prompts = random_prompts(5)
    results = generate(
        model, prompts, 4, 30, stop_token_ids=tuple(range(0, 211, 11)), seed=4, max_rows=6
    )
    generated = sum(len(completion.tokens) - 1 for row in results for completion in row)
    assert sum(computed) == sum(map(len, prompts)) + generated


def test_prompts_wait_for_a_slot(model, monkeypatch):
    """With fewer slots than prompts nothing is lost."""
    slots = []
    begin = kv_cache.KVCache.__init__
    monkeypatch.setattr(
        kv_cache.KVCache,
        "__init__",
        lambda self, *arguments: slots.append(arguments[1]) or begin(self, *arguments),
    )
    for generations, rows in ((1, 4), (6, 12)):
        prompts = random_prompts(30, seed=2)
        results = generate(
            model,
            prompts,
            generations,
            25,
            stop_token_ids=tuple(range(0, 211, 11)),
            seed=list(range(30)),
            max_rows=rows,
        )
        assert slots[-1] == 4
        alone = [
            generate(
                model,
                [prompt],
                generations,
                25,
                stop_token_ids=tuple(range(0, 211, 11)),
                seed=[index],
            )[0]
            for index, prompt in enumerate(prompts)
        ]
        assert flat(results, "tokens") == flat(alone, "tokens")


def test_rows_and_prompts_share_one_memory_budget(model):
    from sampler import row_budget

    config, four_gib = model.config, 2**32
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
    long_prompt = four_gib // per_token // 10
    assert row_budget(model, 1, long_prompt, 1) in (9, 10)  # one prompt a row
    assert row_budget(model, 1, long_prompt, 8) in (39, 40)  # two slots for eight rows
    assert (
        row_budget(model, 100, 100, 8) == 256
        and row_budget(model, four_gib // per_token // 64, 0, 8) == 64
        and row_budget(model, 10**12, 1, 1) == 1
    )


def test_logits_that_are_not_finite_stop_with_words(model):
    weight = model.norm.weight.data
    model.norm.weight.data = weight * float("nan")
    try:
        for temperature in (0, 1.0):
            with pytest.raises(FloatingPointError, match="not finite"):
                generate(model, [[1, 2]], 2, 3, temperature=temperature)
    finally:
        model.norm.weight.data = weight


def test_frequencies_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, -torch.inf])
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    tokens, logprobs = sample_tokens(logits.repeat(20_000, 1), 0.5, 1.0, uniform)
    expected = (logits / 0.5).softmax(-1)
    torch.testing.assert_close(
        torch.bincount(tokens, minlength=5) / 20_000, expected, atol=2e-4, rtol=0
    )
    torch.testing.assert_close(logprobs.exp(), expected[tokens])


def test_top_p_keeps_the_smallest_sufficient_set_and_leaves_logprobs_alone():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(1000, 1)
    uniform = (torch.arange(1000) + 0.5) / 1000
    for top_p, kept in ((0.3, {1}), (0.5, {1, 3}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        tokens, logprobs = sample_tokens(logits, 1.0, top_p, uniform)
        assert set(tokens.tolist()) == kept
        torch.testing.assert_close(logprobs, logits.gather(1, tokens[:, None])[:, 0])
    tokens, _ = sample_tokens(logits, 1.0, 0.5, uniform)
    assert abs((tokens == 1).float().mean().item() - 4 / 7) < 0.002


def test_the_ends_of_the_uniform_interval_never_draw_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    tokens, logprobs = sample_tokens(logits, 1.0, 1.0, torch.tensor([0.0, 1 - 2**-24]))
    assert tokens.tolist() == [1, 2] and torch.isfinite(logprobs).all()


@pytest.mark.parametrize("vocab_size", [3, 256, 1000])
def test_tokens_are_those_of_the_three_lines_that_define_drawing(vocab_size):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5000, vocab_size, generator=generator)
    uniform = torch.rand(5000, generator=generator)
    tokens, logprobs = sample_tokens(logits, 0.7, 1.0, uniform)
    probs = (logits.double() / 0.7).softmax(-1)
    expected = torch.searchsorted(probs.cumsum(-1), uniform.double()[:, None], right=True)[:, 0]
    assert (tokens == expected).float().mean() > 0.999  # the rest lies at a border, and is rounded
    expected_logprobs = probs.gather(1, tokens[:, None])[:, 0].log()
    torch.testing.assert_close(logprobs.double(), expected_logprobs, atol=1e-5, rtol=0)


def test_random_numbers_are_splitmix64():
    """Against the published sequence for state 0 (first three outputs of SplitMix64)."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    got = uniforms(torch.zeros(3, dtype=torch.long), torch.arange(3))
    assert got.tolist() == [(value >> 40) / 2**24 for value in published]
    many = uniforms(torch.full((200_000,), hash64(1, 2)), torch.arange(200_000))
    assert (
        abs(many.mean().item() - 0.5) < 0.003
        and abs(many.var().item() - 1 / 12) < 0.001
        and many.min() >= 0
        and many.max() < 1
    )
    assert signed(2**64 - 1) == -1 and signed(2**63) == -(2**63) and hash64(1, 2) != hash64(2, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(temperature=value) for value in (-1, 1e-9, math.inf, -math.inf, math.nan)),
        *(dict(top_p=value) for value in (0, -0.1, 1.5, math.inf, math.nan)),
        *(dict(num_generations=value) for value in (0, -1, 1.5)),
        *(dict(max_new_tokens=value) for value in (0, -1, math.inf, 4095)),
        *(dict(seed=value) for value in ([1, 2], [], [0.5], "0")),
        *(dict(prompts=[value]) for value in ([], [211], [-1], [1] * 4097)),
        *(dict(max_rows=value) for value in (0, -1, 1.5)),
    ],
)
def test_arguments_out_of_range_are_refused(model, wrong):
    name = next(iter(wrong)).removesuffix("s")
    with pytest.raises(ValueError, match=name):
        generate(model, **({"prompts": [[1, 2]], "max_new_tokens": 8} | wrong))


def test_numbers_of_numpy_are_numbers_and_the_last_place_of_the_context_can_be_used(model):
    options = dict(num_generations=np.int64(2), max_new_tokens=4, seed=np.int64(5))
    assert generate(model, [[1, 2]], **options) == generate(model, [[1, 2]], 2, 4, seed=5)
    generate(model, [[1] * 4092], max_new_tokens=4)


def test_small_integers_of_numpy_do_not_wrap_around(model):
    """100 generations of two prompts are more than an int8 holds, 4 GiB more than an int32."""
    many = generate(model, [[1, 2]] * 2, np.int8(100), np.int8(1), seed=5)
    assert many == generate(model, [[1, 2]] * 2, 100, 1, seed=5)
    for kind in np.int16, np.int32, np.uint8:
        assert len(generate(model, [[1, 2]], max_new_tokens=kind(3))[0][0].tokens) == 3


def test_tensors_and_arrays_are_lists_of_tokens(model):
    """An entry of a tensor has a hash of its own, so it was never found among the stop tokens."""
    stops, prompts = list(range(0, 211, 10)), [[1, 2], [3]]
    expected = generate(model, prompts, 4, 8, stop_token_ids=stops)
    assert {row.finish_reason for group in expected for row in group} == {"stop", "length"}
    for kind in torch.tensor, np.array:
        given = [kind(prompt) for prompt in prompts]
        assert generate(model, given, 4, 8, stop_token_ids=kind(stops)) == expected
    for wrong in dict(prompts=[[1.5]]), dict(stop_token_ids=[1.5]):
        with pytest.raises(TypeError):
            generate(model, **{"prompts": [[1]], "max_new_tokens": 2} | wrong)


def test_nothing_to_do(model):
    assert generate(model, []) == []
