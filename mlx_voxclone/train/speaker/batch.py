"""A collated batch of task `speaker`: what each entry is, and its shape."""

from typing import Any, NotRequired, TypedDict


class SpeakerBatch(TypedDict):
    """B sequences, padded on the right to T positions. All that concerns frames is laid end to end.

    P, R: positions that codes and given voice rows stand at; S: semantic targets, END among them; F: frames with flow
    matching. Positions are flat, into `[B * T]`. A dict, as the loader and the compiled step take that of any task:
    numpy arrays as it is collated, MLX arrays in `losses`.
    """

    ids: Any  # int32 [B, T]: token ids
    places: Any  # int32 [P]: where codes stand, flat
    codes: Any  # int32 [P, 37]: the LM's codes (+2) there
    row_places: Any  # int32 [R]: where rows of a voice stand, flat
    rows: Any  # float32 [R, dim]: the rows, of utterances to be kept
    predict: Any  # int32 [S]: where each semantic target is predicted, flat
    semantic: Any  # int32 [S]: the target
    semantic_weight: Any  # float32 [S]: how much it counts; 0 of what is to be kept
    flow: Any  # int32 [F]: whose hidden state conditions each frame's flow, flat
    acoustic: Any  # int32 [F, 36]: the frame's levels, 0-based
    noise: Any  # float32 [F, 36]: where its path starts
    time: Any  # float32 [F]: the point on the path, 0 to 1
    drop: Any  # bool [F]: condition on zeros
    flow_weight: Any  # float32 [F]: how much it counts
    asked: Any  # int32 [A]: positions of a sequence from the first that predicts anything on

    # Where the batch has utterances to be kept, KS semantic targets and KF frames of them in K sequences:
    kept_rows: NotRequired[Any]  # int32 [K]: their sequences
    kept_predict: NotRequired[Any]  # int32 [KS]: where their targets are predicted, flat in the batch
    released_predict: NotRequired[Any]  # int32 [KS]: the same, flat in `[K * T]`
    kept_frames: NotRequired[Any]  # int32 [KF]: which of the F frames are theirs
    released_flow: NotRequired[Any]  # int32 [KF]: whose hidden states condition them, flat in `[K * T]`
    kept_predict_weight: NotRequired[Any]  # float32 [KS]: 0 of those that were added to reach a length
    kept_flow_weight: NotRequired[Any]  # float32 [KF]: likewise
