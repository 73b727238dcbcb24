import pytest
from writers import op_by_op


@pytest.fixture(autouse=True)
def without_compiling():
    """Only what a test compiles itself is compiled: nearly every search here is another program, run once."""
    with op_by_op():
        yield
