"""What the layers compute, written as plainly as possible: NumPy in float64, one number or one row at a time."""

import numpy as np


def randomize(layer, seed=0):
    """Give every float weight of a built layer random numbers, biases too."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.7)
    return layer


def named_weights(layer):
    """The layer's weights in float64 by their path inside it, as in "gru/kernel"."""
    return {w.path.removeprefix(f"{layer.path}/"): np.array(w.numpy(), "float64") for w in layer.trainable_weights}


def softmax(scores, mask=None):
    """Softmax of a list of numbers over those that the mask keeps; all zeros where it keeps none."""
    kept = [i for i in range(len(scores)) if mask is None or mask[i]]
    weights = np.zeros(len(scores))
    if kept:
        exponentials = [np.exp(scores[i] - max(scores[k] for k in kept)) for i in kept]
        for i, exponential in zip(kept, exponentials, strict=True):
            weights[i] = exponential / sum(exponentials)
    return weights


def attend(query, keys, values, score_kernel, mask=None):
    """One query `(A,)` and the keys `(L, A)` of one example, both projected: context `(D,)`, weights `(L,)`."""
    scores = [float(score_kernel[:, 0] @ np.tanh(query + key)) for key in keys]
    weights = softmax(scores, mask)
    context = np.zeros(values.shape[-1])
    for weight, value in zip(weights, values, strict=True):
        context = context + weight * value
    return context, weights


def bahdanau_attention(query, value, key, weights, mask=None):
    """Queries `(B, T, Q)`, values `(B, L, D)`, keys `(B, L, K)`: contexts `(B, T, D)`, weights `(B, T, L)`.

    `weights` maps the names of the layer's weights to arrays; biases may be missing.
    """
    contexts, attention = [], []
    for b in range(len(query)):
        keys = [weights["key_kernel"].T @ k + weights.get("key_bias", 0) for k in key[b]]
        for q in query[b]:
            projected = weights["query_kernel"].T @ q + weights.get("query_bias", 0)
            row_mask = None if mask is None else mask[b]
            context, row = attend(projected, keys, value[b], weights["score_kernel"], row_mask)
            contexts.append(context)
            attention.append(row)
    shape = query.shape[:2]
    return np.reshape(contexts, (*shape, -1)), np.reshape(attention, (*shape, -1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_step(inputs, recurrent, state):
    """One step of one example, reset after the product: both halves of the gates `(3U,)`, biases in them."""
    units = len(state)
    gate, other = np.reshape(inputs, (3, units)), np.reshape(recurrent, (3, units))
    update = sigmoid(gate[0] + other[0])
    reset = sigmoid(gate[1] + other[1])
    candidate = np.tanh(gate[2] + reset * other[2])
    return update * state + (1 - update) * candidate


def opening(kernel, bias, state):
    """The gate of the context, a number, for one state `(U,)`."""
    return sigmoid(float(kernel[:, 0] @ state + bias[0]))


def attention_gru(inputs, state, keys, features, mask, weights, gate=None):
    """The recurrence: inputs `(T, B, 3U)`, states `(B, U)`, keys `(N, L, A)`; B / N captions stand together.

    Returns the states `(T, B, U)` and the attention weights `(T, B, L)`.
    """
    steps, batch = inputs.shape[:2]
    group = batch // len(keys)
    states, attention = np.zeros((steps, *state.shape)), np.zeros((steps, batch, keys.shape[1]))
    for b in range(batch):
        n, h = b // group, state[b]
        for t in range(steps):
            query = weights.query_kernel.T @ h + weights.query_bias
            row_mask = None if mask is None else mask[n]
            context, attention[t, b] = attend(query, keys[n], features[n], weights.score_kernel, row_mask)
            if gate is not None:
                context = opening(gate.kernel, gate.bias, h) * context
            gates = inputs[t, b] + weights.context_kernel.T @ context
            h = gru_step(gates, weights.recurrent_kernel.T @ h + weights.recurrent_bias, h)
            states[t, b] = h
    return states, attention


def first_state(features, weights, mask=None):
    """The state `(U,)` before the first token, for the features `(L, F)` of one image and a mask `(1, L)`."""
    if "first_state/kernel" not in weights:
        return np.zeros(len(weights["gru/recurrent_kernel"]))
    kept = [x for i, x in enumerate(features) if mask is None or mask[0, i]]
    mean = sum(kept) / len(kept) if kept else np.zeros(features.shape[-1])
    return np.tanh(weights["first_state/kernel"].T @ mean + weights["first_state/bias"])


def decoder(tokens, features, weights, mask=None, initial_state=None):
    """Tokens `(B, T)`, features `(B, L, F)`: logits `(B, T, V)`, last state `(B, U)`, weights `(B, T, L)`.

    `weights` maps the paths of the layer's weights, as in "gru/kernel", to arrays; those of the options may be missing.
    """
    attention = {k.removeprefix("attention/"): v for k, v in weights.items() if k.startswith("attention/")}
    input_bias, recurrent_bias = weights["gru/bias"]
    logits, states, scores = [], [], []
    for b in range(len(tokens)):
        row_mask = None if mask is None else mask[b][None]
        h = first_state(features[b], weights, row_mask) if initial_state is None else initial_state[b]
        for token in tokens[b]:
            context, row = bahdanau_attention(h[None, None], features[b][None], features[b][None], attention, row_mask)
            context = context[0, 0]
            if "gate/kernel" in weights:
                context = opening(weights["gate/kernel"], weights["gate/bias"], h) * context
            x = np.concatenate([context, weights["embedding/embeddings"][token]])
            gates = weights["gru/kernel"].T @ x + input_bias
            h = gru_step(gates, weights["gru/recurrent_kernel"].T @ h + recurrent_bias, h)
            hidden = weights["hidden/kernel"].T @ h + weights["hidden/bias"]
            logits.append(weights["vocabulary/kernel"].T @ hidden + weights["vocabulary/bias"])
            scores.append(row[0, 0])
        states.append(h)
    shape = tokens.shape
    return np.reshape(logits, (*shape, -1)), np.array(states), np.reshape(scores, (*shape, -1))


def crossentropy(tokens, logits, weights=None, label_smoothing=0.0):
    """The mean over tokens that are not 0, each counted by its weight of the shape of `tokens`; else 0."""
    total, count = 0.0, 0.0
    for index in np.ndindex(*tokens.shape):
        if tokens[index] == 0:
            continue
        row = np.asarray(logits[index], "float64")
        log_probabilities = row - row.max() - np.log(np.sum(np.exp(row - row.max())))
        target = np.full(len(row), label_smoothing / len(row))
        target[tokens[index]] += 1 - label_smoothing
        weight = 1.0 if weights is None else weights[index]
        total -= weight * float(target @ log_probabilities)
        count += weight
    return total / count if count else 0.0


def accuracy(tokens, logits, weights=None):
    """The share of tokens, other than 0, whose largest logit is theirs, each counted by its weight."""
    right, count = 0.0, 0.0
    for index in np.ndindex(*tokens.shape):
        if tokens[index] == 0:
            continue
        weight = 1.0 if weights is None else weights[index]
        right += weight * (int(np.argmax(logits[index])) == tokens[index])
        count += weight
    return right / count if count else 0.0
