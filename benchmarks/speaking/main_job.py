"""The main job as a user runs it: `voxclone train` on recordings of a speaker, and how close its clone is.

    python -m benchmarks.speaking.main_job --output DIR [--speakers N] [--seed S] [--config FILE] [--set A.B=VALUE]

The miniature as Voxtral was released (20 own voices, its encoder withheld) clones speakers that nothing has heard, each
from four minutes of transcribed recordings, by the shipped configuration in the lengths and rates of a miniature
(`configs/profiles/speaking-miniature.yaml`). Scored are texts that are not among the recordings: zero-shot behind the
job's encoder (behind five seconds that are not among the recordings, and behind as much of the recordings, taken
blindly), with the job's adapters, and by what the job delivers; beside them the ceiling (the codec itself, and the
withheld encoder, zero-shot and adapted by the same settings) and the floor (an own voice). Codes of the recordings are
compared with the withheld encoder's. What is done already is not done again; several processes may share an output
directory if they have no speaker in common (`--skip`). The automatic pairs of all speakers stay in `DIR/cache`, unless
VOXCLONE_CACHE says otherwise.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml

from benchmarks.speaking.adapt import TEXTS, at_hand, parser_of
from benchmarks.speaking.ears import Ears
from benchmarks.speaking.main_job_tables import results, tables
from benchmarks.speaking.profile import PROFILE
from benchmarks.speaking.score import Case, Heard, agreement, heldout_cases, score_model, score_recordings
from benchmarks.speaking.utterances import write_recordings
from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.common import entry
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.errors import ConfigError, VoxcloneError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.micro import ENCODER_FILE
from mlx_voxclone.miniature.readings import HELDOUT, readings, write_sentences
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.pairs.clip_codes import CODES_FILE
from mlx_voxclone.settings.config import RunConfig, load_run_config, parse_set
from mlx_voxclone.settings.differences import CONFIG_FILE, flat
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.clone.recover import CODES
from mlx_voxclone.train.run import DATA, SPEAKER, SUMMARY_FILE
from mlx_voxclone.train.saved.state import BEST

CLIPS, PAIR_TEXTS = 120, 2000  # recordings of each speaker: 3.6 minutes; sentences for the automatic pairs
JUDGED_FILE = "judged.safetensors"
VOICE = "clone"
BLIND_SECONDS = 5.0  # of recordings as a user would take them for a voice, without looking
CEILING = {"task": "speaker", "judge.enabled": False}  # its codes are the true ones


class MainJob:
    """The jobs of some speakers, and what came of them.

    Args:
        model: a speaking miniature, its encoder withheld beside it.
        home: directory for all that is made.
        ears: judges.
        config: configuration of the job.
        overrides: further keys of it, dotted.
        seed: of the recordings, the job and what is generated.
        say: called with a line per step.
        ceiling: train adapters behind the withheld encoder, too.
    """

    def __init__(
        self,
        model: Path,
        home: Path,
        ears: Ears,
        config: Path = PROFILE,
        overrides: Mapping[str, Any] | None = None,
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
        ceiling: bool = True,
    ):
        self.model, self.home, self.ears, self.config, self.seed, self.say = model, home, ears, config, seed, say
        self.with_ceiling = ceiling
        self.withheld = model / ENCODER_FILE
        texts = home / "texts.txt"
        own = {"model": str(model), "voice": VOICE, "seed": seed, "encoder.pairs.texts": str(texts)}
        self.overrides = {**own, **(overrides or {})}
        self.released = Speaker.load(model, encoder=self.withheld)
        self.codec = self.released.model.audio_tokenizer
        write_sentences(texts, PAIR_TEXTS, seed)

    def measured(self, number: int) -> dict[str, Any]:
        """The job of a speaker, its ceiling, and all that was heard of them: what the speaker's `scores.json` holds."""
        place = self.home / f"speaker-{number:02d}"
        scores = place / "scores.json"
        case = heldout_cases(1, TEXTS, first=HELDOUT + number)[0]
        write_recordings(place / "recordings", readings(HELDOUT + number, 1, CLIPS, self.seed + 1))
        job = self.trained(place, "job", {})
        ceiling = None
        if self.with_ceiling:
            ceiling = self.trained(place, "ceiling", CEILING | {"speaker.encoder": str(self.withheld)})
        if scores.is_file():
            return json.loads(scores.read_text(encoding="utf-8"))
        summary = json.loads((job / SUMMARY_FILE).read_text(encoding="utf-8"))
        heard = self.heard(case, number, job, ceiling, summary["baked"])
        found = {
            "number": number,
            "speaker": asdict(case.speaker),
            "delivered": {key: summary["delivered"][key] for key in ("name", "why")},
            "heard": {name: [asdict(one) for one in outputs] for name, outputs in heard.items()},
            "codes": self.codes(job, last_round(summary)),
            "seconds": seconds_of(summary),
        }
        write_text_atomic(scores, json.dumps(found, indent=1) + "\n")
        mx.clear_cache()
        return found

    def trained(self, place: Path, name: str, changes: Mapping[str, Any]) -> Path:
        """The run directory of a training by `voxclone train`, finished.

        Raises:
            VoxcloneError: it failed, or was done by another configuration.
        """
        directory = place / name
        overrides = {"data.path": str(place / "recordings"), "output": str(directory), **self.overrides, **changes}
        if (directory / SUMMARY_FILE).is_file():
            self.check_same(directory, load_run_config(self.config, overrides))
            return directory
        argv = ["train", "--config", str(self.config), "--quiet"]
        argv += ["--resume", str(directory)] if (directory / CONFIG_FILE).is_file() else []
        for key, value in overrides.items():
            argv += ["--set", f"{key}={json.dumps(value)}"]
        if voxclone(argv):
            raise VoxcloneError(f"{directory}: the job failed")
        self.say(f"{directory}: done")
        return directory

    def check_same(self, directory: Path, config: RunConfig) -> None:
        """Refuse a finished run of another configuration; keys that only one of both has are left out."""
        saved = flat(yaml.safe_load((directory / CONFIG_FILE).read_text(encoding="utf-8")))
        now = flat(config.model_dump(mode="json"))
        if differing := [key for key in saved.keys() & now.keys() if saved[key] != now[key] and key != "output"]:
            raise ConfigError(
                f"{directory}: made with other values of {', '.join(sorted(differing))}; choose another --output"
            )

    def heard(
        self, case: Case, number: int, job: Path, ceiling: Path | None, baked: Mapping[str, Any]
    ) -> dict[str, list[Heard]]:
        """What is said of the texts, by all that is compared."""
        delivered = Speaker.load(baked["path"])
        voice = delivered.voice_rows(baked["voice"]).astype(mx.float32)
        own = self.released.voice_rows(self.released.voices[number % len(self.released.voices)]).astype(mx.float32)
        found = {"codec": score_recordings(self.ears, self.codec, [case])}

        def score(name: str, speaker: Speaker, rows: mx.array | None = None) -> None:
            taken = None if rows is None else lambda case: rows
            found[name] = score_model(self.ears, self.codec, speaker, [case], taken, seed=self.seed)
            self.say(f"speaker {number}: {name}")

        score("withheld", self.released)
        if ceiling is not None:
            score("withheld_adapted", self.adapted(ceiling / BEST, self.withheld))
        codes = delivered.model.audio_tokenizer.audio_codes(case.reference_wave())  # the encoder is baked in
        score("zero_shot", self.released, self.released.model.voice_embedding(codes))
        blind = self.blind_voices(job, delivered.model.audio_tokenizer, len(case.said))
        found["blind"] = score_model(self.ears, self.codec, self.released, [case], lambda case: blind, seed=self.seed)
        if (job / SPEAKER / BEST).is_dir():
            score("adapted", self.adapted(job / SPEAKER / BEST), voice)
        score("delivered", delivered, voice)
        score("own", self.released, own)
        return found

    def blind_voices(self, job: Path, codec: Codec, count: int) -> list[mx.array]:
        """`count` voices, each of other recordings of the user's: BLIND_SECONDS, from evenly spaced places on."""
        clips = PreparedData.load(job / DATA).clips
        frames = round(BLIND_SECONDS * codec.config.frame_rate)
        found = []
        for k in range(count):
            taken, first = np.zeros((len(codec.config.code_sizes), 0), np.int32), k * len(clips) // count
            for clip in (*clips[first:], *clips[:first]):
                if taken.shape[1] >= frames:
                    break
                taken = np.concatenate([taken, codec.audio_codes(clip.read())], axis=1)
            found.append(self.released.model.voice_embedding(taken[:, :frames]).astype(mx.float32))
        return found

    def adapted(self, adapters: Path, encoder: Path | None = None) -> Speaker:
        return Speaker.load(self.model, adapters=[AdapterSource(adapters)], encoder=encoder)

    def codes(self, job: Path, number: int) -> dict[str, dict[str, float]]:
        """Codes of the user's clips of a round against the withheld encoder's."""
        clips = PreparedData.load(job / DATA).clips
        true = {clip.id: self.codec.audio_codes(clip.read()) for clip in clips}
        files = {
            "recovered": of_round(job / CODES / CODES_FILE, number),
            "judged": of_round(job / CODES / JUDGED_FILE, number),
        }
        found = {}
        for name, path in files.items():
            if path.is_file():
                codes = read_codes(path)
                found[name] = agreement((true[key], codes[key]) for key in true if key in codes)
                found[name]["clips"] = len(true.keys() & codes.keys())
        return found


