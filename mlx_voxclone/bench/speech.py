"""Frames of speech per second after the prompt, beside mlx-audio on the same miniature, text and voice."""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import mlx.core as mx
import numpy as np

from mlx_voxclone.bake.bake import bake
from mlx_voxclone.bench.measure import MLX_AUDIO, Peer, PeerProcess, Row, Sample, interpreter, sample
from mlx_voxclone.checkpoint.release import WEIGHTS
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.doctor.speaking import frame_bytes
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.config import CFG_ALPHA, END_CODE, N_SPECIAL_CODES
from mlx_voxclone.model.generation import read_prompt, spoken_frames
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.process.amounts import format_bytes
from mlx_voxclone.speech.pieces import FIRST_PIECE, PIECE
from mlx_voxclone.speech.speaker import Speaker

TEXT = "Papa mino lesu tara koni, soma tiku la."  # with a full stop: mlx-audio would add one
PHASES = ("prefill", "frames", "audio")
_SEMANTIC = "acoustic_transformer.semantic_codebook_output.weight"


def endless_miniature(output: Path, preset: str, quantisation: Quantisation | None = None) -> Path:
    """A miniature as mlx-audio opens it, whose model never says END: that row is the mean of the other codes' rows.

    The mean of logits is below the largest of them, whatever the hidden state. Quantised, a logit may be off by more
    than that; `Speech` says if one was.
    """
    base = make_micro(output / "base", preset)
    tensors = mx.load(str(base / WEIGHTS))
    mx.eval(tensors)
    rows = tensors[_SEMANTIC].astype(mx.float32)
    codes = Speaker.load(base).model.config.codec.semantic_codebook_size
    end = mx.mean(rows[N_SPECIAL_CODES : N_SPECIAL_CODES + codes], axis=0, keepdims=True)
    tensors[_SEMANTIC] = mx.concatenate([rows[:END_CODE], end, rows[END_CODE + 1 :]]).astype(mx.bfloat16)
    save_tensors(base / WEIGHTS, tensors, {"format": "pt"}, overwrite=True)
    bake(base, output / "baked", target="mlx-audio", quantisation=quantisation)
    return output / "baked"


class Speech:
    """Runs of what `Speaker.say` does, in its three phases.

    Args:
        speaker: whose model never ends.
        frames: number of them to say.
    """

    def __init__(self, speaker: Speaker, text: str, voice: str, frames: int):
        self.model, self.frames = speaker.model, frames
        rows = speaker.voice_rows(voice)
        self.prompt = self.model.embed_prompt(speaker.tokenizer.prompt(text, rows.shape[0]), rows)
        mx.eval(self.model.parameters(), self.prompt)
        self.model.merge()
        mx.clear_cache()

    def run(self) -> dict[str, Sample]:
        """Prompt, frames and sound, one after the other."""
        model, cache, heard = self.model, self.model.new_cache(), []

        def prefill() -> None:
            heard.append(read_prompt(model, self.prompt, cache))
            mx.eval(heard, [(layer.keys, layer.values) for layer in cache])

        def frames() -> None:
            codes = list(spoken_frames(model, heard[0], cache, self.frames, 0, None, CFG_ALPHA))
            heard[0] = np.stack(codes, axis=1)

        def audio() -> None:
            start, stop = 0, FIRST_PIECE
            while start < self.frames:
                model.audio_tokenizer.decode_audio(
                    heard[0][:, max(0, start - model.audio_tokenizer.left_context) : stop]
                )
                start, stop = stop, stop + PIECE

        samples = {"prefill": sample(prefill), "frames": sample(frames)}
        if heard[0].shape[1] != self.frames:
            raise DataError(f"{heard[0].shape[1]} frames were said in place of {self.frames}")
        return samples | {"audio": sample(audio)}


