"""Make the environments of the peer benchmarks under .envs/, from the pinned files in requirements/.

They get the Python that runs this, which has to be 3.11 or later.

Run it again to bring an environment up to date; `ours` is then built anew from the working tree.
"""

import argparse
import subprocess
import venv

from envs import FOLDER, HERE, NAMES, ROOT


def make(name):
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements" / f"{name}.txt")]
    if name == "ours":
        command.append(str(ROOT))
    subprocess.run(command, check=True)
    print(f"{name}: {python}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no such environment: {', '.join(sorted(unknown))}")
    for name in arguments.names or NAMES:
        make(name)


if __name__ == "__main__":
    main()
