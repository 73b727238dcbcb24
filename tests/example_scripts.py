"""Fixtures that import a script of `examples/`, and what it imports from its neighbours."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example_script(name):
    """A fixture, once for each test file: the module `examples/<name>.py`."""

    @pytest.fixture(scope="module")
    def script():
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(EXAMPLES))
            yield importlib.import_module(name)

    return script
