"""Does adapting help? Clones of unseen speakers by the miniature: zero-shot, and after training on clips of theirs.

    python -m benchmarks.speaking.adapt --output DIR [--model DIR] [--encoder FILE] [--unlike] [--ablate]

Every speaker gets adapters of his own by the product's task `speaker`. Scored are texts that were not trained on,
behind the same reference as zero-shot, against zero-shot, and what the model's own voices have drifted by. `--ablate`
goes through rates, ranks, steps, clips, losses and preservation; `--unlike` takes breathier speakers than any it
learned from; `--encoder` one that was recovered, in training and scoring, in place of the one that was withheld.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.speaking.build import score_checkpoint
from benchmarks.speaking.ears import Ears
from benchmarks.speaking.profile import PROFILE
from benchmarks.speaking.score import Case, Heard, gain, heldout_cases, score_model, summary, table
from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.adapters.lora import add_lora
from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.adapters.names import TARGETS
from mlx_voxclone.checkpoint.release import Release, file_sha256, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.common import entry
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.evaluate.drift import measure_drift
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.micro import ENCODER_FILE, make_micro
from mlx_voxclone.miniature.readings import HELDOUT, UNLIKE, Reading, readings, write_sentences
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.settings.schema import PreserveSection, SpeakerSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.listening import Limits, Listening, Sentence
from mlx_voxclone.train.speaker.preservation import KeptPairs, load_kept
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance

PAIRS_PER_VOICE = 5  # 100 in all
TEXTS = 12  # scored, of each speaker
HELDOUT_SHARE = 0.1
LENGTHS = load_run_config(PROFILE).speaker


@dataclass(frozen=True)
class Setting:
    """One way to adapt."""

    rank: int = LENGTHS.lora.rank
    steps: int = LENGTHS.train.steps
    batch: int = LENGTHS.train.batch_size
    learning_rate: float = LENGTHS.train.learning_rate
    preserve: float = 0.25  # share of the items; 0: none
    clips: int = 160
    semantic: float = 1.0  # weights of the losses
    flow: float = 10.0
    by_ear: bool = False  # the best is chosen by the similarity of held-out speech in place of the held-out loss

    @property
    def name(self) -> str:
        parts = [f"rank {self.rank}", f"{self.steps} steps", f"rate {self.learning_rate:g}", f"{self.clips} clips"]
        parts += [f"semantic x{self.semantic:g}"] * (self.semantic != 1)
        parts += [f"flow x{self.flow:g}"]
        parts += [f"presets kept ({self.preserve:g})" if self.preserve else "presets not kept"]
        return ", ".join([*parts, *["chosen by ear"] * self.by_ear])


def ablations(base: Setting) -> list[Setting]:
    """One thing changed at a time."""
    changes = [
        {"learning_rate": base.learning_rate / 3},
        {"learning_rate": base.learning_rate * 3},
        {"rank": 2},
        {"rank": 32},
        {"steps": 80},
        {"flow": 1.0},
        {"semantic": 0.0},
        {"preserve": 0.0},
        {"clips": 40},
        {"by_ear": True},
    ]
    return [base, *(replace(base, **change) for change in changes)]


class Similar:
    """The listener as the product's speaker model."""

    name, metric = "the miniature's listener", "similarity"

    def __init__(self, ears: Ears):
        self.embed = ears.listener.embed


