"""Figures of the report and the demo: a sound (waveform over log-mel spectrogram) and training curves.

Only `matplotlib.figure.Figure` is used, never pyplot: no global state, no display, safe on any thread.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE

if TYPE_CHECKING:  # matplotlib takes half a second to import: only when something is drawn
    from matplotlib.figure import Figure

INK, TRAIN, HELDOUT = "#1f2328", "#3b6ea8", "#d1602b"  # blue and orange stay apart for colour-blind eyes
_MEL_WINDOW, _MEL_BANDS = 1024, 80
_MAX_COLUMNS = 1200  # more points than pixels only cost time
_FLOOR_DB, _CEILING_DB = -65.0, 10.0  # a full-scale sine reaches about +17 dB in the narrowest band; speech about 0


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    heldout: bool = False


def sound_figure(samples: np.ndarray, *, sample_rate: int = SAMPLE_RATE, scale: float | None = None) -> "Figure":
    """Waveform above log-mel spectrogram of mono `samples` [S].

    Args:
        samples: float, mono.
        sample_rate: in Hz.
        scale: full scale of the waveform's axis; give sounds that are compared the same. None: the sound's own peak.
    """
    from matplotlib.figure import Figure

    samples = np.asarray(samples, dtype=np.float32).reshape(-1)
    seconds = len(samples) / sample_rate
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    wave, mel = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    if not len(samples):
        wave.text(0.5, 0.5, "no sound", transform=wave.transAxes, ha="center", va="center", color=INK)
        wave.set(xticks=[], yticks=[])
        mel.set(xticks=[], yticks=[])
        return figure
    times, low, high = _envelope(samples, sample_rate)
    limit = scale or max(float(np.abs(samples).max()), 1e-3)
    wave.fill_between(times, low, high, color=TRAIN, linewidth=0.4)
    wave.set(ylim=(-limit, limit), ylabel="level")
    image = _log_mel_db(samples, sample_rate)
    mel.imshow(
        image.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, image.shape[1]),
        vmin=_FLOOR_DB,
        vmax=_CEILING_DB,
        cmap="magma",
        interpolation="nearest",
    )
    mel.set(xlabel="seconds", ylabel="mel band", xlim=(0, seconds))
    return figure


def curves_figure(panels: Sequence[tuple[str, Sequence[Series]]], best_step: int | None = None) -> "Figure":
    """Small multiples over the steps, three beside each other; the step of the best model as a dotted line.

    Args:
        panels: title and lines of each.
        best_step: the step whose model was kept.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.4 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axis, (title, lines) in zip(axes, panels):
        for line in lines:
            style = {"color": HELDOUT, "marker": "o", "markersize": 3} if line.heldout else {"color": TRAIN}
            axis.plot(line.steps, line.values, label=line.label, linewidth=1.3, **style)
        if best_step is not None and any(line.heldout for line in lines):
            axis.axvline(best_step, color=INK, linestyle=":", linewidth=0.9, label="best")
        if len(lines) > 1:
            axis.legend(fontsize=7, frameon=False)
        axis.set_title(title, fontsize=9, color=INK)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("step", fontsize=8)
    return figure


def png(figure: "Figure", dpi: int = 110) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _envelope(samples: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, lowest and highest sample of each pixel column."""
    size = max(1, -(-len(samples) // _MAX_COLUMNS))
    padded = np.pad(samples, (0, -len(samples) % size), mode="edge").reshape(-1, size)
    times = (np.arange(len(padded)) + 0.5) * size / sample_rate
    return times, padded.min(axis=1), padded.max(axis=1)


def _log_mel_db(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mel spectrogram [frames, bands], 20 log10 of the mel magnitude of `log_mel`."""
    import mlx.core as mx

    from mlx_voxclone.audio.spectral import log_mel

    hop = max(_MEL_WINDOW // 4, len(samples) // _MAX_COLUMNS)
    spectrum = np.array(log_mel(mx.array(samples)[None], sample_rate, _MEL_WINDOW, hop, _MEL_BANDS))[0]
    return spectrum * (20 / np.log(10))
