"""The codes of a run's transcribed clips, judged by the frozen language model, and the transcripts that do not fit.

A clip whose text does not explain what is said is left out: judging would bend its codes towards a wrong text. The test
is a comparison. Behind its own text a clip's codes are likelier than behind another clip's text; where they are not,
the text is wrong (of another recording, in another language, or the encoder is still unable to hear it).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import quantise_backbone
from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.text_checks import is_sayable
from mlx_voxclone.errors import CheckpointError, TranscriptError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.pairs.data import Pair
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence, Judged
from mlx_voxclone.train.judge.text_gain import GROUP, LEAST_GAIN, text_gains, why_none_fits
from mlx_voxclone.train.stages.compute import Compute

LEAST_SHARE = 0.1  # of the median gain: below, a transcript does not fit
NAMED = 3  # clips in a refusal
JUDGED, FACTS = "judged", "facts"  # metadata of the file


@dataclass(frozen=True)
class JudgedCodes:
    """Judged codes of a run's clips.

    Attributes:
        codes: int32 `[37, T]` by clip id; clips without a text, or with one that does not fit, are not there.
        left_out: ids of clips whose text does not fit, with the gain of their own text (see `text_gains`).
        raw_nats: of the held-out clips, how unlikely the encoder's own codes are under the language model (nats per
            frame): the better the encoder, the lower.
        facts: figures for the summary.
    """

    codes: dict[str, np.ndarray]
    left_out: dict[str, float] = field(default_factory=dict)
    raw_nats: float = float("nan")
    facts: dict[str, Any] = field(default_factory=dict)


def voice_prompt(clip: Clip, data: PreparedData, codes: Mapping[str, np.ndarray], frames: int) -> np.ndarray | None:
    """Codes `[37, N]` of other clips of the clip's speaker, joined up to `frames`; None without any."""
    taken, count = [], 0
    for other in data.references(clip):
        taken.append(codes[other.id])
        count += taken[-1].shape[1]
        if count >= frames:
            break
    return np.concatenate(taken, axis=1)[:, :frames] if taken else None


def judged_codes(
    config: RunConfig,
    release: Release,
    encoder: Path | None,
    data: PreparedData,
    codes: Mapping[str, np.ndarray],
    path: Path,
    reporter: Reporter = SILENT,
    pairs: Callable[[], Sequence[Pair]] = tuple,
) -> JudgedCodes:
    """Judge all clips that have a text and another clip of their speaker; kept in `path` and read from there next time.

    Args:
        encoder: encoder file; None: the release's own.
        codes: of the clips, by that encoder.
        path: `.safetensors` file.
        reporter: shows progress.
        pairs: gives what the model said, if it is there; asked where no transcript fits.

    Raises:
        TranscriptError: no transcript fits what is said, or too few do.
        DataError, CheckpointError: the encoder or the model is what does not fit.
    """
    made_from = {"codec": codec_digest(release, encoder), "data": data.fingerprint(), "model": release.fingerprint()}
    made_from["check_texts"] = str(config.judge.check_texts)
    if (found := _read(path, made_from)) is not None:
        return found
    clips = [clip for clip in data.clips if clip.text and is_sayable(clip) and clip.samples and data.references(clip)]
    if not clips:
        return JudgedCodes({})
    frames = round(config.speaker.reference_seconds[1] * release.config.codec.frame_rate)
    model = load_model(release, parts=["lm", "head", "codec"], dtype=Compute.of(config).dtype, encoder_file=encoder)
    if config.speaker.quantise.bits:
        quantise_backbone(model, config.speaker.quantise.bits)
    tokenizer = SpeechTokenizer.of(release)
    judge = CodeJudge(model, tokenizer.prompt)
    prompts = {clip.id: voice_prompt(clip, data, codes, frames) for clip in clips}
    with reporter.bar(total=2 * len(clips), unit="clip", desc="judging") as bar:
        gains = text_gains(judge, clips, codes, prompts, bar.update)
        fitting, left_out = (
            _fitting(config, judge, data, clips, gains, pairs) if config.judge.check_texts else (clips, {})
        )
        bar.update(len(left_out))
        judged = _judged(judge, fitting, prompts, bar.update)
    heldout = [judged[clip.id].raw_nats for clip in data.heldout if clip.id in judged]
    confidence = np.concatenate([one.confidence for one in judged.values()])
    facts = {
        "clips": len(judged),
        "left_out": len(left_out),
        "confidence": float(confidence.mean()),
        "changed_semantic": _changed(judged, codes),
        "text_gain": float(np.median(list(gains.values()))) if gains else None,
    }
    result = JudgedCodes(
        {name: one.codes for name, one in judged.items()},
        left_out,
        float(np.mean(heldout)) if heldout else float("nan"),
        facts,
    )
    _write(path, result, made_from)
    mx.clear_cache()
    return result