class Adapting:
    """The miniature, its judges, speakers to be cloned, and pairs of its own voices.

    Args:
        model: a speaking miniature, its encoder withheld beside it.
        home: directory for all that is made.
        ears: judges.
        speakers: number of them.
        seed: of all that is drawn.
        per_voice: pairs of each of the model's own voices.
        encoder: hears references and clips; None: the withheld one.
        unlike: speakers breathier than any that the model learned from.
        skip: speakers to leave out, the first ones, such as those that a setting was chosen by.
    """

    def __init__(
        self,
        model: Path,
        home: Path,
        ears: Ears,
        speakers: int,
        seed: int = 0,
        per_voice: int = PAIRS_PER_VOICE,
        *,
        encoder: Path | None = None,
        unlike: bool = False,
        skip: int = 0,
    ):
        self.directory, self.home, self.ears, self.seed = model, home, ears, seed
        self.encoder, self.own_encoder = encoder or model / ENCODER_FILE, encoder is None
        self.first = (UNLIKE if unlike else HELDOUT) + skip
        self.release = Release(model)
        self.prompt = SpeechTokenizer(self.release.tokenizer_path).prompt
        self.cases = heldout_cases(speakers, TEXTS, first=self.first)
        self.pairs = home / "pairs"
        if not self.pairs.exists():
            write_sentences(home / "texts.txt", per_voice, seed)
            self.make_pairs(self.pairs, per_voice)

    def make_pairs(self, output: Path, per_voice: int, *options: Any) -> Path:
        """`voxclone pairs` of the texts, with more options."""
        argv = ["pairs", "--model", self.directory, "--output", output, "--per-voice", per_voice, *options]
        argv += ["--texts", self.home / "texts.txt", "--max-seconds", 8, "--seed", self.seed, "--quiet"]
        if voxclone([*map(str, argv)]):
            raise VoxcloneError(f"{output}: the pairs could not be made")
        return output

    def codec(self, encoder: Path | None = None) -> Codec:
        """With the withheld encoder, or another one."""
        encoder = encoder or self.directory / ENCODER_FILE
        return load_model(self.release, parts=["codec"], encoder_file=encoder).audio_tokenizer

    def kept(self, share: float) -> KeptPairs | None:
        if not share:
            return None
        section = SpeakerSection(preserve=PreserveSection(path=[self.pairs], share=share))
        config = RunConfig(task="speaker", model=str(self.directory), seed=self.seed, speaker=section)
        return load_kept(config, self.release)

    def adapt(self, codec: Codec, number: int, setting: Setting, place: Path) -> Path:
        """Train adapters for speaker `number`, if that is not done; the directory of the best."""
        if (place / "result.json").exists():
            return place / "best"
        clips = readings(self.first + number, 1, setting.clips, self.seed + 1)
        codes = [codec.audio_codes(reading.wave()) for reading in clips]
        utterances = [
            Utterance(f"{number}-{k}", one.text, codes[k], tuple(codes[j] for j in range(len(codes)) if j != k))
            for k, one in enumerate(clips)
        ]
        held = max(2, round(HELDOUT_SHARE * len(clips)))
        model = load_model(self.release)
        add_lora(model, rank=setting.rank, alpha=2.0 * setting.rank, seed=self.seed)
        section = SpeakerSection(
            reference_seconds=LENGTHS.reference_seconds,
            preserve=PreserveSection(path=[self.pairs] if setting.preserve else [], share=setting.preserve),
            train={"batch_size": setting.batch},
            losses={"semantic": setting.semantic, "flow": setting.flow},
        )
        adapter = AdapterConfig(setting.rank, 2.0 * setting.rank, TARGETS, self.release.fingerprint())
        task = SpeakerTask(
            AdaptedModel(model, self.prompt, lambda where, tensors: save_adapters(where, tensors, adapter)),
            SpeakerData(utterances[held:], utterances[:held], self.kept(setting.preserve)),
            section,
            seed=self.seed,
            listening=self._listening(clips[:held], utterances[:held], setting),
        )
        settings = TrainSettings(
            steps=setting.steps,
            batch_size=setting.batch,
            learning_rate=setting.learning_rate,
            warmup_steps=max(1, setting.steps // 20),
            eval_every=max(1, setting.steps // 4),
            save_every=0,
            seed=self.seed,
        )
        Trainer(task, settings, place, quiet=True).run()
        return place / "best"

    def _listening(
        self, clips: Sequence[Reading], utterances: Sequence[Utterance], setting: Setting
    ) -> Listening | None:
        """Held-out clips, spoken behind one another and compared with the recordings."""
        if not setting.by_ear:
            return None
        sentences = [
            Sentence(own.id, own.text, other.codes, reading.wave(), own.codes.shape[1])
            for own, other, reading in zip(utterances, (*utterances[1:], utterances[0]), (*clips[1:], clips[0]))
        ]
        return Listening(sentences, Similar(self.ears), None, Limits(), self.prompt, self.seed)

    def score(
        self,
        cases: Sequence[Case],
        adapters: Path | None = None,
        encoder: Path | None = None,
        *,
        written: Callable[[str], str] = str,
    ) -> list[Heard]:
        """Clones behind what an encoder (None: the one to be used) makes of the references, zero-shot or adapted.

        `written`: see `score_model`.
        """
        adapted = [] if adapters is None else [AdapterSource(adapters)]
        speaker = Speaker.load(self.directory, adapters=adapted, encoder=encoder or self.encoder)
        return score_model(self.ears, self.codec(), speaker, cases, seed=self.seed, written=written)

    def drift(self, adapters: Path) -> float:
        """Of the model's own voices: nats a frame."""
        found = measure_drift(self.release, self.release, str(self.pairs), [AdapterSource(adapters)])
        return float(np.mean([one.metrics["preset_drift"] for one in found]))

    def run(self, setting: Setting, before: Sequence[Heard], tell: Callable[[str], None]) -> dict:
        """All speakers with one setting: figures as in `summary`, what changed, the drift of the model's own voices.

        Args:
            setting: how to adapt.
            before: zero-shot clones, of `score`.
            tell: hears how long it took.
        """
        codec, heard, drifts, began = self.codec(self.encoder), [], [], time.perf_counter()
        for number, case in enumerate(self.cases):
            whose = f"{self.first + number}{'' if self.own_encoder else '-' + file_sha256(self.encoder)[:8]}"
            place = self.home / f"{setting.name.replace(' ', '-').replace(',', '')}-{whose}"
            adapters = self.adapt(codec, number, setting, place)
            heard += self.score([case], adapters)
            drifts.append(self.drift(adapters))
            mx.clear_cache()
        seconds = (time.perf_counter() - began) / len(self.cases)
        tell(f"{setting.name}: {seconds:.0f} s a speaker")
        changed = gain(before, heard, TEXTS) | {"drift": float(np.mean(drifts))}
        return {**summary(heard), **changed, "seconds": seconds, "setting": asdict(setting)}


def parser_of(name: str, about: str, speakers: int) -> argparse.ArgumentParser:
    """The options of a benchmark on the miniature; `speakers` that are cloned by default."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.speaking.{name}", description=about.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for everything, continued if it is there")
    parser.add_argument("--model", type=Path, help="a speaking miniature (the one that comes with the package)")
    parser.add_argument("--ears", type=Path, help="its judges (those that come with it)")
    parser.add_argument("--speakers", type=int, default=speakers)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def at_hand(args: argparse.Namespace) -> tuple[Path, Ears]:
    """The miniature and its judges that the options ask for; makes the output directory."""
    args.output.mkdir(parents=True, exist_ok=True)
    model = args.model or args.output / "model"
    if not model.exists():
        make_micro(model, "speaking")
    return model, Ears.load(args.ears) if args.ears else Ears.load()


def opened(
    args: argparse.Namespace, per_voice: int = PAIRS_PER_VOICE, **options: Any
) -> tuple[Adapting, dict[str, dict]]:
    """What the options (and those of `Adapting`) ask for, and the figures before anything is trained."""
    model, ears = at_hand(args)
    adapting = Adapting(model, args.output, ears, args.speakers, args.seed, per_voice, **options)
    return adapting, score_checkpoint(model, ears, adapting.cases, args.seed)


def changes(rows: dict[str, dict]) -> str:
    """Markdown: settings, against zero-shot."""
    lines = [
        "| adapted with | unit error | change | similarity | change | tract | own voices drifted, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, s in rows.items():
        error, similarity = s["unit_error_gain_interval"], s["similarity_gain_interval"]
        lines.append(
            f"| {name} | {s['unit_error']:.1%} | {s['unit_error_gain']:+.1%} ({error[0]:+.1%}..{error[1]:+.1%})"
            f" | {s['similarity']:.3f} | {s['similarity_gain']:+.3f} ({similarity[0]:+.3f}..{similarity[1]:+.3f})"
            f" | {s['tract']:.3f} | {s['drift']:.4f} |"
        )
    return "\n".join(lines)


@entry
def main(argv: list[str]) -> None:
    """Adapt, score, print."""
    parser = parser_of("adapt", __doc__, speakers=4)
    parser.add_argument("--encoder", type=Path, help="in place of the withheld one")
    parser.add_argument("--unlike", action="store_true", help="speakers breathier than any that the model learned from")
    parser.add_argument("--skip", type=int, default=0, help="speakers to leave out, the first ones")
    parser.add_argument("--ablate", action="store_true", help="ranks, steps, clips, with and without preservation")
    args = parser.parse_args(argv)
    adapting, rows = opened(args, encoder=args.encoder, unlike=args.unlike, skip=args.skip)
    say = lambda line: print(line, flush=True)  # noqa: E731
    before = adapting.score(adapting.cases)
    rows["zero-shot"] = summary(before)
    say(table(rows))
    base = Setting()
    for setting in ablations(base) if args.ablate else [base]:
        found = rows[setting.name] = adapting.run(setting, before, say)
        say(changes({setting.name: found}).splitlines()[-1])
        write_text_atomic(args.output / "adapted.json", json.dumps(rows, indent=1) + "\n")
    say(changes({name: row for name, row in rows.items() if "setting" in row}))


if __name__ == "__main__":
    raise SystemExit(main())
