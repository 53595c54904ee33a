"""What distillation learns from: voices whose codes are known twice, and texts for them to say.

The true codes of a voice are those that the model made (pairs) or was released with (presets, recovered); the encoder's
are those that it gives for the same audio. Behind the true ones the released model is the teacher; behind the
encoder's, the adapted one has to say the same.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.bake.record import added_voices
from mlx_voxclone.checkpoint.invert import EXACT, TABLE, CodeTable, invert
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.pairs.prompts import load_prompts

SPOKEN = 0.6  # of the items: what a voice said, its frames known; the others are texts of which only the start is asked
FEWEST_WORDS = 3  # of a variant of a transcript


@dataclass(frozen=True, eq=False)
class TwiceCoded:
    """A voice: `true` and `ours` 0-based int32 `[37, N]`, of the same audio.

    Attributes:
        name: of the pair or the preset.
        speaker: the model's voice that it is.
    """

    name: str
    speaker: str
    true: np.ndarray
    ours: np.ndarray

    @property
    def differs(self) -> bool:
        return not np.array_equal(self.true, self.ours)


@dataclass(frozen=True, eq=False)
class DistillItem:
    """What is said behind which voice. `codes`: 0-based `[37, T]` of the answer; None: only its first frame is asked.

    `kept`: the student, too, gets the true codes: what the model does with its own voices is to stay.
    """

    id: str
    voice: TwiceCoded
    first: int  # frame of the voice's part, and its length
    frames: int
    text: str
    codes: np.ndarray | None
    kept: bool


def pair_voices(pairs: Sequence[Pair], codec: Codec, progress: Callable[[int], None]) -> list[TwiceCoded]:
    """Pairs as voices; the encoder hears their audio."""
    found = []
    for pair in pairs:
        found.append(TwiceCoded(pair.name, pair.voice, pair.codes, codec.audio_codes(pair.read())))
        progress(1)
    return found


def preset_voices(release: Release, codec: Codec, progress: Callable[[int], None]) -> list[TwiceCoded]:
    """The model's own voices whose codes can be recovered: decoded, and heard by the encoder.

    Voices that a bake added are left out: they were made with some encoder and are not the model's.
    """
    added = added_voices(release.path)
    names = [name for name in release.voices() if name not in added]
    if not names:
        return []
    try:
        table = CodeTable(release.tensors.numpy(TABLE), release.config.codec.code_sizes)
    except ValueError as e:
        raise CheckpointError(f"{release.path}: {e}") from None
    found = []
    for name in names:
        rows = np.array(release.voice(name).astype(mx.float32))
        inverted = invert(table, rows[:-1])
        if inverted.status.count(EXACT) == len(inverted.status) and inverted.status:
            codes = inverted.codes
            found.append(TwiceCoded(f"preset {name}", name, codes, codec.audio_codes(codec.decode_audio(codes))))
        progress(1)
    return found


def refuse_identical(voices: Sequence[TwiceCoded]) -> list[TwiceCoded]:
    """The voices that the encoder codes otherwise than the model.

    Raises:
        DataError: none of them: teacher and student would be given the same, and the best change is no change.
    """
    if not voices:
        raise DataError(
            "distill: no pairs and no voice whose codes could be recovered; make pairs with `voxclone pairs`"
        )
    different = [voice for voice in voices if voice.differs]
    if not different:
        raise DataError(
            f"distill: the encoder gives the true codes for all {len(voices)} voices: teacher and student would be"
            " given the same, and there is nothing to learn"
        )
    return different


def variants(text: str) -> list[str]:
    """Other texts made of one: without case and final punctuation, and its clauses alone."""
    plain = re.sub(r"[.!?;:]+$", "", text.strip()).lower()
    clauses = [clause.strip() for clause in re.split(r"[,;:.!?]+\s", text) if len(clause.split()) >= FEWEST_WORDS]
    found = [plain, *(clause for clause in clauses if clause.lower().rstrip(".!?") != plain)]
    return [variant for variant in dict.fromkeys(found) if variant and variant != text.strip()]


def text_pool(transcripts: Sequence[str]) -> list[str]:
    """The transcripts, their variants and the sentences shipped in nine languages, once each, one after the other."""
    own = list(dict.fromkeys(text.strip() for text in transcripts if text.strip()))
    more = [variant for text in own for variant in variants(text)]
    shipped = [sentence for _, sentence in load_prompts()]
    queues, pool = [own, more, shipped], []
    for k in range(max(map(len, queues))):  # alternating, so that few items have some of each
        pool += [queue[k] for queue in queues if k < len(queue)]
    return list(dict.fromkeys(pool))


def make_items(
    voices: Sequence[TwiceCoded],
    pairs: Sequence[Pair],
    count: int,
    *,
    kept: float,
    reference_frames: tuple[int, int],
    most_frames: int,
    seed: int,
) -> list[DistillItem]:
    """`count` items, each of which depends on the seed and its number alone; texts take turns.

    Args:
        voices: to be said with.
        pairs: what was said, with its codes: by the same voice of the model, and never the clip that is the voice.
        kept: share of the items of preservation.
        reference_frames: shortest and longest part of a voice.
        most_frames: of an answer; longer ones are left out.
    """
    pool = text_pool([pair.text for pair in pairs])
    said: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.text.strip() and pair.frames <= most_frames:
            said.setdefault(pair.voice, []).append(pair)
    items = []
    for k in range(count):
        rng = np.random.default_rng([seed, 0xD157, k])
        voice = voices[rng.integers(len(voices))]
        total = voice.true.shape[1]
        frames = min(total, int(rng.integers(reference_frames[0], reference_frames[1] + 1)))
        first, is_kept = int(rng.integers(total - frames + 1)), bool(rng.uniform() < kept)
        others = [pair for pair in said.get(voice.speaker, []) if pair.name != voice.name]
        text, codes = pool[k % len(pool)], None
        if others and rng.uniform() < SPOKEN:
            pair = others[rng.integers(len(others))]
            text, codes = pair.text, pair.codes
        items.append(DistillItem(f"{k} ({voice.name})", voice, first, frames, text, codes, is_kept))
    return items


def digest_items(items: Sequence[DistillItem]) -> str:
    """SHA-256 (hex) of all that the items hold."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.first, item.frames, item.text, item.kept)).encode())
        for codes in (item.voice.true, item.voice.ours, item.codes):
            digest.update(b"-" if codes is None else np.ascontiguousarray(codes, dtype=np.int32).tobytes())
    return digest.hexdigest()


def refuse_without_frames(items: Sequence[DistillItem], pairs: PairData) -> None:
    """Refuse items that ask for starts of answers alone. Raises DataError."""
    if all(item.codes is None for item in items):
        raise DataError(
            f"distill: no voice of {', '.join(map(str, pairs.directories))} says two texts short enough to learn from;"
            " make more pairs for each voice, or raise speaker.max_seconds"
        )
