"""Sampling: how often each token is drawn, and that the scores are the model's own."""

import keras
import numpy as np
import pytest
from keras import ops
from writers import END, PADDING, START, Writer, as_numpy, chain, compiled, constant, log_softmax

from keras_showattend.decoding import Sampling, greedy_search, sample

DRAWS = 4000
CHANCES = np.array([1e-9, 1e-9, 1e-9, 0.1, 0.4, 0.05, 0.25, 0.2], "float32")


def chi_square(ids, chances):
    """How far the ids are from the chances: about the number of possible ids, nearly always less than four times it."""
    chances = np.asarray(chances, "float64") / np.sum(chances)
    possible = chances > 0
    counts = np.bincount(ids, minlength=len(chances))
    assert not counts[~possible].any()
    expected = chances[possible] * len(ids)
    return ((counts[possible] - expected) ** 2 / expected).sum()


def drawn(chances=CHANCES, seed=5, **options):
    """One token for each of many rows."""
    step, state = constant(DRAWS, chances)
    tokens, *_ = as_numpy(sample(step, state, DRAWS, 1, seed=seed, **{"banned": (0, 1, 2), **options}))
    return tokens[:, 0]


def without(*ids, chances=CHANCES):
    return [0 if i in ids else p for i, p in enumerate(chances)]


class TestFrequencies:
    def test_of_the_model(self):
        assert chi_square(drawn(), without(0, 1, 2)) < 20
        # The bound can be missed: these chances are wrong by 5 %.
        assert chi_square(drawn(), [0, 0, 0, 0.1, 0.35, 0.05, 0.25, 0.25]) > 40

    def test_of_a_banned_token_the_others_take_the_share(self):
        assert chi_square(drawn(banned=(0, 1, 2, 4)), without(0, 1, 2, 4)) < 20

    @pytest.mark.parametrize("temperature", [0.5, 2.0])
    def test_of_a_temperature(self, temperature):
        chances = np.array(without(0, 1, 2)) ** (1 / temperature)
        assert chi_square(drawn(temperature=temperature), chances) < 20
        assert chi_square(drawn(), chances) > 40

    def test_of_the_k_best(self):
        assert chi_square(drawn(top_k=3), without(0, 1, 2, 3, 5)) < 20
        assert (drawn(top_k=1) == 4).all()
        # More than there are.
        assert chi_square(drawn(top_k=99), without(0, 1, 2)) < 20

    def test_of_equal_tokens_top_k_keeps_the_lower_ids(self):
        assert set(drawn(chances=[0.1] * 10, top_k=3)) == {3, 4, 5}

    def test_of_the_nucleus(self):
        # 4, 6 and 7 have 0.4, 0.65 and 0.85 together.
        assert (drawn(top_p=0.39) == 4).all()
        assert chi_square(drawn(top_p=0.42), without(0, 1, 2, 3, 5, 7)) < 20
        assert chi_square(drawn(top_p=0.64), without(0, 1, 2, 3, 5, 7)) < 20
        assert chi_square(drawn(top_p=0.66), without(0, 1, 2, 3, 5)) < 20
        assert chi_square(drawn(top_p=1.0), without(0, 1, 2)) < 20

    def test_the_nucleus_is_that_of_the_k_best(self):
        # Of 4, 6 and 7 alone, 4 and 6 have 0.76.
        assert chi_square(drawn(top_k=3, top_p=0.75), without(0, 1, 2, 3, 5, 7)) < 20

    def test_the_nucleus_is_that_of_the_temperature(self):
        # Squared, 4 has 0.16 of 0.275, and 6 with it 0.81.
        assert chi_square(drawn(temperature=0.5, top_p=0.8), np.square(without(0, 1, 2, 3, 5, 7))) < 20

    def test_the_nucleus_is_that_of_what_is_allowed(self):
        # Without 4, the others have 0.6: 6 and 7 are three quarters of it.
        assert chi_square(drawn(banned=(0, 1, 2, 4), top_p=0.74), without(0, 1, 2, 3, 4, 5)) < 20

    def test_of_the_largest_temperature_all_that_is_allowed_has_the_same_chance(self):
        allowed = np.arange(len(CHANCES)) >= 3
        assert chi_square(drawn(temperature=1e300), allowed) < 20

    def test_of_whole_captions(self):
        # What is drawn second depends on what was drawn first.
        table = np.full((5, 5), 1e-9, "float32")
        table[START, [END, 4]] = 0.3, 0.7
        table[4, [END, 4]] = 0.6, 0.4
        step, state = chain(np.tile(np.log(table), (DRAWS, 1, 1)))
        tokens, *_ = as_numpy(sample(step, state, DRAWS, 2, seed=11))
        captions = {(END, PADDING): 0, (4, END): 1, (4, 4): 2}
        drawn = [captions[tuple(caption)] for caption in tokens.tolist()]
        assert chi_square(drawn, [0.3, 0.7 * 0.6, 0.7 * 0.4]) < 12


