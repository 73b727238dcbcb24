"""The captioner as a policy: the distribution that captions are drawn from, sampled and differentiated."""

import keras
import numpy as np
from keras import ops

from keras_showattend.decoding import Sampling, compile_decoding
from keras_showattend.logitless import add_losses, can_be_logitless, is_logitless, logitless, token_sums
from keras_showattend.losses import token_crossentropy
from keras_showattend.token_ids import PADDING, START

# In float32 and float64 a probability of exactly 0. Minus infinity would make NaN of padding's loss, which counts 0
# times.
_NEVER = -1e9


class Policy(keras.Model):
    """Draws captions and makes their log-probabilities larger or smaller.

    `train_on_batch` is Keras's own, so that optimizers, loss scaling and compilers work as in `fit`; its loss is

        loss = -sum_t w_t log p(token_t)
    of the distribution that `sample` draws from, among the tokens that are not banned: without dropout, unless that is
    asked for in what is differentiated.

    Args:
        captioner: Compiled `Captioner`, whose optimizer it shares.
        banned: Tuple of ids that are never drawn.
        samples: Positive int G, captions an image.
        max_length: Positive int T, the most tokens of a caption, the end id included.
        dropout: Bool, whether the gradient is that of the captioner with its dropout.
    """

    def __init__(self, captioner, banned, samples, max_length, dropout):
        # As the captioner, which leaves casts to its parts.
        super().__init__(dtype=captioner.dtype_policy, autocast=False)
        self.captioner = captioner
        self.samples = samples
        self.max_length = max_length
        self._dropout = dropout
        self._allowed = np.isin(np.arange(captioner.decoder.vocab_size), banned, invert=True)
        self.compile(optimizer=captioner.optimizer, jit_compile=captioner.jit_compile)
        self._sampling = Sampling(banned=banned)
        variables = [*captioner.trainable_variables, *captioner.non_trainable_variables]
        self._compiled_sampling = compile_decoding(self._decode, variables)

    def call(self, inputs, training=None):
        outputs = self.captioner(inputs, training=bool(training) and self._dropout)
        return outputs if is_logitless() else ops.where(ops.convert_to_tensor(self._allowed), outputs, _NEVER)

    def train_step(self, *args):
        """As in `keras.Model`."""
        # Drawn captions are long, and most of them end early.
        with logitless(can_be_logitless(self.captioner)):
            return super().train_step(*args)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As in `keras.Model`."""
        if is_logitless():
            bias = ops.where(ops.convert_to_tensor(self._allowed), 0.0, _NEVER)
            loss = token_sums(self.captioner, y_pred, y, sample_weight, bias).loss
        else:
            loss = ops.sum(token_crossentropy(y, y_pred) * sample_weight)
        return add_losses(self, loss)

    def sample(self, x, numbers):
        """Draw captions.

        Args:
            x: Features or images of N images.
            numbers: Float32 array `(N x G, T)` in [0, 1).

        Returns:
            Int32 array `(N, G, T)`.
        """
        tokens = ops.convert_to_numpy(self._compiled_sampling(x, numbers))
        return tokens.reshape(-1, self.samples, self.max_length)

    def _decode(self, x, numbers):
        step, state = self.captioner.start_decoding(x)
        # What a step needs of an image stays one row for all of its captions.
        state = keras.tree.map_structure(lambda s: ops.repeat(s, self.samples, axis=0), state)
        return self._sampling.decode(step, state, ops.shape(numbers)[0], self.max_length, numbers).tokens

    def learn(self, x, tokens, weights):
        """One gradient step.

        Args:
            x: What `sample` got.
            tokens: What `sample` returned.
            weights: Float32 array `(N, G, T)`, what each token counts.

        Returns:
            The loss before the step, a float.
        """
        # A caption of padding alone fills up the batch. Without a start no penalty counts it either.
        starts = np.where(tokens[..., :1] == PADDING, PADDING, START).astype(tokens.dtype)
        inputs = np.concatenate([starts, tokens[..., :-1]], axis=-1)
        # Keras before 3.15 would go on with the mean of all steps so far.
        self.reset_metrics()
        return self.train_on_batch((x, inputs), tokens, sample_weight=weights, return_dict=True)["loss"]


def advantages_over_others(rewards):
    """How much better each caption is than the mean of the others of its image, `(N, G)`; and that mean."""
    others = rewards.shape[1] - 1
    baseline = (rewards.sum(axis=1, keepdims=True) - rewards) / others
    return rewards - baseline, baseline


def spread_over_tokens(advantages, tokens):
    """What each token counts, float32 `(N, G, T)`: its caption's advantage / the number of real tokens; padding 0."""
    real = tokens != PADDING
    return (real * (advantages[..., None] / max(real.sum(), 1))).astype("float32")
