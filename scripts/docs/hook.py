"""Hook of mkdocs: runs the examples, shows what they print and plot, and fills in tables.

Pages run side by side, each in a process of its own, in a new folder with the data files of ``examples/``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from execute import FENCE, Block, blocks
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from tables import TABLES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/docs/execute.py"
DATA = sorted((ROOT / "examples").glob("*.csv"))

#: Seconds that one page may take.
PATIENCE = 600

PLACEHOLDER = re.compile(r"^<!-- table: (\w+) -->$", re.M)

#: What the blocks of a page show, by page and text: `mkdocs serve` runs only pages that changed.
_shown: dict[tuple[str, str], list[dict[str, Any]]] = {}
_folder = tempfile.TemporaryDirectory(prefix="nutpie-docs-")
_figures = Path(_folder.name)


def on_files(files: Files, config: Any) -> Files:
    """Run all pages, and add their figures and the data to the site."""
    pages = [Path(file.abs_src_path) for file in files.documentation_pages()]
    workers = min(len(pages), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        failures = [text for text in pool.map(_run, pages) if text]
    if failures:
        raise PluginError("examples of the documentation failed\n\n" + "\n\n".join(failures))
    figures = [_figures / name for page in pages for shown in _of(page) for name in shown["figures"]]
    for folder, path in [("figures", path) for path in figures] + [("data", path) for path in DATA]:
        files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put what the blocks show below them, and tables in their places."""
    path = Path(page.file.abs_src_path)
    up = "../" * page.file.src_uri.count("/")
    shown = iter(_of(path))
    parsed = iter(blocks(markdown))
    text = FENCE.sub(lambda match: _with_output(match, next(parsed), next(shown), up), markdown)
    return PLACEHOLDER.sub(lambda match: TABLES[match[1]](), text)


def _of(page: Path) -> list[dict[str, Any]]:
    return _shown[page.name, page.read_text(encoding="utf-8")]


def _run(page: Path) -> str:
    """Run a page unless its result is known; return what went wrong."""
    text = page.read_text(encoding="utf-8")
    if (page.name, text) in _shown:
        return ""
    if not FENCE.search(text):
        _shown[page.name, text] = []
        return ""
    environment = os.environ | {"MPLBACKEND": "Agg", "COLUMNS": "120"}
    with tempfile.TemporaryDirectory(prefix="nutpie-docs-") as folder:
        for path in DATA:
            shutil.copy(path, folder)
        command = [sys.executable, str(SCRIPT), str(page), str(_figures)]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{page}: not done after {PATIENCE} s"
    if done.returncode:
        return done.stdout or f"{page}: ended with code {done.returncode}\n{done.stderr[-8000:]}"
    _shown[page.name, text] = json.loads((_figures / f"{page.stem}.json").read_text(encoding="utf-8"))
    return ""


def _with_output(match: re.Match[str], block: Block, shown: dict[str, Any], up: str) -> str:
    parts = [f"```python\n{block.code}```"]
    if output := shown["output"].rstrip():
        parts.append(f'```{{ .text .output title="Output" }}\n{output}\n```')
    parts += [f"![Figure drawn by the code above]({up}figures/{name})" for name in shown["figures"]]
    return textwrap.indent("\n\n".join(parts), match["indent"])
