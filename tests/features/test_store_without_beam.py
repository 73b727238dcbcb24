import subprocess
import sys

import pytest

from keras_showattend.features import FeatureExtractor
from keras_showattend.features.beam import build_store


def test_no_beam_where_none_is_used():
    code = "import sys, keras_showattend.features.beam; assert 'apache_beam' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_to_install(tmp_path, monkeypatch):
    for name in ("apache_beam", "apache_beam.io.filesystems"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs Apache Beam: pip install 'keras-showattend\[beam\]'"):
        build_store(tmp_path / "store", [], FeatureExtractor("patches"))
    assert not (tmp_path / "store").exists()
