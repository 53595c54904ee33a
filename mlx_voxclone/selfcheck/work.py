"""Checks of what the product does: speech as it streams, a resumed training, two ranks, steps at their sizes."""

import inspect
import time

import mlx.core as mx
import numpy as np

from mlx_voxclone.doctor.forecast import forecast, true_step
from mlx_voxclone.process.amounts import format_bytes
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.selfcheck import ranks as two
from mlx_voxclone.selfcheck.outcome import Findings, Outcome, not_here
from mlx_voxclone.selfcheck.place import FULL_BYTES, Place, on_gpu
from mlx_voxclone.selfcheck.training import STEPS, largest_difference, trained, training
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.speech.speaker import Speaker

TEXT = "Papa mino lesu tara koni."
SEAM = 1e-3  # of the sound's RMS, between what is streamed and what is decoded at once
PEAK = (0.5, 1.15)  # measured over forecast memory; less than the least says that the forecast frightens people away
SECONDS_SPOKEN = {True: 4.0, False: 1.0}  # with `--full`, and without
SECONDS_ON_CPU = 0.4  # with `--full`: a core takes 8 s for a frame of the release's sizes


def streaming(place: Place) -> Outcome:
    """`say` piece by piece against its codes decoded at once."""
    speaker, found = Speaker.load(place.speaking()), Findings()
    stream = speaker.stream(TEXT, speaker.voices[0], seed=1, max_seconds=6.0)
    pieces = list(stream)
    again = speaker.say(TEXT, speaker.voices[0], seed=1, max_seconds=6.0)
    whole = np.array(speaker.model.audio_tokenizer.decode(mx.array(again.codes)[None]))[0]
    streamed = np.concatenate(pieces)
    found.note("pieces", len(pieces))
    found.must(len(pieces) > 1, "all of it came at once")
    found.must(streamed.shape == whole.shape, f"{len(streamed)} samples streamed, {len(whole)} at once")
    if streamed.shape == whole.shape:
        error = float(np.sqrt(np.square(streamed - whole).mean() / np.square(whole).mean()))
        found.at_most("difference", error, SEAM)
    return found.outcome(f"{len(pieces)} pieces, {len(streamed) / speaker.sampling_rate:.1f} s")


# ---- training --------------------------------------------------------------------------------------------------------


