"""A GRU that attends before every step: the whole recurrence and its gradient, as pure functions.

One step, for a caption whose image has the features x_1 ... x_L:

    e_l = v . tanh(W_q h + b_q + k_l);   a = softmax(e);   c = sum_l a_l x_l
    [z | r | n] = inputs + c W_c         [z' | r' | n'] = h U + b_r
    z = s(z + z');  r = s(r + r');  n = tanh(n + r n');  h <- z h + (1 - z) n

the attention of Bahdanau et al. 2015 (arXiv 1409.0473, appendix A.1.2) and the GRU of
`keras.layers.GRU(reset_after=True)`. What does not depend on the state is not here: the keys k and the
input half of the gates come in ready made, each from one large product. The tanh of the scores is computed
from exponentials of queries and keys: see `additive_attention.py`.
"""

from typing import NamedTuple

from keras import ops

from keras_showattend.ops.additive_attention import attend_sigmoids, exponentials, sigmoids
from keras_showattend.ops.precision import at_least_float32
from keras_showattend.ops.scan import scan


class AttentionGRUWeights(NamedTuple):
    """What the step multiplies with; A is the width of the scoring space."""

    query_kernel: object  # W_q (U, A)
    query_bias: object  # b_q (A,)
    score_kernel: object  # v (A, 1)
    context_kernel: object  # W_c (F, 3U)
    recurrent_kernel: object  # U (U, 3U)
    recurrent_bias: object  # b_r (3U,)


def attention_gru_step(inputs, state, keys, features, mask, weights):
    """One step. The captions of one image stand together: B = N x G, and caption i has image i // G.

    Args:
        inputs: `(B, 3U)`, the input half of the gates without the context.
        state: `(B, U)`.
        keys: `(N, L, A)`, the projected features.
        features: `(N, L, F)`.
        mask: Optional bool `(N, L)`, True = attend.
        weights: `AttentionGRUWeights`.

    Returns:
        The next state `(B, U)` and the attention weights `(B, L)`, both in the dtype of `state`.
    """
    return _step(inputs, state, exponentials(keys), features, mask, weights, _state_projection(weights))


def _step(inputs, state, exp_keys, features, mask, weights, projection):
    """`attention_gru_step`, with the exponentials of the keys and what `_state_projection` makes of the weights."""
    query, recurrent = _project_state(state, weights, projection)
    exp_query = exponentials(_grouped(query, ops.shape(exp_keys)[0]))
    attention = attend_sigmoids(sigmoids(exp_query, exp_keys), weights.score_kernel, mask)
    attention = ops.cast(attention, state.dtype)
    # (N, G, L) @ (N, L, F)
    context = ops.matmul(attention, features)
    context = ops.reshape(context, (-1, features.shape[-1]))
    gates = inputs + ops.matmul(context, weights.context_kernel)
    update, _, candidate = _gates(gates, recurrent)
    state = update * state + (1 - update) * candidate
    return state, ops.reshape(attention, (-1, ops.shape(features)[1]))


def attention_gru(inputs, state, keys, features, mask, weights, return_attention=False):
    """All steps, with a gradient written by hand.

    The gradient keeps the states and the attention weights, `T x B x (U + L)`, and recomputes the tanh of
    the scores, whose `T x B x L x A` values would be by far the most memory that automatic differentiation
    keeps. All weight gradients are formed after the loop, as one product each.

    Args:
        inputs: `(T, B, 3U)`, the input half of the gates without the context.
        state: `(B, U)`, the state before the first step.
        keys: `(N, L, A)`, the projected features; like all that follows, in the dtype of `inputs`.
        features: `(N, L, F)`.
        mask: Optional bool `(N, L)`, True = attend.
        weights: `AttentionGRUWeights`.
        return_attention: Whether the attention weights are wanted too.

    Returns:
        The states after each step `(T, B, U)`, and the attention weights `(T, B, L)` or None.
    """
    units = state.shape[-1]

    @ops.custom_gradient
    def run(inputs, state, keys, features, *weights):
        weights = AttentionGRUWeights(*weights)
        # Joined once: inside the loop it would copy both kernels at every step.
        projection = _state_projection(weights)
        exp_keys = exponentials(keys)

        def step(carry, x):
            state, attention = _step(*x, *carry, exp_keys, features, mask, weights, projection)
            return (state,), (state, attention)

        _, (states, attention) = scan(step, (state,), (inputs,))

        def gradient(*args, upstream=None):
            # torch hands the upstream gradient over by keyword, the others by position.
            upstream = args[0] if upstream is None else upstream
            d_attention = upstream[..., units:] if return_attention else None
            return _gradient(
                upstream[..., :units], d_attention, states, attention,
                inputs, state, exp_keys, features, weights, projection,
            )  # fmt: skip

        # Keras's custom gradients carry a single output on torch, so both travel in one tensor.
        output = ops.concatenate([states, attention], axis=-1) if return_attention else states
        return output, gradient

    output = run(inputs, state, keys, features, *weights)
    if return_attention:
        return output[..., :units], output[..., units:]
    return output, None


