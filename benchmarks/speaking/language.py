"""A second language: does the miniature learn to read one, what becomes of the first, and is a voice learnt on top?

    python -m benchmarks.speaking.language --output DIR [--model DIR] [--steps N]

The second language has the sounds of the first and writes them with other letters, as a language does that a model
reads by the rules of another. Task `language` hears speakers of it whom the scored ones are not among, then task
`speaker` starts from what it learnt, for each scored speaker by himself. Scored are both languages, before and after.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speaking import profile
from benchmarks.speaking.adapt import PAIRS_PER_VOICE, TEXTS, Adapting, opened, parser_of
from benchmarks.speaking.score import Case, Heard, gain, summary, table
from benchmarks.speaking.utterances import write_recordings
from mlx_voxclone.cli.common import entry
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.readings import HELDOUT, readings
from mlx_voxclone.process.progress import SILENT
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.run import run

FIRST, SPEAKERS, CLIPS = 450_000, 48, 16  # number of the first speaker of the language; clips of each
OWN_CLIPS = 80  # of each scored speaker
STEPS, OWN_STEPS = 800, 240
SPELT = str.maketrans("aeioumnlrwbdgptkfsxvz", "eiouanlrwmdgptkbsxvzf")


def spelt(text: str) -> str:
    """How the second language writes what the first one writes as `text`."""
    return text.translate(SPELT)


def overrides(adapting: Adapting, recordings: Path, steps: int, rate: float, output: Path) -> dict[str, Any]:
    """Of the shipped configurations, in the lengths and rates of a miniature."""
    return {
        **profile.overrides("data", "speaker"),
        "model": str(adapting.directory),
        "output": output,
        "seed": adapting.seed,
        "precision": "float32",
        "data.path": recordings,
        "data.min_seconds": 0.3,
        "data.heldout": 0.05,
        "speaker.encoder": adapting.encoder,
        "speaker.lora": {"rank": 16, "alpha": 32.0},
        "speaker.quantise.bits": 0,
        "speaker.preserve.path": None,
        "speaker.train.steps": steps,
        "speaker.train.batch_size": 16,
        "speaker.train.learning_rate": rate,
        "speaker.train.warmup_steps": steps // 20,
        "speaker.train.eval_every": steps // 4,
    }


class SecondLanguage:
    """The experiment."""

    def __init__(self, adapting: Adapting, steps: int, say: Callable[[str], None]):
        self.adapting, self.steps, self.say = adapting, steps, say

    def trained(self, name: str, config: str, recordings: Path, steps: int, rate: float, **more: Any) -> Path:
        """Adapters of a training that is done once."""
        place, began = self.adapting.home / name, time.perf_counter()
        if not place.exists():
            changes = overrides(self.adapting, recordings, steps, rate, place) | more
            run(load_run_config(profile.CONFIGS / config, changes), reporter=SILENT)
            self.say(f"{name}: {time.perf_counter() - began:.0f} s")
        return place / "best"

    def heard(self, adapters: Path | None, second: bool, cases: list[Case] | None = None) -> list[Heard]:
        written = spelt if second else str
        return self.adapting.score(cases or self.adapting.cases, adapters, written=written)

    def run(self) -> dict[str, dict]:
        """All rows."""
        home, cases = self.adapting.home, self.adapting.cases
        rows, before = {}, {}
        for second in (False, True):
            before[second] = self.heard(None, second)
            rows[f"{_LANGUAGES[second]}, as released"] = summary(before[second])
        self.say(table(rows))
        recordings = home / "language-recordings"
        write_recordings(recordings, readings(FIRST, SPEAKERS, CLIPS, self.adapting.seed), spelt)
        language = self.trained("language", "voxtral_language.yaml", recordings, self.steps, 2e-3)
        after = {}
        for second in (False, True):
            after[second] = self.heard(language, second)
            rows[f"{_LANGUAGES[second]}, adapted to the second"] = summary(after[second]) | gain(
                before[second], after[second], TEXTS
            )
        self.say(table(rows))
        own = []
        for number, case in enumerate(cases):
            recordings = home / f"recordings-{number}"
            write_recordings(recordings, readings(HELDOUT + number, 1, OWN_CLIPS, self.adapting.seed + 1), spelt)
            more = {"task": "speaker", "speaker.start": language, "data.speaker": case.speaker.name}
            own += self.heard(
                self.trained(f"speaker-{number}", "voxtral_speaker.yaml", recordings, OWN_STEPS, 1e-3, **more),
                True,
                [case],
            )
        rows["second, then the speaker"] = summary(own) | gain(after[True], own, TEXTS)
        return rows


_LANGUAGES = ("first", "second")


@entry
def main(argv: list[str]) -> None:
    """Learn, score, print."""
    parser = parser_of("language", __doc__, speakers=8)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the language")
    args = parser.parse_args(argv)
    adapting, rows = opened(args, PAIRS_PER_VOICE)
    rows |= SecondLanguage(adapting, args.steps, lambda line: print(line, flush=True)).run()
    print(table(rows))
    write_text_atomic(args.output / "language.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
