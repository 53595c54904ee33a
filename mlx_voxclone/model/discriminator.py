"""Multi-resolution STFT discriminators: judges of a waveform's complex spectra at several window sizes.

The shape is that of EnCodec's multi-scale STFT discriminator (arXiv 2210.13438, section 3.4): real and imaginary part
as two channels, 2-D convolutions over frames and bins, dilated in time, strided in frequency. Voxtral's codec trains
with eight of them (arXiv 2603.25551); that paper names the window sizes and the losses and leaves the layers open.

Layout is channels-last, `[B, frames, bins, C]`. Nothing is shared between the items of a batch, and nothing normalises
over them. The loss terms are in `mlx_voxclone.losses.adversarial`.
"""

import math
import os
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.audio.spectral.plain import frame_count
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.blocks.conv2d import NormedConv2d

NEGATIVE_SLOPE = 0.2
# He et al. 2015 for that slope. From PyTorch's usual start, which loses the signal under the biases within five layers,
# the hinge loss took eight times as many steps from 2.0 to 1.7.
GAIN = math.sqrt(2 / (1 + NEGATIVE_SLOPE**2))
# Kernel (frames, bins), stride in frequency and dilation in time of the layers that `channels` describes.
LAYERS = (
    ((3, 9), 1, 1),
    ((3, 9), 2, 1),
    ((3, 9), 2, 2),
    ((3, 9), 2, 4),
    ((3, 3), 1, 1),
)
HEAD_KERNEL = (3, 3)


# ---- the discriminators ----------------------------------------------------------------------------------------------


@mx.custom_function
def _leaky_relu(x: mx.array) -> mx.array:
    return mx.maximum(x, NEGATIVE_SLOPE * x)


