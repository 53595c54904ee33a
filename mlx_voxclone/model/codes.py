"""Codes of the codec and codes of the language model, as NumPy arrays, and the way between them.

The codec's codes are 0-based, `[37, T]`, as in files and pairs. The language model reads and predicts frames `[T, 37]`
of the same codes plus 2: 0 is EMPTY and 1 END there. (Source: vLLM-Omni 0.30, `voxtral_tts.py`.)
"""

import numpy as np

from mlx_voxclone.model.config import END_CODE, N_SPECIAL_CODES


def lm_frames(codes: np.ndarray) -> np.ndarray:
    """The codec's codes `[37, T]` as frames of the LM `[T, 37]`, int32, without END."""
    return np.ascontiguousarray(codes.T, dtype=np.int32) + N_SPECIAL_CODES


def from_lm(frames: np.ndarray) -> np.ndarray:
    """Frames of the LM `[T, 37]`, or one `[37]`, as the codec's codes `[37, T]`, int32; EMPTY becomes -2, END -1."""
    return np.ascontiguousarray(frames.T, dtype=np.int32) - N_SPECIAL_CODES


def end_frame(codebooks: int) -> np.ndarray:
    """The LM's frame `[codebooks]` that ends speech: `[1, 0, 0, ...]`, int32."""
    frame = np.zeros(codebooks, dtype=np.int32)
    frame[0] = END_CODE
    return frame


def with_end(frames: np.ndarray) -> np.ndarray:
    """Frames of the LM `[T, 37]` and the END frame behind them: `[T + 1, 37]`, int32."""
    return np.concatenate([frames, end_frame(frames.shape[1])[None]]).astype(np.int32)
