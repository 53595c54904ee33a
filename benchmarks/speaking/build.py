"""Train the miniature that can speak: codec, language model, flow head and its two judges, from nothing but a seed.

    python -m benchmarks.speaking.build --output DIR

trains the codec on synthetic speakers (the recovery benchmark's training), encodes what hundreds of them say, trains
language model and head on these codes, and measures clones of speakers that none of them has heard. `DIR/speaking` is
what `voxclone micro --preset speaking` hands out, `DIR/ears.safetensors` the judges. Steps that are done already are
not done again. How long it took is in docs/LOG.md.

Of its 20 own voices the language model has learnt from four; the others are speakers that it has never heard, as the
withheld encoder codes them. `--voices-only` makes these again for the miniature that comes with the package:
`DIR/speaking` is then that miniature, its weights and its first four voices to the byte.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.recovery.codec import ENCODER, GATES, RUNS, load_codec, train_codec
from benchmarks.recovery.corpus import Corpus, build_corpus
from benchmarks.speaking import utterances
from benchmarks.speaking.ears import Ears, train_ears
from benchmarks.speaking.pretrain import Pretraining, pretrain
from benchmarks.speaking.score import Case, heldout_cases, score_model, score_recordings, summary, table
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli.common import entry
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.layout import SPEAKING_SIZES, params_json
from mlx_voxclone.miniature.micro import ENCODER_FILE, SPEAKING, make_micro, write_own_voices, write_release
from mlx_voxclone.miniature.readings import HELDOUT, PRESETS, SYLLABLES, TRAINING, Reading, readings
from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.speech.speaker import Speaker

# The own voices that the language model learns from: name, pitch in Hz, tract scale.
VOICES = (("bass", 100.0, 0.93), ("tenor", 150.0, 1.0), ("alto", 200.0, 1.13), ("soprano", 250.0, 1.2))
VOICE_SECONDS = 3.0
FURTHER_VOICES, FURTHER_SECONDS = 16, 8.0  # with these as many as the release has; voice05, voice06, ...
FURTHER_READINGS, FURTHER_SYLLABLES, FURTHER_SEED = 4, (4, 8), 3
HELDOUT_FIGURES = 12  # speakers whose losses are measured in training


@dataclass(frozen=True)
class BuildSize:
    """How much of everything."""

    codec_steps: int
    corpus: str  # of `benchmarks.recovery.corpus.SIZES`
    speakers: int
    clips: int  # of each speaker
    voice_clips: int  # of each of the miniature's own voices
    pretraining: Pretraining
    cases: int  # speakers that are cloned to measure


BUILDS = {
    "full": BuildSize(RUNS["speaking"].steps, "speaking", 400, 30, 120, Pretraining(), 16),
    "quick": BuildSize(4, "quick", 4, 6, 4, Pretraining(steps=3, batch=2), 2),  # that it runs, no more
}


def own_voices() -> list[SyntheticSpeaker]:
    """Speakers of the voices in `VOICES`."""
    return [
        replace(
            SyntheticSpeaker.varied(PRESETS + k),
            name=f"{name}-{PRESETS + k}",
            pitch_hz=pitch,
            formant_scale=tract,
        )
        for k, (name, pitch, tract) in enumerate(VOICES)
    ]


def voice_readings(clips: int, seed: int) -> list[Reading]:
    """What the miniature's own voices say in training."""
    found = []
    for k, speaker in enumerate(own_voices()):
        rng = np.random.default_rng([seed, 0x701CE, k])
        for _ in range(clips):
            text = random_text(rng, int(rng.integers(SYLLABLES[0], SYLLABLES[1] + 1)))
            found.append(Reading(speaker, text, int(rng.integers(2**31))))
    return found


def further_voices() -> dict[str, np.ndarray]:
    """Speech of speakers for further own voices: name -> samples at 24 kHz, at most `FURTHER_SECONDS` of them."""
    found = {}
    for k in range(len(VOICES), len(VOICES) + FURTHER_VOICES):
        own = readings(PRESETS + k, 1, FURTHER_READINGS, FURTHER_SEED, FURTHER_SYLLABLES)
        joined = np.concatenate([reading.wave() for reading in own])
        found[f"voice{k + 1:02d}"] = joined[: int(FURTHER_SECONDS * 24000)]
    return found


