"""A GRU that attends before every step: the whole recurrence and its gradient, as pure functions.

One step, for a caption whose image has the features x_1 ... x_L:

    e_l = v . tanh(W_q h + b_q + k_l);   a = softmax(e);   c = sum_l a_l x_l
    [z | r | n] = inputs + c W_c         [z' | r' | n'] = h U + b_r
    z = s(z + z');  r = s(r + r');  n = tanh(n + r n');  h <- z h + (1 - z) n

the attention of Bahdanau et al. 2015 (arXiv 1409.0473, appendix A.1.2) and the GRU of
`keras.layers.GRU(reset_after=True)`. Where there is a gate, the context that the GRU gets is that of Xu et al. 2015
(arXiv 1502.03044, section 4.2.1), with a scalar that says how much the image counts for this word:

    beta = s(w_beta . h + b_beta);   c = beta sum_l a_l x_l

What does not depend on the state is not here: the keys k and the input half of the gates come in ready made, each from
one large product. The tanh of the scores is computed from exponentials of queries and keys: see
`additive_attention.py`.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_showattend.ops.additive_attention import (
    attend_sigmoids,
    exponentials,
    key_parts,
    sigmoids,
    sums_over_keys,
    sums_over_queries,
)
from keras_showattend.ops.fusing import fused
from keras_showattend.ops.gradients import custom_gradient
from keras_showattend.ops.precision import at_least_float32
from keras_showattend.ops.projection import weight_gradient
from keras_showattend.ops.scan import scan


class AttentionGRUWeights(NamedTuple):
    """What the step multiplies with; A is the width of the scoring space."""

    query_kernel: object  # W_q (U, A)
    query_bias: object  # b_q (A,)
    score_kernel: object  # v (A, 1)
    context_kernel: object  # W_c (F, 3U)
    recurrent_kernel: object  # U (U, 3U)
    recurrent_bias: object  # b_r (3U,)


class ContextGate(NamedTuple):
    """What makes beta, the gate of the context."""

    kernel: object  # w_beta (U, 1)
    bias: object  # b_beta (1,)


def attention_gru_step(inputs, state, keys, features, mask, weights, key_exponentials=None, gate=None):
    """One step. The captions of one image stand together: B = N x G, and caption i has image i // G.

    Args:
        inputs: `(B, 3U)`, the input half of the gates without the context.
        state: `(B, U)`.
        keys: `(N, L, A)`, the projected features; not read where `key_exponentials` are given.
        features: `(N, L, F)`.
        mask: Optional bool `(N, L)`, True = attend.
        weights: `AttentionGRUWeights`.
        key_exponentials: Optional, the `exponentials` of the keys, for those who take many steps.
        gate: Optional `ContextGate`.

    Returns:
        The next state `(B, U)` and the attention weights `(B, L)`, before the gate, both in the dtype of `state`.
    """
    if key_exponentials is None:
        key_exponentials = exponentials(keys)
    # Product by product: to join the kernels first would copy them all at every step.
    projected = [ops.matmul(state, kernel) + bias for kernel, bias in _state_kernels(weights, gate)]
    step = _step(inputs, state, key_exponentials, features, mask, weights, gate, projected)
    return step.state, step.attention


class _Step(NamedTuple):
    """What a step computes and its gradient needs: of width L, A, F or U, never of width L x A."""

    state: object  # (B, U), after the step
    attention: object  # (B, L)
    exp_query: object  # (B, A)
    context: object  # (B, F), behind the gate
    update: object  # (B, U), like the rest
    reset: object
    candidate: object
    recurrent_candidate: object  # n' = h U_n + b_n, before the reset gate
    beta: object = None  # (B, 1), where there is a gate


def _step(inputs, state, exp_keys, features, mask, weights, gate, projected):
    """`attention_gru_step`, with the exponentials of the keys and what `_state_kernels` make of the state."""
    units = state.shape[-1]
    query, recurrent, *opening = projected
    exp_query = exponentials(query)
    attention, context = _look(exp_query, exp_keys, features, mask, weights.score_kernel)
    beta = None
    if gate is not None:
        beta = ops.sigmoid(opening[0])
        context = beta * context
    gates = inputs + ops.matmul(context, weights.context_kernel)
    # Update and reset gate and the candidate, in Keras's order.
    opened = ops.sigmoid(gates[:, : 2 * units] + recurrent[:, : 2 * units])
    update, reset = ops.split(opened, 2, axis=-1)
    recurrent_candidate = recurrent[:, 2 * units :]
    candidate = ops.tanh(gates[:, 2 * units :] + reset * recurrent_candidate)
    return _Step(
        state=update * state + (1 - update) * candidate,
        attention=attention,
        exp_query=exp_query,
        context=context,
        update=update,
        reset=reset,
        candidate=candidate,
        recurrent_candidate=recurrent_candidate,
        beta=beta,
    )


@fused
def _look(exp_query, exp_keys, features, mask, score_kernel):
    """Attention weights `(B, L)` and the context before the gate `(B, F)`, both in the dtype of the features."""
    hidden = sigmoids(_grouped(exp_query, ops.shape(exp_keys)[0]), exp_keys)
    attention = ops.cast(attend_sigmoids(hidden, score_kernel, mask), features.dtype)
    # (N, G, L) @ (N, L, F)
    context = ops.matmul(attention, features)
    return ops.reshape(attention, (-1, ops.shape(features)[1])), ops.reshape(context, (-1, features.shape[-1]))


def attention_gru(inputs, state, keys, features, mask, weights, return_attention=False, gate=None):
    """All steps, with a gradient written by hand.

    The gradient keeps the states, gates, queries, contexts and attention weights, `T x B x (5U + A + F + L)`,
    so that no product is computed twice, and recomputes the tanh of the scores, whose `T x B x L x A` values would
    be by far the most memory that automatic differentiation keeps. All weight gradients are formed after the loop,
    as one product each. A gate is one more column of the product with the state, and one number a step to keep. The
    gradient has one itself, on torch not: there it refuses `create_graph=True`.

    Args:
        inputs: `(T, B, 3U)`, the input half of the gates without the context.
        state: `(B, U)`, the state before the first step.
        keys: `(N, L, A)`, the projected features; like all that follows, in the dtype of `inputs`.
        features: `(N, L, F)`.
        mask: Optional bool `(N, L)`, True = attend.
        weights: `AttentionGRUWeights`.
        return_attention: Whether the attention weights are wanted too.
        gate: Optional `ContextGate`.

    Returns:
        The states after each step `(T, B, U)`, and the attention weights `(T, B, L)`, before the gate, or None.
    """
    units, count, gated = state.shape[-1], len(weights), gate is not None

    @custom_gradient
    def run(inputs, state, keys, features, *parameters):
        weights = AttentionGRUWeights(*parameters[:count])
        gate = ContextGate(*parameters[count:]) if gated else None
        # Joined once: inside the loop it would copy both kernels at every step.
        kernels, biases = zip(*_state_kernels(weights, gate), strict=True)
        projection = ops.concatenate(kernels, axis=-1), ops.concatenate(biases, axis=-1)
        widths = [kernel.shape[-1] for kernel in kernels]
        ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
        exp_keys = exponentials(keys)

        def step(carry, x):
            projected = ops.matmul(carry[0], projection[0]) + projection[1]
            projected = ops.split(projected, ends, axis=-1)
            step = _step(*x, *carry, exp_keys, features, mask, weights, gate, projected)
            # Not every backend's loop takes None for a tensor.
            return (step.state,), tuple(x for x in step if x is not None)

        _, steps = scan(step, (state,), (inputs,))
        steps = kept = _Step(*steps)
        if keras.backend.backend() == "torch":
            # The output itself, held by its own gradient, would be a cycle that torch frees late. Elsewhere that would
            # cut the second derivative.
            kept = steps._replace(state=ops.stop_gradient(steps.state))

        def gradient(upstream):
            d_attention = upstream[..., units:] if return_attention else None
            return _gradient(
                upstream[..., :units], d_attention, kept, state, exp_keys, features, weights, gate, projection[0]
            )

        # Keras's custom gradients carry a single output on torch, so both travel in one tensor.
        output = ops.concatenate([steps.state, steps.attention], axis=-1) if return_attention else steps.state
        return output, gradient

    output = run(inputs, state, keys, features, *weights, *(gate or ()))
    if return_attention:
        return output[..., :units], output[..., units:]
    return output, None


def _gradient(d_states, d_attention, steps, state, exp_keys, features, weights, gate, projection_kernel):
    """The gradients of the inputs, of `state`, of the keys, of `features` and of every weight, the gate's last."""
    dtype = state.dtype
    images, width = ops.shape(exp_keys)[0], exp_keys.shape[-1]
    recurrent = width + 3 * state.shape[-1]
    score = at_least_float32(weights.score_kernel[:, 0])
    previous = ops.concatenate([state[None], steps.state[:-1]], axis=0)
    # Everything that the chain rule multiplies the state's gradient with, before the loop.
    update, reset, candidate = steps.update, steps.reset, steps.candidate
    candidate_factor = (1 - update) * (1 - candidate * candidate)
    update_factor = (previous - candidate) * update * (1 - update)
    reset_factor = steps.recurrent_candidate * reset * (1 - reset)

    projection_transposed = ops.transpose(projection_kernel)
    context_projection = ops.transpose(weights.context_kernel)
    features_transposed = ops.transpose(features, (0, 2, 1))
    parts = key_parts(exp_keys)

    def step(carry, x):
        d_next, products = carry
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
        d_context = ops.matmul(d_gates, context_projection)
        if gate is not None:
            beta = rest.pop()
            d_context = d_context * beta
        attention = _grouped(attention, images)
        d_weights = ops.matmul(_grouped(d_context, images), features_transposed)
        if gate is not None:
            # The gradient of beta times beta is this sum, so that nobody keeps the context before the gate.
            d_opening = ops.sum(at_least_float32(attention) * at_least_float32(d_weights), axis=-1)
            d_opening = (1 - beta) * ops.cast(ops.reshape(d_opening, (-1, 1)), dtype)
            d_recurrent = ops.concatenate([d_recurrent, d_opening], axis=-1)
        if rest:
            d_weights = d_weights + _grouped(rest[0], images)
        d_weights, attention = at_least_float32(d_weights), at_least_float32(attention)
        d_scores = attention * (d_weights - ops.sum(attention * d_weights, axis=-1, keepdims=True))
        # tanh = 1 - 2p has the derivative 4 p (1 - p); the factors 4 and v wait until the sums are taken. What the
        # keys get, they get after the loop: here, their sums would be read and written again at every step.
        slope, product = sums_over_keys(d_scores, _grouped(exp_query, images), parts)
        d_query = ops.reshape(slope, (-1, width)) * (4 * score)
        d_projected = ops.concatenate([ops.cast(d_query, dtype), d_recurrent], axis=-1)
        d_previous = d_state * update + ops.matmul(d_projected, projection_transposed)
        return (d_previous, products + product), (d_gates, d_projected, d_context, d_scores)

    xs = [
        d_states,
        steps.attention,
        steps.exp_query,
        update,
        reset,
        update_factor,
        reset_factor,
        candidate_factor,
    ]
    if d_attention is not None:
        xs.append(d_attention)
    if gate is not None:
        xs.append(steps.beta)
    zeros = ops.zeros_like(state), ops.zeros_like(_grouped(steps.exp_query[0], images))
    (d_state, products), (d_gates, d_projected, d_context, d_scores) = scan(step, zeros, tuple(xs), reverse=True)

    flat_gates, flat_projected = _flat(d_gates), _flat(d_projected)
    d_kernel = weight_gradient(_flat(previous), flat_projected)
    d_bias = ops.sum(flat_projected, axis=0)
    d_context_kernel = weight_gradient(_flat(steps.context), flat_gates)
    # (N, L, T x G) @ (N, T x G, F), all captions and steps of an image in one product
    d_features = ops.matmul(ops.transpose(_by_image(steps.attention, images), (0, 2, 1)), _by_image(d_context, images))
    exp_queries = ops.reshape(steps.exp_query, (*ops.shape(d_scores)[:-1], width))
    slopes = sums_over_queries(d_scores, exp_queries, exp_keys)
    d_keys = ops.cast(slopes * (4 * score), dtype)
    # The softmax's gradients d_scores sum to 0, so that the 1 of tanh = 1 - 2p leaves nothing.
    d_score = -2 * ops.sum(products, axis=(0, 1))
    gradients = (
        d_gates,
        d_state,
        d_keys,
        d_features,
        d_kernel[:, :width],
        d_bias[:width],
        ops.cast(d_score[:, None], dtype),
        d_context_kernel,
        d_kernel[:, width:recurrent],
        d_bias[width:recurrent],
    )
    return gradients if gate is None else (*gradients, d_kernel[:, recurrent:], d_bias[recurrent:])


def _state_kernels(weights, gate):
    """All that multiplies the state, pairs of a kernel and its bias: those of W_q, of U and, with a gate, of w_beta."""
    pairs = [(weights.query_kernel, weights.query_bias), (weights.recurrent_kernel, weights.recurrent_bias)]
    return pairs if gate is None else [*pairs, tuple(gate)]


def _grouped(x, images):
    """`(N x G, W)` to `(N, G, W)`."""
    return ops.reshape(x, (images, -1, ops.shape(x)[-1]))


def _flat(x):
    """`(T, B, W)` to `(T x B, W)`."""
    return ops.reshape(x, (-1, x.shape[-1]))


def _by_image(x, images):
    """`(T, N x G, W)` to `(N, T x G, W)`: all that belongs to one image together."""
    length, _, width = ops.shape(x)
    x = ops.reshape(x, (length, images, -1, width))
    x = ops.transpose(x, (1, 0, 2, 3))
    return ops.reshape(x, (images, -1, width))
