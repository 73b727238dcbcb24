"""The reference names everything public, docstrings name every argument, and links lead somewhere."""

import importlib
import inspect
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
ROOMS = (
    "",
    *("layers", "losses", "metrics", "decoding", "evaluation", "features", "features.beam", "callbacks"),
    *("datasets", "datasets.shape_scenes", "datasets.coco_showattend", "visualization", "self_critical", "reranking"),
)

# Classes that no one calls: their class methods make them.
MADE_BY_METHODS = {"features.FeatureStore"}


def module_of(room):
    return importlib.import_module(f"keras_showattend.{room}".rstrip("."))


def public_names(module):
    """What `__all__` says; otherwise what a module makes itself, or a package gathers from its own modules."""
    if hasattr(module, "__all__"):
        names = set(module.__all__)
    else:
        names = {name for name in vars(module) if not name.startswith("_")}
        if not hasattr(module, "__path__"):
            names = {name for name in names if getattr(getattr(module, name), "__module__", None) == module.__name__}
            # Checks that modules lend each other are no one else's.
            names = {name for name in names if not name.startswith("check_")}
    return {name for name in names if not isinstance(getattr(module, name), types.ModuleType)}


def referenced_names():
    """The names in the source of the reference pages, by module."""
    names = {}
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        module = None
        for line in page.read_text(encoding="utf-8").splitlines():
            directive, _, name = line.partition(":: ")
            if directive == ".. automodule":
                module = names.setdefault(name, [])
            elif directive in (".. autoclass", ".. autofunction", ".. py:data"):
                module.append(name)
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name_once(room):
    module = module_of(room)
    assert sorted(public_names(module)) == sorted(referenced_names()[module.__name__])


def test_the_reference_names_nothing_that_is_gone():
    for module, names in referenced_names().items():
        assert all(hasattr(importlib.import_module(module), name) for name in names), module


def documented():
    """Every public class and function, and of a class the public methods that are its own."""
    for room in ROOMS:
        for name in sorted(public_names(module_of(room))):
            item = getattr(module_of(room), name)
            if callable(item):
                yield f"{room}.{name}".lstrip("."), item
            if inspect.isclass(item):
                for key, value in vars(item).items():
                    value = getattr(value, "__func__", value)
                    # What overrides something is told where that is.
                    inherited = any(hasattr(base, key) for base in item.__mro__[1:])
                    if inspect.isfunction(value) and not key.startswith("_") and not inherited:
                        yield f"{room}.{name}.{key}".lstrip("."), value


def arguments_of(item):
    """The names of what a caller passes, stars before those that have them."""
    function = item.__init__ if inspect.isclass(item) and inspect.isfunction(item.__init__) else item
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self" and p.name != "cls"]
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(parameter.kind, "") + parameter.name for parameter in parameters]


def documented_arguments(item):
    """The names under Args, or Attributes for a class that only holds its arguments."""
    text = inspect.getdoc(item)
    for heading in ("Args", "Attributes") if inspect.isclass(item) else ("Args",):
        section = re.search(rf"^{heading}:\n((?: .*\n?|\n)*)", text, re.MULTILINE)
        if section:
            return re.findall(r"^ {4}(\*{0,2}\w+): ", section[1], re.MULTILINE)
    return []


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_name_every_argument(name):
    item = DOCUMENTED[name]
    assert inspect.getdoc(item)
    if name not in MADE_BY_METHODS:
        assert documented_arguments(item) == arguments_of(item)


def without_fences(text):
    return re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """The ids that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_fences(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(path):
    text = without_fences(path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_what_a_page_includes_begins_and_ends_where_it_says():
    for page in (ROOT / "docs").glob("**/*.md"):
        for name, options in re.findall(r"```\{include\} (.*)\n((?::.*\n)*)```", page.read_text(encoding="utf-8")):
            included = (page.parent / name).read_text(encoding="utf-8")
            start, end = (re.search(rf':{key}: "(.*)"', options)[1] for key in ("start-after", "end-before"))
            assert included.index(start) < included.index(end)


def test_every_page_stands_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    entries = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    listed = {(ROOT / "docs" / (re.sub(r".*<(.*)>", r"\1", entry) + ".md")).resolve() for entry in entries}
    assert listed == {page.resolve() for page in PAGES} - {ROOT / "docs" / "index.md"}
