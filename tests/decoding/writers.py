"""What the tests of decoding share: small models in keras.ops and in NumPy, and searches over them in plain Python."""

import contextlib
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
PADDING, UNKNOWN, START, END = range(4)


def compiled(function):
    """The function under the backend's compiler, XLA where there is one."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        def run(*args):
            with jax.disable_jit(False):
                return jax.jit(function)(*args)

        return run
    return function


def op_by_op():
    """A context in which JAX compiles no loops."""
    if BACKEND == "jax":
        import jax

        return jax.disable_jit()
    return contextlib.nullcontext()


def as_numpy(decoded):
    return [None if part is None else ops.convert_to_numpy(part) for part in decoded]


def log_softmax(logits):
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def chain(tables):
    """The step of a Markov chain whose state is its own table, `(B, V, V)`: the logits after a token are its row."""

    def step(token, state):
        return ops.take_along_axis(state, token[:, None, None], axis=1)[:, 0], state

    return step, ops.convert_to_tensor(tables)


def constant(rows, probabilities):
    """A step that gives the same probabilities whatever was said."""
    logits = np.tile(np.log(np.asarray(probabilities, "float32")), (rows, 1))
    return lambda token, state: (state, state), ops.convert_to_tensor(logits)


def counted(step, counts):
    """The step, which adds 1 to `counts` each time that it really runs."""

    def counting(token, state):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            shape = token.shape
            [token] = tf.numpy_function(lambda t: (counts.append(1), t)[1], [token], [tf.int32])
            token.set_shape(shape)
        elif BACKEND == "jax":
            import jax

            jax.debug.callback(lambda: counts.append(1))
        else:
            counts.append(1)
        return step(token, state)

    return counting


def steps_of(search, step, *args, **kwargs):
    """The result of `search(step, ...)` in arrays, and how often the step really ran."""
    counts = []
    step = counted(step, counts)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        decoded = tf.function(lambda: search(step, *args, **kwargs), autograph=False)()
    else:
        decoded = search(step, *args, **kwargs)
    if BACKEND == "jax":
        import jax

        jax.effects_barrier()
    return as_numpy(decoded), len(counts)


class Writer:
    """A recurrent model of random weights: its logits and attention depend on all that was said, and on the row."""

    def __init__(self, seed, vocabulary=6, locations=3, width=4, rows=2):
        rng = np.random.default_rng(seed)
        self.embedding, self.output, self.recurrent, self.glance, self.first = (
            rng.normal(0, scale, shape).astype("float32")
            for scale, shape in [
                (1.0, (vocabulary, width)),
                (1.5, (width, vocabulary)),
                (1.0, (width, width)),
                (2.0, (width, locations)),
                (1.0, (rows, width)),
            ]
        )
        self.rows = rows

    def state(self):
        """A nest of two tensors: the second counts the steps, and takes part in the next state."""
        return {"h": ops.convert_to_tensor(self.first), "rest": (ops.zeros((self.rows, 1)),)}

    def step(self, token, state):
        h, (count,) = state["h"], state["rest"]
        h = ops.tanh(ops.matmul(h, self.recurrent) + ops.take(self.embedding, token, axis=0) + 0.1 * count)
        attention = ops.softmax(ops.matmul(h, self.glance))
        return ops.matmul(h, self.output), {"h": h, "rest": (count + 1,)}, attention

    def without_attention(self, token, state):
        return self.step(token, state)[:2]

    def read(self, row, tokens):
        """Log-probabilities `(V,)` of the next token and the attention `(L,)`, after the start id and `tokens`."""
        h = self.first[row].astype("float64")
        for t, token in enumerate([START, *tokens]):
            h = np.tanh(h @ self.recurrent + self.embedding[token] + 0.1 * t)
        return log_softmax(h @ self.output), np.exp(log_softmax(h @ self.glance))


class Hypothesis(NamedTuple):
    """A sequence on its way: `padded` to T it is what decoding returns."""

    tokens: tuple
    score: float
    attention: tuple
    stopped: bool = False

    @property
    def ended(self):
        return bool(self.tokens) and self.tokens[-1] == END

    def padded(self, length):
        return [*self.tokens, *[PADDING] * (length - len(self.tokens))]

    def padded_attention(self, length, locations):
        return np.array([*self.attention, *[np.zeros(locations)] * (length - len(self.attention))])


def allowed_ids(size, tokens, min_length=0, no_repeat_ngram=0, banned=(0, 1, 2), forbidden_last=()):
    """The ids that may follow the tokens."""
    ids = [i for i in range(size) if i not in banned]
    if len(tokens) < min_length or (tokens[-1] if tokens else START) in forbidden_last:
        ids = [i for i in ids if i != END]
    n = no_repeat_ngram
    if n:
        said = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
        ids = [i for i in ids if (*tokens[len(tokens) - n + 1 :], i) not in said]
    return ids


def continuations(writer, row, hypothesis, **rules):
    """All hypotheses one token longer, by falling probability; the hypothesis itself where it has stopped."""
    if hypothesis.stopped:
        return [hypothesis]
    logp, attention = writer.read(row, hypothesis.tokens)
    ids = allowed_ids(len(logp), hypothesis.tokens, **rules)
    longer = [
        Hypothesis(
            (*hypothesis.tokens, i), hypothesis.score + logp[i], (*hypothesis.attention, attention), stopped=i == END
        )
        for i in ids
    ]
    return sorted(longer, key=lambda h: -h.score) or [hypothesis._replace(stopped=True)]


def penalised(hypothesis, length_penalty=0.0, coverage_penalty=0.0):
    length = max(len(hypothesis.tokens), 1)
    score = hypothesis.score / (length if length_penalty == "average" else ((5 + length) / 6) ** length_penalty)
    if coverage_penalty:
        coverage = np.clip(np.sum(hypothesis.attention, axis=0), 1e-30, 1)
        score += coverage_penalty * np.log(coverage).sum()
    return score


def beam_loop(writer, row, max_length, width, penalties=None, **rules):
    """Beam search for one row, with lists; all that is left, the best first. An infinite width is an enumeration."""
    beams, penalties = [Hypothesis((), 0.0, ())], penalties or {}
    for _ in range(max_length):
        longer = [h for beam in beams for h in continuations(writer, row, beam, **rules)]
        beams = sorted(longer, key=lambda h: -penalised(h, **penalties))[:width]
    return sorted(beams, key=lambda h: (not h.ended, -penalised(h, **penalties)))