@_leaky_relu.vjp
def _leaky_relu_vjp(_x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    # The output has the sign of the input, so the input need not be kept.
    return mx.where(output > 0, cotangent, NEGATIVE_SLOPE * cotangent)


class STFTDiscriminator(nn.Module):
    """Judges one resolution.

    Five convolutions of `channels` outputs (`LAYERS`), each followed by a leaky ReLU of slope 0.2, and one to a single
    logit per frame and bin. Frames keep their number, bins fall to ceil(bins / 8).
    """

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        _check([n_fft], channels)
        self.n_fft = n_fft
        inputs = [2] + [channels] * (len(LAYERS) - 1)
        self.convs = [
            NormedConv2d(width, channels, kernel, stride, dilation, GAIN)
            for width, (kernel, stride, dilation) in zip(inputs, LAYERS)
        ]
        self.head = NormedConv2d(channels, 1, HEAD_KERNEL)

    def __call__(self, spectrum: mx.array) -> tuple[mx.array, list[mx.array]]:
        """Judge a spectrum.

        Args:
            spectrum: `[B, F, n_fft // 2 + 1, 2]`, as `Spectra.pairs` makes it.

        Returns:
            The logits `[B, F, K']` (positive: real) and the outputs of the five layers `[B, F, K, channels]`.

        Raises:
            ValueError: for another shape.
        """
        if spectrum.ndim != 4 or spectrum.shape[2:] != (self.n_fft // 2 + 1, 2):
            raise ValueError(
                f"expected a spectrum of shape [batch, frames, {self.n_fft // 2 + 1}, 2], got {list(spectrum.shape)}"
            )
        features, x = [], spectrum
        for conv in self.convs:
            x = _leaky_relu(conv(x))
            features.append(x)
        return self.head(x)[..., 0], features


class MultiResolutionDiscriminator(nn.Module):
    """One `STFTDiscriminator` per window size; raises ConfigError for sizes under 4 or no channels.

    A waveform is judged over its whole length: the caller puts the same silence behind the end of a shorter item in the
    real and in the decoded waveform.
    """

    def __init__(self, sizes: Sequence[int], channels: int):
        super().__init__()
        _check(sizes, channels)
        self.judges = [STFTDiscriminator(size, channels) for size in sizes]

    def spectra(self, waveform: mx.array | Spectra) -> list[mx.array]:
        """What each judge sees of a waveform [B, S]; made once where a waveform is judged twice."""
        seen = Spectra.of(waveform)
        return [seen.pairs(judge.n_fft) for judge in self.judges]

    def judge(self, spectra: Sequence[mx.array]) -> list[tuple[mx.array, list[mx.array]]]:
        """(logits [B, F, K'], features) per size, of the output of `spectra`."""
        return [judge(spectrum) for judge, spectrum in zip(self.judges, spectra, strict=True)]

    def __call__(self, waveform: mx.array | Spectra) -> list[tuple[mx.array, list[mx.array]]]:
        """Waveform [B, S] -> (logits [B, F, K'], features) per size."""
        return self.judge(self.spectra(waveform))


def frozen(module: nn.Module) -> nn.Module:
    """A view of a module whose parameters are constants: gradients pass through it but none reach its parameters.

    Every array is the module's own at the time of the call behind a `stop_gradient`, so make the view where it is used
    (inside the function that is differentiated); it costs no memory and no arithmetic. The view belongs to no
    other module, which keeps its parameters out of the optimiser and of checkpoints.
    """

    def view(value):
        if isinstance(value, mx.array):
            return mx.stop_gradient(value)
        if isinstance(value, nn.Module):
            shadow = type(value).__new__(type(value))
            shadow.__dict__.update(value.__dict__)
            shadow._no_grad = set(value._no_grad)  # the view may be frozen or unfrozen without touching the module
            dict.update(shadow, {key: view(item) for key, item in value.items()})
            return shadow
        if isinstance(value, dict):
            return {key: view(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(view(item) for item in value)
        return value

    return view(module)


# ---- memory ----------------------------------------------------------------------------------------------------------


def _check(sizes: Sequence[int], channels: int) -> None:
    if not sizes or min(sizes) < 4 or channels < 1:
        raise ConfigError(
            "discriminators: need one or more window sizes of at least 4 samples and at least 1 channel, "
            f"got sizes {list(sizes)} and channels {channels}"
        )


def parameter_count(sizes: Sequence[int], channels: int) -> int:
    """Number of trained values of `MultiResolutionDiscriminator(sizes, channels)`."""
    count, inputs = 0, 2
    for kernel, _, _ in LAYERS:
        count += channels * (math.prod(kernel) * inputs + 2)  # v, g and bias
        inputs = channels
    return len(sizes) * (count + math.prod(HEAD_KERNEL) * channels + 2)


def activation_bytes(sizes: Sequence[int], channels: int, batch: int, samples: int) -> int:
    """Estimate of the memory that one training step of the discriminators holds at its peak, parameters left out.

    The step is `adversarial_losses` with its gradients, in float32: three passes (real and decoded for the hinge loss,
    decoded for feature matching), of which every layer's output stays until the backward pass; the spectra of both
    waveforms; and the scratch of the widest convolutions, whose backward passes the scheduler interleaves and which are
    the same on a GPU (see `blocks.conv2d`). The real peak is within a factor of 2 either way (measured on the CPU: 0.6
    to 1.2 times the estimate).
    """
    kept, scratch = 0, []
    for size in sizes:
        frames, bins = frame_count(samples, size, size // 4), size // 2 + 1
        kept += 2 * frames * bins * 2
        inputs, widest = 2, 0
        for kernel, stride, _ in LAYERS:
            outputs = -(-bins // stride)
            kept += 3 * frames * outputs * channels
            gathered = kernel[1] * inputs + kernel[0] * (stride * inputs + channels)
            widest = max(widest, frames * outputs * gathered)
            bins, inputs = outputs, channels
        scratch.append(widest)
    # Factor and number of sizes fitted to measured peaks.
    return int(4 * batch * (kept + 2.5 * sum(sorted(scratch)[-2:])))


def available_memory() -> int:
    """Bytes that a training may still take on the default device.

    Metal: the recommended working set less what MLX already holds; CUDA: the free memory; CPU: what the system counts
    as available (Linux) or the installed memory (elsewhere).
    """
    device = mx.device_info()
    if "max_recommended_working_set_size" in device:
        return max(0, int(device["max_recommended_working_set_size"]) - mx.get_active_memory())
    if "free_memory" in device:
        return int(device["free_memory"])
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(sizes: Sequence[int], channels: int, batch: int, samples: int, available_bytes: int) -> None:
    """Raises ConfigError if a step of these discriminators needs more than `available_bytes`.

    Counts `activation_bytes` and, per parameter, the value, its gradient and two moments of Adam.
    """
    _check(sizes, channels)
    needed = activation_bytes(sizes, channels, batch, samples) + 16 * parameter_count(sizes, channels)
    if needed > available_bytes:
        raise ConfigError(
            f"discriminators: a step with {channels} channels and {batch} x {samples} samples needs about "
            f"{needed / 1e9:.2f} GB, {available_bytes / 1e9:.2f} GB are available; lower "
            "encoder.discriminators.channels, encoder.crop_seconds or encoder.train.batch_size"
        )
