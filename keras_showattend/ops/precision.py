"""Where half precision is too coarse: softmax, logits, losses, sums."""

from keras import backend, ops


def at_least_float32_dtype(dtype):
    """The name of the dtype to compute in: float32 for half precision, else `dtype` itself."""
    dtype = backend.standardize_dtype(dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def at_least_float32(x):
    """`x` as a tensor, half precision brought to float32; float32 and float64 stay what they are."""
    x = ops.convert_to_tensor(x)
    return ops.cast(x, at_least_float32_dtype(x.dtype))
