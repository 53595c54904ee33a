"""The teacher of ASR distillation: states of a frozen Whisper's text decoder, at the codec's latent frames.

Source: arXiv 2603.25551, where the semantic latents learn to predict them. The paper names the ingredients and no more;
where it leaves a choice, this is what is done here:

- The text is the given one, else what greedy decoding hears. Its tokens follow the start of transcript, language, task
  and "no timestamps"; the end of text follows them.
- The state of a token is that at the position which predicts it (one before its own), after the decoder's last layer
  norm: what the logits are a linear function of, and what greedy decoding had in hand when it wrote the token. That
  position's cross-attention says where the token is heard. The end of text counts as a token: the silence behind the
  last word is its own.
- The attention of the alignment heads is confined to the clip, see `alignment.py`: softmax over time, how far each
  position stands out in a 20 ms frame, median over time, mean over heads, as Whisper times words; where Whisper goes on
  to a path, here a softmax over the tokens gives their weights. A frame's state is the sum of the tokens' by these
  weights; linear interpolation leads to the centres of the latent frames.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.whisper.alignment import (
    encoder_frames,
    monotone_share,
    over_tokens,
    smoothed_attention,
    to_latent_frames,
    token_weights,
)
from mlx_voxclone.whisper.reader import Reader
from mlx_voxclone.whisper.words import MEDIAN

Head = tuple[int, int]  # (layer, head), both from 0
PUBLISHED, DTW = "published", "dtw"
N_HEADS = 6  # chosen by DTW; published sets have 6 to 23


class AsrTeacher:
    """A frozen Whisper. Its files are looked at when they are needed, and it is loaded when it first has to run.

    Runs on the main thread only.

    Args:
        model: directory in mlx-whisper's format, or a hub id.
        heads: "published": those that come with the model (`alignment_heads`; an old conversion without them has all
            heads of its upper half of layers). "dtw": to be chosen on the user's clips, by `choose_heads_by_dtw`. Or a
            list of (layer, head), both counted from 0.
        language: of clips that state none (code or English name); None lets the model find out.
    Raises:
        ConfigError: heads are none of these.
    """

    def __init__(self, model: str, *, heads: str | Sequence[Head] = PUBLISHED, language: str | None = None) -> None:
        self.reader = Reader(model, language)
        self.files = self.reader.files
        self.language = language
        self._heads = _checked_heads(heads)

    # --- what is known without running it -------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Width of a state. Raises DataError where the model cannot be used."""
        return self.files.sizes["n_text_state"]

    @property
    def needs_heads(self) -> bool:
        """Whether heads are still to be chosen on the data."""
        return self._heads == DTW

    @property
    def identity(self) -> str:
        """What its states depend on, as JSON: the model's digest, the heads, the median filter, the language.

        Raises:
            DataError: the model's files cannot be read. ValueError: heads are still to be chosen.
        """
        if self.needs_heads:
            raise ValueError("the alignment heads are still to be chosen")
        fields = {"model": self.files.digest, "heads": self._heads, "median": MEDIAN, "language": self.language}
        return json.dumps(fields, sort_keys=True)

    # --- running it -----------------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The loaded mlx_whisper Whisper. Raises DataError where it cannot be loaded."""
        return self.reader.model

    def unload(self) -> None:
        """Free the model's memory; it is loaded again if need be."""
        self.reader.unload()

    @property
    def heads(self) -> list[Head]:
        """The alignment heads as (layer, head), loading the model if they come with it.

        Raises:
            ConfigError: a head that was asked for is not there. DataError: one that comes with the model is not, or the
                model cannot be loaded. ValueError: heads are still to be chosen.
        """
        if self.needs_heads:
            raise ValueError("the alignment heads are still to be chosen")
        if self._heads == PUBLISHED:
            return self.reader.published_heads()
        sizes, heads = self.files.sizes, list(self._heads)
        for layer, head in heads:
            if not (layer < sizes["n_text_layer"] and head < sizes["n_text_head"]):
                raise ConfigError(self.reader.no_head(layer, head))
        return heads

    def use_heads(self, heads: Sequence[Head]) -> None:
        """Use these heads from now on. Raises ConfigError for what is no list of (layer, head)."""
        self._heads = _checked_heads(list(heads))

    def states(self, samples: np.ndarray, text: str | None = None, language: str | None = None) -> np.ndarray | None:
        """The teacher's states of a clip.

        Args:
            samples: float32 [samples] at 24 kHz, at most 30 s.
            text: what is said; None or blank: what greedy decoding hears.
            language: code or English name; None: the teacher's own, else the model finds out.
        Returns:
            float32 [ceil(samples / 1920), dim], or None where nothing was understood.
        Raises:
            DataError: more than 30 s, a text too long for Whisper or a language it does not know, a model that cannot
                be loaded or has no such heads, states that are not finite.
        """
        heads = self.heads
        read = self.reader.read(samples, text, language)
        if read is None:
            return None
        scores = np.stack([read.attention(layer)[head] for layer, head in heads])
        weights = token_weights(scores, read.predicting, encoder_frames(len(samples)), MEDIAN)
        states = to_latent_frames(weights.T @ read.states, len(samples)).astype(np.float32)
        if not np.isfinite(states).all():
            raise DataError(f"{self.files.name}: its states are not finite; it is damaged, fetch or convert it again")
        return states

    def monotone_shares(self, samples: np.ndarray, text: str | None, language: str | None) -> np.ndarray | None:
        """`monotone_share` of every head on a clip: [layers, heads], or None where nothing was understood."""
        read = self.reader.read(samples, text, language)
        if read is None:
            return None
        frames, shares = encoder_frames(len(samples)), []
        for layer in range(self.files.sizes["n_text_layer"]):
            shares.append(
                monotone_share(
                    over_tokens(smoothed_attention(read.attention(layer)[:, read.predicting], frames, MEDIAN))
                )
            )
        return np.stack(shares)


