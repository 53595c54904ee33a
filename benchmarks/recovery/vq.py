"""The semantic codebook in training: running means of what falls to each entry, and new life for entries nothing hits.

van den Oord et al. 2017 (appendix A.1) for the running means, Dhariwal et al. 2020 (Jukebox) for the revival. The sums
and counts are the two tensors that the product's `SemanticCodebook` stores, so a trained codebook needs no conversion.
"""

import math

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_voxclone.model.blocks.conv import row_lengths
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.quantizer import SemanticCodebook

_NORM = "conv.parametrizations.weight."


class CodebookTrainer:
    """Moves a `SemanticCodebook` after the data.

    Args:
        codebook: its `embedding_sum` and `cluster_usage` are replaced, never its rows' order.
        decay: of sums and counts per update.
        dead: an entry whose count falls below this part of an even share of the batch is dead.
        seed: of the vectors that revived entries take.
    """

    def __init__(self, codebook: SemanticCodebook, decay: float = 0.99, dead: float = 0.1, seed: int = 0):
        if not 0 < decay < 1 or not 0 <= dead < 1:
            raise ValueError(f"decay must be in 0..1 and dead in 0..1, got {decay} and {dead}")
        self.codebook, self.decay, self.dead = codebook, decay, dead
        self._rng = np.random.default_rng([seed, 0xC0DE])

    def start(self, z: mx.array, batch: int, rounds: int = 10) -> None:
        """Entries become the means of clusters of z [N, D] (k-means), used evenly by batches of `batch`."""
        points = np.array(z.astype(mx.float32))
        size = self.codebook.cluster_usage.shape[0]
        rows = points[np.resize(self._rng.permutation(len(points)), size)]
        for _ in range(rounds):
            nearest = np.argmin(np.square(rows).sum(axis=1) - 2.0 * (points @ rows.T), axis=1)
            counts = np.bincount(nearest, minlength=size)
            sums = np.zeros_like(rows)
            np.add.at(sums, nearest, points)
            rows = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], rows)
            empty = np.flatnonzero(counts == 0)
            rows[empty] = points[self._rng.integers(len(points), size=empty.size)]
        self._write(mx.array(rows), mx.full((size,), batch / size))

    def update(self, z: mx.array, codes: mx.array) -> None:
        """One step of the running means: z [N, D] fell to entries `codes` [N].

        `usage = decay * usage + (1 - decay) * hits`, and the same for the sums of z, so that a row, their quotient, is
        a mean of the vectors that fell to it, the recent ones counting most.
        """
        book, keep = self.codebook, self.decay
        hit = (codes[:, None] == mx.arange(book.cluster_usage.shape[0])[None, :]).astype(mx.float32)  # (N, K)
        book.cluster_usage = keep * book.cluster_usage + (1 - keep) * hit.sum(axis=0)
        book.embedding_sum = keep * book.embedding_sum + (1 - keep) * (hit.T @ z.astype(mx.float32))

    def revive(self, z: mx.array) -> int:
        """Give dead entries vectors of z [N, D] and an even share of usage; returns how many there were."""
        share = float(self.codebook.cluster_usage.mean())
        dead = np.flatnonzero(np.array(self.codebook.cluster_usage) < self.dead * share)
        if dead.size:
            chosen = np.resize(self._rng.permutation(z.shape[0]), dead.size)
            rows, usage = np.array(self.codebook.embedding), np.array(self.codebook.cluster_usage)
            rows[dead], usage[dead] = np.array(z.astype(mx.float32))[chosen], share
            self._write(mx.array(rows), mx.array(usage))
        return int(dead.size)

    def _write(self, rows: mx.array, usage: mx.array) -> None:
        self.codebook.cluster_usage = usage.astype(mx.float32)
        self.codebook.embedding_sum = rows.astype(mx.float32) * self.codebook.cluster_usage[:, None]


def codebook_scale(codec: Codec) -> float:
    """Root mean square of the semantic codebook's values, to the next power of 2."""
    rows = codec.quantizer.semantic_codebook.embedding
    return 2.0 ** round(math.log2(mx.sqrt(mx.mean(mx.square(rows))).item()))


def scaled_semantics(codec: Codec, scale: float) -> dict[str, mx.array]:
    """A codec's tensors, float32 by name, with semantic latents and codebook divided by `scale`.

    Codes and sound stay the same. How large the latents are costs the training of a codec little, and they grow; the
    steps of AdamW, by which its encoder is learnt anew, do not grow with them.
    """
    tensors, dim = dict(tree_flatten(codec.parameters())), codec.config.semantic_dim
    if scale == 1:
        return tensors
    sums = "quantizer.semantic_codebook.embedding_sum"
    tensors[sums] = tensors[sums] / scale  # the codec's own stay
    gains = f"encoder_blocks.{len(codec.encoder_blocks) - 1}.{_NORM}original0"
    tensors[gains] = mx.concatenate([tensors[gains][:dim] / scale, tensors[gains][dim:]])
    weight = codec.decoder_blocks[0].weight  # [out, D + A, kernel]
    weight = mx.concatenate([weight[:, :dim] * scale, weight[:, dim:]], axis=1)
    first = f"decoder_blocks.0.{_NORM}"
    tensors[first + "original0"], tensors[first + "original1"] = row_lengths(weight), weight
    return tensors