def last_round(summary: Mapping[str, Any]) -> int:
    """The round whose encoder and codes a run has kept: the last one that made held-out codes likelier."""
    kept, nats = 1, [one["heldout_nats"] for one in summary["rounds"]]
    for number in range(2, len(nats) + 1):
        if not nats[number - 1] < nats[kept - 1]:
            break
        kept = number
    return kept


def of_round(path: Path, number: int) -> Path:
    """`codes.safetensors` of the first round is `codes-2.safetensors` of the second."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def read_codes(path: Path) -> dict[str, np.ndarray]:
    """Codes by clip, `[37, T]` each, of a file in a run's `codes/`."""
    file = TensorFile(path)
    return {name: file.numpy(name) for name in file.names()}


def seconds_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each training of a run, of all else (pairs and the base encoder too, if it made them), and in all."""
    found = {name: result["seconds"] for name, result in summary["results"].items()}
    trained = sum(found.values())
    total = max(summary["seconds"], trained)
    return {**found, "else": total - trained, "in all": total}


@entry
def main(argv: list[str]) -> None:
    """Clone, score, print."""
    parser = parser_of("main_job", __doc__, speakers=8)
    parser.add_argument("--skip", type=int, default=0, help="speakers to leave out, the first ones")
    parser.add_argument("--no-ceiling", action="store_true", help="train no adapters behind the withheld encoder")
    parser.add_argument("--config", type=Path, default=PROFILE, help="of the job (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="any key of it, repeatable")
    args: argparse.Namespace = parser.parse_args(argv)
    model, ears = at_hand(args)
    os.environ.setdefault("VOXCLONE_CACHE", str((args.output / "cache").resolve()))
    say = lambda line: print(line, flush=True)  # noqa: E731
    job = MainJob(model, args.output, ears, args.config, parse_set(args.set), args.seed, say, not args.no_ceiling)
    found = [job.measured(args.skip + k) for k in range(args.speakers)]
    report = results(found, TEXTS)
    write_text_atomic(args.output / "results.json", json.dumps(report, indent=1) + "\n")
    write_text_atomic(args.output / "results.md", tables(report) + "\n")
    say(tables(report))


if __name__ == "__main__":
    raise SystemExit(main())
