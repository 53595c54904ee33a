"""What a run computes of its clips beside the trainings, counted before it starts.

The clips are known by their lengths (`data/expected.py`), so it is counted by what will do it: `voice_prompt`,
`candidates`, `measured_clips` see codes that are zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.doctor.rehearsal import Length
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.clone.deliver import AGAIN, SENTENCES, longest_prompt, main_speaker, measured_clips
from mlx_voxclone.train.clone.voice import SCORED, candidates
from mlx_voxclone.train.judge.codes import voice_prompt
from mlx_voxclone.train.judge.judge import batches


@dataclass(frozen=True)
class Work:
    """Sequences that the language model reads, and audio that the codec takes.

    Attributes:
        frames: of every clip, each of which is encoded.
        encoders: by how many of them, one after the other.
        judged: the sequence of every clip that is judged, by each of them.
        scored: those behind which a candidate for the voice is scored: every candidate with every held-out clip.
        candidates: how many there are.
        said: those of the sentences that are spoken.
    """

    frames: list[int]
    encoders: int
    judged: list[Length]
    scored: list[Length]
    candidates: int
    said: list[Length]


def positions(sequences: Sequence[Length], group: int | None = None) -> int:
    """Positions that the judge computes: in each of its batches every sequence is as long as the longest.

    Args:
        group: how many of them the judge is given at a time, in order; None: all.
    """
    found, group = 0, group or max(1, len(sequences))
    for first in range(0, len(sequences), group):
        lengths = [one.text + one.voice + one.frames for one in sequences[first : first + group]]
        found += sum(len(batch) * max(lengths[k] for k in batch) for batch in batches(lengths))
    return found


def planned_work(
    config: RunConfig, data: PreparedData, codec: CodecConfig, *, trains_encoder: bool, tokens_per_letter: float
) -> Work:
    """Count it.

    Args:
        data: the run's clips, as far as their lengths go.
        trains_encoder: none is at hand, so that there are rounds of judging.
        tokens_per_letter: of the texts.

    Raises:
        DataError: there is no clip to take a voice from.
    """
    lengths = {clip.id: codec.n_frames(clip.samples) for clip in data.clips}
    codes = {name: np.zeros((codec.n_codebooks, count), np.int8) for name, count in lengths.items()}
    longest = config.speaker.reference_seconds[1]
    limit = round(longest * codec.frame_rate)

    def sequence(clip, rows: int) -> Length:
        return Length(round(tokens_per_letter * len(clip.text)), rows + 1, lengths[clip.id])

    judged = {}
    if config.judge.enabled and config.adapts != "language":
        prompts = {clip.id: voice_prompt(clip, data, codes, limit) for clip in data.clips if clip.text}
        voices = {name: prompt.shape[1] for name, prompt in prompts.items() if prompt is not None}
        judged = {clip.id: sequence(clip, voices[clip.id]) for clip in data.clips if clip.id in voices}
    encoders = 1 + config.judge.rounds if judged and trains_encoder else 1
    scored, said, found = [], [], []
    if config.task == "clone":
        clips = measured_clips(data, judged or lengths)
        found = _candidate_frames(config, data, codes, codec)
        scored = [sequence(clip, rows) for rows in found for clip in clips[:SCORED]]
        said = [sequence(clip, round(np.mean(found))) for clip in (AGAIN * clips)[:SENTENCES]]
    return Work(list(lengths.values()), encoders, list(judged.values()), scored, len(found), said)


def _candidate_frames(
    config: RunConfig, data: PreparedData, codes: Mapping[str, np.ndarray], codec: CodecConfig
) -> list[int]:
    """Frames of each candidate for the voice; of `bake.reference` as many as a voice prompt has at most."""
    longest = longest_prompt(config, adapted=False)
    if config.bake.reference is not None:
        return [round(longest * codec.frame_rate)]
    speaker = main_speaker(data)
    clips = [clip for clip in data.train or data.heldout if clip.speaker == speaker]
    return [voice.codes.shape[1] for voice in candidates(clips, codes, codec.frame_rate, longest, config.seed)]
