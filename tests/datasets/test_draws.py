"""The draw of captions is the 2018 notebook's, number for number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_showattend.datasets.draws import draw_captions


def test_thirty_thousand_captions_of_coco_as_the_notebook_drew_them():
    shuffle = pytest.importorskip("sklearn.utils").shuffle
    # The number of annotations in captions_train2014.json.
    expected = shuffle(np.arange(414_113), random_state=1)[:30_000]
    drawn = draw_captions(414_113, 30_000, seed=1)
    np.testing.assert_array_equal(drawn, np.sort(expected))


@given(total=st.integers(1, 200), count=st.integers(1, 250), seed=st.integers(0, 2**32 - 1))
def test_ascending_without_replacement(total, count, seed):
    drawn = draw_captions(total, count, seed)
    assert len(drawn) == min(count, total)
    assert np.all(np.diff(drawn) > 0)
    assert 0 <= drawn[0] <= drawn[-1] < total