class TestRandomNumbers:
    """The number u draws the token whose share of the line from 0 to 1 holds it."""

    @pytest.mark.parametrize(("u", "token"), [(0.0, 3), (0.09, 3), (0.11, 4), (0.49, 4), (0.51, 5), (0.999999, 7)])
    def test_by_hand(self, u, token):
        step, state = constant(1, CHANCES)
        numbers = ops.convert_to_tensor([[u]])
        assert as_numpy(sample(step, state, 1, 1, numbers=numbers))[0].tolist() == [[token]]

    def test_the_largest_below_1_draws_no_token_without_a_chance(self):
        # In float32 the chances of a large vocabulary don't sum to 1.
        chances = np.random.default_rng(0).random(5001).astype("float32")
        chances[-50:] = 0
        step, state = constant(1, chances + 1e-38)
        numbers = ops.convert_to_tensor(np.float32([[np.nextafter(np.float32(1), np.float32(0))]]))
        banned = [0, 1, 2, *range(4951, 5001)]
        token = as_numpy(sample(step, state, 1, 1, numbers=numbers, banned=banned))[0][0, 0]
        assert 4940 < token < 4951

    def test_each_step_has_its_own(self):
        step, state = constant(1, CHANCES)
        numbers = ops.convert_to_tensor([[0.2, 0.99, 0.05, 0.5]])
        assert as_numpy(sample(step, state, 1, 4, numbers=numbers))[0].tolist() == [[4, 7, 3, 0]]

    def test_handed_to_a_compiled_function(self):
        step, state = constant(8, CHANCES)

        def run(numbers):
            return sample(step, state, 8, 6, numbers=numbers, top_p=0.9, temperature=0.7).tokens

        draw = compiled(run)
        first, second = (Sampling(seed=seed).draw(8, 6)[0] for seed in (1, 2))
        np.testing.assert_array_equal(ops.convert_to_numpy(draw(first)), ops.convert_to_numpy(run(first)))
        assert (ops.convert_to_numpy(draw(first)) != ops.convert_to_numpy(draw(second))).any()


class TestSeed:
    def test_the_same_again(self):
        np.testing.assert_array_equal(drawn(seed=3), drawn(seed=3))

    def test_another(self):
        assert (drawn(seed=3) != drawn(seed=4)).mean() > 0.3

    def test_none_draws_others_each_time(self):
        first, second = drawn(seed=None), drawn(seed=None)
        assert (first != second).mean() > 0.3

    def test_none_follows_the_seed_of_keras(self):
        keras.utils.set_random_seed(1)
        first = drawn(seed=None)
        keras.utils.set_random_seed(1)
        np.testing.assert_array_equal(drawn(seed=None), first)

    def test_steps_and_rows_differ(self):
        step, state = constant(DRAWS, CHANCES)
        tokens, *_ = as_numpy(sample(step, state, DRAWS, 2, seed=2, banned=(0, 1, 2, END)))
        assert (tokens[:, 0] != tokens[:, 1]).mean() > 0.3
        assert (tokens[:-1] != tokens[1:]).mean() > 0.3

    def test_large(self):
        assert drawn(seed=2**32 - 1).shape == (DRAWS,)


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-4}, {"temperature": 1e-300}, {"top_k": 1}, {"top_p": 1e-9}, {"top_p": 1e-300}]
)
def test_the_limit_is_greedy(options):
    writer = Writer(2, 9, rows=5)
    tokens, scores, attention = as_numpy(sample(writer.step, writer.state(), 5, 6, seed=1, **options))
    expected = as_numpy(greedy_search(writer.step, writer.state(), 5, 6))
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-6)
    np.testing.assert_allclose(attention, expected[2], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"temperature": 2.5, "top_k": 4}, {"temperature": 0.3, "top_p": 0.8}])
