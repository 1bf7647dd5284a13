"""The examples of the documentation site: they are run, shown, and stop the build when they fail."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nutpie
from nutpie.settings import declared

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts/docs/execute.py"


def run_page(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "page.md").write_text(text)
    command = [sys.executable, str(SCRIPT), "page.md", "."]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def shown(text: str, folder: Path) -> list[dict]:
    done = run_page(text, folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "page.json").read_text())


def test_output_and_value_of_each_block_in_one_namespace(tmp_path):
    top = "# Title\n\n```python\nx = 20\nprint('hello')\nx + 1\n```\n\n```sh\nls\n```\n\n"
    text = top + "- item\n\n    ```python\n    x += 1\n    x\n    ```\n"
    assert shown(text, tmp_path) == [{"output": "hello\n21", "figures": []}, {"output": "21", "figures": []}]


def test_warnings_are_shown(tmp_path):
    (block,) = shown("```python\nimport warnings\nwarnings.warn('slow')\n```\n", tmp_path)
    assert block["output"] == "UserWarning: slow\n"


def test_the_error_stream_is_shown_where_asked(tmp_path):
    code = "import sys\nprint('away', file=sys.stderr)\nprint('here')"
    first, second = shown(f"```python\n{code}\n```\n\n```python stderr\n{code}\n```\n", tmp_path)
    assert first["output"] == "here\n"
    assert second["output"] == "away\nhere\n"


def test_figures_are_saved_and_belong_to_their_block(tmp_path):
    plot = "```python\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\n```\n"
    first, second = shown(plot + "\n```python\n1\n```\n", tmp_path)
    assert first == {"output": "", "figures": ["page-1-1.png"]}
    assert second == {"output": "1", "figures": []}
    assert (tmp_path / "page-1-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("# T\n\n```python\nx = 1\n```\n\n```python\n# here\nx / 0\n```\n", "page.md:9: ", "ZeroDivisionError"),
        ("```python\ndef f():\n    raise KeyError('k')\n\n\nf()\n```\n", "page.md:3: ", "KeyError"),
        ("\n```python\nx = 1\nx =\n```\n", "page.md:4: ", "SyntaxError"),
        ("```python raises=ValueError\n1\n```\n", "page.md:2: ", "should raise ValueError"),
        ("```python raises=ValueError\nint([])\n```\n", "page.md:2: ", "TypeError"),
        ("\n```python ignore\n1\n```\n", "page.md: line 2", "unknown option"),
    ],
)
def test_a_block_that_fails_stops_the_build_with_page_and_line(tmp_path, text, place, message):
    done = run_page(text, tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith(place)
    assert message in done.stdout
    assert not (tmp_path / "page.json").exists()


def test_an_announced_exception_is_shown(tmp_path):
    (block,) = shown("```python raises=ValueError\nint('x')\n```\n", tmp_path)
    assert block["output"] == "ValueError: invalid literal for int() with base 10: 'x'"


def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("tables").TABLES


def test_tables_have_all_that_is_declared(monkeypatch):
    made = {name: table() for name, table in tables(monkeypatch).items()}
    for name, tune, _ in nutpie._lib.adaptations():
        assert f"| `{name}` | {tune} |" in made["adaptations"]
    for name in declared():
        assert made["settings"].count(f"| `{name}` |") == 1
        assert made["uses"].count(f"`{name}`") == 1
    assert "| `pool` | True | True or False |" in made["settings"]
    assert "| `max_rank` | no limit | 0 or more |" in made["settings"]
    assert "| `low_rank_windows` | `mass_matrix_gamma` |" in made["uses"]


def test_pages_name_tables_that_there_are(monkeypatch):
    named = {name for page in ROOT.glob("docs/*.md") for name in re.findall(r"<!-- table: (\w+) -->", page.read_text())}
    assert named == set(tables(monkeypatch))


def test_numbers_in_texts_are_those_of_the_core():
    tune = {name: draws for name, draws, _ in nutpie._lib.adaptations()}
    assert f"in {tune['auto']} draws" in (ROOT / "README.md").read_text()
    assert f"`tune=None` is {tune['auto']} draws" in (ROOT / "CHANGELOG.md").read_text()
    assert f'which is {tune["auto"]} for ``"auto"``' in nutpie.sample.__doc__
    migrating = (ROOT / "docs/migrating.md").read_text()
    assert f'`adaptation="diag"` ({tune["diag"]} draws)' in migrating
    assert f'(its `"low_rank"`, {tune["low_rank_windows"]} draws)' in migrating
    warmup = (ROOT / "docs/warmup.md").read_text()
    assert f'With `adaptation="auto"`, {tune["auto"]} draws of each chain' in warmup
    for name in tune:
        assert f'``"{name}"``' in nutpie.sample.__doc__


MKDOCS = """
site_name: test
docs_dir: pages
hooks: [{hook}]
plugins: []
"""


def build_site(tmp_path: Path, page: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.md").write_text(page)
    (tmp_path / "mkdocs.yml").write_text(MKDOCS.format(hook=ROOT / "scripts/docs/hook.py"))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)


def test_the_build_shows_output_and_tables(tmp_path):
    code = "```python\nprint(6 * 7)\nopen('rats.csv').readline()\n```"
    page = f"# T\n\n[data](data/rats.csv)\n\n{code}\n\n<!-- table: settings -->\n"
    done = build_site(tmp_path, page)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site/index.html").read_text()
    assert "42\n" in html
    assert "target_accept" in html
    assert (tmp_path / "site/data/rats.csv").exists()


def test_the_build_fails_when_an_example_fails(tmp_path):
    done = build_site(tmp_path, "# T\n\n```python\nimport nutpie\n\nnutpie.sample(None, nonsense=1)\n```\n")
    assert done.returncode != 0
    assert "index.md:6: TypeError" in done.stderr
    assert not (tmp_path / "site/index.html").exists()
