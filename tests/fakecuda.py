"""Runs what a GPU would run, on a machine without one: its tensors have no values.

    with fake_cuda() as gpu:
        model = Model.from_pretrained(folder, "cuda")
        generate(model, prompts)
    gpu.launches        {operator or Triton kernel: how often it ran on the GPU}
    gpu.copies_in       bytes of each copy from the host to the GPU
    gpu.reads           bytes of each copy to the host, which waits for the GPU: its values are 0

A tensor on "cuda" is a FakeTensor: shape, strides, dtype and device are computed as on a GPU, and
mistakes in them raise. Tensors on the CPU are real. Triton kernels are not run; `gpu.kernels` keeps
the types of their arguments, which `compile_kernel` compiles. Numbers are never checked.

Import this file before torch, in a process of its own. It needs g++.
"""
# ruff: noqa: E402

import contextlib
import ctypes
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

# PyTorch for CPUs knows no GPU. These lines say that there is one; streams of it do nothing.
ONE_GPU = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
struct OneGpu : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return Device(DeviceType::CUDA, 0); }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Stream getStream(Device device) const noexcept override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  static Stream stream() { return Stream(Stream::DEFAULT, Device(DeviceType::CUDA, 0)); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, OneGpu);
}
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}
"""


def load_one_gpu():
    assert "torch" not in sys.modules, "PyTorch asks for GPUs as it is imported"
    home = Path(importlib.util.find_spec("torch").origin).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "gpu.cpp"), Path(folder, "gpu.so")
        source.write_text(ONE_GPU)
        command = f"g++ -std=c++20 -O0 -fPIC -shared -I{home}/include {source} -o {library}"
        command += f" -L{home}/lib -lc10 -ltorch_cpu"
        subprocess.run(command.split(), check=True)
        for path in (home / "lib/libtorch_global_deps.so", home / "lib/libtorch_cpu.so", library):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


load_one_gpu()
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import bias
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

# Operators that give another view of a tensor, or memory without content: nothing is launched.
NO_LAUNCH = """view _unsafe_view transpose slice select unsqueeze expand t detach split chunk
    split_with_sizes as_strided permute squeeze unbind alias empty empty_like new_empty
    empty_strided lift_fresh""".split()
READS = "_local_scalar_dense", "is_nonzero", "equal"
FUSED = ("_fused_rms_norm",)  # composite on a CPU, one kernel on a GPU
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
GIB = 2**30


class Gpu(TorchDispatchMode):
    """One GPU without values, and what ran on it."""

    def __init__(self):
        super().__init__()
        self.launches, self.copies_in, self.reads = Counter(), [], []
        self.kernels = {}  # {key: (Triton kernel, signature, constants, options)}
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def forget(self):
        """Starts to count again."""
        self.launches.clear()
        self.copies_in.clear()
        self.reads.clear()

    # ---- tensors ----

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question for the tensor's device
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        # made of other operators: count those
        if func.has_kernel_for_dispatch_key(COMPOSITE) and name not in FUSED:
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        fakes = [x for x in tensors if isinstance(x, FakeTensor)]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        if not fakes and target != "cuda":
            return func(*args, **kwargs)  # on the CPU, for real
        if fakes and name in READS:
            self.reads.append(sum(x.nbytes for x in fakes))
            return 0 if name == "_local_scalar_dense" else False
        if name == "_to_copy" and fakes and target == "cpu":
            self.reads.append(args[0].nbytes)
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "_to_copy" and not fakes:
            self.copies_in.append(args[0].nbytes)
            return self.on_gpu(args[0], kwargs.get("dtype"))
        if name == "copy_" and len(fakes) == 1:
            if isinstance(args[0], FakeTensor):
                self.copies_in.append(args[1].nbytes)
            else:
                self.reads.append(args[0].nbytes)
            return args[0]
        for tensor in tensors:
            if tensor.dim() and tensor.device.type == "cpu":
                raise RuntimeError(f"{func}: a tensor {tuple(tensor.shape)} is on the CPU")
        if name not in NO_LAUNCH:
            self.launches[name] += 1
        with self.mode:
            return func(*args, **kwargs)

    def on_gpu(self, tensor, dtype=None):
        dtype = dtype or tensor.dtype
        meta = torch.empty_strided(tensor.size(), tensor.stride(), dtype=dtype, device="meta")
        return FakeTensor(self.mode, meta, torch.device("cuda:0"))

    # ---- Triton ----

    def launch(self, kernel, *args, grid, warmup, **options):
        """Stands in for triton.JITFunction.run."""
        names = kernel.arg_names
        given = dict(zip(names, args)) | {
            name: options.pop(name) for name in names if name in options
        }
        assert given.keys() == set(names), f"{kernel.__name__}: {set(names) - given.keys()} missing"
        constexprs = {param.name for param in kernel.params if param.is_constexpr}
        signature, constants = {}, {}
        for name, value in given.items():
            if name in constexprs or value is None:
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                assert value.is_cuda, f"{kernel.__name__}: {name} is on the {value.device}"
                signature[name] = "*" + TRITON_TYPES[value.dtype]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        self.launches[kernel.__name__] += 1
        key = kernel.__name__, *signature.items(), *constants.items(), *options.items()
        self.kernels[key] = kernel, signature, constants, options


TRITON_TYPES = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}


@contextlib.contextmanager
def fake_cuda():
    """Inside, there is a Gpu."""
    gpu, lifts = Gpu(), torch._C._only_lift_cpu_tensors()
    # torch.tensor(..., device="cuda") makes a CPU tensor then, and copies it where Gpu sees it
    torch._C._set_only_lift_cpu_tensors(True)
    with contextlib.ExitStack() as patches:
        patches.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        for name, stand_in in stand_ins(gpu).items():
            patches.enter_context(mock.patch(name, stand_in))
        with gpu:
            yield gpu


def stand_ins(gpu):
    """{name: what replaces it}: questions to the driver, which is not there."""
    free = 100 * GIB
    answers = {
        "torch.cuda.is_available": True,
        "torch.cuda.is_bf16_supported": True,
        "torch.cuda.get_device_capability": (9, 0),
        "torch.cuda.get_device_name": "no GPU",
        "torch.cuda.mem_get_info": (free, 2 * free),
        "torch.cuda.memory_reserved": 0,
        "torch.cuda.memory_allocated": 0,
        "torch.cuda.max_memory_allocated": 0,
        "torch.cuda.reset_peak_memory_stats": None,
        "torch.cuda.set_device": None,
        "torch.cuda.synchronize": None,
        "torch.cuda._lazy_init": None,
        "torch.nn.attention.bias.can_use_flash_attention": True,
        "torch._subclasses.fake_tensor.init_gpu_context": None,
    }
    fixed = {name: lambda *_, _answer=answer, **__: _answer for name, answer in answers.items()}
    real_tolist, real_mask = torch.Tensor.tolist, bias.causal_lower_right

    def tolist(tensor):  # at once: PyTorch reads a FakeTensor one number after the other
        return real_tolist(tensor.cpu())

    def causal_lower_right(*sizes):  # a class of tensors, which must not be dispatched
        with _disable_current_modes():
            return real_mask(*sizes)

    real_apply = torch.nn.Module._apply

    def apply(module, function, recurse=True):  # in place, as for tensors with values
        for child in module.children():
            apply(child, function)
        if not any(isinstance(p, FakeTensor) for p in module._parameters.values()):
            return real_apply(module, function, recurse=False)
        for parameter in module.parameters(recurse=False):
            with torch.no_grad():
                parameter.data = function(parameter)
        return module

    class Graph:  # what is captured counts once more, as one launch, whenever it is replayed
        def replay(self):
            gpu.launches["CUDA graph"] += 1

    fixed["torch.nn.Module._apply"] = apply
    fixed["torch.cuda.CUDAGraph"] = Graph
    fixed["torch.cuda.graph_pool_handle"] = lambda: (0, 1)
    fixed["torch.cuda.graph"] = lambda *_, **__: contextlib.nullcontext()
    fixed["torch.cuda.Stream"] = fixed["torch.cuda.current_stream"] = mock.MagicMock()
    fixed["torch.cuda.stream"] = lambda stream: contextlib.nullcontext()
    fixed["torch.cuda.device_of"] = lambda tensor: contextlib.nullcontext()
    fixed["torch._subclasses.fake_tensor.FakeTensor.tolist"] = tolist
    fixed["torch.nn.attention.bias.causal_lower_right"] = causal_lower_right
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401

        def run(kernel, *args, **options):
            return gpu.launch(kernel, *args, **options)

        fixed["triton.runtime.jit.JITFunction.run"] = run
    return fixed


def compile_kernel(kernel, signature, constants, options):
    """{registers, spills, shared} of a Triton kernel for an H100 (sm_90), which need not exist.

    spills: bytes that a thread writes to memory because it has no register left. shared: bytes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    # as at a launch: PyTorch's tensors begin at multiples of 16 bytes
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [program, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}
    return {
        "registers": sizes["REG"],
        "spills": sizes["STACK"] + sizes["LOCAL"],
        "shared": compiled.metadata.shared,
    }
