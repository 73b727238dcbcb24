"""Training on the scores of sampled captions: the gradient, the rewards, and what stays as it was."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from numerics import FLOAT64_WORKS

import keras_showattend
from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.callbacks import CaptionMetrics
from keras_showattend.evaluation import bleu, cider_d, tokenize
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.self_critical import CaptionReward, SelfCriticalTrainer
from keras_showattend.self_critical.policy import advantages_over_others
from keras_showattend.self_critical.rewards import sampled_words

L, D, T, G = 4, 5, 6, 3
TEXTS = {
    30: ["a red dog runs fast", "the dog runs"],
    10: ["a blue cat sleeps here", "a cat sleeps"],
    20: ["the green bird flies up", "a bird flies"],
}
WORDS = CaptionTokenizer.fit([text for texts in TEXTS.values() for text in texts])
V = WORDS.vocabulary_size
IDS = {word: i for i, word in enumerate(WORDS.vocabulary)}


class Store:
    """What the trainer needs of a feature store."""

    def __init__(self, texts=TEXTS, width=D, seed=0):
        self.texts = texts
        self.image_ids = list(texts)
        self.x = np.random.default_rng(seed).normal(size=(len(texts), L, width)).astype("float32")

    def features(self, image_ids):
        return self.x[[self.image_ids.index(i) for i in image_ids]]

    def captions(self, image_id):
        return list(self.texts[image_id])


def make(vocab_size=V, scale=0.8, dropout=0.0, **kwargs):
    captioner = Captioner(
        FeatureEncoder(4, dropout=dropout),
        AttentionGRUDecoder(vocab_size, 4, 6, attention_units=7, dropout=dropout),
        **{"tokenizer": WORDS, "max_length": T, **kwargs},
    )
    captioner.build([(None, L, D), (None, None)])
    generator = np.random.default_rng(5)
    captioner.set_weights([generator.normal(0, scale, w.shape) for w in captioner.get_weights()])
    return captioner


def sgd(rate=1.0):
    return keras.optimizers.SGD(rate)


def count_a(captions, image_ids):
    """A reward that can be told from the words alone."""
    return np.array([[caption.split().count("a") for caption in group] for group in captions], "float64")


class Recorder:
    """A reward that tells what it was asked."""

    def __init__(self, reward):
        self.reward, self.calls = reward, []

    def __call__(self, captions, image_ids):
        rewards = self.reward(captions, image_ids)
        self.calls.append((captions, image_ids, rewards))
        return rewards


@functools.cache
def compiled(baseline):
    captioner = make()
    return captioner, SelfCriticalTrainer(captioner, sgd(), samples=G, baseline=baseline), captioner.get_weights()


def shared(reward, baseline="others", rate=0.1):
    """A captioner and a trainer as if they were new, compiled once for batches of two images."""
    captioner, trainer, weights = compiled(baseline)
    captioner.set_weights(weights)
    trainer.model.optimizer.learning_rate = rate
    trainer.reward = reward
    return captioner, trainer


def ids_of(caption):
    return [IDS[word] for word in caption.split()]


def naive_loss(captioner, store, captions, image_ids, advantages, banned=(0, 1, 2)):
    """-mean (r - b) log p(token), one caption and one token after the other, p being 0 for what is banned."""
    total, count = 0.0, 0
    for image_id, group, row in zip(image_ids, captions, advantages, strict=True):
        for caption, advantage in zip(group, row, strict=True):
            step, state = captioner.start_decoding(store.features([image_id]))
            last = 2
            for token in ids_of(caption):
                logits, state, _ = step(np.array([last], "int32"), state)
                logits = ops.convert_to_numpy(logits)[0].astype("float64")
                allowed = np.delete(logits, banned)
                total -= advantage * (logits[token] - np.log(np.sum(np.exp(allowed))))
                count, last = count + 1, token
    return total / count


def normed(arrays):
    """The arrays as one vector of length 1."""
    length = np.sqrt(sum(np.sum(a**2) for a in arrays))
    return [a / length for a in arrays]


def expected_advantages(baseline, rewards, greedy=None):
    if baseline == "greedy":
        return rewards - greedy
    return np.array([[r - np.mean(np.delete(row, i)) for i, r in enumerate(row)] for row in rewards])


class Weights(keras.callbacks.Callback):
    """The weights before the first step and after each."""

    def on_train_begin(self, logs=None):
        self.seen = [self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_weights())


# With more ids than words, those without a word are never drawn either.
@pytest.mark.parametrize(("baseline", "vocab_size"), [("others", V), ("greedy", V + 2)])
def test_each_step_is_along_the_gradient_of_reinforce(baseline, vocab_size):
    if FLOAT64_WORKS:
        keras.config.set_dtype_policy("float64")
    # Dropout must not show, nor that the second batch, of one image, is filled up.
    captioner, store, weights = make(vocab_size, dropout=0.5), Store(), Weights()
    recorder = Recorder(lambda captions, ids: count_a(captions, ids) + [[len(c) for c in group] for group in captions])
    trainer = SelfCriticalTrainer(captioner, sgd(0.05), samples=G, baseline=baseline, reward=recorder)
    trainer.fit(store, batch_size=2, seed=1, verbose=0, callbacks=[weights])
    calls = recorder.calls if baseline == "others" else recorder.calls[::2]
    greedy = [None, None] if baseline == "others" else [call[2] for call in recorder.calls[1::2]]
    assert [len(image_ids) for _, image_ids, _ in calls] == [2, 1]
    assert len(weights.seen) == 3

    step, tolerance = (1e-5, 1e-5) if FLOAT64_WORKS else (1e-2, 2e-2)
    generator = np.random.default_rng(3)
    for before, after, call, greedy_rewards in zip(weights.seen[:2], weights.seen[1:], calls, greedy, strict=True):
        captions, image_ids, rewards = call
        advantages = expected_advantages(baseline, rewards, greedy_rewards)
        assert np.abs(advantages).max() > 0
        # Half along the step, so that the slope is not small; half anywhere, so that nothing can hide across it.
        moved = [new.astype("float64") - old for new, old in zip(after, before, strict=True)]
        direction = [
            unit + other
            for unit, other in zip(normed(moved), normed([generator.normal(size=w.shape) for w in before]), strict=True)
        ]
        ends = []
        for distance in (step, -step):
            captioner.set_weights([w + distance * d for w, d in zip(before, direction, strict=True)])
            banned = (0, 1, 2, *range(V, vocab_size))
            ends.append(naive_loss(captioner, store, captions, image_ids, advantages, banned))
        wanted = (ends[0] - ends[1]) / (2 * step)
        slope = -sum(np.sum(m * d) for m, d in zip(moved, direction, strict=True)) / 0.05
        assert abs(wanted) > 0.05
        assert slope == pytest.approx(wanted, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_of_the_gradient_and_not_of_what_is_drawn(rate):
    drawn, learned = [], []
    for dropout in (False, True):
        captioner, recorder = make(dropout=rate), Recorder(count_a)
        SelfCriticalTrainer(captioner, sgd(0.05), samples=G, reward=recorder, dropout=dropout).fit(
            Store(), batch_size=3, seed=1, verbose=0
        )
        drawn.append(recorder.calls[0][0])
        learned.append(captioner.get_weights())
    assert drawn[0] == drawn[1]
    same = all(np.allclose(one, other, atol=1e-6) for one, other in zip(*learned, strict=True))
    assert same == (rate == 0)


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_the_logs_are_means_over_tokens_and_captions(baseline):
    store, recorder = Store(), Recorder(count_a)
    # Without learning, all losses are those of the same weights.
    captioner, trainer = shared(recorder, baseline, rate=0.0)
    history = trainer.fit(store, batch_size=2, seed=4, verbose=0).history
    calls = recorder.calls if baseline == "others" else recorder.calls[::2]
    captions = [group for call in calls for group in call[0]]
    image_ids = [image_id for call in calls for image_id in call[1]]
    rewards = np.concatenate([call[2] for call in calls])
    greedy = None if baseline == "others" else np.concatenate([call[2] for call in recorder.calls[1::2]])
    advantages = expected_advantages(baseline, rewards, greedy)
    # A mean over an epoch's tokens is a mean over the batches' that are as long as they are.
    assert history["loss"] == [pytest.approx(naive_loss(captioner, store, captions, image_ids, advantages), abs=1e-5)]
    assert history["reward"] == [pytest.approx(rewards.mean())]
    assert history["baseline"] == [pytest.approx((rewards - advantages).mean())]


def test_greedy_captions_are_the_baseline():
    store, recorder = Store(), Recorder(count_a)
    captioner, trainer = shared(recorder, "greedy", rate=0.0)
    trainer.fit(store, batch_size=2, shuffle=False, verbose=0)
    for greedy, image_ids, _ in recorder.calls[1::2]:
        tokens = captioner.generate(store.features(image_ids)).tokens
        assert greedy == sampled_words(WORDS, tokens[:, None])


def test_the_advantages_of_an_image_sum_to_zero():
    # 4 and 1 and 1: the others of the first have a mean of 1, those of the second 2.5.
    advantages, baseline = advantages_over_others(np.array([[4.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
    assert advantages.tolist() == [[3.0, -1.5, -1.5], [0.0, 0.0, 0.0]]
    assert baseline.tolist() == [[1.0, 2.5, 2.5], [2.0, 2.0, 2.0]]


# Rewards


def test_rewards_are_the_evaluation_of_the_same_words():
    captions = [["a red dog runs fast <end>", "a red dog in a"], ["a cat <end>", ""], ["a bird flies up up", "<end>"]]
    ids = [30, 10, 20]
    ended = {i: [" ".join([*tokenize(text), "<end>"]) for text in texts] for i, texts in TEXTS.items()}
    for weights in ({}, {"cider_d": 0.5, "bleu4": 2.0}, {"cider_d": 0.0, "bleu4": 1.0}):
        rewards = CaptionReward(TEXTS, **weights)(captions, ids)
        assert rewards.shape == (3, 2)
        for sample in range(2):
            written = dict(zip(ids, [group[sample] for group in captions], strict=True))
            scores = cider_d(written, {i: ended[i] for i in ids}, tokenize=str.split).per_image
            bleu4 = bleu(written, {i: ended[i] for i in ids}, tokenize=str.split)["bleu4"].per_image
            wanted = [weights.get("cider_d", 1.0) * scores[i] + weights.get("bleu4", 0.0) * bleu4[i] for i in ids]
            np.testing.assert_allclose(rewards[:, sample], wanted, rtol=1e-12)


def test_breaking_off_costs_and_saying_nothing_is_worth_nothing():
    reward = CaptionReward({1: ["A man in a red hat."], 2: ["A dog."]})
    ((whole, broken, stopped, empty, nothing),) = reward(
        [["a man in a red hat <end>", "a man in a red hat", "a man in a <end>", "<end>", ""]], [1]
    ).tolist()
    assert whole == pytest.approx(10)
    assert whole > broken > stopped > 0
    assert empty == nothing == 0


def test_the_training_images_tell_how_rare_a_word_is():
    recorder = Recorder(CaptionReward(TEXTS))
    rewards = []
    for reward in (recorder, None):
        _, trainer = shared(reward, rate=0.0)
        rewards.append(trainer.fit(Store(), batch_size=2, seed=2, verbose=0).history["reward"])
    assert rewards[0] == rewards[1] != [0.0]


def test_the_words_that_count_are_those_of_the_text():
    # Words that evaluation parts or keeps, next to each other in every order.
    words = ["man's", "cannot", "don't", "rock", "'n'", "gonna", "3", "no", "u", "s'", "é", "a"]
    tokenizer = CaptionTokenizer(["<pad>", "<unk>", "<start>", "<end>", *words])
    tokens = np.random.default_rng(0).integers(3, len(words) + 4, (40, G, T)).astype("int32")
    tokens[0, 0] = [3, 0, 0, 0, 0, 0]
    for group, texts in zip(tokens, sampled_words(tokenizer, tokens), strict=True):
        for row, text in zip(group, texts, strict=True):
            (decoded,) = tokenizer.decode([row])
            assert text.split() == tokenize(decoded) + ["<end>"] * bool((row == 3).any())
    assert sampled_words(tokenizer, tokens)[0][0] == "<end>"


# Training


def test_the_mean_reward_rises():
    # Every "a" is worth 1: seven tokens can hold seven.
    captioner, store = make(scale=0.3, max_length=7), Store()
    trainer = SelfCriticalTrainer(captioner, keras.optimizers.Adam(0.1), samples=8, reward=count_a)
    rewards = trainer.fit(store, batch_size=3, epochs=25, seed=0, verbose=0).history["reward"]
    assert rewards[0] < 1.5
    assert np.mean(rewards[-3:]) > 5
    assert all(text.split() == ["a"] * 7 for text in captioner.generate(store.x).texts)


def test_cider_d_of_a_trained_captioner_rises(tmp_path):
    examples = keras_showattend.datasets.shape_scenes.load_scenes("train")[:24]
    store = FeatureStore.build(tmp_path, examples, FeatureExtractor("patches"), verbose=0)
    tokenizer = CaptionTokenizer.fit([text for i in store.image_ids for text in store.captions(i)])
    captioner = Captioner(
        FeatureEncoder(16), AttentionGRUDecoder(tokenizer.vocabulary_size, 16, 32), tokenizer=tokenizer, max_length=14
    )
    captioner.compile(keras.optimizers.Adam(0.02))
    x = store.features(store.image_ids)
    y = tokenizer.encode([store.captions(i)[0] for i in store.image_ids])
    captioner.fit(x, y, batch_size=24, epochs=25, verbose=0)
    trainer = SelfCriticalTrainer(captioner, keras.optimizers.Adam(0.004), samples=5)
    rewards = trainer.fit(store, batch_size=24, epochs=25, seed=0, verbose=0).history["reward"]
    assert np.mean(rewards[-3:]) > 1.3 * np.mean(rewards[:3])


def trained(seed=3, calls=((0, 2),), **kwargs):
    captioner, trainer = shared(count_a)
    for initial_epoch, epochs in calls:
        trainer.fit(Store(), batch_size=2, epochs=epochs, initial_epoch=initial_epoch, seed=seed, verbose=0, **kwargs)
    return captioner.get_weights()


def same(weights, others):
    return all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


def test_a_seed_gives_the_same_weights_to_the_bit():
    first = trained()
    assert same(first, trained())
    # Stopped after an epoch, it goes on with the same draws.
    assert same(first, trained(calls=((0, 1), (1, 2))))
    assert not same(first, trained(seed=4))
    assert not same(first, trained(shuffle=False))


def test_without_a_seed_keras_decides():
    runs = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        runs.append(trained(seed=None))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    captioner = make(scale=0.3)
    trainer = SelfCriticalTrainer(captioner, keras.optimizers.Adam(0.05), samples=6, reward=count_a)
    assert isinstance(trainer.model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    rewards = trainer.fit(Store(), batch_size=3, epochs=12, seed=0, verbose=0).history["reward"]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.5


def test_one_token_a_caption():
    trainer = SelfCriticalTrainer(make(), sgd(), samples=2, reward=count_a, max_length=1)
    assert np.isfinite(trainer.fit(Store(), verbose=0).history["loss"]).all()


# What Keras's callbacks do


def test_callbacks(tmp_path):
    captioner, store = make(), Store()
    trainer = SelfCriticalTrainer(captioner, keras.optimizers.Adam(0.03), samples=6)
    path = str(tmp_path / "best.keras")
    history = trainer.fit(
        store,
        batch_size=2,
        epochs=30,
        seed=0,
        verbose=0,
        callbacks=[
            CaptionMetrics(store),
            keras.callbacks.ModelCheckpoint(path, "val_cider_d", mode="max", save_best_only=True),
            keras.callbacks.EarlyStopping("val_cider_d", mode="max", patience=4, restore_best_weights=True),
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.03 / (1 + epoch)),
        ],
    )
    assert {"loss", "reward", "baseline", "val_cider_d", "val_bleu4", "learning_rate"} <= set(history.history)
    values = history.history["val_cider_d"]
    assert len(values) < 30
    assert len(values) == np.argmax(values) + 5
    loaded = keras.models.load_model(path)
    assert type(loaded) is Captioner
    np.testing.assert_array_equal(loaded.generate(store.x).tokens, captioner.generate(store.x).tokens)
    # Its optimizer goes on from the best epoch's state, two steps an epoch.
    assert int(loaded.optimizer.iterations) == 2 * (int(np.argmax(values)) + 1)
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(0.03 / len(values))


def test_stopping_between_batches():
    class Stop(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            self.model.stop_training = True

    stop = Stop()
    _, trainer = shared(count_a)
    for _ in range(2):  # It starts again all the same.
        assert len(trainer.fit(Store(), batch_size=2, epochs=3, callbacks=[stop], verbose=0).history["loss"]) == 1
    assert stop.batches == 2


def test_averaged_weights_and_schedules():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
    optimizer = keras.optimizers.SGD(schedule, use_ema=True, ema_momentum=0.5)
    captioner, weights = make(), Weights()
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    trainer = SelfCriticalTrainer(captioner, optimizer, reward=count_a)
    trainer.fit(Store(), batch_size=2, epochs=3, seed=0, verbose=0, callbacks=[weights, swap])
    # Steps 4 to 6 have a rate of 0; after each the average, at first that of one step, has come half the way nearer.
    _, first, _, third, *later = weights.seen
    assert not same(first, third)
    for seen in later:
        # Where it swaps on TensorFlow, Keras adds and subtracts.
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(third, seen, strict=True))
    average = first
    for seen in weights.seen[2:]:
        average = [(a + w) / 2 for a, w in zip(average, seen, strict=True)]
    for w, a in zip(captioner.get_weights(), average, strict=True):
        np.testing.assert_allclose(w, a, atol=1e-6)
    assert not same(captioner.get_weights(), third)


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_the_progress_bar(verbose, capsys):
    _, trainer = shared(count_a)
    trainer.fit(Store(), batch_size=2, epochs=2, verbose=verbose)
    printed = capsys.readouterr().out
    assert ("Epoch 2/2" in printed) == ("reward" in printed) == (verbose != 0)


# The captioner afterwards


def test_the_captioner_keeps_what_it_was_compiled_with(tmp_path):
    store = Store()
    x, y = store.x, WORDS.encode([TEXTS[i][0] for i in store.image_ids], max_length=T)
    captioner = make(dropout=0.2)
    optimizer = keras.optimizers.Adam(0.01)
    captioner.compile(optimizer, weighted_metrics=[keras_showattend.metrics.Perplexity()])
    captioner.fit(x, y, epochs=2, verbose=0)
    state = [ops.convert_to_numpy(v) for v in optimizer.variables]
    before = captioner.get_weights()
    SelfCriticalTrainer(captioner, sgd(0.1), reward=count_a).fit(store, epochs=2, verbose=0)
    assert captioner.optimizer is optimizer
    for variable, value in zip(optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, captioner.get_weights(), strict=True))
    assert set(captioner.fit(x, y, verbose=0).history) == {"loss", "perplexity"}
    assert int(optimizer.iterations) == 3
    captioner.save(tmp_path / "captioner.keras")
    loaded = keras.models.load_model(tmp_path / "captioner.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    np.testing.assert_array_equal(loaded.generate(x).tokens, captioner.generate(x).tokens)


def test_the_captioners_own_optimizer_goes_on():
    captioner, store = make(), Store()
    captioner.compile(keras.optimizers.Adam(0.01))
    captioner.fit(store.x, WORDS.encode([TEXTS[i][0] for i in store.image_ids], max_length=T), verbose=0)
    SelfCriticalTrainer(captioner, captioner.optimizer, reward=count_a).fit(store, batch_size=1, verbose=0)
    assert int(captioner.optimizer.iterations) == 4


def test_images_that_fill_up_a_batch_have_no_penalty():
    # Three images in batches of two: the last batch is filled up. Nothing is rewarded, so the penalty is all there is.
    captioner = make(attention_penalty=2.0)

    def loss(batch_size):
        trainer = SelfCriticalTrainer(captioner, sgd(0.0), samples=G, reward=lambda c, i: np.zeros((len(i), G)))
        tokens = trainer._policy.sample(Store().features([30]), np.full((G, trainer.max_length), 0.3, "float32"))
        x = Store().features([30] * batch_size)
        filled = np.zeros((batch_size, *tokens.shape[1:]), tokens.dtype)
        filled[:1] = tokens
        return trainer._policy.learn(x, filled, np.zeros(filled.shape, "float32"))

    assert loss(1) > 0.1
    assert loss(4) == pytest.approx(loss(1), rel=1e-4)


def test_regularisation_joins_the_loss():
    captioner, store = make(attention_penalty=2.0), Store()
    without = make()
    losses = [
        SelfCriticalTrainer(c, sgd(0.0), reward=count_a).fit(store, batch_size=2, seed=0, verbose=0).history["loss"][0]
        for c in (captioner, without)
    ]
    assert losses[0] > losses[1] + 0.1


# What does not fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "`samples` must be a positive integer"),
        ({"samples": 1}, '`samples` must be at least 2 with baseline="others"'),
        ({"baseline": "mean"}, "`baseline` must be .* Received: baseline='mean'"),
        ({"dropout": 0.5}, "`dropout` must be True or False. Received: dropout=0.5"),
        ({"reward": "cider_d"}, "`reward` must be a function or None. Received: reward='cider_d'"),
        ({"max_length": 0}, "`max_length` must be a positive integer"),
        ({"captioner": keras.Sequential()}, "`captioner` must be a Captioner that is built.*Sequential"),
        ({"captioner": Captioner(FeatureEncoder(2), AttentionGRUDecoder(V, 2, 2))}, "not built"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfCriticalTrainer(**{"captioner": make(), "optimizer": "sgd", **arguments})


def test_a_captioner_without_words():
    with pytest.raises(ValueError, match="`captioner` must have a `tokenizer`"):
        SelfCriticalTrainer(make(tokenizer=None), "sgd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"store": TEXTS}, "`store` must be a FeatureStore.*type dict"),
        ({"store": Store({})}, "`store` must hold at least one image"),
        ({"store": Store(width=D + 1)}, "`x` must have the feature width 5"),
        ({"store": Store({1: ["a dog"]})}, "`references` must be of at least two images"),
        ({"store": Store({1: ["a dog"], 2: ["..."]})}, "must have words.*image_id=2"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"initial_epoch": -1}, "`initial_epoch` must be an integer of at least 0"),
        ({"seed": 1.5}, "`seed` must be an integer of at least 0"),
    ],
)
def test_what_fit_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfCriticalTrainer(make(), "sgd").fit(**{"store": Store(), "verbose": 0, **arguments})


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda c, i: np.full((len(i), G), np.nan), "finite numbers. Received: nan for caption 0 of image_id=30"),
        (lambda c, i: np.array([[0.0, np.inf, 0.0]] * len(i)), "Received: inf for caption 1 of image_id=30"),
        (lambda c, i: np.zeros(len(i)), r"the shape \(N, G\) = \(2, 3\). Received: shape \(2,\)"),
        (lambda c, i: None, "must return numbers"),
    ],
)
@pytest.mark.parametrize("averages", [False, True])
def test_rewards_that_can_not_be_learnt_from(reward, message, averages):
    # An average of weights is zero before the first step: it must not take their place.
    captioner, trainer = (
        shared(reward)
        if not averages
        else (
            captioner := make(),
            SelfCriticalTrainer(captioner, keras.optimizers.SGD(0.1, use_ema=True), samples=G, reward=reward),
        )
    )
    before = captioner.get_weights()
    with pytest.raises(ValueError, match=message):
        trainer.fit(Store(), batch_size=2, shuffle=False, verbose=0)
    assert same(before, captioner.get_weights())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"references": {}}, "`references` must be of at least two images.* Received: 0"),
        ({"references": 3}, "`references` must be a dict"),
        ({"cider_d": -1.0}, "`cider_d` must be a finite number >= 0"),
        ({"bleu4": "1"}, "`bleu4` must be a finite number >= 0"),
        ({"cider_d": 0.0}, "`cider_d` or `bleu4` must be above 0"),
    ],
)
def test_rewards_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        CaptionReward(**{"references": TEXTS, **arguments})


def test_a_reward_is_of_as_many_captions_of_every_image():
    with pytest.raises(ValueError, match=r"`captions` must have as many captions of every image.* from 1 to 3"):
        CaptionReward(TEXTS)([["a dog"], ["a dog", "a cat", "a cat"]], list(TEXTS)[:2])


def test_a_reward_knows_its_images_only():
    with pytest.raises(ValueError, match=r"must have references\. Received: image_id=7"):
        CaptionReward(TEXTS)([["a dog"]], [7])
