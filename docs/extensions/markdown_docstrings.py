"""Sphinx extension: autodoc with docstrings in Markdown, and with the signatures that a caller sees.

Sphinx's own reader of Google's sections expects reStructuredText between them, where a backtick, an indented formula
and a fence mean other things.
"""

import dataclasses
import inspect
import re
import textwrap

from docstring_sections import to_markdown
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.util.docutils import SphinxDirective


class MarkdownDirective(SphinxDirective):
    """Markdown in the middle of what autodoc writes, which is reStructuredText."""

    has_content = True

    def run(self):
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


def _docstring(app, what, name, item, options, lines):
    if any(lines):
        markdown = to_markdown("\n".join(lines))
        lines[:] = [".. markdown::", "", *textwrap.indent(markdown, "   ").splitlines(), ""]


def _signature(app, what, name, item, options, signature, result):
    if what == "class" and inspect.isfunction(item.__init__):
        if "Args:" not in (item.__doc__ or "") and not dataclasses.is_dataclass(item):
            return None, None  # Its class methods make it, and no one else.
        # Keras's `__new__` takes anything; and `self` is not for the caller.
        signature = str(inspect.Signature(list(inspect.signature(item.__init__).parameters.values())[1:]))
    return re.sub(r"<function (\w+)(?: at \w+)?>", r"\1", signature or "") or None, None


def _skip(app, what, name, item, skip, options):
    # A named tuple's fields are told in its docstring.
    return True if (inspect.getdoc(item) or "").startswith("Alias for field number") else None


def setup(app):
    """Called by Sphinx."""
    app.add_directive("markdown", MarkdownDirective)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
