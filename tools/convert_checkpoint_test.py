#!/usr/bin/env python3
"""convert_checkpoint.py on files made by hand. Without NumPy, here and in build/venv, it is skipped."""

import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    own = pathlib.Path(__file__).resolve().parent.parent / "build" / "venv" / "bin" / "python"
    if own.exists() and pathlib.Path(sys.executable).absolute() != own:
        os.execv(own, [str(own), *sys.argv])
    print("moxie: skipped: there is no NumPy: scripts/install_deps conan")
    sys.exit(0)

import convert_checkpoint as cc


def model():
    """A small checkpoint: one tensor of each kind."""
    draw = np.random.default_rng(1)
    shapes = {
        "embedding/kernel": (2, 2, 3, 8), "embedding/bias": (8,),
        "Encoder/encoderblock_0/LayerNorm_0/scale": (8,),
        "Encoder/encoderblock_0/SelfAttention/qkv/kernel": (8, 24),
        "Encoder/encoderblock_0/SelfAttention/out/kernel": (2, 4, 8),
        "Encoder/encoderblock_0/Moe/Router/kernel": (8, 4),
        "Encoder/encoderblock_0/Moe/Mlp/Dense_0/kernel": (4, 8, 6),
        "Encoder/encoderblock_0/Moe/Mlp/Dense_0/bias": (4, 6),
        "@optimizer/mu/head/bias": (3,),
    }
    tensors = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["@optimizer/step"] = np.array(7, np.int64)
    return tensors


class ConvertCheckpoint(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def same(self, one, other):
        self.assertEqual(sorted(one), sorted(other))
        for name, tensor in one.items():
            self.assertEqual(tensor.dtype, other[name].dtype, name)
            np.testing.assert_array_equal(tensor, other[name], name)

    def test_reads_the_format_byte_by_byte(self):
        header = (b'{"__metadata__":{"moxie.checkpoint":"1","vmoe":"{}"},'
                  b'"b":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
                  b'"a/kernel":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}')
        path = self.folder / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<qff", -3, 1.5, -2))
        tensors, metadata = cc.read_safetensors(path)
        self.assertEqual({"moxie.checkpoint": "1", "vmoe": "{}"}, metadata)
        self.same({"b": np.array(-3, np.int64), "a/kernel": np.array([[1.5, -2]], np.float32)}, tensors)

    def test_there_and_back_through_numpy(self):
        path = self.folder / "model.safetensors"
        cc.write_safetensors(path, model(), {"vmoe": "{\"step\": 3}", "moxie.checksum": "0"})
        self.assertEqual(10, cc.convert(path, self.folder / "model.npz"))
        cc.convert(self.folder / "model.npz", self.folder / "back.safetensors")
        tensors, metadata = cc.read_safetensors(self.folder / "back.safetensors")
        self.same(model(), tensors)
        self.assertEqual({"vmoe": "{\"step\": 3}"}, metadata)

    def test_a_state_dict_computes_the_same(self):
        own, state = model(), cc.to_torch(model())
        draw = np.random.default_rng(2)
        x = draw.normal(size=(5, 8)).astype(np.float32)

        def linear(weight, rows):
            return rows @ weight.T

        block = "Encoder.encoderblock_0."
        np.testing.assert_allclose(x @ own["Encoder/encoderblock_0/Moe/Router/kernel"],
                                   linear(state[block + "Moe.Router.weight"], x), rtol=1e-6)
        kernel = own["Encoder/encoderblock_0/SelfAttention/out/kernel"]
        np.testing.assert_allclose(np.einsum("nhd,hdo->no", x.reshape(5, 2, 4), kernel),
                                   linear(state[block + "SelfAttention.out.weight"], x), rtol=1e-4, atol=1e-6)
        for expert in range(4):
            np.testing.assert_allclose(x @ own["Encoder/encoderblock_0/Moe/Mlp/Dense_0/kernel"][expert],
                                       linear(state[block + "Moe.Mlp.Dense_0.weight"][expert], x), rtol=1e-4, atol=1e-6)
        patch = draw.normal(size=(2, 2, 3)).astype(np.float32)  # height, width, channels
        np.testing.assert_allclose(np.einsum("hwc,hwco->o", patch, own["embedding/kernel"]),
                                   np.einsum("chw,ochw->o", patch.transpose(2, 0, 1), state["embedding.weight"]),
                                   rtol=1e-4, atol=1e-6)
        self.assertIn(block + "LayerNorm_0.weight", state)
        self.assertFalse([name for name in state if name.startswith("@")])

    def test_a_state_dict_comes_back(self):
        weights = {name: tensor for name, tensor in model().items() if not name.startswith("@")}
        self.same(weights, cc.from_torch(cc.to_torch(model()), model()))

    def complains(self, text, call):
        with self.assertRaises(SystemExit) as caught:
            call()
        self.assertIn(text, str(caught.exception))

    def test_what_does_not_fit_is_named(self):
        path = self.folder / "model.safetensors"
        cc.write_safetensors(path, model(), {})
        state = cc.to_torch(model())
        self.complains("expected a name that ends in", lambda: cc.convert(path, self.folder / "model.onnx"))
        self.complains("--like is needed", lambda: cc.convert(self.folder / "a.pt", path))
        self.complains("lacks ['embedding.bias']",
                       lambda: cc.from_torch({n: t for n, t in state.items() if n != "embedding.bias"}, model()))
        state["embedding.bias"] = np.zeros(9, np.float32)
        self.complains("'embedding.bias' is [9], expected [8]", lambda: cc.from_torch(state, model()))
        path.write_bytes(path.read_bytes()[:-4])
        self.complains("do not fit its shape", lambda: cc.read_safetensors(path))
        path.write_bytes(b"short")
        self.complains("cut off", lambda: cc.read_safetensors(path))
        for header in (b"[1]", b'{"a":1}', b'{"a":{"dtype":"F32","shape":[2]}}', b"{bad"):
            path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
            self.complains("its header is damaged", lambda: cc.read_safetensors(path))
        header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-4,4]}}'
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        self.complains("bytes -4 to 4, which do not fit", lambda: cc.read_safetensors(path))
        other = self.folder / "no.npz"
        other.write_bytes(b"no archive")
        self.complains("no archive of NumPy", lambda: cc.read_npz(other))
        for arguments in ((self.folder / "none.npz", path), (self.folder / "none.safetensors", other)):
            ran = subprocess.run([sys.executable, cc.__file__, *map(str, arguments)], capture_output=True, text=True)
            self.assertEqual(ran.returncode, 1)
            self.assertRegex(ran.stderr, r"^convert_checkpoint: [^\n]*No such file[^\n]*\n$")
        self.complains("holds complex", lambda: cc.write_safetensors(path, {"a": np.zeros(1, complex)}, {}))


if __name__ == "__main__":
    unittest.main()