def measure_say(
    preset: str = "speaking",
    frames: int = 100,
    repeats: int = 5,
    peers: bool = True,
    quantisation: Quantisation | None = None,
) -> Row:
    """Frames per second after the prompt has been read, on MLX's default device.

    Both sides say the same number of frames with the same Euler steps, guidance, device and precision (float32 on a
    CPU, bfloat16 on a GPU), in turns; the codec's share and the prompt's stand under "more", as does what they make of
    real time together.

    Args:
        preset: of the miniature, see `make_micro`.
        frames: to say in one run.
        repeats: runs, after one that warms up.
        peers: also run mlx-audio, where it is installed.
        quantisation: of the miniature, for both sides.

    Raises:
        DataError: the other program does not run, or is set to do another work.
    """
    cpu = mx.default_device() == mx.cpu
    device, dtype = ("cpu", "float32") if cpu else ("gpu", "bfloat16")
    python = interpreter(MLX_AUDIO, "mlx_audio") if peers else None
    with contextlib.ExitStack() as stack:
        directory = endless_miniature(Path(stack.enter_context(tempfile.TemporaryDirectory())), preset, quantisation)
        speaker = Speaker.load(directory)
        config, voice = speaker.model.config, speaker.voices[0]
        ours, other = Speech(speaker, TEXT, voice, frames), None
        if python is not None:
            arguments = (str(directory), voice, str(frames), device, dtype, TEXT)
            other = stack.enter_context(PeerProcess(python, "mlx_audio_say.py", *arguments))
            _check_settings(other.about, config.acoustic.n_decoding_steps)
        runs, said = [], []
        for _ in range(repeats + 1):
            runs.append(ours.run())
            said += [other.run()] if other is not None else []
    phases = {name: _medians([run[name] for run in runs[1:]]) for name in PHASES}
    rate = config.codec.frame_rate
    read = frame_bytes(config, quantisation, size=4 if cpu else 2)
    more = {
        "prompt": ours.prompt.shape[1],
        **_figures(phases, frames, rate),
        "bytes_per_frame": read.all,
        "least_bytes_per_frame": read.least,
        "bytes_per_second": read.all * frames / phases["frames"]["seconds"],
    }
    peers = []
    if said:
        peer = _peer(said[1:], frames, rate)
        ratios = {key: _ratios(said[1:], runs[1:], key) for key in ("seconds", "cpu_seconds")}
        peers.append(replace(peer, more={**peer.more, "ratios": ratios["seconds"]}))
        more |= {
            "times_the_peer": peer.seconds / phases["frames"]["seconds"],
            "times_the_peer_by_cpu_seconds": peer.cpu_seconds / phases["frames"]["cpu_seconds"],
            "ratios": ratios["seconds"],
            "ratios_by_cpu_seconds": ratios["cpu_seconds"],
            "times_the_peer_in_all": more["times_real_time"] / peer.more["times_real_time"],
            "times_the_peer_in_all_by_cpu_seconds": peer.more["cpu_seconds_in_all"] / more["cpu_seconds_in_all"],
        }
    kind = dtype if quantisation is None else f"{dtype}, {quantisation}"
    return Row(
        name="say" if quantisation is None else f"say, {quantisation.bits} bits",
        what=f"{preset}, {kind}, {frames} frames after a prompt of {ours.prompt.shape[1]}; a frame reads"
        f" {format_bytes(read.all)} of weights, {read.all / read.least:.3g} times the least",
        speed=frames / phases["frames"]["seconds"],
        unit="frames/s",
        **phases["frames"],
        peak=max(s.peak for run in runs[1:] for s in run.values()),
        peers=peers,
        more=more,
    )


def _check_settings(about: dict, steps: int) -> None:
    if (about["steps"], about["cfg_alpha"]) != (steps, CFG_ALPHA):
        raise DataError(
            f"{about['name']} takes {about['steps']} Euler steps with guidance {about['cfg_alpha']:g}, here it is"
            f" {steps} with {CFG_ALPHA:g}: no comparison"
        )


def _ratios(theirs: list[Peer], ours: list[dict[str, Sample]], key: str) -> list[float]:
    """How many times as fast the frames of each run were as those of the run that took turns with it."""
    return [getattr(a, key) / max(getattr(b["frames"], key), 1e-9) for a, b in zip(theirs, ours, strict=True)]


def _medians(samples: list[Sample]) -> dict[str, float]:
    return {key: median(getattr(s, key) for s in samples) for key in ("seconds", "cpu_seconds")}


def _figures(phases: dict[str, dict[str, float]], frames: int, rate: float) -> dict[str, object]:
    """What both sides report: each phase, frames per second of CPU time, and how much faster than real time all is."""
    return {
        "prefill": phases["prefill"],
        "audio": phases["audio"],
        "frames_per_cpu_second": frames / max(phases["frames"]["cpu_seconds"], 1e-9),
        "cpu_seconds_in_all": sum(phase["cpu_seconds"] for phase in phases.values()),
        "times_real_time": frames / rate / sum(phase["seconds"] for phase in phases.values()),
    }


def _peer(said: list[Peer], frames: int, rate: float) -> Peer:
    """Medians of the other program's runs."""
    phases = {}
    for name in PHASES:
        found = [p.more[name] if name != "frames" else vars(p) for p in said]
        phases[name] = {key: median(one[key] for one in found) for key in ("seconds", "cpu_seconds")}
    return Peer(
        said[0].name,
        **phases["frames"],
        peak=max(p.peak for p in said),
        memory=said[0].memory,
        more=_figures(phases, frames, rate),
    )
