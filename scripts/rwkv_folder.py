#!/usr/bin/env python3
"""A folder that quipu loads, from an RWKV checkpoint as its authors publish it: FILE.pth (read by torch
with weights_only, so that no code of the file runs), FILE.safetensors, or rwkv.cpp's FILE.bin (FP32, FP16,
Q5_1).

    rwkv_folder.py FILE FOLDER

Version and sizes are read from names and shapes. Tensor names stay the authors'. Needs torch, safetensors.
"""

import json
import struct
import sys
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file


def blocks_q5_1(data, count):
    """32 values in 24 bytes: scale and least value (f16), the fifth bits, the low four."""
    raw = numpy.frombuffer(data, dtype=numpy.uint8).reshape(-1, 24)
    scale, least = (raw[:, i:i + 2].copy().view("<f2").astype("f4") for i in (0, 2))
    high = (raw[:, 4:8].copy().view("<u4") >> numpy.arange(32, dtype="u4")) & 1
    low = numpy.concatenate([raw[:, 8:] & 15, raw[:, 8:] >> 4], 1)
    return ((low + 16 * high) * scale + least).astype("f4").reshape(-1)[:count]


def read_bin(path):
    """rwkv.cpp's file, its changes of time_* undone."""
    data, at, tensors = path.read_bytes(), 24, {}
    magic, version = struct.unpack("<2I", data[:8])
    assert magic == 0x67676d66 and version in (100, 101), "not a file of rwkv.cpp"
    while at < len(data):
        ndim, length, kind = struct.unpack("<3I", data[at:at + 12])
        shape = struct.unpack(f"<{ndim}I", data[at + 12:at + 12 + 4 * ndim])[::-1]
        at += 12 + 4 * ndim
        name, count = data[at:at + length].decode(), int(numpy.prod(shape))
        at += length
        size = {0: 4 * count, 1: 2 * count, 8: count // 32 * 24, 7: count // 32 * 24}[kind]
        part = data[at:at + size]
        at += size
        values = blocks_q5_1(part, count) if kind > 1 else numpy.frombuffer(part, dtype="<f4" if kind == 0 else "<f2")
        tensors[name] = torch.from_numpy(values.astype("f4").reshape(shape).copy())
    v6, v5 = "blocks.0.att.time_maa_x" in tensors, "blocks.0.att.ln_x.weight" in tensors
    for name in tensors:
        x, kind = tensors[name], name.split(".")[-1]
        if kind.startswith("time_mix_") or kind.startswith("time_maa_") and x.ndim == 1 or v6 and kind == "time_decay":
            tensors[name] = x.reshape(1, 1, -1)
        elif kind == "time_maa_w2":
            tensors[name] = x.permute(0, 2, 1).contiguous()
        elif kind in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
            tensors[name] = x.T.contiguous()
        elif kind == "time_faaaa":
            tensors[name] = x.squeeze(-1)
        elif kind == "time_decay":
            tensors[name] = torch.log(-torch.log(x)).squeeze() if v5 else torch.log(-x)
        elif kind == "time_first" and v5:
            tensors[name] = torch.log(x).squeeze()
    return tensors


def config_of(tensors):
    V, D = tensors["emb.weight"].shape
    att = {n[13:]: t for n, t in tensors.items() if n.startswith("blocks.1.att." if "blocks.1.ln1.weight" in tensors else "blocks.0.att.")}
    c = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks.")),
         "intermediate_size": tensors["blocks.0.ffn.key.weight"].shape[0], "layer_norm_epsilon": 1e-5,
         "context_length": 4096, "tie_word_embeddings": False}
    heads = att.get("r_k", att.get("time_faaaa", att.get("time_decay")))
    if "ln_x.weight" not in att:
        return {"model_type": "rwkv4"} | c
    c |= {"head_size": D // heads.shape[0], "head_norm_epsilon": 64e-5}
    if "r_k" in att:
        return {"model_type": "rwkv7"} | c | {"decay_rank": att["w1"].shape[1], "a_rank": att["a1"].shape[1],
                                              "v_rank": att["v1"].shape[1] if "v1" in att else 32, "gate_rank": att["g1"].shape[1]}
    if "time_maa_x" in att:
        return {"model_type": "rwkv6"} | c | {"mix_rank": att["time_maa_w2"].shape[1], "decay_rank": att["time_decay_w1"].shape[1]}
    scalar = "time_first" in att
    return {"model_type": "rwkv5"} | c | {"gate": "gate.weight" in att, "scalar_decay": scalar,
                                          "head_norm_epsilon": 1e-5 if scalar else 64e-5}


def main(source, folder):
    source, folder = Path(source), Path(folder)
    if source.suffix == ".pth":
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    else:
        tensors = load_file(source) if source.suffix == ".safetensors" else read_bin(source)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.float().contiguous() for n, t in tensors.items()
               if not n.startswith(("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"))}
    (folder / "config.json").write_text(json.dumps(config_of(tensors), indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
