"""The assembled model: Mistral backbone, flow-matching head, codec; prompt with voice rows, END.

How it speaks is in `generation`. (Source: vLLM-Omni 0.30 `voxtral_tts*.py`; prompt layout of mistral-common's speech
request.)
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.model.blocks.layers import KVCache, TransformerBlock
from mlx_voxclone.model.blocks.recompute import recomputed
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.codes import lm_frames, with_end
from mlx_voxclone.model.config import BackboneConfig, VoxtralConfig
from mlx_voxclone.model.flow_head import FlowMatchingHead

EMBED_FRAMES = 128  # frames whose codes are looked up at once
SUM_FRAMES = 1024  # likewise inside of a training step: 0.2 GB of rows at the release's width


class Backbone(nn.Module):
    """The transformer between embeddings and the final norm; its names stand at the top level of the checkpoint."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.layers = [TransformerBlock(config, config.rope_theta) for _ in range(config.n_layers)]
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.recompute = False  # gradient checkpointing per layer, for training

    def hidden_states(
        self,
        embeddings: mx.array,
        cache: Sequence[KVCache] | None = None,
        layer_inputs: list[mx.array] | None = None,
        start: int = 0,
    ) -> mx.array:
        """Run the layers.

        Args:
            embeddings: `[B, T, dim]`.
            cache: one KVCache per layer to continue a sequence, extended in place.
            layer_inputs: a list that receives every layer's input.
            start: compute outputs from this position on; the last layer skips earlier positions.

        Returns:
            Hidden states after the final norm, `[B, T - start, dim]`.
        """
        x = embeddings
        for i, layer in enumerate(self.layers):
            if layer_inputs is not None:
                layer_inputs.append(x)
            queries = slice(start, None) if start and i == len(self.layers) - 1 else None
            if self.recompute and cache is None:
                x = recomputed(layer, x, queries=queries)
            else:
                x = layer(x, cache[i] if cache is not None else None, queries)
        return self.norm(x)

    def new_cache(self) -> list[KVCache]:
        return [KVCache() for _ in self.layers]

    def merge(self) -> None:
        """Join the products of the same input where the linears are plain ones: fewer and larger ones per frame.

        Names, shapes and values of the weights stay, memory too (one layer's more while it happens); results are those
        of before but for rounding. Done once, it costs nothing to ask for it again. See `layers.OneProduct`.
        """
        for layer in self.layers:
            layer.merge()


class AudioEmbeddings(nn.Module):
    """`mm_audio_embeddings`: the text table and the table of all audio codebooks."""

    def __init__(self, config: VoxtralConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.backbone.vocab_size, config.backbone.dim)
        self.audio_codebook_embeddings = nn.Module()
        self.audio_codebook_embeddings.embeddings = nn.Embedding(config.codec.table_rows, config.backbone.dim)


class Voxtral(Backbone):
    """Voxtral-TTS. Built lazily: nothing is allocated before weights are loaded or evaluated.

    Args:
        config: from `params.json`.
        encoder: also build the codec encoder's 114 tensors (release shape).

    Attributes:
        speaks_only: nothing trains this model, so speaking may join its products for good (`merge`). Otherwise speaking
            leaves it as it was, to the bit.
    """

    def __init__(self, config: VoxtralConfig, encoder: bool = False):
        super().__init__(config.backbone)
        self._config = config
        self.mm_audio_embeddings = AudioEmbeddings(config)
        self._code_offsets = mx.array(config.codec.code_offsets)
        self.acoustic_transformer = FlowMatchingHead(config.acoustic, config.codec)
        self.audio_tokenizer = Codec(config.codec, encoder)
        self.speaks_only = False

    @property
    def config(self) -> VoxtralConfig:
        return self._config

    def merge(self) -> None:
        super().merge()
        self.acoustic_transformer.merge()

    # --- embeddings -----------------------------------------------------------------------------------------------

    def embed_codes(self, codes: mx.array) -> mx.array:
        """The LM's codes (with +2) `[..., 37]` to rows `[..., dim]`: the sum over the codebooks' table rows."""
        table = self.mm_audio_embeddings.audio_codebook_embeddings.embeddings
        flat = (codes + self._code_offsets).reshape(-1, codes.shape[-1])
        # Not all frames at once: of 19,000 the rows, before they are added up, are more than 2^31 numbers.
        starts = range(0, max(1, flat.shape[0]), SUM_FRAMES)
        rows = mx.concatenate([mx.sum(table(flat[start : start + SUM_FRAMES]), axis=-2) for start in starts])
        return rows.reshape(*codes.shape[:-1], rows.shape[-1])

    def voice_embedding(self, codes: np.ndarray | mx.array) -> mx.array:
        """Rows that stand for a voice in the prompt: 0-based codes `[37, T]` to `[T + 1, dim]`, the END row appended.

        Raises:
            ValueError: a code outside its codebook.
        """
        codes = np.asarray(codes)
        self.audio_tokenizer.check_codes(codes)
        frames = mx.array(with_end(lm_frames(codes)))  # [T + 1, 37]
        rows = []
        # Before the sum there are 37 rows per frame: piece by piece, or minutes of audio would take gigabytes.
        for start in range(0, frames.shape[0], EMBED_FRAMES):
            rows.append(self.embed_codes(frames[start : start + EMBED_FRAMES]))
            mx.eval(rows[-1])
        return mx.concatenate(rows, axis=0)

    def embed_prompt(self, ids: Sequence[int], voice: mx.array) -> mx.array:
        """Prompt ids with one `[AUDIO]` id per voice row, and the rows `[N, dim]`, to embeddings `[1, T, dim]`.

        Raises:
            ValueError: the number of `[AUDIO]` ids is not N, or an id is outside the vocabulary.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size == 0 or ids.min() < 0 or ids.max() >= self.config.backbone.vocab_size:
            raise ValueError(f"token ids must be within 0..{self.config.backbone.vocab_size - 1}")
        positions = np.flatnonzero(ids == self.config.audio_token_id)
        if len(positions) != voice.shape[0] or (len(positions) and positions[-1] - positions[0] + 1 != len(positions)):
            raise ValueError(f"the prompt holds {len(positions)} audio tokens for {voice.shape[0]} voice rows")
        text = self.mm_audio_embeddings.tok_embeddings(mx.array(ids.astype(np.int32)))
        if not len(positions):
            return text[None]
        start, stop = int(positions[0]), int(positions[-1]) + 1
        return mx.concatenate([text[:start], voice.astype(text.dtype), text[stop:]], axis=0)[None]
