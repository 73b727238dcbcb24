"""How Sphinx builds the documentation: `sphinx-build -W -c docs . build/docs`, from the repository's root.

The whole repository is the source, so that README, benchmarks and these pages link to each other by the same paths on
the site as in a checkout.
"""

import os
import sys
from pathlib import Path

# Nothing is computed, only docstrings are read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from keras_showattend import __version__

project = "keras_showattend"
author = "The authors of keras_showattend"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "markdown_docstrings"]

root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/**"]
exclude_patterns = ["docs/extra"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # as GitHub does, so that links to headings are checked

highlight_language = "text"  # formulas stand in blocks without a language
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    # What Keras calls itself: no one who uses the class does.
    "exclude-members": "call, compile_from_config, compute_metrics, compute_output_shape, from_config, get_config, "
    "load_own_variables, predict_step, save_own_variables, test_step, train_step, with_traceback",
}

html_theme = "furo"
html_title = "keras_showattend"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