def _gradient(d_states, d_attention, states, attention, inputs, state, exp_keys, features, weights, projection):
    """The gradients of `inputs`, `state`, the keys, `features` and of every weight."""
    dtype = inputs.dtype
    images, width = ops.shape(exp_keys)[0], exp_keys.shape[-1]
    score = at_least_float32(weights.score_kernel[:, 0])
    feature_width = features.shape[-1]
    units = state.shape[-1]
    length = ops.shape(inputs)[0]

    # The forward pass of all steps at once: previous states, queries, contexts and gates, (T x B, ...).
    previous = ops.concatenate([state[None], states[:-1]], axis=0)
    flat_previous = ops.reshape(previous, (-1, units))
    query, recurrent = _project_state(flat_previous, weights, projection)
    # (N, T, G, L) @ (N, L, F), all captions and steps of an image in one product
    by_image = _by_image(attention, images)
    context = ops.matmul(by_image, features)
    flat_context = ops.reshape(_by_time(context, length), (-1, feature_width))
    flat_inputs = ops.reshape(inputs, (-1, 3 * units))
    update, reset, candidate = _gates(flat_inputs + ops.matmul(flat_context, weights.context_kernel), recurrent)
    recurrent_candidate = recurrent[:, 2 * units :]
    # Everything that the chain rule multiplies the state's gradient with, before the loop.
    candidate_factor = (1 - update) * (1 - candidate * candidate)
    update_factor = (flat_previous - candidate) * update * (1 - update)
    reset_factor = recurrent_candidate * reset * (1 - reset)

    def in_time(x):
        return ops.reshape(x, (*ops.shape(states)[:2], x.shape[-1]))

    projection_transposed = ops.transpose(projection[0])
    context_projection = ops.transpose(weights.context_kernel)
    features_transposed = ops.transpose(features, (0, 2, 1))

    def step(carry, x):
        d_next, slopes, products = carry
        (
            d_state,
            attention,
            exp_query,
            update,
            reset,
            update_factor,
            reset_factor,
            candidate_factor,
            *rest,
        ) = x
        d_state = d_state + d_next
        d_candidate = d_state * candidate_factor
        d_update = d_state * update_factor
        d_reset = d_candidate * reset_factor
        d_gates = ops.concatenate([d_update, d_reset, d_candidate], axis=-1)
        d_recurrent = ops.concatenate([d_update, d_reset, d_candidate * reset], axis=-1)
        # Through the context to the attention weights, the softmax and the scores.
        d_context = _grouped(ops.matmul(d_gates, context_projection), images)
        attention = _grouped(attention, images)
        d_weights = ops.matmul(d_context, features_transposed)
        if rest:
            d_weights = d_weights + _grouped(rest[0], images)
        d_weights, attention = at_least_float32(d_weights), at_least_float32(attention)
        d_scores = attention * (d_weights - ops.sum(attention * d_weights, axis=-1, keepdims=True))
        # tanh = 1 - 2p has the derivative 4 p (1 - p). The factors 4 and v wait until the sums are taken, and the
        # sums over captions and steps are kept by location, which costs no pass of its own.
        p = sigmoids(_grouped(exp_query, images), exp_keys)
        slope = p - p * p
        d_query = ops.reshape(ops.matmul(d_scores[:, :, None], slope), (-1, width)) * (4 * score)
        slopes = slopes + ops.sum(d_scores[..., None] * slope, axis=1)
        products = products + ops.sum(d_scores[..., None] * p, axis=1)
        d_projected = ops.concatenate([ops.cast(d_query, dtype), d_recurrent], axis=-1)
        d_previous = d_state * update + ops.matmul(d_projected, projection_transposed)
        return (d_previous, slopes, products), (d_gates, d_projected)

    steps = [
        d_states,
        attention,
        exponentials(query),
        update,
        reset,
        update_factor,
        reset_factor,
        candidate_factor,
    ]
    steps[2:] = [in_time(x) for x in steps[2:]]
    if d_attention is not None:
        steps.append(d_attention)
    zeros = ops.zeros_like(exp_keys)
    (d_state, slopes, products), (d_gates, d_projected) = scan(
        step,
        (ops.zeros_like(state), zeros, zeros),
        tuple(ops.flip(x, axis=0) for x in steps),
    )
    d_gates, d_projected = ops.flip(d_gates, axis=0), ops.flip(d_projected, axis=0)

    flat_gates = ops.reshape(d_gates, (-1, 3 * units))
    flat_projected = ops.reshape(d_projected, (-1, width + 3 * units))
    d_kernel = ops.matmul(ops.transpose(flat_previous), flat_projected)
    d_bias = ops.sum(flat_projected, axis=0)
    d_context_kernel = ops.matmul(ops.transpose(flat_context), flat_gates)
    d_context = ops.reshape(ops.matmul(flat_gates, context_projection), (*ops.shape(d_gates)[:2], feature_width))
    # (N, L, T x G) @ (N, T x G, F)
    d_features = ops.matmul(ops.transpose(by_image, (0, 2, 1)), _by_image(d_context, images))
    d_keys = ops.cast(slopes * (4 * score), dtype)
    # The softmax's gradients d_scores sum to 0, so that the 1 of tanh = 1 - 2p leaves nothing.
    d_score = -2 * ops.sum(products, axis=(0, 1))
    return (
        d_gates,
        d_state,
        d_keys,
        d_features,
        d_kernel[:, :width],
        d_bias[:width],
        ops.cast(d_score[:, None], dtype),
        d_context_kernel,
        d_kernel[:, width:],
        d_bias[width:],
    )


