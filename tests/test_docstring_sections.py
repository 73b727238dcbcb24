"""How a docstring becomes Markdown for the reference."""

import importlib
import inspect
from pathlib import Path

import pytest
from test_documentation import DOCUMENTED

EXTENSIONS = Path(__file__).parent.parent / "docs" / "extensions"

DOCSTRING = """Looks at locations.

        a = softmax(e)

    with scores e, as `BahdanauAttention` does.

    Args:
        units: Positive int, a width
            of some size.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments (`call`):
        query: Float, `(B, Q)`.

    Returns:
        context: `(B, D)`.
        weights: `(B, L)`.

        Both in the compute dtype.

    What stands at the margin is text again.

    Raises:
        ValueError: One of:

            - a wrong rank;
            - a wrong width.

    Example:
    >>> 1 + 1
    2

    Reference: Xu et al. 2015, arXiv
    1502.03044, equation 4.
    """

MARKDOWN = """Looks at locations.

    a = softmax(e)

with scores e, as {py:obj}`BahdanauAttention <.BahdanauAttention>` does.

**Args**

`units`
:   Positive int, a width
    of some size.

`**kwargs`
:   Of `keras.layers.Layer`.

**Call arguments (`call`)**

`query`
:   Float, `(B, Q)`.

**Returns**

`context`
:   `(B, D)`.

`weights`
:   `(B, L)`.

Both in the compute dtype.

What stands at the margin is text again.

**Raises**

`ValueError`
:   One of:

    - a wrong rank;
    - a wrong width.

**Example**

```pycon
>>> 1 + 1
2
```

**Reference**

Xu et al. 2015, [arXiv 1502.03044](https://arxiv.org/abs/1502.03044), equation 4.
"""


@pytest.fixture(scope="module")
def to_markdown():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXTENSIONS))
        yield importlib.import_module("docstring_sections").to_markdown


def test_every_kind_of_section(to_markdown):
    assert to_markdown(DOCSTRING) == MARKDOWN


def test_returns_in_prose_and_code_in_fences_stay_as_they_are(to_markdown):
    text = (
        "Makes it.\n\n**Returns**\n\nA dict: `a` and `b`.\n\n"
        "**Example**\n\n```python\nx = `Scores`  # arXiv 1502.03044\n```\n"
    )
    docstring = text.replace("**Returns**\n\nA", "Returns:\n    A").replace("**Example**\n\n", "Example:\n")
    assert to_markdown(docstring) == text


def test_a_section_that_is_not_known(to_markdown):
    with pytest.raises(ValueError, match=r"must be one of Args, .* Received: 'Input shape:'"):
        to_markdown("Makes it.\n\nInput shape:\n    `(B, L)`\n")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_have_sections_that_are_known(to_markdown, name):
    assert to_markdown(inspect.getdoc(DOCUMENTED[name]))
