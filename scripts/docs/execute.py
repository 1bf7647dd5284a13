"""Run the Python blocks of a page of the documentation and keep what they show.

Every block fenced as ``python`` is run, in order, in one namespace. It shows what it prints, its warnings, the value of
its last expression and its figures. Words after the language change that: ``python raises=TypeError`` wants this
exception and shows its message, ``python stderr`` shows the error stream, too.

    python scripts/docs/execute.py PAGE.md FOLDER

runs one page and writes ``FOLDER/NAME.json``, a list with the output and the names of the figures of each block, and
the figures beside it. The folder in which the code runs is the present one.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import sys
import textwrap
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FENCE = re.compile(r"^(?P<indent> *)```python(?P<options>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.M | re.S)

DPI = 100

#: Characters of a line of a warning.
WIDTH = 100


class Block(NamedTuple):
    """A fenced block of Python; ``line`` is where its code begins in the page, from 1."""

    code: str
    line: int
    raises: str
    stderr: bool
    indent: str
    end: int


@dataclass
class Shown:
    """What a block shows: printed text, warnings and the value of its last expression; names of figures."""

    output: str
    figures: list[str]


class BlockError(Exception):
    """A block failed; the message has page, line and traceback."""


def blocks(text: str) -> list[Block]:
    """Find the blocks of a page."""
    return [_block(match, text) for match in FENCE.finditer(text)]


def _block(match: re.Match[str], text: str) -> Block:
    options = dict(option.partition("=")[::2] for option in match["options"].split())
    unknown = set(options) - {"raises", "stderr"}
    line = text.count("\n", 0, match.start("code")) + 1
    if unknown:
        raise BlockError(f"line {line - 1}: unknown option of a block: {', '.join(sorted(unknown))}")
    return Block(
        textwrap.dedent(match["code"]),
        line,
        options.get("raises", ""),
        "stderr" in options,
        match["indent"],
        match.end(),
    )


def run_page(page: Path, figures: Path) -> list[Shown]:
    """Run all blocks of a page; figures go to the given folder.

    Raises
    ------
    BlockError
        If a block raises an exception that it does not announce, or does not raise the one that it does.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        found = blocks(page.read_text(encoding="utf-8"))
    except BlockError as error:
        raise BlockError(f"{page}: {error}") from None
    shown = []
    for number, block in enumerate(found):
        output, value = _run_block(block, page, namespace)
        names = _save_figures(figures, f"{page.stem}-{number + 1}")
        # The value of a block that plots is some part of the figure.
        shown.append(Shown(output + ("" if value is None or names else repr(value)), names))
    return shown


def _run_block(block: Block, page: Path, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Return what a block prints, and the value of its last expression."""
    out = io.StringIO()
    try:
        errors = out if block.stderr else sys.stderr
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("default")
            # What is about this machine or for the authors of libraries tells a reader nothing.
            warnings.filterwarnings("ignore", message="PyTensor could not link to a BLAS")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.showwarning = _print_warning
            value = _execute(block, page, namespace)
    except Exception as error:
        if type(error).__name__ == block.raises:
            return out.getvalue() + "\n".join(textwrap.wrap(f"{block.raises}: {error}", WIDTH)), None
        raise BlockError(_failure(error, block, page)) from error
    if block.raises:
        raise BlockError(f"{page}:{block.line}: the block should raise {block.raises}, and does not")
    return out.getvalue(), value


def _print_warning(message: Warning | str, category: type[Warning], *_place: Any) -> None:
    """Show a warning as part of what a reader would see, without the place in the code."""
    for line in f"{category.__name__}: {message}".splitlines():
        print(textwrap.fill(line, WIDTH))


def _execute(block: Block, page: Path, namespace: dict[str, Any]) -> Any:
    """Run the statements and return the value of the last one, if it is an expression."""
    tree = ast.parse(block.code, filename=str(page))
    ast.increment_lineno(tree, block.line - 1)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(page), "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(page), "eval"), namespace)  # type: ignore[attr-defined]


def _failure(error: Exception, block: Block, page: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{page}:{block.line + (error.lineno or 1) - 1}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(page)), block.line)
    return f"{page}:{line}: {type(error).__name__}: {error}\n\n{''.join(traceback.format_exception(error))}"


def _save_figures(folder: Path, stem: str) -> list[str]:
    """Save and close all open figures of matplotlib."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    plt = sys.modules["matplotlib.pyplot"]
    names = []
    for number in plt.get_fignums():
        names.append(f"{stem}-{number}.png")
        plt.figure(number).savefig(folder / names[-1], dpi=DPI, bbox_inches="tight")
    plt.close("all")
    return names


def main() -> int:
    """Run a page; see the module's documentation."""
    page, folder = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        shown = run_page(page, folder)
    except BlockError as error:
        # Apart from what the libraries write, such as the progress.
        print(error)
        return 1
    document = [vars(result) for result in shown]
    (folder / f"{page.stem}.json").write_text(json.dumps(document), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
