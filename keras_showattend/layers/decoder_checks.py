"""What an `AttentionGRUDecoder` takes, and the errors where shapes or dtypes do not fit."""

import math

from keras import backend

from keras_showattend.validation import shapes_agree


def check_call(tokens, features, features_mask, initial_state, width, units):
    """Check the call arguments of a decoder by their shapes, which may be known in part.

    Args:
        tokens: `(B, T)` or `(N, G, T)`.
        features: `(B, L, F)` or `(N, L, F)`.
        features_mask: Optional, `(B, L)` or `(N, L)`.
        initial_state: Optional, `(B, U)`.
        width: F of the built decoder, or None before it is built.
        units: U.

    Raises:
        ValueError: If `tokens` are no integers or none, or a rank, batch size or width is wrong.
    """
    shape = tuple(tokens.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"`tokens` must have the shape (B, T) or (N, G, T). Received: tokens.shape={shape}.")
    if shape[-1] == 0:
        raise ValueError(f"`tokens` must have at least one token a caption. Received: tokens.shape={shape}.")
    if not backend.is_int_dtype(tokens.dtype):
        raise ValueError(
            f"`tokens` must be integers. Received: tokens.dtype={backend.standardize_dtype(tokens.dtype)}."
        )
    check_features(features, features_mask, width)
    if not shapes_agree(shape[:1], features.shape[:1]):
        raise ValueError(
            "`tokens` and `features` must have the same number of rows. Received: "
            f"tokens.shape={shape}, features.shape={tuple(features.shape)}."
        )
    if initial_state is not None:
        check_state("initial_state", initial_state, batch_of(shape), units)


def check_features(features, features_mask, width):
    """Raise a ValueError unless `features` is `(N, L, width)`, L > 0, and the mask, where there is one, `(N, L)`."""
    shape = tuple(features.shape)
    if len(shape) != 3 or (width is not None and shape[-1] != width):
        wanted = "F" if width is None else f"F={width}"
        raise ValueError(f"`features` must have the shape (N, L, {wanted}). Received: features.shape={shape}.")
    if shape[1] == 0:
        raise ValueError(f"`features` must have at least one location. Received: features.shape={shape}.")
    if features_mask is None:
        return
    mask_shape = tuple(features_mask.shape)
    if len(mask_shape) != 2 or not shapes_agree(mask_shape, shape):
        raise ValueError(
            "`features_mask` must have the shape (N, L) of `features`. Received: "
            f"features_mask.shape={mask_shape}, features.shape={shape}."
        )


def check_state(name, state, batch, units):
    """Raise a ValueError unless `state` is `(batch, units)`."""
    shape = tuple(state.shape)
    if len(shape) != 2 or not shapes_agree(shape[:1], (batch,)) or shape[1] != units:
        raise ValueError(f"`{name}` must have the shape (B, {units}), B={batch}. Received: {name}.shape={shape}.")


def check_rows(rule, batch, memory, received):
    """Raise a ValueError, saying `rule` and `received`, unless `batch` is a multiple of the rows of `memory`."""
    rows = memory["features"].shape[0]
    # A size that is not known before a graph runs is no int.
    if isinstance(rows, int) and isinstance(batch, int) and (batch % rows if rows else batch):
        raise ValueError(f"{rule} of the {rows} rows of `memory`. Received: {received}.")


def batch_of(tokens_shape):
    """B of tokens `(B, T)` or `(N, G, T)`, None where it is not known."""
    leading = tokens_shape[:-1]
    return None if None in leading else math.prod(leading)
