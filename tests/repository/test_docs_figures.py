"""Figures of README and guides that are defaults of the code are those of the code."""

import re
from pathlib import Path

import pytest
import yaml
from pages import DOCS, README, ROOT

from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS
from mlx_voxclone.data.shards.data import MIX
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.speech.side_by_side import MAX_TOKENS
from mlx_voxclone.train import sweep
from mlx_voxclone.train.loop.distributed import WAIT_MINUTES

CLONE = load_run_config(ROOT / "configs" / "voxtral_speaker.yaml")
ENCODER = load_run_config(ROOT / "configs" / "voxtral_encoder.yaml")
GUIDES = DOCS / "guides"
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def said(page: Path, pattern: str) -> tuple[str, ...]:
    """What the groups of a pattern match on a page, line breaks being blanks."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    match = re.search(pattern, text)
    assert match, f"{page.name}: {pattern}"
    return match.groups()


def test_training():
    page = GUIDES / "training.md"
    expected = (str(CLONE.encoder.train.save_every), str(CLONE.speaker.train.save_every))
    assert said(page, r"every (\d+) encoder and (\d+) speaker steps") == expected
    steps, batch = said(page, r"base encoder.*?\| (\d+) steps of (\d+) pairs of 4 s")
    assert (int(steps), int(batch)) == (CLONE.encoder.train.steps, CLONE.encoder.train.batch_size)
    refine = CLONE.encoder.refine
    steps, batch = said(page, r"your encoder, three trainings \| (\d+) steps of (\d+) clips of 4 s")
    assert (int(steps), int(batch)) == (refine.steps * (1 + CLONE.judge.rounds), refine.batch_size * refine.accumulate)
    train = CLONE.speaker.train
    steps, batch = said(page, r"adapters \(24.7 M parameters\) \| (\d+) steps of (\d+) clips")
    assert (int(steps), int(batch)) == (train.steps, train.batch_size * train.accumulate)
    assert said(page, r"\((\d+),000 steps by default") == (str(ENCODER.encoder.train.steps // 1000),)
    assert said(page, r"(\w+) held-out sentences are spoken") == (NUMBERS[CLONE.speaker.listen.texts],)
    steps, rates = said(page, r"trains (\d+) steps \(`--max-steps`\) with each of (\w+) rates from 1e-7 to 2e-5")
    assert (int(steps), rates) == (sweep.STEPS, NUMBERS[len(sweep.RATES)])
    assert (sweep.RATES[0], sweep.RATES[-1]) == (1e-7, 2e-5)
    assert CLONE.speaker.preserve.share == 0.25
    said(page, "So a quarter of the items are")


def test_encoder():
    sentences, copies = said(
        GUIDES / "encoder.md", r"(\d+) sentences of each of the model's own voices, and (\w+) copies"
    )
    assert (int(sentences), copies) == (CLONE.encoder.pairs.per_voice, NUMBERS[CLONE.encoder.pairs.moves])
    said(GUIDES / "encoder.md", r"`sound_teaches: all`")
    assert (ENCODER.encoder.sound_teaches, CLONE.encoder.sound_teaches) == ("all", "acoustic")
    judge = yaml.safe_load(re.search(r"```yaml\n(.*?)```", (GUIDES / "judged-codes.md").read_text(), re.DOTALL)[1])
    assert judge["judge"] == CLONE.judge.model_dump()


def test_data():
    plain, transcribed = said(
        GUIDES / "recording.md", r"longer than (\d+) s are cut at pauses.*?above (\d+) s they are"
    )
    assert (float(plain), float(transcribed)) == (CLONE.data.max_seconds, MAX_TRANSCRIBED_SECONDS)
    rate, clipped = said(GUIDES / "recording.md", r"below (\d+) kHz are refused.*?more than (\d+) % of their samples")
    assert (int(rate) * 1000, int(clipped) / 100) == (CLONE.data.min_sampling_rate, CLONE.data.max_clipped)
    size, mixed = said(GUIDES / "corpora.md", r"`data.cache_gb` \((\d+)\).*?Clips of (\w+) shards are mixed")
    assert (int(size), mixed) == (CLONE.data.cache_gb, NUMBERS[MIX])
    assert RunConfig(task="clone").data.heldout == 0.1
    said(GUIDES / "recording.md", "holds out a tenth")


def test_limits():
    assert said(GUIDES / "several-machines.md", r"after (\d+) minutes")[0] == f"{WAIT_MINUTES:g}"
    assert said(GUIDES / "evaluating.md", r"texts up to (\d+) tokens")[0] == str(MAX_TOKENS)


@pytest.mark.parametrize("column", [0, 1])
def test_the_readmes_times_are_the_guides(column):
    """Its three rows are sums of the guide's, rounded; minutes."""

    def minutes(page: Path, row: str) -> float:
        cell = said(page, rf"{re.escape(row)}[^|]*\|(?: [^|]*PFLOP \|)? ([\d.]+ \w+) \| ([\d.]+ \w+) \|")[column]
        number, unit = cell.split()
        return float(number) * {"min": 1, "h": 60}[unit]

    guide = GUIDES / "training.md"
    assert minutes(README, "base encoder, once per model") == minutes(guide, "base encoder, once per model")
    assert minutes(README, "| adapters") == minutes(guide, "| adapters")
    parts = sum(minutes(guide, row) for row in ("your encoder, three trainings", "judging 20 min of speech"))
    assert minutes(README, "your encoder and judged codes") == parts
