"""Fixtures and switches shared by all tests; the backend is whatever KERAS_BACKEND says."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# float64 on JAX, for the gradient checks; Keras still makes float32 of everything by default.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# Tests compile much and compute little: unoptimised, XLA compiles in half of the time. XLA_FLAGS= has it optimise.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Tests run on every core already: with threads of its own for each operation, torch takes more than twice as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import keras
import pytest

# A first call compiles; how long an example takes says nothing.
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")


@pytest.fixture(autouse=True)
def clean_state():
    """Every test starts from the same random numbers and the float32 policy."""
    keras.utils.set_random_seed(7)
    yield
    keras.config.set_dtype_policy("float32")