def test_scores_are_the_models_own(options):
    writer = Writer(3, 9, rows=6)

    def run(numbers, state):
        return tuple(sample(writer.step, state, 6, 5, numbers=numbers, **options))

    tokens, scores, _ = as_numpy(compiled(run)(Sampling(seed=1).draw(6, 5)[0], writer.state()))
    for row in range(6):
        said = [int(i) for i in tokens[row] if i != PADDING]
        logp = sum(writer.read(row, said[:t])[0][token] for t, token in enumerate(said))
        np.testing.assert_allclose(scores[row], logp, rtol=1e-5)


def test_half_precision_logits():
    chances = np.array([1, 1, 1, 2, 4, 8], "float32") / 17
    _, state = constant(DRAWS, chances)
    decoded = sample(lambda token, state: (ops.cast(state, "bfloat16"), state), state, DRAWS, 1, seed=1)
    assert keras.backend.standardize_dtype(decoded.scores.dtype) == "float32"
    tokens, scores, _ = as_numpy(decoded)
    half = ops.convert_to_numpy(ops.cast(ops.cast(np.log(chances), "bfloat16"), "float32"))
    expected = log_softmax(half.astype("float64"))
    np.testing.assert_allclose(scores, expected[tokens[:, 0]], rtol=1e-5)
    assert chi_square(tokens[:, 0], np.where(np.arange(6) < 3, 0, np.exp(expected))) < 15


OPTIONS = {
    "temperature 0": ({"temperature": 0}, r"`temperature` must be a finite number > 0\. Received: temperature=0 "),
    "temperature -1": ({"temperature": -1.0}, r"`temperature` must be a finite number > 0\. .*-1\.0 \(type float\)"),
    "temperature NaN": ({"temperature": float("nan")}, r"`temperature` must be a finite number > 0\. .*nan"),
    "temperature inf": ({"temperature": float("inf")}, r"`temperature` must be a finite number > 0\. .*inf"),
    "temperature 10^400": ({"temperature": 10**400}, r"`temperature` must be a finite number > 0\. .*000"),
    "temperature float32 inf": (
        {"temperature": np.float32("inf")},
        r"`temperature` must be a finite number > 0\. .*inf",
    ),
    "temperature True": ({"temperature": True}, r"`temperature` must be a finite number > 0\. .*True"),
    "temperature str": ({"temperature": "hot"}, r"`temperature` must be a finite number > 0\. .*'hot'"),
    "top_k 0": ({"top_k": 0}, r"`top_k` must be an integer of at least 1\. Received: top_k=0"),
    "top_k 2.0": ({"top_k": 2.0}, r"`top_k` must be an integer of at least 1\. Received: top_k=2\.0"),
    "top_p 0": ({"top_p": 0}, r"`top_p` must be a number in \(0, 1\]\. Received: top_p=0 "),
    "top_p 1.1": ({"top_p": 1.1}, r"`top_p` must be a number in \(0, 1\]\. Received: top_p=1\.1"),
    "top_p NaN": ({"top_p": float("nan")}, r"`top_p` must be a number in \(0, 1\]\. .*nan"),
    "top_p True": ({"top_p": True}, r"`top_p` must be a number in \(0, 1\]\. .*True"),
    "seed -1": ({"seed": -1}, r"`seed` must be an integer of at least 0\. Received: seed=-1"),
    "seed 1.5": ({"seed": 1.5}, r"`seed` must be an integer of at least 0\. Received: seed=1\.5"),
    "seed 2^32": ({"seed": 2**32}, r"`seed` must be less than 2\^32\. Received: seed=4294967296"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float16(0.5), np.float64(0.5)])
def test_numbers_of_numpy(value):
    assert Sampling(temperature=value, top_p=value, top_k=np.int64(3)) == Sampling(0.5, top_p=0.5, top_k=3)


def test_seeds_share_a_program():
    assert Sampling(seed=1) != Sampling(seed=2)
    assert Sampling(seed=1).program == Sampling(seed=2).program == Sampling().program
    assert Sampling(0.5, seed=1).program != Sampling(seed=1).program


def test_the_start_id_is_read_first():
    seen = []

    def step(token, state):
        seen.append(token)
        return state, state

    logits = ops.convert_to_tensor(np.zeros((2, 6), "float32"))
    sample(step, logits, 2, 1, seed=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(seen[0]), [START] * 2)
