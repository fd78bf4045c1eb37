"""Compiles the kernels and prints the result of each: python -m tests.backends.torch.compile_kernels --all 86 [120 ...]

The launchers run as on a card of that architecture, on tensors whose memory nobody touches (torch's device "meta", with tensors
that have none, imports torch's compiler); in place of each launch stands a compilation. --all compiles every kind, mode, number
of rows, head_dim and type of K and V, --usual one of each, --largest what takes the most memory. Each line is JSON: the kernel,
its architecture and constants, shared memory in bytes, and the instructions that multiply on tensor cores.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from puna.backends.torch import kernels
from puna.backends.torch.kernels import attention, dequantize, experts, gemm, matvec, norm, rope, sampling
from puna.backends.torch.kernels.attention import Work
from puna.backends.torch.kernels.gpu_properties import KIB, WIDE_ROWS, GPUProperties
from puna.backends.torch.kv import DTYPES, Half, LayerKV, Slots
from puna.backends.torch.step import Step
from puna.backends.torch.weights import KINDS, Matrix, load_matrix
from puna.model.spec import Experts
from tests.fakes import make_tensor

CPU = torch.device("cpu")
# Shared memory that one program may have (CUDA C programming guide, compute capabilities).
GPUS: Mapping[int, GPUProperties] = {
    arch: GPUProperties(size * KIB, WIDE_ROWS[arch // 10])
    for arch, size in {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}.items()
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "launch_pdl")
NAMES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "i8",
    torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip


class Compiler:
    """Stands in the place of a kernel: `compiler[grid](...)` compiles what would have been launched, and prints it, once."""

    arch = 90
    is_launched = True  # False: a benchmark tries it
    seen: set[str] = set()  # noqa: RUF012 - of all kernels

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._compile

    def _compile(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        names = self.kernel.arg_names
        values = dict(zip(names, args, strict=False)) | kwargs
        constants = {name: value for name, value in values.items() if names.index(name) in self._constants()}
        signature = {name: "constexpr" if name in constants else _type_of(values[name]) for name in names}
        aligned = {
            (names.index(n),): [["tt.divisibility", 16]] for n, v in values.items() if n not in constants and _is_aligned(v)
        }
        label = f"{self.arch} {self.kernel.fn.__name__} {constants} {signature} {sorted(aligned)} {options}"
        if label in self.seen:
            return
        self.seen.add(label)
        source = ASTSource(self.kernel, signature, {(names.index(n),): v for n, v in constants.items()}, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", self.arch, 32), options=options)
        told = {"arch": self.arch, "kernel": self.kernel.fn.__name__, "constants": constants, "shared": made.metadata.shared}
        told["is_launched"] = self.is_launched
        print(json.dumps(told | {"products": products(made.asm["ttgir"])}), flush=True)

    def _constants(self) -> set[int]:
        return {parameter.num for parameter in self.kernel.params if parameter.is_constexpr}


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + NAMES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _is_aligned(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def matrix(kind: str, rows: int, columns: int) -> Matrix:
    small = load_matrix(make_tensor("w", np.ones((1, columns), np.float32), kind), kind, CPU)
    planes = {name: torch.empty((rows, plane.shape[1]), dtype=plane.dtype, device=CPU) for name, plane in small.planes.items()}
    return Matrix(kind, rows, columns, planes)


def layer_kv(kv_type: str, num_kv_heads: int, head_dim: int) -> LayerKV:
    shape = (8, num_kv_heads, 16, head_dim)

    def half() -> Half:
        return Half(empty(*shape, dtype=DTYPES[kv_type]), empty(*shape[:3]) if kv_type == "int8" else None)

    return LayerKV(half(), half())


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=CPU)


def step_of(tokens: int, head_dim: int, of_prompts: bool = False) -> Step:
    ids = empty(tokens, dtype=torch.int64)
    tables = empty(1, 8, dtype=torch.int64)
    cos_sin = empty(2, tokens, 2, head_dim // 2)
    return Step(ids, ids, ids, tables, cos_sin, Slots(ids, ids), ids, ids, list(range(tokens)), [0] * tokens, of_prompts)


def products(ttgir: str) -> list[str]:
    """The multiply instructions without their column counts: they determine the summation order of a product."""
    found = set(re.findall(r"tt\.dot\b|warp_group_dot\b|tc_gen5_mma\b|kWidth = \d+", ttgir))
    for version, shape in re.findall(r"nvidia_mma<\{versionMajor = (\d+)[^}]*instrShape = \[([^\]]*)\]", ttgir):
        rows, _, *depth = shape.split(", ")
        found.add(f"mma {version}: {rows} x {depth}")
    return sorted(found)


def compile_products() -> None:
    for index, kind in enumerate(KINDS):
        columns, odd = 4096, 768 if kind.endswith("K") else 576
        kernels.norm_matvec(empty(1, columns), empty(columns), 1e-5, (matrix(kind, 4096, columns),), (None,))
        w, tokens = matrix(kind, 576, odd), (16, 3)[index % 4 == 0]
        if index % 2 == 0:
            kernels.glu_matvec_add(empty(tokens, 2 * odd), w, empty(576), empty(tokens, 576))
        else:
            kernels.embed(w, empty(2, dtype=torch.int64))

    for kind in ("BF16", "Q8_0", "Q4_K"):
        kernels.norm_matvec(empty(70, 4096), empty(4096), 1e-5, (matrix(kind, 4096, 4096),), (None,))
    for kind, columns in (("BF16", 4096), ("F32", 576), ("Q8_0", 576)):
        kernels.matvec_add(empty(300, columns), matrix(kind, 576, columns), empty(576), empty(300, 576), many=True)
    kernels.norm_matvec(empty(300, 576), empty(576), 1e-5, (matrix("BF16", 64, 576),), (None,), many=True)


def compile_experts(kinds: Iterable[str]) -> None:
    """16 experts, of which each of 3 tokens takes 4."""
    spec = Experts(768, count=16, top_k=4)
    chosen, shares = experts.route(empty(3, 16), spec)
    for kind in kinds:
        w = matrix(kind, 16 * 768, 768)
        experts.expert_matvec(empty(3, 768), w, chosen, empty(12, 768))
        experts.expert_matvec(empty(12, 2 * 768), w, chosen, empty(12, 768), matvec.GELU)
    experts.combine(empty(12, 768), shares, empty(3, 768))


def compile_families() -> None:
    """What only some families have, of one kind each."""
    compile_experts(("BF16", "Q4_K"))
    kernels.glu_matvec_add(empty(1, 2 * 576), matrix("Q8_0", 576, 576), None, None, activation="gelu")
    kernels.norm_add(empty(2, 576), empty(576), 1e-5, empty(2, 576))
    kv, step = layer_kv("bf16", 2, 64), step_of(2, 64)
    kernels.rope_write(empty(2, (4 + 2 * 2) * 64), 4, (empty(4 * 64), empty(2 * 64)), 1e-5, kv, step, (0, 1))
    for tokens in (1, 20):
        kernels.attend(empty(tokens, 4, 64), kv, 0, step_of(tokens, 64, of_prompts=tokens > 1), 0.1, 50.0)


def compile_all_families() -> None:
    compile_families()
    compile_experts(KINDS)
    for kind in KINDS:
        for tokens in (1, 3, 16, 70):
            kernels.glu_matvec_add(empty(tokens, 2 * 768), matrix(kind, 576, 768), None, empty(tokens, 576), activation="gelu")
    compile_attention(((kv_type, 8, 2, head_dim, 17) for kv_type in DTYPES for head_dim in (128, 256)), cap=50.0)


def compile_all_products() -> None:
    for kind in KINDS:
        for rows, columns in ((4096, 4096), (576, 768)):
            w = matrix(kind, rows, columns)
            for tokens in (1, 3, 16, 70):
                kernels.norm_matvec(empty(tokens, columns), empty(columns), 1e-5, (w,), (empty(rows),))
                kernels.matvec_add(empty(tokens, columns), w, None, empty(tokens, rows))
                kernels.glu_matvec_add(empty(tokens, 2 * columns), w, None, empty(tokens, rows))
            kernels.embed(w, empty(2, dtype=torch.int64))
            kernels.norm_matvec(empty(300, columns), empty(columns), 1e-5, (w,), (empty(rows),), many=True)
            kernels.matvec_add(empty(300, columns), w, None, empty(300, rows), many=True)


def compile_candidates(gpu: GPUProperties) -> None:
    """What `benchmarks/gpu_kernels.py --sweep` tries."""
    for kind in KINDS:
        w, x, y = matrix(kind, 4096, 4096), empty(1, 4096), empty(1, 4096)
        for tile in matvec.candidates(kind, gpu):
            matvec.matvec(x, w, None, None, y, matvec.NORM, empty(4096), 1e-5, tile)


def compile_dependent_launch() -> None:
    """Not in use yet, and for sm_90 and later only."""
    matvec.PDL = True
    kernels.matvec_add(empty(1, 4096), matrix("BF16", 4096, 4096), None, None)
    matvec.PDL = False


Heads = tuple[str, int, int, int, int]  # type of K and V, heads, K/V heads, head_dim, window
USUAL: tuple[Heads, ...] = (
    ("bf16", 32, 8, 128, 0),
    ("int8", 9, 3, 64, 17),
    ("f16", 8, 8, 20, 0),
    ("f32", 2, 1, 256, 0),
    ("bf16", 8, 1, 256, 0),
)


def all_heads() -> Iterable[Heads]:
    for kv_type in DTYPES:
        for head_dim in (20, 64, 80, 96, 128, 256):
            yield from ((kv_type, *heads, head_dim, window) for heads, window in (((32, 8), 0), ((8, 8), 17), ((64, 1), 0)))


def compile_attention(shapes: Iterable[Heads], cap: float = 0.0) -> None:
    for kv_type, heads, kv_heads, head_dim, window in shapes:
        kv, norms = layer_kv(kv_type, kv_heads, head_dim), (empty(head_dim), empty(head_dim))
        qkv = empty(20, (heads + 2 * kv_heads) * head_dim)
        kernels.rope_write(qkv, heads, norms if window else None, 1e-5, kv, step_of(20, head_dim))
        for tokens in (1, 20):
            step = step_of(tokens, head_dim, of_prompts=tokens > 1)
            kernels.attend(empty(tokens, heads, head_dim), kv, window, step, cap=cap)


def compile_sampling() -> None:
    logits, row = empty(2, 128256), empty(2)
    sampling.argmax(logits)
    ids, many = empty(2, dtype=torch.int32), empty(5, dtype=torch.int32)
    doubles = row.double()
    sampling.edit(logits, ids, ids, ids, row, doubles, doubles, ids, many, many, ids, many, many.double())
    sampling.draw(logits, row.double(), row, row.bool(), row.int(), row.double(), row)


def work_without_memory(step: Step, rows_per_tile: int) -> Work:
    """What `plan_work` would upload."""
    return Work(100, empty(2, 2, dtype=torch.int32) if step.of_prompts else None)


def compile_largest() -> None:
    """What takes the most shared memory."""
    w = matrix("BF16", 4096, 4096)
    for tokens in (16, 70):
        kernels.norm_matvec(empty(tokens, 4096), empty(4096), 1e-5, (w,), (None,))
    kernels.matvec_add(empty(300, 4096), w, None, None, many=True)
    compile_attention([(kv_type, 8, 1, 256, 0) for kv_type in DTYPES])


def compile_for(arch: int, how: str) -> None:
    Compiler.arch, gpu = arch, GPUS[arch]
    for module, name in ((attention, "gpu_properties"), (matvec, "gpu_properties"), (gemm, "gpu_properties")):
        setattr(module, name, lambda device: gpu)
    if how == "--all":
        compile_all_products()
        compile_attention(all_heads())
        compile_all_families()
    elif how == "--usual":
        compile_products()
        compile_attention(USUAL)
        compile_families()
    else:
        compile_largest()
    compile_sampling()
    if arch in (90, 100):
        compile_dependent_launch()
    if how == "--all":
        Compiler.is_launched = False
        compile_candidates(gpu)
        Compiler.is_launched = True


def main() -> None:
    for module, name in (
        (matvec, "matvec_kernel"), (dequantize, "dequantize_kernel"), (rope, "rope_write_kernel"), (attention, "decode_kernel"),
        (attention, "prefill_kernel"), (gemm, "gemm_kernel"), (norm, "rms_norm_kernel"), (norm, "norm_add_kernel"),
        (experts, "route_kernel"), (experts, "expert_kernel"), (experts, "combine_kernel"),
        (sampling, "argmax_kernel"), (sampling, "edit_kernel"), (sampling, "draw_kernel"),
    ):  # fmt: skip
        setattr(module, name, Compiler(getattr(module, name)))
    attention.plan_work = work_without_memory
    how, *architectures = sys.argv[1:]
    for arch in architectures:
        compile_for(int(arch), how)


if __name__ == "__main__":
    main()