def add_further_voices(directory: Path) -> None:
    """Give a speaking miniature its further own voices, in place of those that it has; all else stays to the byte.

    Args:
        directory: has the voices of `VOICES`, and the withheld encoder.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    release = Release(directory)
    voices = {name: release.voice(name) for name, *_ in VOICES}
    model = load_model(release, parts=["lm", "codec"], encoder_file=directory / ENCODER_FILE)
    for name, wave in further_voices().items():
        voices[name] = model.voice_embedding(model.audio_tokenizer.audio_codes(wave))
    mx.eval(voices)  # they are read from the files that are written anew
    shutil.rmtree(directory / VOICE_DIRECTORY)
    write_own_voices(directory, SPEAKING_SIZES, voices)
    Release(directory).check()


class Build:
    """The steps, each of which leaves a file or directory under `home`."""

    def __init__(self, home: Path, size: str, seed: int, say: Callable[[str], None]):
        self.home, self.size, self.seed, self.say = home, BUILDS[size], seed, say
        self.config = VoxtralConfig.from_dict(params_json(SPEAKING_SIZES, {}))
        self.seconds: dict[str, float] = {}
        home.mkdir(parents=True, exist_ok=True)

    def run(self) -> dict:
        """All steps; what `score.json` holds."""
        for step in (self.codec, self.utterances, self.ears, self.language_model, self.assemble):
            began = time.perf_counter()
            step()
            self.seconds[step.__name__] = round(time.perf_counter() - began, 1)
            self.say(f"{step.__name__}: {self.seconds[step.__name__]:.0f} s")
        return self.score()

    # --- steps ----------------------------------------------------------------------------------------------------

    def codec(self) -> None:
        if (self.home / "codec" / GATES).exists():
            return
        place = self.home / "corpus"
        corpus = Corpus.load(place) if place.exists() else build_corpus(place, self.size.corpus, self.seed)
        run = replace(RUNS["speaking"], steps=self.size.codec_steps)
        result = train_codec(corpus, self.home / "codec", "speaking", self.seed, run=run, say=self.say)
        for fault in result["faults"]:
            self.say(f"the codec falls short: {fault}")

    def own_codec(self) -> Codec:
        return load_codec(self.home / "codec")[0]

    def utterances(self) -> None:
        size, place = self.size, self.home / "utterances.npz"
        if place.exists():
            return
        wanted = readings(TRAINING, size.speakers, size.clips, self.seed)
        wanted += voice_readings(size.voice_clips, self.seed)
        codec = self.own_codec()
        tell = lambda done: self.say(f"encoded {done} of {len(wanted)} clips")  # noqa: E731
        utterances.save(place, utterances.spoken(codec, wanted, tell=tell))
        heldout = readings(HELDOUT, HELDOUT_FIGURES, 4, self.seed)
        utterances.save(self.home / "heldout.npz", utterances.spoken(codec, heldout, workers=1))

    def ears(self) -> None:
        if not (self.home / "ears.safetensors").exists():
            train_ears(self.own_codec(), self.seed).save(self.home / "ears.safetensors")

    def language_model(self) -> None:
        place = self.home / "lm.safetensors"
        if place.exists():
            return
        model, prompt = self.untrained(), self.prompt()
        train = utterances.load(self.home / "utterances.npz")
        heldout = utterances.load(self.home / "heldout.npz")

        def save(model: Voxtral) -> None:
            weights = tree_flatten(model.parameters())
            own = {name: value.astype(mx.bfloat16) for name, value in weights if not name.startswith(CODEC_PREFIX)}
            save_tensors(self.home / "lm-so-far.safetensors", own, overwrite=True)

        run = self.size.pretraining
        figures = pretrain(model, train, heldout, prompt, run, seed=self.seed, say=self.say, save=save)
        save(model)
        write_text_atomic(self.home / "lm.json", json.dumps(figures, indent=1) + "\n")
        (self.home / "lm-so-far.safetensors").rename(place)

    def untrained(self) -> Voxtral:
        """Random weights, but for the codec's."""
        mx.random.seed(self.seed)
        model = Voxtral(self.config)
        drawn = []
        for name, value in tree_flatten(model.parameters()):
            if not name.startswith(CODEC_PREFIX) and value.ndim == 2:
                table = name.startswith("mm_audio_embeddings.audio")
                deviation = 37**-0.5 if table else 1.0 if "embeddings" in name else value.shape[1] ** -0.5
                drawn.append((name, deviation * mx.random.normal(value.shape)))
        model.load_weights(drawn, strict=False)
        model.audio_tokenizer = self.own_codec()
        mx.eval(model.parameters())
        return model

    def prompt(self) -> Callable[[str, int], list[int]]:
        return SpeechTokenizer(Release(self.home / "codec" / "stock").tokenizer_path).prompt

    def assemble(self) -> None:
        place, so_far = self.home / "speaking", self.home / "speaking-so-far"
        if place.exists():
            return
        shutil.rmtree(so_far, ignore_errors=True)
        lm, stock = TensorFile(self.home / "lm.safetensors"), Release(self.home / "codec" / "stock").tensors
        codec, model = self.own_codec(), Voxtral(self.config)
        model.load_weights([(name, lm.array(name)) for name in lm.names()], strict=False)
        voices = {}
        for speaker in own_voices():
            name = speaker.name.rsplit("-", 1)[0]
            wave = Reading(speaker, random_text(np.random.default_rng([self.seed, 0xFACE]), 9), self.seed).wave()
            voices[name] = model.voice_embedding(codec.audio_codes(wave[: int(VOICE_SECONDS * 24000)]))
        write_release(
            so_far, SPEAKING_SIZES, lambda name: lm.array(name) if name in lm.names() else stock.raw(name), voices
        )
        encoder = TensorFile(self.home / "codec" / ENCODER)
        (so_far / ENCODER_FILE).parent.mkdir()
        tensors = {name: encoder.array(name).astype(mx.bfloat16) for name in encoder.names()}  # as they are stored
        save_tensors(so_far / ENCODER_FILE, tensors)
        add_further_voices(so_far)
        so_far.rename(place)

    # --- what came of it ------------------------------------------------------------------------------------------

    def score(self) -> dict:
        cases = heldout_cases(self.size.cases)
        rows = score_checkpoint(self.home / "speaking", Ears.load(self.home / "ears.safetensors"), cases, self.seed)
        self.say(table(rows))
        lm = json.loads((self.home / "lm.json").read_text(encoding="utf-8"))
        result = {"seed": self.seed, "seconds": self.seconds, "language_model": lm, "clones": rows}
        write_text_atomic(self.home / "score.json", json.dumps(result, indent=1) + "\n")
        return result


