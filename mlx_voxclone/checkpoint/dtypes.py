"""Element types of a safetensors file, and BFloat16 by hand: numpy has none, and nothing here needs torch."""

import mlx.core as mx
import numpy as np

# safetensors name -> (numpy type of the stored bytes, MLX type). BF16 is stored as its upper 16 bits.
DTYPES: dict[str, tuple[np.dtype, mx.Dtype]] = {
    "BOOL": (np.dtype(np.bool_), mx.bool_),
    "U8": (np.dtype("<u1"), mx.uint8),
    "I8": (np.dtype("<i1"), mx.int8),
    "U16": (np.dtype("<u2"), mx.uint16),
    "I16": (np.dtype("<i2"), mx.int16),
    "U32": (np.dtype("<u4"), mx.uint32),
    "I32": (np.dtype("<i4"), mx.int32),
    "U64": (np.dtype("<u8"), mx.uint64),
    "I64": (np.dtype("<i8"), mx.int64),
    "F16": (np.dtype("<f2"), mx.float16),
    "BF16": (np.dtype("<u2"), mx.bfloat16),
    "F32": (np.dtype("<f4"), mx.float32),
}
FLOATS = ("F32", "BF16", "F16")
_NAME_OF = {kind: name for name, (_, kind) in DTYPES.items()}


def dtype_name(array: np.ndarray | mx.array) -> str:
    """The safetensors name of an array's type.

    Raises:
        TypeError: a type that these files do not hold.
    """
    if isinstance(array, mx.array):
        name = _NAME_OF.get(array.dtype)
    else:
        name = next((n for n, (kind, _) in DTYPES.items() if n != "BF16" and kind == array.dtype), None)
    if name is None:
        raise TypeError(f"arrays of {array.dtype} cannot be stored")
    return name


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers (uint16, any shape) to float32: exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest BFloat16, ties to even; returns the 16 bits as uint16. NaN stays NaN."""
    bits = np.asarray(values, dtype=np.float32, order="C").view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16  # the carry may run into the exponent: that is right
    quiet_nan = (bits >> 16) | 0x40
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet_nan, rounded).astype(np.uint16)


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values as stored in `F32`, `F16` or `BF16` (then: uint16 bits)."""
    return float32_to_bfloat16(values) if dtype == "BF16" else np.asarray(values, dtype=DTYPES[dtype][0], order="C")


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """What `encode` stored, as float32; integer types are returned as they are."""
    if dtype == "BF16":
        return bfloat16_to_float32(stored)
    return stored.astype(np.float32) if dtype in FLOATS else stored


def to_mlx(stored: np.ndarray, dtype: str) -> mx.array:
    """Stored elements as an MLX array of the right type (a copy)."""
    array = mx.array(stored)
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def to_bytes(array: "np.ndarray | mx.array | bytes | memoryview") -> memoryview:
    """The bytes of an array in C order, little-endian; bytes-likes pass through."""
    if isinstance(array, mx.array):
        array = np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
    if isinstance(array, np.ndarray):
        little = array.dtype.newbyteorder("<")
        array = np.ascontiguousarray(array, dtype=little).reshape(-1).view(np.uint8)
    return memoryview(array).cast("B")
