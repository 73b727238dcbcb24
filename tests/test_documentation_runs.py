"""The code in the pages of documentation runs as it stands, and the commands name scripts and flags that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDES = sorted((ROOT / "docs").glob("*.md"))
# A block that can't run in a test says so, and why, in the comment before it.
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>\S.*?) -->\n)?^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"python ((?:examples|benchmarks)/\w+\.py)((?:[^\n`\\]|\\\n)*)")


def blocks(page):
    return [match["code"] for match in BLOCK.finditer(page.read_text(encoding="utf-8")) if not match["reason"]]


def commands():
    """Every command of a page that runs a script of ours: the script and its flags."""
    for page in [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *GUIDES]:
        for script, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
            yield script, tuple(re.findall(r"(?<=\s)--[\w-]+", re.sub(r'".*?"', "", arguments)))


def test_some_blocks_and_commands_are_found():
    assert blocks(ROOT / "docs" / "choose_your_path.md")
    assert {script.split("/")[0] for script, _ in commands()} == {"examples", "benchmarks"}


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize(("script", "flags"), sorted(set(commands())))
def test_commands_name_scripts_and_flags_that_exist(script, flags):
    assert (ROOT / script).is_file()
    folder = (ROOT / script).parent
    sources = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    for flag in flags:
        # The flags of sizes are made of the names of a tuple's fields.
        field = rf"^ +{flag[2:].replace('-', '_')}: \w+ = "
        assert f'"{flag}"' in sources or re.search(field, sources, re.MULTILINE), flag
