"""How much does quantising change speech, by bits, groups and what is quantised?

    python -m benchmarks.speaking.widths --output DIR [--speakers 16] [--texts 2] [--only "8 bits" ...]

The speaking miniature says texts of unseen speakers behind their own references (rows of the model in full, by its
withheld encoder) and is judged as in `score`. Beside that, frame by frame behind the same past as the model in full
(its own codes, fed to both) and with the same noise: the share of codes that are the same, semantic and acoustic.
Weights are quantised and dequantised into float32 linears: the numbers of a quantised model, at the speed of float32.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.speaking.adapt import at_hand
from benchmarks.speaking.score import Heard, gain, heldout_cases, score_model, speaker_voice, summary
from mlx_voxclone.cli.common import entry
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.micro import ENCODER_FILE
from mlx_voxclone.model.codes import lm_frames
from mlx_voxclone.model.generation import frame_noise, generate_batch
from mlx_voxclone.model.quantised import quantised_linears
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.speech.speaker import Speaker

SAID = 12  # utterances whose frames are compared
MOST_FRAMES = 80
TABLES, CODEC = ("mm_audio_embeddings.",), ("audio_tokenizer.decoder_blocks.",)


@dataclass(frozen=True)
class Way:
    """One way to quantise: MLX's bits, group size and mode, and whether a tensor of some name is."""

    bits: int
    group_size: int
    mode: str = "affine"
    others: tuple[str, ...] = ()  # prefixes of weights quantised beside the linears
    only: str = ""  # prefix of the linears that are quantised

    def values(self, weight: mx.array) -> mx.array:
        """What a weight has become, float32."""
        # As the product stores them: from BF16, with scales in BF16.
        found = mx.quantize(weight.astype(mx.bfloat16), self.group_size, self.bits, self.mode)
        if self.mode == "affine":
            found = [found[0], *(part.astype(mx.float32) for part in found[1:])]
        return mx.dequantize(*found, group_size=self.group_size, bits=self.bits, mode=self.mode).astype(mx.float32)


WAYS = {
    "8 bits, groups of 64": Way(8, 64),
    "6 bits, groups of 64": Way(6, 64),
    "4 bits, groups of 64": Way(4, 64),
    "4 bits, groups of 32": Way(4, 32),
    "mxfp8 (groups of 32)": Way(8, 32, "mxfp8"),
    "nvfp4 (groups of 16)": Way(4, 16, "nvfp4"),
    "4 bits, the language model alone": Way(4, 64, only="layers."),
    "4 bits, the head alone": Way(4, 64, only="acoustic_transformer."),
    "8 bits, and both embeddings": Way(8, 64, others=TABLES),
    "4 bits, and both embeddings": Way(4, 64, others=TABLES),
    "8 bits, and the codec": Way(8, 64, others=CODEC),
    "4 bits, and the codec": Way(4, 64, others=CODEC),
    "mxfp4 (groups of 32)": Way(4, 32, "mxfp4"),
    "8 bits, groups of 32": Way(8, 32),
    "6 bits, groups of 32": Way(6, 32),
}
FULL = "in full"


def quantise(model: Voxtral, way: Way) -> None:
    """Give a model the values that its weights have when they are quantised."""
    names = {f"{name}.weight" for name, _, _ in quantised_linears(model) if name.startswith(way.only)}
    changed = []
    for name, value in tree_flatten(model.parameters()):
        beside = name.startswith(way.others) and value.ndim == 2 and value.shape[1] % way.group_size == 0
        if name in names or beside:
            changed.append((name, way.values(value)))
    model.load_weights(changed, strict=False)
    mx.eval(model.parameters())