def choose_heads_by_dtw(teacher: AsrTeacher, clips: Iterable[Any], count: int = N_HEADS) -> list[Head]:
    """The heads whose soft alignment is nearest to one monotone path through text and time, on the user's clips.

    By `monotone_share`, averaged over the clips by their length. The same clips give the same heads.

    Args:
        teacher: its heads, if any, do not matter and stay as they are.
        clips: with `read()`, `text`, `language`; a few dozen are enough.
        count: how many; at most all that there are.
    Returns:
        (layer, head), sorted.
    Raises:
        DataError: nothing was understood in any of the clips.
    """
    total, frames = 0.0, 0
    for clip in clips:
        samples = clip.read()
        shares = teacher.monotone_shares(samples, clip.text, clip.language)
        if shares is not None:
            total = total + shares * encoder_frames(len(samples))
            frames += encoder_frames(len(samples))
    if not frames:
        raise DataError(f"{teacher.files.name}: recognised no speech in the clips, so no alignment heads can be chosen")
    best = np.argsort(-(total / frames).ravel(), kind="stable")[:count]
    return sorted((int(k) // total.shape[1], int(k) % total.shape[1]) for k in best)


def _checked_heads(heads: str | Sequence[Head]) -> str | list[Head]:
    if heads in (PUBLISHED, DTW):
        return heads
    wrong = f"heads must be {PUBLISHED!r}, {DTW!r} or a list of [layer, head], got {heads!r}"
    if isinstance(heads, str) or not isinstance(heads, Sequence) or not heads:
        raise ConfigError(wrong)
    pairs = [tuple(pair) if isinstance(pair, Sequence) and not isinstance(pair, str) else () for pair in heads]
    if any(len(pair) != 2 or any(type(n) is not int or n < 0 for n in pair) for pair in pairs):
        raise ConfigError(wrong)
    return sorted(set(pairs))
