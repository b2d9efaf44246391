#!/usr/bin/env python3
"""Checks what nvcc makes of our kernels.

usage: check.py NVCC SOURCE_DIR INCLUDE_DIR [ARCHITECTURE...]      (default: 80 90)

For each architecture kernels.cu (products) and hot_kernels.cu (all else that takes time) must compile without a warning, a
spilled register among them, and no kernel may have a stack frame. In the PTX of kernels.cu, kernels of MmaProduct must multiply by mma.sync of their type and read fragments by ldmatrix where they can,
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
# Kernels of hot_kernels.cu: a word of the name, and how many there are of float and double together.
HOT = {"attention_forward": 4, "attention_backward_queries": 4, "attention_backward_keys": 4, "layer_norm_forward": 5,
       "layer_norm_backward": 5, "softmax_top_k": 6, "rank_assignments": 2, "assign_rows_alone": 2, "count_taken": 2,
       "take_largest": 2, "sinkhorn_groups": 2, "sinkhorn_solve": 2, "combine_token_rows": 2, "combine_token_weights": 2,
       "gather_expert_rows": 2, "copy_padded_expert_rows": 2, "sum_expert_rows": 4, "AdamWPass": 2, "sum_rows": 2,
       "sum_made_rows": 4, "narrow_rows": 1}


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
    """The bytes of stack that ptxas reports, by the kernel's mangled name."""
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame", log, re.S)
    return {name: int(size) for name, size in found}


def check_frames(log, expected, architecture):
    """No kernel has a stack frame, and there are as many of each name as expected."""
    sizes = frames(log)
    wrong = [f"{name} has a stack frame of {size} bytes" for name, size in sizes.items() if size > 0]
    for part, count in expected.items():
        there = sum(part in name for name in sizes)
        if there != count:
            wrong.append(f"{there} kernels of {part}, expected {count}")
    if wrong:
        sys.exit("\n".join([f"sm_{architecture}:", *wrong, log]))
    print(f"sm_{architecture}: {sum(expected.values())} kernels, none with a stack frame")


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


def main(nvcc, folder, include, *architectures):
    source, hot = pathlib.Path(folder, "kernels.cu"), pathlib.Path(folder, "hot_kernels.cu")
    with tempfile.TemporaryDirectory() as output:
        for architecture in architectures or ("80", "90"):
            for kernels, expected in ((source, KERNELS_OF_EACH), (hot, HOT)):
                log = compile_for(nvcc, kernels, include, architecture, pathlib.Path(output, "kernels.cubin"))
                check_frames(log, expected, architecture)
        ptx = pathlib.Path(output, "kernels.ptx")
        compile_for(nvcc, source, include, "80", ptx)
        found = faults(entries(ptx.read_text()))
        if found:
            sys.exit("\n".join(found))
        print("PTX: matrix instructions and asynchronous copies are there, local memory is not used")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
