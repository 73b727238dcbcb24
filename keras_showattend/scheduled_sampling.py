"""Scheduled sampling: training on inputs some of which are the model's own predictions."""

import keras
from keras import ops

from keras_showattend.ops import at_least_float32, without_gradients
from keras_showattend.token_ids import END, PADDING, START
from keras_showattend.validation import check_fraction


def mix_predictions(tokens, logits, probability, seed):
    """Input tokens of which some are what the model predicts in their place.

        token'_t = drawn_t  with the probability, else token_t;   drawn_t ~ softmax(logits_{t-1}) over words

    for all t at once, the logits being those of a first pass over the true tokens. Replaced are words and the unknown
    word, never the start, the end or padding. Words alone are drawn: decoding writes neither padding nor unknown nor
    start, and it reads no end, as nothing follows it, so in training too the distribution is that of the next word
    where the caption goes on.

    Args:
        tokens: Int, `(..., T)`, true inputs, the first of a caption its start.
        logits: Float, `(..., T, V)`, V > 4, of the token after each token.
        probability: Float or scalar tensor; 0 and less replaces nothing, 1 and more every word.
        seed: `keras.random.SeedGenerator`, from which two numbers are taken.

    Returns:
        Int, `(..., T)`, the dtype of `tokens`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_showattend.scheduled_sampling import mix_predictions
    >>> tokens = np.array([[2, 4, 5, 3, 0]])
    >>> logits = 100.0 * keras.ops.one_hot([[7, 8, 3, 3, 3]], 9)  # after the start 7, after token 4 token 8
    >>> mixed = mix_predictions(tokens, logits, 1.0, keras.random.SeedGenerator(0))
    >>> keras.ops.convert_to_numpy(mixed).tolist()
    [[2, 7, 8, 3, 0]]

    Reference: Bengio et al. 2015, arXiv 1506.03099, section 2.4, whose epsilon is 1 - probability. The two passes are
    those of Mihaylova & Martins 2019, arXiv 1906.07651, and, with draws, of Duckworth et al. 2019, arXiv 1906.04331,
    mixed once. What differs from Bengio et al.: a prediction has read true tokens only, not other predictions.
    """
    tokens = ops.convert_to_tensor(tokens)
    shape = ops.shape(tokens)
    first_word = END + 1
    # (..., T, V) -> (B T, words)
    words = at_least_float32(logits)[..., first_word:]
    words = ops.reshape(words, (-1, words.shape[-1]))
    drawn = first_word + keras.random.categorical(words, 1, dtype="int32", seed=seed)
    drawn = ops.cast(ops.reshape(drawn, shape), tokens.dtype)
    # What one step predicts, the next one reads.
    predicted = ops.concatenate([tokens[..., :1], drawn[..., :-1]], axis=-1)
    replaced = keras.random.uniform(shape, dtype="float32", seed=seed) < probability
    for special in (PADDING, START, END):
        replaced = ops.logical_and(replaced, tokens != special)
    return ops.where(replaced, predicted, tokens)


def sample_inputs(model, x, tokens, probability, seed):
    """Input tokens for a training step of which some are what `model` itself predicts: a first pass, then a mixture.

    Args:
        model: Compiled `keras.Model` of the pair (x, tokens), which returns logits.
        x: What the model takes beside the tokens.
        tokens: As in `mix_predictions`.
        probability: Float, or a schedule of the optimizer's iterations.
        seed: As in `mix_predictions`.

    Returns:
        As `mix_predictions`.
    """
    # In a train step, before the part that records gradients.
    with without_gradients():
        logits = model((x, tokens), training=False)
    if callable(probability):
        probability = probability(model.optimizer.iterations)
    return mix_predictions(tokens, logits, probability, seed)


def checked_probability(probability, vocab_size):
    """The argument `scheduled_sampling` as a float or a schedule.

    Raises:
        ValueError: If it is neither a number in [0, 1) nor a schedule, or there is no word to draw.
    """
    if not isinstance(probability, keras.optimizers.schedules.LearningRateSchedule):
        rule = "a number in [0, 1) or a keras.optimizers.schedules.LearningRateSchedule"
        probability = check_fraction("scheduled_sampling", probability, rule)
    if probability and vocab_size <= END + 1:
        raise ValueError(
            f"`scheduled_sampling` draws words, ids above {END}. Received: scheduled_sampling={probability!r} for a "
            f"decoder with vocab_size={vocab_size}."
        )
    return probability
