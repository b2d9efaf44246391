#!/usr/bin/env python3
"""Converts checkpoints of moxie to NumPy and PyTorch and back. Needs NumPy; for .pt files PyTorch.

usage: convert_checkpoint.py FROM TO [--like CHECKPOINT]

The formats are told by the names' ends:
  .safetensors   ours (any reader of the format reads it): names as in V-MoE, kernels [in, out]
  .npz           the same names and shapes; the metadata as JSON in the entry __metadata__
  .pt, .pth      a state dict in PyTorch's habits: `.` for `/`, kernels as weight [out, in], experts [E, out, in], patches
                 [out, channels, height, width], a norm's scale as weight; optimizer states are left out

A state dict does not know how heads and patches are folded: the way back takes names, shapes and metadata from --like, a
checkpoint of the same model. Files written here carry no checksum of moxie's; moxie then takes them by names and shapes.
"""

import argparse
import json
import pathlib
import struct
import sys
import zipfile

try:
    import numpy as np
except ImportError:
    sys.exit("convert_checkpoint: NumPy is needed (scripts/install_deps conan brings it)")

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
NAMES = {np.dtype(text): name for name, text in TYPES.items()}


def fail(*parts):
    raise SystemExit("convert_checkpoint: " + "".join(map(str, parts)))


def read_safetensors(path):
    """(tensors by name, metadata)."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else -1
    if not 0 <= size <= len(data) - 8:
        fail(path, ": is cut off, or no safetensors file")
    body, tensors = data[8 + size:], {}
    try:
        header = dict(json.loads(data[8:8 + size]))
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in TYPES:
                fail(path, ": '", name, "' holds ", entry["dtype"], ", expected one of ", ", ".join(TYPES))
            dtype = np.dtype(TYPES[entry["dtype"]])
            if not 0 <= begin <= end <= len(body) or end - begin != dtype.itemsize * int(np.prod(entry["shape"], dtype=np.int64)):
                fail(path, ": '", name, "' has bytes ", begin, " to ", end, ", which do not fit its shape ", entry["shape"])
            tensors[name] = np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])
    except (ValueError, TypeError, KeyError) as error:
        fail(path, ": its header is damaged (", type(error).__name__, ": ", error, ")")
    return tensors, metadata


def write_safetensors(path, tensors, metadata):
    header, end = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    # the widest first, so that each tensor lies at a multiple of its element
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in NAMES:
            fail("'", name, "' holds ", tensor.dtype, ", expected one of ", ", ".join(str(dtype) for dtype in NAMES))
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).tobytes())


def read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile):
        fail(path, ": is cut off, or no archive of NumPy")
    metadata = tensors.pop("__metadata__", None)
    return tensors, {} if metadata is None else json.loads(metadata.tobytes().decode())


def write_npz(path, tensors, metadata):
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(path, __metadata__=text, **tensors)


def torch_name(name):
    """`head/kernel` as `head.weight`."""
    *scopes, last = name.split("/")
    return ".".join([*scopes, "weight" if last in ("kernel", "scale") else last])


def is_out_kernel(name, shape):
    """[heads, width / heads, width] of an attention's last product: its first two axes are one input."""
    return name.endswith("/out/kernel") and len(shape) == 3


def is_experts(name, shape):
    return len(shape) == 3 and not is_out_kernel(name, shape)


def torch_tensor(name, tensor):
    if not name.endswith("kernel"):
        return tensor
    if is_out_kernel(name, tensor.shape):
        return tensor.reshape(-1, tensor.shape[-1]).T
    if len(tensor.shape) == 2 or is_experts(name, tensor.shape):
        return np.swapaxes(tensor, -1, -2)
    if len(tensor.shape) == 4:
        return tensor.transpose(3, 2, 0, 1)
    fail("'", name, "' is ", list(tensor.shape), ", expected a kernel of 2, 3 or 4 axes")


def own_tensor(name, tensor, like):
    """The inverse of torch_tensor, to the shape and type of `like`."""
    wanted = torch_tensor(name, like).shape
    if tuple(tensor.shape) != tuple(wanted):
        fail("'", torch_name(name), "' is ", list(tensor.shape), ", expected ", list(wanted))
    if name.endswith("kernel"):
        if len(like.shape) == 4:
            tensor = tensor.transpose(2, 3, 1, 0)
        else:
            tensor = np.swapaxes(tensor, -1, -2)
    return tensor.reshape(like.shape).astype(like.dtype)


def to_torch(tensors):
    """A state dict, as NumPy arrays."""
    out = {}
    for name, tensor in tensors.items():
        if name.startswith("@"):
            continue
        if torch_name(name) in out:
            fail("two tensors would be called '", torch_name(name), "'")
        out[torch_name(name)] = np.array(torch_tensor(name, tensor), order="C")
    return out


def from_torch(state, like):
    wanted = {torch_name(name): name for name in like if not name.startswith("@")}
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        fail("the state dict lacks ", missing[:8], " and has ", unexpected[:8], " besides")
    return {name: own_tensor(name, np.asarray(state[key]), like[name]) for key, name in wanted.items()}


def torch_module():
    try:
        import torch
    except ImportError:
        fail("PyTorch is needed for .pt files")
    return torch


def convert(source, goal, like=None):
    source, goal = pathlib.Path(source), pathlib.Path(goal)
    for path in (source, goal):
        if path.suffix not in (".safetensors", ".npz", ".pt", ".pth"):
            fail(path, ": expected a name that ends in .safetensors, .npz, .pt or .pth")
    if source.suffix in (".pt", ".pth"):
        if like is None:
            fail("--like is needed to read a state dict: a checkpoint of the same model")
        state = torch_module().load(source, map_location="cpu", weights_only=True)
        model, metadata = read_npz(like) if pathlib.Path(like).suffix == ".npz" else read_safetensors(like)
        tensors = from_torch({name: tensor.numpy() for name, tensor in state.items()}, model)
    else:
        tensors, metadata = read_npz(source) if source.suffix == ".npz" else read_safetensors(source)
    # of other bytes in another order: the checksum no longer holds, and a file without is taken by names and shapes
    metadata = {key: value for key, value in metadata.items() if not key.startswith("moxie.")}
    if goal.suffix in (".pt", ".pth"):
        torch = torch_module()
        tensors = to_torch(tensors)
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, goal)
    elif goal.suffix == ".npz":
        write_npz(goal, tensors, metadata)
    else:
        write_safetensors(goal, tensors, metadata)
    return len(tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("goal", metavar="TO")
    parser.add_argument("--like", metavar="CHECKPOINT", help="gives names, shapes and metadata to a state dict")
    options = parser.parse_args()
    try:
        print(f"{options.goal}: {convert(options.source, options.goal, options.like)} tensors")
    except OSError as error:
        fail(error)


if __name__ == "__main__":
    main()
