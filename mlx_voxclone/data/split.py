"""The held-out split: by speaker and recording, the same for the same seed, whatever the order of the files."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from mlx_voxclone.data.entries import HELDOUT, TRAIN


@dataclass(frozen=True)
class Recording:
    """One recording and the clips that came out of it, in order."""

    key: str  # unique and stable: what the draw depends on
    speaker: str
    clips: Sequence[str]  # ids
    seconds: float  # of the clips together
    split: str | None = None  # train or heldout, where the source says so


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip, as far as the split goes by it.

    Attributes:
        recording: what it is cut from; all pieces of one in order.
        digest: of the audio; equal ones are the same audio.
        marked: train or heldout, where the source says so.
    """

    id: str
    recording: str
    speaker: str
    seconds: float
    digest: Hashable
    marked: str | None = None


def divided(
    pieces: Sequence[Piece], fraction: float, speakers: Collection[str] = (), seed: int = 0, known: int = 0
) -> tuple[set[str], list[str]]:
    """Ids of the pieces that are held out, see `hold_out`, and notes; the same audio is never on both sides.

    `known`: copies that need no note, because another note counts them.
    """

    def rank(piece: Piece) -> int:
        if piece.marked == HELDOUT or piece.speaker in speakers:
            return 0
        return 1 if piece.marked == TRAIN else 2

    # One of equal ones takes part in the draw, what is held out for sure first; its copies go where it goes.
    unique: dict[Hashable, Piece] = {}
    for piece in sorted(pieces, key=rank):
        unique.setdefault(piece.digest, piece)
    notes = []
    if (copies := len(pieces) - len(unique) - known) > 0:
        notes.append(
            f"{copies} of {len(pieces)} clips repeat the audio of another; equal ones stay on one side of the split"
        )
    recordings: dict[str, list[Piece]] = {}
    for piece in unique.values():
        recordings.setdefault(piece.recording, []).append(piece)
    groups = [
        Recording(key, own[0].speaker, [p.id for p in own], sum(p.seconds for p in own), own[0].marked)
        for key, own in recordings.items()
    ]
    held, more = hold_out(groups, fraction, speakers, seed)
    return {piece.id for piece in pieces if unique[piece.digest].id in held}, notes + more


def hold_out(
    recordings: Sequence[Recording], fraction: float, speakers: Collection[str] = (), seed: int = 0
) -> tuple[set[str], list[str]]:
    """Choose the clips that are measured by and never trained on.

    Whole recordings only: of each speaker, drawn by a hash of (seed, key), about `fraction` of the seconds; all of
    the speakers named. Where many speakers have too few recordings for that, some of them give one more, so that it is
    about `fraction` of all. At least one recording if there are two. A single recording gives its last clips instead.
    Where recordings are marked as held out, these are the share; what is marked for training stays there.

    Returns:
        Ids of the held-out clips, and notes for the user about what is unusual.
    """
    held = {r.key for r in recordings if r.speaker in speakers or r.split == HELDOUT}
    if any(r.split == HELDOUT for r in recordings):
        fraction = 0.0
    free = [r for r in recordings if r.split != TRAIN]
    by_speaker: Mapping[str, list[Recording]] = defaultdict(list)
    for recording in sorted(free, key=lambda r: draw(seed, r.key)):
        if recording.key not in held:
            by_speaker[recording.speaker].append(recording)
    owed = 0.0  # seconds that the speakers so far have given too few
    for own in sorted(by_speaker.values(), key=len):  # who has one recording can give none
        chosen = _share(own, fraction)
        owed += fraction * sum(r.seconds for r in own) - sum(r.seconds for r in own if r.key in chosen)
        left = [r for r in own if r.key not in chosen]
        if len(left) > 1 and left[0].seconds / 2 <= owed:
            chosen.add(left[0].key)
            owed -= left[0].seconds
        held |= chosen
    notes = []
    if fraction > 0 and not held:
        if not free:
            return set(), ["every recording is marked for training: nothing is held out, so nothing can be measured"]
        if len(recordings) == 1:
            return _last_clips(free[0], fraction)
        several = [r for own in by_speaker.values() if len(own) > 1 for r in own]
        shortest = min(several or free, key=lambda r: (r.seconds, draw(seed, r.key)))
        held.add(shortest.key)
        if not any(r.speaker == shortest.speaker for r in recordings if r is not shortest):
            notes.append(f"each speaker has one recording: {shortest.speaker} is held out altogether")
    return {clip for r in recordings if r.key in held for clip in r.clips}, notes


def _share(own: Sequence[Recording], fraction: float) -> set[str]:
    """Recordings of one speaker, in the order drawn, as long as they bring the sum nearer to its target; never all."""
    target, sum_held, chosen = fraction * sum(r.seconds for r in own), 0.0, set()
    for recording in own:
        if len(chosen) + 1 < len(own) and sum_held + recording.seconds / 2 <= target:
            chosen.add(recording.key)
            sum_held += recording.seconds
    return chosen


def _last_clips(recording: Recording, fraction: float) -> tuple[set[str], list[str]]:
    n = min(len(recording.clips) - 1, math.ceil(fraction * len(recording.clips)))
    if n < 1:
        return set(), ["one clip only: nothing is held out, so nothing can be measured; record more"]
    return set(recording.clips[-n:]), [
        f"one recording only: its last {n} of {len(recording.clips)} clips are held out, which flatters the figures"
    ]


def draw(seed: int, key: str) -> str:
    """What decides a key's place in a draw: the same for the same seed, whatever else is there."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).hexdigest()