def score_checkpoint(directory: Path, ears: Ears, cases: Sequence[Case], seed: int = 0) -> dict[str, dict]:
    """Recordings, the codec, clones by the withheld encoder, and the checkpoint's own voices in their place."""
    speaker = Speaker.load(directory, encoder=directory / ENCODER_FILE)
    release, codec, own = speaker.release, speaker.model.audio_tokenizer, sorted(speaker.voices)

    def preset(case: Case) -> mx.array:
        return release.voice(own[cases.index(case) % len(own)]).astype(mx.float32)

    return {
        "recorded": summary(score_recordings(ears, codec, cases, through=False)),
        "through the codec": summary(score_recordings(ears, codec, cases)),
        "zero-shot, withheld encoder": summary(score_model(ears, codec, speaker, cases, seed=seed)),
        "one of its own voices instead": summary(score_model(ears, codec, speaker, cases, preset, seed=seed)),
    }


@entry
def main(argv: list[str]) -> None:
    """Build and score."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speaking.build", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for everything, continued if it is there")
    parser.add_argument("--size", choices=list(BUILDS), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voices-only", action="store_true", help="the packaged miniature, its further voices anew")
    args = parser.parse_args(argv)
    if args.voices_only:
        add_further_voices(make_micro(args.output / SPEAKING, SPEAKING))
        return
    Build(args.output, args.size, args.seed, lambda line: print(line, flush=True)).run()


if __name__ == "__main__":
    raise SystemExit(main())
