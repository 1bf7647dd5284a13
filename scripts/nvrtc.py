#!/usr/bin/env python3
"""Compile the kernels of the GPU devices for an NVIDIA architecture, without a GPU, and print what each kernel needs.

    scripts/nvrtc.py [FOLDER]

needs NVRTC, the run-time compiler of CUDA (`pip install nvidia-cuda-nvrtc==13.0.88`), in FOLDER or where the loader
finds it.
Prints registers, stack and spilled bytes of each kernel in both precisions; ends with code 1 where a kernel spills or
does not compile.
"""

import ctypes
import re
import sys
from pathlib import Path

ARCHITECTURE = "sm_90"
KERNELS = Path(__file__).resolve().parents[1] / "rust" / "core" / "src" / "device" / "gpu" / "kernels"
# The order of gpu/mod.rs.
PARTS = ["prelude_cuda.h", "", "common.c", "steps.c", "random.c", "coupled.c", "estimate.c"]


def load(folder: str | None) -> ctypes.CDLL:
    """Load the library: below a folder, or where the loader looks."""
    if folder is None:
        return ctypes.CDLL("libnvrtc.so.13")
    libraries = sorted(Path(folder).rglob("libnvrtc*.so*"))
    # NVRTC opens its tables by name, and finds them if they are loaded already.
    for library in libraries:
        if "builtins" in library.name and "alt" not in library.name:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    main = [library for library in libraries if re.fullmatch(r"libnvrtc\.so\.\d+", library.name)]
    if not main:
        sys.exit(f"there is no libnvrtc.so below {folder}")
    return ctypes.CDLL(str(main[0]))


def source(real: str) -> str:
    """Return what the device compiles in this precision."""
    defines = f"#define GROUP 256\ntypedef {real} real;\n"
    return "".join((KERNELS / part).read_text() if part else defines for part in PARTS)


def compile_kernels(nvrtc: ctypes.CDLL, text: str) -> str:
    """Return the compiler's report; ends the process if it has none."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={ARCHITECTURE}", "--fmad=false", "--ptxas-options=-v"]
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    code = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if code != 0:
        sys.exit(log.value.decode())
    return log.value.decode()


def needs(report: str) -> dict[str, tuple[int, int, int]]:
    """Find registers, bytes of stack and spilled bytes of each kernel."""
    found = {}
    pattern = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        re.DOTALL,
    )
    for name, stack, stores, loads, registers in pattern.findall(report):
        found[name] = (int(registers), int(stack), int(stores) + int(loads))
    return found


def main() -> None:
    """Both precisions."""
    nvrtc = load(sys.argv[1] if len(sys.argv) > 1 else None)
    spilled = False
    for real in ("double", "float"):
        text = source(real)
        found = needs(compile_kernels(nvrtc, text))
        missing = set(re.findall(r"KERNEL void (\w+)\(", text)) - {"name"} - set(found)
        if missing:
            sys.exit(f"no report of {sorted(missing)}")
        print(f"{ARCHITECTURE}, {real}:")
        for name, (registers, stack, spills) in sorted(found.items()):
            print(f"  {name:<22} {registers:>3} registers, {stack:>3} bytes of stack, {spills:>3} bytes spilled")
            spilled = spilled or spills > 0
    if spilled:
        sys.exit("a kernel spills registers")


if __name__ == "__main__":
    main()
