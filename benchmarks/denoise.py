"""What do noise suppressors do to a voice and to its codes? `python -m benchmarks.denoise SPEECH --speaker-model FILE`

Clean recordings, each of one person, with pink noise at several levels under the speech: as they are, and through two
libraries that need no torch, where they are installed: WebRTC's suppressor (`webrtc-noise-gain`, at 16 kHz) and
spectral gating (`noisereduce`). Printed are medians over the clips, against the clean recording, all at 16 kHz:
similarity; and with `--codec` (what `benchmarks.recovery.codec` wrote) the share of frames with the same semantic code,
and the distance of acoustic codes in levels. Nothing here is part of `prepare`.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.quality import audio_files, evenly, with_noise
from benchmarks.recovery.codec import load_codec
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample
from mlx_voxclone.evaluate.speakers import speaker_model

RATE, CHUNK = 16_000, 160  # Hz; samples of 10 ms, which WebRTC takes at a time
LEVELS = (None, 20.0, 10.0)  # dB of the speech over the noise; None: no noise
STRENGTH = 2  # of WebRTC's 0 to 4

Suppressor = Callable[[np.ndarray], np.ndarray]


def suppressors() -> dict[str, Suppressor]:
    """Those that are installed, by name, and `as it is`; each takes and gives samples [S] at 16 kHz."""
    found: dict[str, Suppressor] = {"as it is": lambda wave: wave}
    if importlib.util.find_spec("webrtc_noise_gain"):
        found["webrtc-noise-gain"] = webrtc
    if importlib.util.find_spec("noisereduce"):
        import noisereduce

        found["noisereduce"] = lambda wave: noisereduce.reduce_noise(y=wave, sr=RATE).astype(np.float32)
    return found


def webrtc(wave: np.ndarray) -> np.ndarray:
    from webrtc_noise_gain import AudioProcessor

    processor = AudioProcessor(0, STRENGTH)
    whole = np.pad(wave, (0, -len(wave) % CHUNK))
    chunks = np.round(np.clip(whole, -1, 1) * 32767).astype("<i2").reshape(-1, CHUNK)
    out = b"".join(processor.Process10ms(chunk.tobytes()).audio for chunk in chunks)
    return np.frombuffer(out, "<i2")[: len(wave)].astype(np.float32) / 32767


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, metavar="SPEECH")
    parser.add_argument("--speaker-model", required=True, metavar="FILE")
    parser.add_argument("--codec", type=Path, metavar="DIR")
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    model, codec = speaker_model(options.speaker_model), None
    if options.codec:
        codec, *_ = load_codec(options.codec)
    clips = [
        resample(read_audio(path), SAMPLE_RATE, RATE) for path in evenly(audio_files(options.speech), options.clips)
    ]

    def as_codec(wave: np.ndarray) -> np.ndarray:
        return resample(wave.astype(np.float32), RATE, SAMPLE_RATE)

    clean = [model.embed(as_codec(wave)) for wave in clips]
    codes = [codec.audio_codes(as_codec(wave)) for wave in clips] if codec else []
    print(f"{len(clips)} clips, {model.name}\n\n| noise | suppressor | similarity | same semantic | levels apart |")
    print("|---|---|---|---|---|")
    for db in LEVELS:
        rng = np.random.default_rng(0)
        noisy = clips if db is None else [with_noise(db, 1.0)(wave, RATE, rng) for wave in clips]
        for name, suppress in suppressors().items():
            out = [as_codec(suppress(wave.astype(np.float32))) for wave in noisy]
            alike = np.median([one @ model.embed(wave) for one, wave in zip(clean, out, strict=True)])
            figures = []
            for one, wave in zip(codes, out, strict=bool(codes)):
                other = codec.audio_codes(wave)
                figures.append([np.mean(one[0] == other[0]), np.mean(np.abs(one[1:] - other[1:]))])
            same, apart = np.median(figures, axis=0) if figures else (np.nan, np.nan)
            level = "none" if db is None else f"{db:g} dB"
            print(f"| {level} | {name} | {alike:.2f} | {100 * same:.0f} % | {apart:.2f} |", flush=True)


if __name__ == "__main__":
    main()
