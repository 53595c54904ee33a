"""Figures of the report and the demo: a sound (waveform over log-mel spectrogram), training curves, use of the codes.

Only `matplotlib.figure.Figure` is used, never pyplot: no global state, no display, safe on any thread.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE

if TYPE_CHECKING:  # matplotlib takes half a second to import: only when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mlx_voxclone.evaluate.code_usage import CodeUsage
    from mlx_voxclone.evaluate.measure import Change

INK, TRAIN, HELDOUT = "#1f2328", "#3b6ea8", "#d1602b"  # blue and orange stay apart for colour-blind eyes
_MEL_WINDOW, _MEL_BANDS = 1024, 80
_MAX_COLUMNS = 1200  # more points than pixels only cost time
_FLOOR_DB, _CEILING_DB = -65.0, 10.0  # a full-scale sine reaches about +17 dB in the narrowest band; speech about 0
_DIFFERENCE_DB = 30.0  # either side
_HERTZ = (250, 500, 1000, 2000, 4000, 8000)  # that the axis of a spectrogram names


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    heldout: bool = False


def common_axes(sounds: Sequence[np.ndarray], sample_rate: int = SAMPLE_RATE) -> dict[str, float]:
    """`scale` and `seconds` for the figures of sounds [S] that are compared: the loudest peak and the longest time."""
    peak = max((float(np.abs(samples).max()) for samples in sounds if len(samples)), default=0.0)
    return {"scale": peak or 1.0, "seconds": max(map(len, sounds), default=0) / sample_rate}


def sound_figure(
    samples: np.ndarray,
    *,
    sample_rate: int = SAMPLE_RATE,
    scale: float | None = None,
    seconds: float | None = None,
    original: np.ndarray | None = None,
) -> "Figure":
    """Waveform above log-mel spectrogram of mono `samples` [S], the colours the same for every sound.

    Args:
        samples: float, mono.
        sample_rate: in Hz.
        scale: full scale of the waveform's axis; give sounds that are compared the same. None: the sound's own peak.
        seconds: end of the time axis, also the same for all that is compared (`common_axes`). None: the sound's own.
        original: what `samples` should sound like; a third panel then shows the spectrogram less that of `original`,
            as far as both sounds go.
    """
    from matplotlib.figure import Figure

    samples = np.asarray(samples, dtype=np.float32).reshape(-1)
    own = len(samples) / sample_rate
    if original is not None:
        original = np.asarray(original, dtype=np.float32).reshape(-1)[: len(samples)]
    panels = 3 if original is not None and len(original) else 2
    figure = Figure(figsize=(5.2, 2.9 if panels == 2 else 5.3), layout="constrained")
    wave, *spectra = axes = figure.subplots(panels, 1, sharex=True, height_ratios=[1, 2, 2][:panels])
    if not len(samples):
        wave.text(0.5, 0.5, "no sound", transform=wave.transAxes, ha="center", va="center", color=INK)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        return figure
    times, low, high = _envelope(samples, sample_rate)
    limit = scale or max(float(np.abs(samples).max()), 1e-3)
    wave.fill_between(times, low, high, color=TRAIN, linewidth=0.4)
    wave.set(ylim=(-limit, limit), ylabel="level")
    _spectrogram(spectra[0], _log_mel_db(samples, sample_rate), own, (_FLOOR_DB, _CEILING_DB), "magma")
    if panels == 3:
        # What is too quiet to be drawn is no difference either.
        ours, theirs = (
            np.maximum(_log_mel_db(sound[: len(original)], sample_rate), _FLOOR_DB) for sound in (samples, original)
        )
        limits = (-_DIFFERENCE_DB, _DIFFERENCE_DB)
        image = _spectrogram(spectra[1], ours - theirs, len(original) / sample_rate, limits, "RdBu_r")
        spectra[1].set_title("less the original", fontsize=8, color=INK)
        bar = figure.colorbar(image, ax=spectra[1], orientation="horizontal", aspect=60, label="dB")
        bar.solids.set_rasterized(True)  # hundreds of little areas otherwise
    for axis in spectra:
        _in_hertz(axis, sample_rate)
    spectra[-1].set(xlabel="seconds", xlim=(0, max(own, seconds or 0.0)))
    return figure


def _spectrogram(axis: "Axes", image: np.ndarray, seconds: float, limits: tuple[float, float], colours: str):
    """`image` [frames, bands] over time; returns what a colour bar needs."""
    return axis.imshow(
        image.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, image.shape[1]),
        vmin=limits[0],
        vmax=limits[1],
        cmap=colours,
        interpolation="nearest",
    )


def _in_hertz(axis: "Axes", sample_rate: int) -> None:
    """Name the frequencies of a mel axis."""
    from mlx_voxclone.audio.spectral.plain import mel_band_of

    named = [hz for hz in _HERTZ if hz < sample_rate / 2]
    axis.set_yticks([mel_band_of(hz, sample_rate, _MEL_BANDS) + 0.5 for hz in named], [str(hz) for hz in named])
    axis.set_ylabel("Hz")


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


def changes_figure(changes: "Mapping[str, Change]") -> "Figure":
    """Bars before and after, a panel per metric; the line on the second is the interval of the difference."""
    from matplotlib.figure import Figure

    columns = min(4, len(changes))
    rows = -(-len(changes) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.3 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axis, (title, change) in zip(axes, changes.items()):
        axis.bar(["before", "after"], [change.before, change.after], color=[TRAIN, HELDOUT], width=0.6)
        ends = [change.before + change.difference.low, change.before + change.difference.high]
        axis.plot([1, 1], ends, color=INK, linewidth=1.6)
        axis.axhline(0, color=INK, linewidth=0.6)
        axis.set_title(f"{title}\n{change.verdict}", fontsize=8, color=INK)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(changes) :]:
        axis.set_axis_off()
    return figure


def usage_figure(usage: "CodeUsage") -> "Figure":
    """How evenly the semantic codes are used (share of the frames by rank, both axes logarithmic), and a heat map of
    the levels of every acoustic codebook (share of the frames, one colour scale), for the encoder and the prior if any.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    named = [("encoder", usage.encoder, TRAIN)]
    if usage.prior is not None:
        named.append(("pairs and presets", usage.prior, HELDOUT))
    figure = Figure(figsize=(4.2 + 3.1 * len(named), 3.6), layout="constrained")
    ranks, *maps = figure.subplots(1, 1 + len(named), width_ratios=[1.3, *[1] * len(named)])
    for label, counts, colour in named:
        shares = np.sort(counts.semantic_share)[::-1]
        used = shares[shares > 0]  # the others have no logarithm: the line ends where they begin
        text = f"{label}: {len(used):,} of {len(shares):,} in {counts.frames:,} frames"
        marker = "." if len(used) < 50 else None  # a single code makes no line
        ranks.plot(np.arange(1, len(used) + 1), used, label=text, color=colour, linewidth=1.4, marker=marker)
    ranks.set(xscale="log", yscale="log", xlim=(0.9, 1.1 * len(usage.encoder.semantic)))
    ranks.set_xlabel("rank of the code", fontsize=8)
    ranks.set_ylabel("share of the frames", fontsize=8)
    ranks.set_title("semantic codes", fontsize=9, color=INK)
    ranks.legend(fontsize=7, frameon=False, loc="upper right")
    ranks.spines[["top", "right"]].set_visible(False)
    tables = [counts.level_shares for _, counts, _ in named]
    largest = max(table.max() for table in tables)
    for axis, (label, *_), table in zip(maps, named, tables):
        n_books, n_levels = table.shape
        extent = (-0.5, n_levels - 0.5, n_books + 0.5, 0.5)  # codebooks are numbered from 1, the semantic one being 0
        # The root keeps an even spread visible beside a codebook stuck on one level.
        norm = PowerNorm(0.5, vmin=0.0, vmax=largest)
        image = axis.imshow(table, aspect="auto", extent=extent, norm=norm, cmap="magma", interpolation="nearest")
        axis.set_title(f"acoustic levels: {label}", fontsize=9, color=INK)
        axis.set_xlabel("level", fontsize=8)
    maps[0].set_ylabel("acoustic codebook", fontsize=8)
    bar = figure.colorbar(image, ax=maps)
    bar.set_label("share of the frames", fontsize=8)
    bar.solids.set_rasterized(True)
    for axis in figure.axes:
        axis.tick_params(labelsize=7)
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

    from mlx_voxclone.audio.spectral.stft import log_mel

    hop = max(_MEL_WINDOW // 4, len(samples) // _MAX_COLUMNS)
    spectrum = np.array(log_mel(mx.array(samples)[None], sample_rate, _MEL_WINDOW, hop, _MEL_BANDS))[0]
    return spectrum * (20 / np.log(10))
