"""A collated batch of task `speaker`: every entry with its shape."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

Array = np.ndarray | mx.array  # numpy as it is collated, MLX in `losses`


@dataclass(frozen=True, eq=False)
class KeptBatch:
    """The utterances of a batch that are to be preserved: K sequences with KS semantic targets and KF frames.

    They are computed twice: by the adapted model in the batch, and by the released one on the K sequences alone.
    """

    sequences: Array  # int32 [K]: which of the batch's sequences
    frames: Array  # int32 [KF]: which of the batch's F frames
    semantic_positions: Array  # int32 [KS]: where each target is predicted, flat in [B * T]
    released_semantic_positions: Array  # int32 [KS]: the same, flat in [K * T]
    released_flow_positions: Array  # int32 [KF]: whose hidden states condition the flow, flat in [K * T]
    semantic_weight: Array  # float32 [KS]: 1; 0 of what was added to reach a length
    flow_weight: Array  # float32 [KF]: likewise


@dataclass(frozen=True, eq=False)
class SpeakerBatch:
    """B sequences, padded on the right to T positions. All that concerns frames is laid end to end.

    P, R: positions of codes and of given voice rows; S: semantic targets, END among them; F: frames with flow matching.
    Positions are flat, in `[B * T]`.
    """

    ids: Array  # int32 [B, T]: token ids
    start: int  # the first position of a sequence that predicts anything; the last layer leaves out those before it
    code_positions: Array  # int32 [P]
    codes: Array  # int32 [P, 37]: the LM's codes (+2) at these positions
    row_positions: Array  # int32 [R]
    rows: Array  # float32 [R, dim]: a voice's rows at these positions, of utterances to be preserved
    semantic_positions: Array  # int32 [S]: where each semantic target is predicted
    semantic: Array  # int32 [S]: the target
    semantic_weight: Array  # float32 [S]: 0 of utterances to be preserved
    flow_positions: Array  # int32 [F]: whose hidden state conditions each frame's flow
    acoustic: Array  # int32 [F, 36]: the frame's levels, 0-based
    noise: Array  # float32 [F, 36]: where its path starts
    time: Array  # float32 [F]: the point on the path, 0 to 1
    drop: Array  # bool [F]: condition on zeros
    flow_weight: Array  # float32 [F]: 0 of utterances to be preserved
    kept: KeptBatch | None = None

    def from_start(self) -> "SpeakerBatch":
        """The same batch for hidden states of positions `start` to T alone: where something is predicted is counted in
        `[B * (T - start)]`, and among the kept sequences in `[K * (T - start)]`."""
        width = self.ids.shape[1]
        return self._predicted_at(lambda positions: positions - self.start * (positions // width + 1))

    def widened(self, width: int) -> "SpeakerBatch":
        """The same batch (numpy), padded to `width` positions, at least T."""
        old = self.ids.shape[1]

        def moved(positions: np.ndarray) -> np.ndarray:
            return positions // old * width + positions % old

        return replace(
            self._predicted_at(moved),
            ids=np.pad(self.ids, ((0, 0), (0, width - old))),
            code_positions=moved(self.code_positions),
            row_positions=moved(self.row_positions),
        )

    def _predicted_at(self, moved: Callable[[Array], Array]) -> "SpeakerBatch":
        """With all positions of predictions moved."""
        kept = self.kept
        if kept is not None:
            kept = replace(
                kept,
                semantic_positions=moved(kept.semantic_positions),
                released_semantic_positions=moved(kept.released_semantic_positions),
                released_flow_positions=moved(kept.released_flow_positions),
            )
        return replace(
            self,
            semantic_positions=moved(self.semantic_positions),
            flow_positions=moved(self.flow_positions),
            kept=kept,
        )
