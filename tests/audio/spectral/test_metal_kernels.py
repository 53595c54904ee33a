"""The Metal kernels for spectra as MLX generates them: what they are handed, and that mistakes in them are found."""

import re
from dataclasses import replace

import metal_on_cpu
import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.spectral import choice as spectral_choice
from mlx_voxclone.audio.spectral import metal as metal_spectral
from mlx_voxclone.audio.spectral import stft as spectral
from mlx_voxclone.audio.spectral.metal import Kernel
from mlx_voxclone.audio.spectral.spectra import Spectra

KERNELS = ("FOLD", "OVERLAP_ADD", "MAGNITUDE", "MAGNITUDE_SLOPE", "DIFFERENCE", "DIFFERENCE_SLOPE")


@pytest.fixture
def metal(monkeypatch):
    metal_on_cpu.use(monkeypatch)


# ---- what is handed to MLX -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_one_source_per_kernel_whatever_the_sizes(name, metal, monkeypatch):
    """Names, types and order of the buffers are those the source is written for; sizes are no part of it."""
    calls = []

    def launch(kernel, inputs, shapes, grid):
        if kernel.name == getattr(metal_spectral, name).name:
            calls.append((kernel, inputs, shapes, grid))
        return metal_on_cpu.run(kernel, inputs, shapes, grid)

    monkeypatch.setattr(metal_spectral, "launch", launch)
    for n_fft, samples, batch in ((76, 200, 2), (35, 150, 9)):
        x = mx.array(np.random.default_rng(0).standard_normal((batch, samples)).astype(np.float32))
        mx.eval(mx.grad(lambda x, n: spectral.stft_magnitude(x, n, n // 4).sum())(x, n_fft))
        mx.eval(mx.grad(lambda x, n: Spectra(x).difference(Spectra(3 * x), n).sum())(x, n_fft))
    sources = {metal_on_cpu.generated_source(*call) for call in calls}
    assert len(sources) == 1
    (source,), kernel = sources, calls[0][0]
    signature = re.search(r"\[\[kernel\]\] void \w+\(\n(.*?)\) \{", source, re.S).group(1)
    found = re.findall(r"(const )?(device|constant) (\w+)\* (\w+) \[\[buffer\((\d+)\)\]\]", signature)
    scalars, types = ("params",), {"params": "int32_t", "lengths": "int32_t"}
    expected = [
        ("const ", "constant" if name in scalars else "device", types.get(name, "float"), name)
        for name in kernel.inputs
    ] + [("", "device", "float", name) for name in kernel.outputs]
    assert found == [(*buffer, str(index)) for index, buffer in enumerate(expected)]
    assert "template" not in source
    assert kernel.source.strip() in source
    for _, inputs, shapes, grid in calls:
        passed = metal_spectral.arguments(inputs, shapes, grid)
        assert all(1 <= size <= limit for size, limit in zip(passed["threadgroup"], grid))
        assert np.prod(passed["threadgroup"]) <= 256
        assert passed["grid"] == grid
        assert all(x.dtype in (mx.float32, mx.int32) for x in inputs)


# ---- mistakes are found ----------------------------------------------------------------------------------------------

MISTAKES = [
    ("FOLD", "t < 0 ? -t : t", "t < 0 ? -t - 1 : t", ""),
    ("FOLD", "2 * (length - 1) - t", "2 * length - 1 - t", ""),
    ("FOLD", "t < length ? t : 2 * (length - 1) - t", "t", ""),
    ("FOLD", "t < length + reach ? image : nowhere", "image", ""),
    ("FOLD", "t < own ? window[n] * x[b * samples + t] : 0.0f", "window[n] * x[b * samples + t]", ""),
    ("FOLD", "u < own", "u < samples", ""),
    ("FOLD", "max(own, reach + 1)", "own", "outside of the buffer"),
    ("FOLD", "lengths[b]", "samples", ""),
    ("OVERLAP_ADD", "lengths[b]", "samples", ""),
    ("OVERLAP_ADD", "t < own ? sum : 0.0f", "sum", ""),
    ("FOLD", "f * hop + twin", "f * hop + twin - 1", ""),
    ("FOLD", "n > 0 && n < twin", "n < twin", "outside of the buffer"),
    ("FOLD", "n > 0 && n < twin", "n > 0", ""),
    ("FOLD", "left - right", "right - left", ""),
    ("FOLD", "window[twin] *", "", ""),
    ("FOLD", "(b * frames + f) * bins", "f * bins", "written twice"),
    ("FOLD", "folded[plane + place] =", "if (paired) folded[plane + place] =", "never written"),
    ("FOLD", "float right = 0.0f;", "float right;", "uninitialized"),
    ("OVERLAP_ADD", "copy < 3", "copy < 2", ""),
    ("OVERLAP_ADD", "t > 0 && place >= 0", "place >= 0", ""),
    ("OVERLAP_ADD", "t < length - 1 && place", "place", ""),
    ("OVERLAP_ADD", "(place - n_fft) / hop + 1", "(place - n_fft) / hop", "outside of the buffer"),
    ("OVERLAP_ADD", "min(place / hop, frames - 1)", "place / hop", "outside of the buffer"),
    ("OVERLAP_ADD", "n < twin ? odd : -odd", "odd", ""),
    ("OVERLAP_ADD", "window[n] * value", "value", ""),
    ("OVERLAP_ADD", "gradient[b * samples + t] =", "gradient[b * samples + t] +=", "is read"),
    ("MAGNITUDE", "re * re + im * im", "re * re", ""),
    ("MAGNITUDE", "magnitude[i] = size", "magnitude[i / 2] = size", "written twice"),
    ("MAGNITUDE", "magnitude[i] = size", "magnitude[i] = size + 0.0 * re", "double"),
    ("MAGNITUDE_SLOPE", "slope[plane + i] = scale * im", "slope[plane + i] = scale * re", ""),
    ("MAGNITUDE_SLOPE", "slope[plane + i] = scale * im", "slope[i] = scale * im", "written twice"),
    ("MAGNITUDE_SLOPE", "cotangent[i]", "cotangent[plane + i]", "outside of the buffer"),
    ("DIFFERENCE", "abs(size - size_target)", "(size - size_target)", ""),
    ("DIFFERENCE_SLOPE", "sign(size - size_target)", "1.0f", ""),
]


@pytest.mark.parametrize(("name", "right", "wrong", "report"), MISTAKES)
def test_a_planted_mistake_is_found(name, right, wrong, report, metal, monkeypatch):
    """By the harness where it names what it saw, otherwise by the self-test that a user's machine runs."""
    kernel = getattr(metal_spectral, name)
    assert right in kernel.header + kernel.source
    mistaken = replace(kernel, header=kernel.header.replace(right, wrong), source=kernel.source.replace(right, wrong))
    monkeypatch.setattr(metal_spectral, name, mistaken)
    if report:
        with pytest.raises(metal_on_cpu.KernelError, match=report):
            spectral_choice.self_test()
    else:
        assert re.match(r"their (value|gradient) .* is off by", spectral_choice.self_test())


@pytest.mark.parametrize(
    "source",
    [
        "threadgroup float shared[8]; out[thread_position_in_grid.x] = x[0];",
        "threadgroup_barrier(mem_flags::mem_none); out[thread_position_in_grid.x] = x[0];",
        "out[thread_position_in_grid.x] = simd_sum(x[0]);",
        "atomic_fetch_add(out, 1);",
        "out[thread_position_in_grid.x] = std::sqrt(x[0]);",
        "int half = 2; out[thread_position_in_grid.x] = x[half];",
        "const device float* y = x; out[thread_position_in_grid.x] = y[0];",
        "out[thread_index_in_threadgroup] = x[0];",
    ],
)
def test_what_the_harness_cannot_judge_it_refuses(source, metal):
    kernel = Kernel("refused", ("x",), ("out",), source)
    with pytest.raises(metal_on_cpu.KernelError, match="cannot be run here"):
        metal_on_cpu.run(kernel, [mx.zeros(8)], [(8,)], (8, 1, 1))


# ---- Metal's types ---------------------------------------------------------------------------------------------------


needs_clang = pytest.mark.skipif(metal_on_cpu.CLANG is None, reason="needs Linux and clang to check address spaces")


@needs_clang
@pytest.mark.parametrize("name", KERNELS)
def test_address_spaces_and_types(name):
    kernel = getattr(metal_spectral, name)
    for small in (False, True):  # inputs of less than 8 elements are in another address space
        assert metal_on_cpu.type_errors(plain_source(kernel, small)) == ""


@needs_clang
@pytest.mark.parametrize(
    "source",
    [
        "device float* y = x; y[0] = 1.0f;",  # drops const
        "constant float* y = x; out[0] = y[0];",  # another address space
        "int half = 1; out[half] = x[0];",
        "out[0] = x[0] + z;",
        "out[0] = metres(x[0]);",
    ],
)
def test_wrong_types_are_found(source):
    assert "error:" in metal_on_cpu.type_errors(plain_source(Kernel("wrong", ("x",), ("out",), source), False))


def plain_source(kernel, small):
    whole = ("params", "lengths")  # of which lengths are never few
    sizes = {name: 1 if small and name != "lengths" else 8 for name in kernel.inputs}
    inputs = [mx.zeros((size,), mx.int32 if name in whole else mx.float32) for name, size in sizes.items()]
    return metal_on_cpu.generated_source(kernel, inputs, [(8,)] * len(kernel.outputs), (1, 1, 1))
