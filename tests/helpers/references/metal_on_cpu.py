"""Runs the source that MLX generates for a `mlx_voxclone.audio.spectral.metal` kernel on the CPU, one thread at a time.

The text is what MLX prints for a kernel call inside `mx.export_function`, which works without a Metal device. Address
spaces are dropped, buffers become checked ones, and g++ compiles the rest as C++. Reported as `KernelError`: an index
outside of a buffer, two threads that write one element, a thread that reads an output (what another thread wrote, or
nobody yet), an element of an output that no thread wrote, a local variable used before it is set, double precision.

Threads that take part in something together are not emulated: a source that uses threadgroup memory, barriers, SIMD
groups, atomics or pointers of its own is refused. What passes has threads independent of each other, so that their
order cannot matter. Whether Apple's compiler takes the source is not known from here.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.spectral import choice as spectral_choice
from mlx_voxclone.audio.spectral import metal as metal_spectral
from mlx_voxclone.audio.spectral.metal import Kernel, arguments, build

# On a Mac both names are Apple's compiler, whose warnings are others, and the kernels themselves can run.
LINUX = sys.platform == "linux"
COMPILER = shutil.which("g++") if LINUX else None
CLANG = next(filter(None, map(shutil.which, ("clang", *(f"clang-{n}" for n in range(25, 13, -1))))), None)
CLANG = CLANG if LINUX else None
_FOLDER = tempfile.TemporaryDirectory(prefix="metal_on_cpu_")
# std:: does not exist in Metal; a pointer or reference needs an address space, which C++ could not check.
_REFUSED = re.compile(
    r"\b(threadgroup|threadgroup_barrier|simdgroup\w*|simd_\w+|quad_\w+|atomic\w*|std|double|static|while|goto)\b"
    r"|\b(?:float|int|uint|auto)\s*[*&]"
)
# Names of types and keywords that C++ would let a variable have.
_RESERVED = re.compile(
    r"\b(?:int|uint|float|bool)\s+(half|bfloat|uchar|ushort|ulong|size_t|device|constant|thread|kernel|vertex|fragment"
    r"|sampler|texture|access|metal|\w+[234])\b"
)
_CPP = r"""
typedef unsigned int uint;
typedef int int32_t;
struct uint3 { uint x, y, z; };
#define inline static inline
inline float sqrt(float a) { return __builtin_sqrtf(a); }
inline float log(float a) { return __builtin_logf(a); }
inline float abs(float a) { return __builtin_fabsf(a); }
inline float sign(float a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : 0.0f; }
inline float max(float a, float b) { return a > b ? a : b; }
inline float min(float a, float b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }

struct Report { int kind; long index, thread, other; const char* buffer; };
enum { CLEAN, OUTSIDE, WRITTEN_TWICE, READ_OF_OUTPUT };
static Report report;
static long thread;
static void fail(int kind, long index, long other, const char* buffer) {
    if (report.kind == CLEAN) report = Report{kind, index, thread, other, buffer};
}
template <class T> struct Input {
    const T* data; long size; const char* name;
    T operator[](long i) const {
        if (i < 0 || i >= size) { fail(OUTSIDE, i, 0, name); return T(0); }
        return data[i];
    }
};
template <class T> struct Element {
    T* data; int* writer; long i, size; const char* name;
    bool inside() const { if (i < 0 || i >= size) fail(OUTSIDE, i, 0, name); return i >= 0 && i < size; }
    void operator=(T value) const {
        if (!inside()) return;
        if (writer[i]) fail(WRITTEN_TWICE, i, writer[i] - 1, name);
        writer[i] = int(thread) + 1;
        data[i] = value;
    }
    operator T() const {
        if (inside()) fail(READ_OF_OUTPUT, i, writer[i] - 1, name);
        return T(0);
    }
    void operator+=(T value) const { *this = T(*this) + value; }
};
template <class T> struct Output {
    T* data; int* writer; long size; const char* name;
    Element<T> operator[](long i) const { return Element<T>{data, writer, i, size, name}; }
};
"""
_MESSAGES = {
    1: "{buffer}[{index}] is outside of the buffer (thread {thread})",
    2: "{buffer}[{index}] is written twice, by threads {other} and {thread}",
    3: "{buffer}[{index}], an output, is read by thread {thread}",
}


class KernelError(Exception):
    """A kernel that does something wrong, or something that this harness cannot judge."""


class _Report(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("index", ctypes.c_long),
        ("thread", ctypes.c_long),
        ("other", ctypes.c_long),
        ("buffer", ctypes.c_char_p),
    )


def generated_source(kernel: Kernel, inputs: Sequence[mx.array], shapes, grid) -> str:
    """The Metal source MLX makes of a kernel for such inputs."""

    def call(*inputs):
        return build(kernel)(**arguments(inputs, shapes, grid), verbose=True)

    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as printed:
        sys.stdout.flush()
        libc.fflush(None)
        stdout = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            mx.export_function(str(Path(_FOLDER.name, "call.mlxfn")), call, *inputs)
        finally:
            libc.fflush(None)
            os.dup2(stdout, 1)
            os.close(stdout)
        printed.seek(0)
        text = printed.read().decode()
    return text.split("```\n", 1)[1].rsplit("\n```", 1)[0]


@lru_cache(maxsize=256)
def _compiled(kernel: Kernel, kinds: tuple) -> tuple[ctypes.CDLL, str]:
    """Library and Metal source of a kernel for inputs of these (dtype, under 8 elements) kinds."""
    inputs = [mx.zeros((1 if small else 8,), dtype) for dtype, small in kinds]
    source = generated_source(kernel, inputs, [(8,)] * len(kernel.outputs), (1, 1, 1))
    return compiled(source), source


def compiled(source: str) -> ctypes.CDLL:
    """Builds a shared library from a generated Metal source. Raises KernelError for what cannot be judged."""
    signature = re.search(r"\[\[kernel\]\] void (\w+)\(\n(.*?)\) \{", source, re.S)
    if signature is None:
        raise KernelError(f"no kernel in the source:\n{source}")
    head, body = source[: signature.start()], source[signature.end() :]
    bad = _REFUSED.search(head + body) or _RESERVED.search(head + body)
    if bad:
        raise KernelError(f"cannot be run here: {bad.group(0)!r}")
    parameters, members, buffers = [], [], 0
    for line in signature.group(2).split(",\n"):
        found = re.fullmatch(
            r"\s*(?:(const) (?:device|constant)|device) (float|int32_t)\* (\w+) \[\[buffer\((\d+)\)\]\]", line
        )
        if found is None:
            if line.strip() != "uint3 thread_position_in_grid [[thread_position_in_grid]]":
                raise KernelError(f"cannot be run here: parameter {line.strip()!r}")
            parameters.append("uint3 thread_position_in_grid")
            members.append("position")
            continue
        constant, kind, name, index = found.groups()
        if int(index) != buffers:
            raise KernelError(f"buffer {index} in the place of {buffers}")
        parameters.append(f"{'Input' if constant else 'Output'}<{kind}> {name}")
        writers = "" if constant else f"writers[{buffers}], "
        members.append(f'{{({kind}*)data[{buffers}], {writers}sizes[{buffers}], "{name}"}}')
        buffers += 1
    text = (
        f"{_CPP}{head}\nstatic void kernel({', '.join(parameters)}) {{{body}\n"
        'extern "C" Report run(void** data, int** writers, long* sizes, uint* grid) {\n'
        "    report = Report{};\n"
        "    uint3 position;\n"
        "    for (position.z = 0; position.z < grid[2]; ++position.z)\n"
        "    for (position.y = 0; position.y < grid[1]; ++position.y)\n"
        "    for (position.x = 0; position.x < grid[0]; ++position.x) {\n"
        "        thread = position.x + long(grid[0]) * (position.y + long(grid[1]) * position.z);\n"
        f"        kernel({', '.join(members)});\n"
        "    }\n"
        "    return report;\n"
        "}\n"
    )
    number = len(list(Path(_FOLDER.name).glob("*.cpp")))
    path = Path(_FOLDER.name, f"kernel{number}.cpp")
    path.write_text(text)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    warnings = ["-Werror=uninitialized", "-Werror=maybe-uninitialized", "-Werror=double-promotion"]
    made = subprocess.run(
        [COMPILER, *flags, *warnings, str(path), "-o", str(path.with_suffix(".so"))], capture_output=True, text=True
    )
    if made.returncode:
        raise KernelError(f"does not compile:\n{made.stderr}")
    library = ctypes.CDLL(str(path.with_suffix(".so")))
    library.run.restype = _Report
    return library


def run(kernel: Kernel, inputs: Sequence[mx.array], shapes, grid: tuple[int, int, int]) -> list[mx.array]:
    """Takes the place of `metal_spectral.launch`. Raises KernelError for the violations listed above."""
    kinds = tuple((x.dtype, x.size < 8) for x in inputs)
    library, _ = _compiled(kernel, kinds)
    arrays = [np.ascontiguousarray(np.array(x)) for x in inputs] + [np.zeros(shape, np.float32) for shape in shapes]
    writers = [np.zeros(x.size if i >= len(inputs) else 0, np.int32) for i, x in enumerate(arrays)]
    count = len(arrays)
    found = library.run(
        (ctypes.c_void_p * count)(*(x.ctypes.data for x in arrays)),
        (ctypes.c_void_p * count)(*(x.ctypes.data for x in writers)),
        (ctypes.c_long * count)(*(x.size for x in arrays)),
        (ctypes.c_uint * 3)(*grid),
    )
    if found.kind:
        told = {name: getattr(found, name) for name in ("index", "thread", "other")}
        raise KernelError(_MESSAGES[found.kind].format(buffer=found.buffer.decode(), **told))
    for name, written in zip(kernel.outputs, writers[len(inputs) :]):
        missing = np.flatnonzero(written == 0)
        if missing.size:
            raise KernelError(f"{missing.size} elements of {name} are never written, the first is {missing[0]}")
    return [mx.array(x) for x in arrays[len(inputs) :]]


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as on an Apple GPU with VOXCLONE_SPECTRAL=metal, but for the kernels, which run on the CPU."""
    if COMPILER is None:
        pytest.skip("needs Linux and g++ to run Metal source on the CPU")
    monkeypatch.setattr(metal_spectral, "launch", run)
    monkeypatch.setattr(spectral_choice, "metal_available", lambda: True)
    monkeypatch.setenv(spectral_choice.VARIABLE, "metal")


def type_errors(source: str) -> str:
    """What clang says about a generated source read as OpenCL C++, whose address spaces are those of Metal."""
    source = re.sub(r"\[\[(?!kernel\b)\w+(\(\d+\))?\]\]", "", source).replace("[[kernel]]", "kernel")
    names = "#define device __global\n#define constant __constant\n#define thread __private\n"
    declared = "typedef int int32_t;\nfloat abs(float);\n"
    flags = ["-x", "clcpp", "-cl-std=CLC++2021", "-target", "spir64", "-Xclang", "-finclude-default-header"]
    checked = subprocess.run(
        [CLANG, *flags, "-fsyntax-only", "-w", "-"], input=names + declared + source, capture_output=True, text=True
    )
    return checked.stderr