class Frames:
    """Utterances of the model in full, and what another one says at each of their frames."""

    def __init__(self, speaker: Speaker, texts: Sequence[str]):
        model, voices = speaker.model, speaker.voices
        rows = [speaker.voice_rows(voices[k % len(voices)]) for k in range(len(texts))]
        self._said = [(speaker.prompt(text, voice), voice) for text, voice in zip(texts, rows)]
        prompts = [model.embed_prompt(*one)[0] for one in self._said]
        spoken = generate_batch(model, prompts, max_frames=MOST_FRAMES, seeds=range(len(prompts)))
        self._codes = [one.codes for one in spoken]
        self.truth = list(self.of(model))

    def of(self, model: Voxtral) -> Iterator[np.ndarray]:
        """The LM's codes `[T, 37]` of each utterance, every frame behind the given past."""
        for k, (codes, said) in enumerate(zip(self._codes, self._said)):
            frames = mx.array(lm_frames(codes))  # [T, 37]
            prompt = model.embed_prompt(*said)
            hidden = model.hidden_states(mx.concatenate([prompt, model.embed_codes(frames)[None]], axis=1))[0]
            asked = hidden[prompt.shape[1] - 1 : -1]  # [T, dim]
            noise = frame_noise(k, model.config.codec.acoustic_dim)
            drawn = mx.concatenate([next(noise) for _ in range(len(frames))])
            yield np.array(model.acoustic_transformer.decode_frame(asked, drawn))

    def same(self, model: Voxtral) -> dict[str, float]:
        """Shares of equal codes, and the mean distance of acoustic levels where they are to be compared."""
        found, truth = np.concatenate(list(self.of(model))), np.concatenate(self.truth)
        return {
            "semantic": float((found[:, 0] == truth[:, 0]).mean()),
            "acoustic": float((found[:, 1:] == truth[:, 1:]).mean()),
            "levels": float(np.abs(found[:, 1:] - truth[:, 1:]).mean()),
        }


def measured(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, dict]:
    """Every way by its name, the model in full first."""
    directory, ears = at_hand(args)
    cases = heldout_cases(args.speakers, texts=args.texts, seed=13)

    def load() -> Speaker:
        return Speaker.load(directory, encoder=directory / ENCODER_FILE)

    speaker = load()
    codec = speaker.model.audio_tokenizer
    said = [reading.text for case in cases for reading in case.said]
    frames = Frames(speaker, said[:SAID])
    rows = {case: speaker.voice_rows(reference=case.reference_wave()) for case in cases}
    voices = {case: speaker_voice(ears, codec, case) for case in cases}

    def heard(one: Speaker) -> list[Heard]:
        return score_model(
            ears, one.model.audio_tokenizer, one, cases, rows.__getitem__, seed=args.seed, sound=voices.__getitem__
        )

    full = heard(speaker)
    found = {FULL: summary(full, args.texts) | frames.same(speaker.model)}
    say(row(FULL, found[FULL]))
    for name, way in WAYS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        other = load()
        quantise(other.model, way)
        now = heard(other)
        found[name] = summary(now, args.texts) | frames.same(other.model) | gain(full, now, args.texts)
        say(row(name, found[name]))
    return found


def row(name: str, one: dict[str, float]) -> str:
    """A line of the table in Markdown."""

    def ends(key: str, form: str) -> str:
        return "" if key not in one else f" ({one[key][0]:{form}}..{one[key][1]:{form}})"

    change = f"{one.get('unit_error_gain', 0.0):+.1%}{ends('unit_error_gain_interval', '+.1%')}"
    closer = f"{one.get('similarity_gain', 0.0):+.3f}{ends('similarity_gain_interval', '+.3f')}"
    return (
        f"| {name} | {one['semantic']:.1%} | {one['acoustic']:.1%} | {one['unit_error']:.1%} | {change}"
        f" | {one['similarity']:.3f} | {closer} |"
    )


HEAD = (
    "| | same semantic codes | same acoustic codes | unit error | against full | similarity | against full |\n"
    "|---|---|---|---|---|---|---|"
)


@entry
def main(argv: list[str]) -> None:
    """Measure, print the table as it grows, write everything as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speaking.widths", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for the miniature and the figures")
    parser.add_argument("--model", type=Path, help="a speaking miniature with its withheld encoder")
    parser.add_argument("--ears", type=Path, help="judges, where they are not those of the package's miniature")
    parser.add_argument("--speakers", type=int, default=16)
    parser.add_argument("--texts", type=int, default=2, help="of each speaker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="PART", help="ways whose names hold one of these")
    args = parser.parse_args(argv)
    print(HEAD, flush=True)
    found = measured(args, lambda line: print(line, flush=True))
    write_text_atomic(args.output / "widths.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
