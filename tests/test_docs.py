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


def rats_grow(idata: Any) -> bool:
    return abs(float(idata.posterior["growth"].mean()) - 6.19) < 0.05


#: What blocks of the README call, and what has to hold of the result.
EXPECTED = {
    "nutpie.compile_pymc_model": rats_grow,
    "nutpie.compile_stan_model": rats_grow,
    "nutpie.from_logp": lambda idata: abs(float(idata.posterior["x"].std()) - 1) < 0.05,
}


def test_the_examples_of_the_readme(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert all(any(name in code for code in blocks) for name in EXPECTED)
    namespace: dict[str, Any] = {}
    for code in blocks:
        if "compile_stan_model" in code and not can_compile():
            continue
        namespace.pop("idata", None)
        exec(compile(code, "README.md", "exec"), namespace)
        assert all(holds(namespace["idata"]) for name, holds in EXPECTED.items() if name in code)
    assert "0 divergences" in capsys.readouterr().out


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
