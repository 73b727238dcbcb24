"""Self-critical sequence training: the loop over images, and what Keras's `fit` does around it."""

import keras
import numpy as np
from keras import ops

from keras_showattend.captioner import Captioner
from keras_showattend.captioner_inputs import check_backbone_is_reached
from keras_showattend.decoding import Greedy
from keras_showattend.generation import words_only
from keras_showattend.self_critical.policy import Policy, advantages_over_others, spread_over_tokens
from keras_showattend.self_critical.rewards import CaptionReward, sampled_words
from keras_showattend.token_ids import PADDING
from keras_showattend.validation import check_integer, check_positive_integer


class SelfCriticalTrainer:
    """Trains a captioner on the scores of captions that it samples itself, after ordinary training.

        loss = -mean_t (r - b) log p(token_t)
    over the tokens of all sampled captions, the end id included. The reward r of a caption is its CIDEr-D by default,
    the baseline b is what captions of that image get anyway: captions that beat it become more probable, the others
    less. Cross-entropy asks for the next word of a caption that a person wrote; this asks for whole captions that
    score well, which is what they are judged by.

    Captions are drawn from the model's distribution without dropout, temperature 1, padding, unknown and start left
    out; and that same distribution is differentiated, unless `dropout` is set. (Public implementations mostly draw with
    dropout, and differentiate with it.) All captions of an image share its features, in both directions.

    The step is compiled as the captioner's own: with the `jit_compile` of its `compile`. The captioner gets the new
    weights and nothing else; its optimizer, loss and metrics stay as they are. With `attention_penalty` or weight
    regularisation, the loss has these terms too.

    Args:
        captioner: Built `Captioner` with a tokenizer; best one that is trained already. Small random weights draw
            captions that all score 0, and nothing is learnt from them.
        optimizer: As in `keras.Model.compile`, such as `keras.optimizers.Adam(5e-5)`. Its state stays between calls of
            `fit`. It may be the captioner's own, `captioner.optimizer`, whose state then goes on.
        samples: Positive int G, captions an image; at least 2 with `baseline="others"`.
        baseline: `"others"`, the mean reward of the other samples of the image (Luo 2020); or `"greedy"`, the reward
            of the greedy caption (Rennie et al. 2017), which costs one more decoding.
        reward: Optional function `(captions, image_ids) -> (N, G)`, of N lists of G str and N ids. A str has the
            words that `evaluation.tokenize` counts, parted by spaces, and `<end>` behind them unless the caption is
            cut off at `max_length`. With `baseline="greedy"` it is called for these too, with G = 1. None takes
            `CaptionReward` of the captions that `fit` gets; `CaptionReward(references, bleu4=1.0)` mixes.
        max_length: Positive int T, the most tokens of a sample, the end id included; None takes the captioner's.
        dropout: Bool, whether the captioner's dropout acts where the distribution is differentiated: a regularizer. The
            gradient is then that of a thinned network, which is not quite the one that drew the captions.

    Attributes:
        model: What callbacks get for their model: a `Captioner` made of the captioner's own layers, so of the same
            weights, and compiled with `optimizer`. What `ModelCheckpoint` saves loads as any captioner.

    Raises:
        ValueError: For an argument that does not fit, naming the rule.

    Example:
    ```python
    metrics = keras_showattend.callbacks.CaptionMetrics(store)
    best = keras.callbacks.ModelCheckpoint("best.keras", "val_cider_d", mode="max", save_best_only=True)
    trainer = keras_showattend.self_critical.SelfCriticalTrainer(captioner, keras.optimizers.Adam(5e-5))
    trainer.fit(store, batch_size=2, epochs=2, callbacks=[metrics, best])
    ```

    References: Rennie et al. 2017, arXiv 1612.00563, whose loss sums over the tokens of one sample;
    Luo 2020, arXiv 2003.09971, for the baseline of the others; the estimator is REINFORCE (Williams 1992).
    """

    def __init__(self, captioner, optimizer, samples=5, baseline="others", reward=None, max_length=None, dropout=False):
        _check_captioner(captioner, optimizer)
        if baseline not in ("others", "greedy"):
            raise ValueError(f'`baseline` must be "others" or "greedy". Received: baseline={baseline!r}.')
        self.samples = check_positive_integer("samples", samples)
        if baseline == "others" and samples < 2:
            raise ValueError(f'`samples` must be at least 2 with baseline="others". Received: samples={samples}.')
        if reward is not None and not callable(reward):
            raise ValueError(f"`reward` must be a function or None. Received: reward={reward!r:.100}.")
        if not isinstance(dropout, bool):
            raise ValueError(f"`dropout` must be True or False. Received: dropout={dropout!r}.")
        self.baseline = baseline
        self.reward = reward
        self.max_length = check_positive_integer(
            "max_length", captioner.max_length if max_length is None else max_length
        )
        # Ids without a word can't be scored.
        banned = words_only(Greedy(), captioner.decoder, captioner.tokenizer).banned
        self.model = _of_the_same_layers(captioner, optimizer)
        self._policy = Policy(self.model, banned, self.samples, self.max_length, dropout)

    def fit(
        self,
        store,
        batch_size=16,
        epochs=1,
        verbose="auto",
        callbacks=None,
        shuffle=True,
        initial_epoch=0,
        seed=None,
    ):
        """Train for some epochs; each goes through all images once.

        The logs of batches and epochs have `loss`, `reward` and `baseline`, means over the epoch so far: of tokens the
        first, of captions the others. Callbacks work as in `keras.Model.fit`; `self.model` is their model.

        Args:
            store: `FeatureStore` of the training images with their captions; or any object with `image_ids`,
                `features(image_ids)`, an array of features or images, and `captions(image_id)`, a list of str.
            batch_size: Positive int N, images of a step. The last batch of an epoch is filled up with images that
                count nothing, so that nothing is compiled anew.
            epochs: Positive int, the epoch to stop at, as in Keras.
            verbose: 0, 1, 2 or "auto", as in Keras.
            callbacks: Optional list of Keras callbacks, such as `CaptionMetrics` with validation images.
            shuffle: Bool, whether each epoch has an order of its own.
            initial_epoch: Int >= 0, the epoch to start at. Epochs are numbered for the seed too: one that was stopped
                goes on with the same draws.
            seed: Int >= 0, decides orders and draws; None takes one from NumPy, which `keras.utils.set_random_seed`
                fixes.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: If an argument is not as described, the images don't fit the captioner, a reference has no
                words, or a reward has the wrong shape or is not finite.
        """
        image_ids = self._checked_ids(store)
        size = min(check_positive_integer("batch_size", batch_size), len(image_ids))
        check_positive_integer("epochs", epochs)
        check_integer("initial_epoch", initial_epoch, least=0)
        seed = np.random.randint(2**31) if seed is None else check_integer("seed", seed, least=0)
        reward = self.reward
        if reward is None:
            reward = CaptionReward({image_id: store.captions(image_id) for image_id in image_ids})
        starts = range(0, len(image_ids), size)
        model = self.model
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                verbose=verbose,
                epochs=epochs,
                steps=len(starts),
                model=model,
            )
        model.stop_training = False
        logs = {}
        callbacks.on_train_begin()
        # Where `BackupAndRestore` found that training had got to.
        initial_epoch = model._initial_epoch or initial_epoch
        try:
            for epoch in range(initial_epoch, epochs):
                random = np.random.default_rng((seed, epoch))
                order = random.permutation(len(image_ids)) if shuffle else np.arange(len(image_ids))
                means = _Means()
                callbacks.on_epoch_begin(epoch)
                for step, start in enumerate(starts):
                    callbacks.on_train_batch_begin(step)
                    batch = [image_ids[i] for i in order[start : start + size]]
                    self._step(store, batch, size, reward, random, means)
                    callbacks.on_train_batch_end(step, means.result())
                    if model.stop_training:
                        break
                logs = means.result()
                callbacks.on_epoch_end(epoch, logs)
                if model.stop_training:
                    break
        finally:
            # An optimizer that averages weights hands the averages over; before its first step they are zeros.
            if int(ops.convert_to_numpy(model.optimizer.iterations)):
                model.optimizer.finalize_variable_values(model.trainable_variables)
        callbacks.on_train_end(logs)
        return model.history

    def _step(self, store, image_ids, size, reward, random, means):
        """Sample, score, learn; the figures of the step join the `means`."""
        count = len(image_ids)
        # Every batch has one shape, for which all is compiled; the images that fill it up count nothing.
        x = store.features([image_ids[i % count] for i in range(size)])
        numbers = random.random((size * self.samples, self.max_length), dtype="float32")
        tokens = self._policy.sample(x, numbers)
        tokens[count:] = PADDING
        rewards = self._rewards(reward, tokens[:count], image_ids)
        if self.baseline == "others":
            advantages, baseline = advantages_over_others(rewards)
        else:
            greedy = self.model.generate(x, max_length=self.max_length).tokens
            baseline = self._rewards(reward, greedy[:count, None], image_ids)
            advantages = rewards - baseline
        weights = np.zeros(tokens.shape, "float32")
        weights[:count] = spread_over_tokens(advantages, tokens[:count])
        loss = self._policy.learn(x, tokens, weights)
        means.add("loss", loss, np.count_nonzero(tokens))
        means.add("reward", rewards.mean(), count)
        means.add("baseline", baseline.mean(), count)

    def _rewards(self, reward, tokens, image_ids):
        """The rewards of captions `(N, G, T)`: float64 `(N, G)`."""
        rewards = np.asarray(reward(sampled_words(self.model.tokenizer, tokens), image_ids))
        if rewards.shape != tokens.shape[:2] or rewards.dtype.kind not in "biuf":
            raise ValueError(
                f"`reward` must return numbers of the shape (N, G) = {tokens.shape[:2]}. "
                f"Received: shape {rewards.shape}, dtype {rewards.dtype}."
            )
        wrong = np.argwhere(~np.isfinite(rewards))
        if len(wrong):
            image, sample = wrong[0]
            raise ValueError(
                "`reward` must return finite numbers. Received: "
                f"{rewards[image, sample]} for caption {sample} of image_id={image_ids[image]!r}."
            )
        return rewards.astype("float64")

    def _checked_ids(self, store):
        if not all(hasattr(store, name) for name in ("image_ids", "features", "captions")):
            raise ValueError(
                "`store` must be a FeatureStore, or have its `image_ids`, `features` and `captions`. "
                f"Received: store of type {type(store).__name__}."
            )
        image_ids = list(store.image_ids)
        if not image_ids:
            raise ValueError("`store` must hold at least one image. Received: none.")
        x = store.features(image_ids[:1])
        self.model.check_inference(x)
        check_backbone_is_reached(self.model, x)
        return image_ids


