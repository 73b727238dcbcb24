"""Docstrings as Keras writes them, Google's sections with Markdown in them, as plain Markdown."""

import inspect
import re
import textwrap

# Sections whose text is indented: items `name: what it is`, or, of Returns and Yields, prose.
INDENTED = ("Args", "Call arguments", "Attributes", "Returns", "Yields", "Raises")
# Sections that go on to the next one.
OPEN = ("Example", "Reference", "References")
HEADING = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?)( \(`\w+`\))?:(?:$| +(?=\S))")
ITEM = re.compile(r"(\*{0,2}\w+): +(.*)")
# Names that mean one thing only: classes, with a method or without, and whole paths into the package. Those that are
# not in the reference stay plain.
NAME = re.compile(r"(?<!`)`(keras_showattend\.[\w.]+|[A-Z]\w*[a-z]\w*(?:\.\w+)?)`(?!`)")
ARXIV = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")


def to_markdown(docstring):
    """Makes bold headings of a docstring's sections, definition lists of their items, and fences of doctests.

    Args:
        docstring: Str.

    Returns:
        Str, Markdown for MyST: names of classes are references of Sphinx, numbers of arXiv links.

    Raises:
        ValueError: If a line looks like the heading of a section that is not known.
    """
    sections = [(None, [])]
    for line in inspect.cleandoc(docstring).splitlines():
        heading, lines = sections[-1]
        match = HEADING.match(line)
        if match and match[1] in INDENTED + OPEN:
            sections.append((match[1] + (match[2] or ""), [line[match.end() :]]))
        elif match and match.end() == len(line):
            raise ValueError(f"A section must be one of {', '.join(INDENTED + OPEN)}. Received: {line!r}.")
        elif _is_indented(heading) and line and not line.startswith(" ") and not lines[-1]:
            sections.append((None, [line]))  # Back at the margin, behind an empty line: plain text again.
        else:
            lines.append(line)
    return "\n\n".join(filter(None, (_section(heading, lines) for heading, lines in sections))) + "\n"


def _is_indented(heading):
    return heading is not None and heading.split(" (")[0] in INDENTED


def _section(heading, lines):
    body = textwrap.dedent("\n".join(lines)).strip("\n")
    body = _items(body) if _is_indented(heading) and ITEM.match(body) else _prose(body)
    return f"**{heading}**\n\n{body}" if heading and body else body


def _items(body):
    """A definition list of `name: text` entries, whose next lines are indented, and text behind them."""
    entries = []
    for line in body.splitlines():
        match = ITEM.match(line)
        if match:
            entries.append((match[1], [match[2]]))
        elif not line or line.startswith(" ") or entries[-1][0] is None:
            entries[-1][1].append(line)
        else:
            entries.append((None, [line]))
    return "\n\n".join(_item(name, lines) for name, lines in entries)


def _item(name, lines):
    following = textwrap.dedent("\n".join(lines[1:]))
    text = _prose(f"{lines[0]}\n{following}".rstrip())
    return f"`{name}`\n:   " + textwrap.indent(text, "    ")[4:] if name else text


def _prose(text):
    # In Markdown, `>>>` would be a quotation in a quotation in a quotation.
    text = re.sub(r"(?m)^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", text)
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    parts[::2] = (ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", NAME.sub(_reference, part)) for part in parts[::2])
    return "".join(parts)


def _reference(match):
    # The tilde shows a path's last name only; the dot asks for any object whose path ends so.
    path = match[1]
    return f"{{py:obj}}`~{path}`" if path.startswith("keras_showattend") else f"{{py:obj}}`{path} <.{path}>`"