def _state_projection(weights):
    """All that multiplies the state, as one: the kernel [W_q | U] `(U, A + 3U)` and its bias."""
    kernel = ops.concatenate([weights.query_kernel, weights.recurrent_kernel], axis=-1)
    bias = ops.concatenate([weights.query_bias, weights.recurrent_bias], axis=-1)
    return kernel, bias


def _project_state(state, weights, projection):
    """The queries `(B, A)` and the recurrent half of the gates `(B, 3U)`."""
    width = weights.query_kernel.shape[-1]
    kernel, bias = projection
    projected = ops.matmul(state, kernel) + bias
    return projected[:, :width], projected[:, width:]


def _grouped(x, images):
    """`(N x G, W)` to `(N, G, W)`."""
    return ops.reshape(x, (images, -1, ops.shape(x)[-1]))


def _gates(gates, recurrent):
    """Update and reset gate and the candidate, `(B, U)` each, in Keras's order."""
    units = gates.shape[-1] // 3
    update, reset = ops.split(ops.sigmoid(gates[:, : 2 * units] + recurrent[:, : 2 * units]), 2, axis=-1)
    candidate = ops.tanh(gates[:, 2 * units :] + reset * recurrent[:, 2 * units :])
    return update, reset, candidate


def _by_image(x, images):
    """`(T, N x G, W)` to `(N, T x G, W)`: all that belongs to one image together."""
    length, _, width = ops.shape(x)
    x = ops.reshape(x, (length, images, -1, width))
    x = ops.transpose(x, (1, 0, 2, 3))
    return ops.reshape(x, (images, -1, width))


def _by_time(x, length):
    """`(N, T x G, W)` to `(T, N x G, W)`, the way back."""
    x = ops.reshape(x, (ops.shape(x)[0], length, -1, x.shape[-1]))
    x = ops.transpose(x, (1, 0, 2, 3))
    return ops.reshape(x, (length, -1, x.shape[-1]))