class _Means:
    """Weighted means of an epoch so far."""

    def __init__(self):
        self._sums = {}

    def add(self, name, value, weight):
        total, weights = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + float(value) * int(weight), weights + int(weight))

    def result(self):
        return {name: total / max(weights, 1) for name, (total, weights) in self._sums.items()}


def _of_the_same_layers(captioner, optimizer):
    """A captioner that shares the layers and has an optimizer of its own."""
    model = Captioner(
        captioner.encoder,
        captioner.decoder,
        tokenizer=captioner.tokenizer,
        feature_extractor=captioner.feature_extractor,
        grid=captioner.grid,
        max_length=captioner.max_length,
        attention_penalty=captioner.attention_penalty,
        attention_target=captioner.attention_target,
        scheduled_sampling=captioner.scheduled_sampling,
        name=captioner.name,
        dtype=captioner.dtype_policy,
    )
    model.build_from_config(captioner.get_build_config())
    compiled = {"loss": captioner.loss, "jit_compile": captioner.jit_compile} if captioner.compiled else {}
    model.compile(optimizer=optimizer, **compiled)
    # A checkpoint holds its state from the first epoch on.
    model.optimizer.build(model.trainable_variables)
    return model


def _check_captioner(captioner, optimizer):
    if not isinstance(captioner, Captioner) or not captioner.built:
        received = f"a {type(captioner).__name__}" + (", not built" if isinstance(captioner, Captioner) else "")
        raise ValueError(
            "`captioner` must be a Captioner that is built, by `fit` or a call, and best one that is trained. "
            f"Received: {received}."
        )
    if optimizer is None:
        raise ValueError(
            "`optimizer` must be an optimizer of Keras or its name; that of a captioner is None before `compile`. "
            "Received: optimizer=None."
        )
    if captioner.tokenizer is None:
        raise ValueError(
            "`captioner` must have a `tokenizer`, since captions are scored by their words. Received: tokenizer=None."
        )