def resume(place: Place) -> Outcome:
    """A training that was stopped and resumed against one that was not: equal to the bit."""
    whole, parts, found = place.folder / "whole", place.folder / "parts", Findings()
    training(whole).run()
    training(parts, stop_after=STEPS // 2).run()
    training(parts, resume=True).run()
    found.at_most("difference", largest_difference(trained(whole), trained(parts)), 0.0)
    return found.outcome(f"equal to the bit after {STEPS} steps")


def ranks(place: Place) -> Outcome:
    """A training in two processes against the same one in one."""
    cuda = getattr(mx, "cuda", None)
    devices = mx.device_count(mx.gpu) if on_gpu() else 2
    if devices < 2:
        return not_here("one GPU; two ranks need two (or two Macs, see the guide)")
    alone, spread, found = place.folder / "alone", place.folder / "spread", Findings()
    training(alone).run()
    two.train(spread, gpus=cuda is not None and on_gpu())
    found.at_most("difference", largest_difference(trained(alone), trained(spread)), 1e-3)
    return found.outcome(f"difference {found.figures['difference']:.1e} after {STEPS} steps")


# ---- sizes -----------------------------------------------------------------------------------------------------------


def _configuration(place: Place, task: str) -> RunConfig:
    """The shipped one of a task; without `--full`, of the miniature's sizes."""
    changes: dict = {"task": task, "model": "mistralai/Voxtral-4B-TTS-2603", "data": {"path": "data"}}
    if not place.full:
        changes |= {"model": str(place.sized()), "precision": "float32"}
        changes |= {"encoder": {"crop_seconds": 0.96, "stft_sizes": [512, 256], "train": {"batch_size": 2}}}
        changes |= {"speaker": {"max_seconds": 2.0, "reference_seconds": [1.0, 2.0], "lora": {"rank": 4}}}
        changes["speaker"]["train"] = {"batch_size": 1}
    name = "voxtral_encoder" if task == "encoder" else "voxtral_speaker"
    return load_run_config(name, _flat(changes))


def _flat(changes: dict, lead: str = "") -> dict:
    found: dict = {}
    for key, value in changes.items():
        found |= _flat(value, f"{lead}{key}.") if isinstance(value, dict) else {f"{lead}{key}": value}
    return found


def _step(place: Place, stage: str) -> Outcome:
    config = _configuration(place, stage)
    machine, found, told = this_machine(), Findings(), forecast(config, stage)
    found.note("forecast bytes", told.peak)
    found.note("forecast seconds", told.step_seconds)
    if told.peak > machine.usable:
        why = f"forecast {format_bytes(told.peak)}, usable {format_bytes(machine.usable)}; `voxclone doctor` advises"
        return Outcome("not here", why, found.figures)
    step = true_step(config, stage)
    peak = max(step.peak, step.moving_peak)
    found.note("measured bytes", peak)
    found.note("measured seconds of a micro-batch", step.seconds)
    low, high = PEAK
    ratio = peak / told.peak
    found.at_most("measured over forecast memory", ratio, high)
    found.must(ratio >= low, f"measured over forecast memory {ratio:.2f}, at least {low} expected")
    return found.outcome(
        f"{format_bytes(peak)} ({format_bytes(told.peak)} forecast), {step.seconds:.2g} s a micro-batch"
    )


def encoder_step(place: Place) -> Outcome:
    """Steps of the encoder's training with memory beside what `doctor` forecasts."""
    return _step(place, "encoder")


def lora_step(place: Place) -> Outcome:
    """Steps of the adapters' training with memory beside what `doctor` forecasts."""
    return _step(place, "speaker")


def spoken_seconds(place: Place) -> float:
    """How much is said."""
    return SECONDS_ON_CPU if place.full and not on_gpu() else SECONDS_SPOKEN[place.full]


def speaking(place: Place, bits: int) -> Outcome:
    """A checkpoint of random numbers is loaded at so many bits, and speaks."""
    import mlx_voxclone

    if bits < 16 and "bits" not in inspect.signature(mlx_voxclone.load).parameters:
        return not_here("this version loads at 16 bits only")
    if (path := place.sized()) is None:
        return not_here(f"the disk has no {format_bytes(FULL_BYTES)} free for a full-size checkpoint")
    width = 32 if bits == 16 and not on_gpu() else bits  # what is not quantised is float32 on the CPU
    needed, machine = FULL_BYTES * (width / 16 if place.full else 0), this_machine()
    if needed > machine.usable:
        return not_here(f"{format_bytes(needed)} of weights, usable {format_bytes(machine.usable)}")
    found, seconds = Findings(), spoken_seconds(place)
    mx.reset_peak_memory()
    began = time.perf_counter()
    tts = mlx_voxclone.load(path) if bits == 16 else mlx_voxclone.load(path, bits=bits)
    found.note("seconds to load", time.perf_counter() - began)
    found.note("bytes loaded", mx.get_active_memory())
    rates = []
    for _ in range(2):  # the first one compiles
        began = time.perf_counter()
        stream = tts.stream(TEXT, tts.voices[0], seed=1, max_seconds=seconds)
        sound = np.concatenate(list(stream))
        rates.append(len(sound) / 1920 / (time.perf_counter() - began))
    found.note("frames per second", max(rates))
    found.note("peak bytes", mx.get_peak_memory())
    found.must(bool(np.isfinite(sound).all()), "the sound is not finite")
    found.must(len(sound) >= 1920, "nothing was said")
    return found.outcome(
        f"{max(rates):.3g} frames/s (12.5 are real time), {format_bytes(mx.get_peak_memory())} at its peak, loaded in"
        f" {found.figures['seconds to load']:.2g} s"
    )