def unfitting(judged: JudgedCodes, clips: Sequence[Clip]) -> list[str]:
    """A line for each clip whose text does not fit, the worst first."""
    by_id = {clip.id: clip for clip in clips}
    lines = []
    for name in sorted(judged.left_out, key=judged.left_out.get):
        clip = by_id[name]
        place, text = clip.source or clip.path, clip.text or ""
        lines.append(f"{place}: its text does not match the speech, so it is left out: {text[:60]!r}")
    return lines


def _fitting(
    config: RunConfig,
    judge: CodeJudge,
    data: PreparedData,
    clips: Sequence[Clip],
    gains: Mapping[str, float],
    pairs: Callable[[], Sequence[Pair]],
) -> tuple[list[Clip], dict[str, float]]:
    """Clips whose text fits, and the gains of the others."""
    if not gains:
        return list(clips), {}
    median = float(np.median(list(gains.values())))
    if median < LEAST_GAIN:
        raise why_none_fits(judge, config.model, median, pairs())
    left_out = {name: gain for name, gain in gains.items() if gain < LEAST_SHARE * median}
    fitting = [clip for clip in clips if clip.id not in left_out]
    _check_enough(config, data, clips, left_out)
    return fitting, left_out


def _check_enough(config: RunConfig, data: PreparedData, clips: Sequence[Clip], left_out: Mapping[str, float]) -> None:
    """Refuse what is left where the adapters could not be trained or measured with it.

    Raises:
        TranscriptError: names some of the clips that were left out.
    """
    tried = {clip.id for clip in clips}
    batch = config.speaker.train.batch_size
    for side, own, least in (("training", data.train, batch), ("held-out", data.heldout, 1)):
        there = [clip for clip in own if clip.id in tried]
        left = len([clip for clip in there if clip.id not in left_out])
        if there and left < least and left < len(there):
            wrong = [clip for clip in there if clip.id in left_out]
            some = ", ".join(f"{clip.source or clip.path} {clip.text[:30]!r}" for clip in wrong[:NAMED])
            more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise TranscriptError(
                f"the texts of {len(wrong)} of {len(there)} {side} clips do not match the speech ({some}{more}), and"
                f" at least {least} must match; correct them and start a new run: pairs and base encoder are kept in"
                " the cache; or judge.check_texts: false goes on with all of them"
            )


def _judged(
    judge: CodeJudge, clips: Sequence[Clip], prompts: Mapping[str, np.ndarray], progress: Callable[[int], object]
) -> dict[str, Judged]:
    codec, found = judge.model.audio_tokenizer, {}
    for first in range(0, len(clips), GROUP):
        group = clips[first : first + GROUP]
        evidence = []
        for clip in group:
            latents = np.array(codec.encode_audio(clip.read()).astype(mx.float32))
            evidence.append(Evidence(clip.id, clip.text, latents, prompts[clip.id]))
        found |= {clip.id: one for clip, one in zip(group, judge.judge(evidence, progress=progress))}
    return found


def _changed(judged: Mapping[str, Judged], codes: Mapping[str, np.ndarray]) -> float:
    """Share of the semantic codes that differ from the encoder's."""
    same = [judged[name].codes[0] == codes[name][0] for name in judged]
    return float(1 - np.concatenate(same).mean())


def _write(path: Path, result: JudgedCodes, made_from: Mapping[str, str]) -> None:
    document = {"left_out": result.left_out, "raw_nats": result.raw_nats, FACTS: result.facts}
    save_tensors(path, result.codes, {**made_from, JUDGED: json.dumps(document)}, overwrite=True)


def _read(path: Path, made_from: Mapping[str, str]) -> JudgedCodes | None:
    """What `_write` wrote, if it was made from this."""
    if not path.is_file():
        return None
    file = TensorFile(path)
    if not file.says(made_from):
        return None
    try:
        document = parse_json(file.metadata[JUDGED])
        left_out, raw_nats, facts = dict(document["left_out"]), float(document["raw_nats"]), dict(document[FACTS])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: its description of the codes is damaged; delete it, run again") from None
    return JudgedCodes({name: file.codes(name) for name in file.names()}, left_out, raw_nats, facts)
