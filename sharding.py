"""FSDP2: the weights of a run with several processes, in fp32 shards. Loaded only by such a run."""

import contextlib
import functools
import itertools
from dataclasses import replace

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from checkpoint import INDEX, read_weights, stored_weights
from model import Model
from runlog import sha256, sync, write_json


def load_shards(folder, runtime, dtype, adapter):
    """A Model of which this process holds its shards, cast to runtime.dtype as they are gathered.

    No process ever holds more than its shards and one full tensor.
    """
    model, base = Model.without_values(folder, adapter)
    model.to(dtype)
    mesh = dist.device_mesh.init_device_mesh(runtime.device.type, (runtime.world_size,))
    precision = MixedPrecisionPolicy(
        param_dtype=runtime.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    # One unit a block. Embedding, norm and head are the root unit, which stays gathered until its
    # backward is done.
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    register_fsdp_forward_method(model, "logprobs")  # gathers the head before it is read
    model.logprobs = functools.partial(without_leftovers, model, model.logprobs)
    model.to_empty(device=runtime.device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in read_weights(model, base):
            parameters[name].to_local().copy_(own_shard(parameters[name], tensor))
    return model


def without_leftovers(model, logprobs, *arguments):
    """Calls logprobs. Where no backward pass follows that would let the root unit go, it goes."""
    results = logprobs(*arguments)
    if not torch.is_grad_enabled():
        model.reshard()
    return results


def own_shard(parameter, tensor):
    """This process's part of a full tensor: FSDP2 cuts the first dimension."""
    pieces = tensor.chunk(parameter.device_mesh.size())
    rank = parameter.device_mesh.get_local_rank()
    return pieces[rank] if rank < len(pieces) else tensor[:0]


def deal(sizes, num_shares):
    """The share of each item, so that shares have about equal sums: the largest item first.

    Each goes to the share that is smallest so far. All processes compute the same.
    """
    sums, shares = [0] * num_shares, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        shares[index] = sums.index(min(sums))
        sums[shares[index]] += sizes[index]
    return shares


def deal_groups(groups, runtime):
    """This process's share of all processes' groups, with about equally many tokens.

    Only what a gradient needs travels: tokens, log-probs and advantages.
    """
    own = []
    for group in groups:
        own.append(replace(group, item=None, messages=[], records=[]))
    everyone = sorted(itertools.chain(*runtime.gather(own)), key=lambda group: group.number)
    shares = deal([group.num_tokens() for group in everyone], runtime.world_size)
    return [group for group, share in zip(everyone, shares) if share == runtime.rank]


def write_share(folder, policy, optimizer):
    """Writes this process's full tensors of a checkpoint, while the others write theirs.

    The first process adds the index that transformers and vLLM read. Returns {file: SHA-256} of
    all processes.
    """
    from distributed import gather_state  # which loads this file

    runtime = policy.runtime
    shares = deal([master.numel() for master in policy.masters.values()], runtime.world_size)
    names = [name for name, share in zip(policy.masters, shares) if share == runtime.rank]
    weights, moments = gather_state(policy, optimizer, names)
    part = f"{runtime.rank + 1:05d}-of-{runtime.world_size:05d}.safetensors"
    weights = stored_weights(weights)
    hashes = {}
    for name, tensors in ((f"model-{part}", weights), (f"trainer/optimizer-{part}", moments)):
        if tensors:
            save_file(tensors, folder / name, metadata={"format": "pt"})
            sync(folder / name)  # the first process may be on another machine
            hashes[name] = sha256(folder / name)
    num_bytes = sum(tensor.nbytes for tensor in weights.values())
    parts = runtime.gather((hashes, dict.fromkeys(weights, f"model-{part}"), num_bytes))
    if runtime.is_main:
        files = {key: file for _, names, _ in parts for key, file in sorted(names.items())}
        total = sum(size for *_, size in parts)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    return {name: value for found, *_ in parts for name, value in found.items()}


@contextlib.contextmanager
def gathered(model):
    """Yields a plain Model with all weights on this process; the shards are let go afterwards."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    yield model.with_weights(weights)
    del weights
    for unit in units:
        unit.reshard()
