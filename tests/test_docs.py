"""What the documentation shows is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from stan_programs import can_compile

ROOT = Path(__file__).resolve().parent.parent


def test_the_examples_of_the_readme(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, second, third = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    namespace: dict[str, Any] = {}
    for code in (first, second) if can_compile() else (first,):
        exec(compile(code, "README.md", "exec"), namespace)
        growth = float(namespace.pop("idata").posterior["growth"].mean())
        assert abs(growth - 6.19) < 0.05
    assert "0 divergences" in capsys.readouterr().out
    exec(compile(third, "README.md", "exec"), namespace)
    assert abs(float(namespace["idata"].posterior["x"].std()) - 1) < 0.05


def test_the_stan_program_is_that_of_the_documentation():
    (program,) = re.findall(r'program = """\n(.*?)"""', (ROOT / "docs/stan.md").read_text(), flags=re.S)
    assert program == (ROOT / "examples/rats.stan").read_text()


def test_the_demo(tmp_path):
    command = [sys.executable, str(ROOT / "examples/rats.py"), "--output", str(tmp_path), "--draws", "200"]
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert "weight_at_birth" in done.stdout
    for name in ("rats.nc", "growth.png", "trace.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_every_command_of_the_readme_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"`?make ([\w-]+)", (ROOT / "README.md").read_text()))
    assert named <= targets
