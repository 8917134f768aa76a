"""Blocks as ggml writes and reads them: tests/golden/blocks.

    python3 tests/golden/make_blocks.py PATH/libggml-base.so

x.bin: f32 x[16, 256], rows of several kinds (see rows). TYPE.bin: ggml's blocks of x, and the 64-bit
FNV-1a hash of the floats that ggml reads from them.
"""
import ctypes
import os
import sys

import numpy as np

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13,
         "q6_k": 14, "iq4_nl": 20}
BYTES = {"q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q2_k": (256, 84),
         "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210), "iq4_nl": (32, 18)}


def rows():
    r = np.random.default_rng(7)
    x = r.standard_normal((16, 256)).astype(np.float32)
    x[1] *= 0.02  # as weights are
    x[2] *= np.exp(r.standard_normal(256)).astype(np.float32)
    x[3] = np.abs(x[3])
    x[4] = -np.abs(x[4])
    x[5] = 0
    x[6, :] = 0.5
    x[7, 17:] = 0
    x[8] *= 1e-7
    x[9] *= 1e-20
    x[10] = np.round(x[10] * 2)
    x[11, ::3] = 0
    x[12, 40:90] *= 100
    x[13] *= 3000
    x[14] = r.standard_t(2, 256)
    return x


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def write(name, *parts):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "blocks", name + ".bin")
    with open(path, "wb") as f:
        for part in parts:
            f.write(part)


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                         ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    x = rows()
    write("x", x.tobytes())
    for name, kind in TYPES.items():
        block, size = BYTES[name]
        blocks = np.zeros(x.size // block * size, np.uint8)
        ggml.ggml_quantize_chunk(kind, x.ctypes.data, blocks.ctypes.data, 0, x.shape[0], x.shape[1], None)
        read = getattr(ggml, "dequantize_row_" + name.replace("_k", "_K"))
        read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        back = np.zeros_like(x)
        read(blocks.ctypes.data, back.ctypes.data, x.size)
        write(name, blocks.tobytes(), fnv(back.tobytes()).to_bytes(8, "little"))
        error = np.sqrt(np.mean((back[0] - x[0]) ** 2) / np.mean(x[0] ** 2))
        print(f"{name}: {blocks.size} bytes, relative error of normal values {error:.4f}")


if __name__ == "__main__":
    main()
