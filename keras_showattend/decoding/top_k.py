"""The k largest entries, in the same order on every backend."""

import keras
from keras import ops


def stable_top_k(x, k):
    """The k largest entries of every row, of equals those that stand first.

    TensorFlow and JAX promise that order; torch does not, and there the rows in which entries are equal, few if any,
    are sorted by a sort that keeps it.

    Args:
        x: Float `(R, V)`.
        k: Positive int, at most V.

    Returns:
        `(values, indices)`, both `(R, k)`, the largest first; indices int32.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.decoding.top_k import stable_top_k
    >>> values, indices = stable_top_k(ops.convert_to_tensor([[1.0, 3.0, 2.0, 3.0]]), 3)
    >>> ops.convert_to_numpy(indices).tolist()
    [[1, 3, 2]]
    """
    if keras.backend.backend() == "torch":
        return _torch(x, k)
    values, indices = ops.top_k(x, k)
    return values, ops.cast(indices, "int32")


def _torch(x, k):
    import torch

    if k == x.shape[-1]:
        values, indices = torch.sort(x, dim=-1, descending=True, stable=True)
        return values, indices.to(torch.int32)
    # One entry more than asked for: it might be equal to the last that is.
    values, indices = torch.topk(x, k + 1)
    (tied,) = torch.nonzero((values[:, 1:] == values[:, :-1]).any(dim=-1), as_tuple=True)
    values, indices = values[:, :k].clone(), indices[:, :k].clone()
    if len(tied):
        ordered, places = torch.sort(x[tied], dim=-1, descending=True, stable=True)
        values[tied], indices[tied] = ordered[:, :k], places[:, :k]
    return values, indices.to(torch.int32)
