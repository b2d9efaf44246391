#!/usr/bin/env python3
"""Checks what nvcc makes of the kernels of products.

usage: check.py NVCC SOURCE INCLUDE_DIR [ARCHITECTURE...]      (default: 80 90)

For each architecture SOURCE must compile without a warning, a spilled register among them, and no kernel may have a stack
frame. In the PTX, kernels of MmaProduct must multiply by mma.sync of their type and read fragments by ldmatrix where they can,
those of SimtProduct by fma, all must copy by cp.async, and none may use local memory. Without a compiler of the host that nvcc
takes, or with any other failure, the output of nvcc is shown.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# A name that a kernel's mangled name holds, and what its PTX must hold.
EXPECTED = [
    ("MmaProductINS_4bf16E", ["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "ldmatrix", "cp.async.cg"]),
    ("MmaProductIf", ["mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cvt.rna.tf32.f32", "cp.async.cg"]),
    ("SimtProductIf", ["fma.rn.f32", "cp.async.cg"]),
    ("SimtProductId", ["fma.rn.f64", "cp.async.cg"]),
]
KERNELS_OF_EACH = {"MmaProductINS_4bf16E": 10, "MmaProductIf": 10, "SimtProductIf": 10, "SimtProductId": 5}


def compile_for(nvcc, source, include, architecture, output):
    kind = "-ptx" if output.suffix == ".ptx" else "-cubin"
    run = subprocess.run(
        [nvcc, "-std=c++20", "-O2", f"-I{include}", kind, f"-arch=sm_{architecture}", "-Xptxas", "-v,--warn-on-spills",
         "-Werror", "all-warnings", str(source), "-o", str(output)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode != 0:
        sys.exit(f"{source} does not compile for sm_{architecture}:\n{run.stdout}")
    return run.stdout


def frames(log):
    """The numbers of bytes of stack that ptxas reports."""
    return [int(n) for n in re.findall(r"(\d+) bytes stack frame", log)]


def entries(ptx):
    """The text of each kernel by its mangled name."""
    parts = re.split(r"^\.visible \.entry (\w+)|^\.weak \.entry (\w+)", ptx, flags=re.M)
    return {parts[i] or parts[i + 1]: parts[i + 2] for i in range(1, len(parts), 3)}


def faults(kernels):
    """What is wrong with the PTX of kernels, a sentence each."""
    found = []
    for name, wanted in EXPECTED:
        bodies = {k: v for k, v in kernels.items() if name in k}
        if len(bodies) != KERNELS_OF_EACH[name]:
            found.append(f"{len(bodies)} kernels of {name}, expected {KERNELS_OF_EACH[name]}")
        for kernel, body in bodies.items():
            found += [f"{kernel} has no {w}" for w in wanted if w not in body]
            found += [f"{kernel} uses {w}" for w in ("ld.local", "st.local") if w in body]
    return found


def main(nvcc, source, include, *architectures):
    with tempfile.TemporaryDirectory() as folder:
        for architecture in architectures or ("80", "90"):
            log = compile_for(nvcc, source, include, architecture, pathlib.Path(folder, "kernels.cubin"))
            sizes = frames(log)
            if len(sizes) != sum(KERNELS_OF_EACH.values()) or any(sizes):
                sys.exit(f"sm_{architecture}: stack frames of {sizes} bytes\n{log}")
            print(f"sm_{architecture}: {len(sizes)} kernels, none with a stack frame")
        ptx = pathlib.Path(folder, "kernels.ptx")
        compile_for(nvcc, source, include, "80", ptx)
        found = faults(entries(ptx.read_text()))
        if found:
            sys.exit("\n".join(found))
        print("PTX: matrix instructions and asynchronous copies are there, local memory is not used")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
