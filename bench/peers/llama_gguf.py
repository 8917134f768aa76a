"""A GGUF file of a Llama with random weights in bf16, for measuring decoding.

    python llama_gguf.py llama.gguf
    llama-quantize llama.gguf llama-q4_0.gguf Q4_0

Needs the packages gguf and numpy. Without options: 1.1B parameters, 16 layers, 2048 wide, 32 heads, 8 KV
heads, 8192 inner, 32,000 tokens, head of its own. The tokens are bytes and numbered fillers: enough to
open the file, not to read text. Values repeat after a million, which no engine's speed depends on.
"""

import argparse

import gguf
import numpy as np


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    for name, value in dict(layers=16, width=2048, heads=32, kv_heads=8, inner=8192, vocabulary=32000).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def main():
    a = arguments()
    w = gguf.GGUFWriter(a.out, "llama")
    w.add_name("random")
    w.add_context_length(4096)
    w.add_embedding_length(a.width)
    w.add_block_count(a.layers)
    w.add_feed_forward_length(a.inner)
    w.add_head_count(a.heads)
    w.add_head_count_kv(a.kv_heads)
    w.add_rope_dimension_count(a.width // a.heads)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(a.vocabulary)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    tokens += [f"t{i}" for i in range(a.vocabulary - len(tokens))]
    kinds += [1] * (a.vocabulary - len(kinds))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([-float(i) for i in range(a.vocabulary)])
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)

    rng = np.random.default_rng(a.seed)
    values = (rng.standard_normal(1 << 20).astype(np.float32) * 0.02).view(np.uint32)
    values = (values >> 16).astype(np.uint16)  # bf16, cut off

    def matrix(name, rows, columns):
        data = np.resize(np.roll(values, int(rng.integers(1 << 20))), (rows, columns))
        w.add_tensor(name, data.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def ones(name):
        w.add_tensor(name, np.ones(a.width, np.float32))

    kv = a.width // a.heads * a.kv_heads
    matrix("token_embd.weight", a.vocabulary, a.width)
    matrix("output.weight", a.vocabulary, a.width)
    ones("output_norm.weight")
    for i in range(a.layers):
        for name in ("attn_norm", "ffn_norm"):
            ones(f"blk.{i}.{name}.weight")
        for name, rows, columns in (("attn_q", a.width, a.width), ("attn_k", kv, a.width), ("attn_v", kv, a.width),
                                    ("attn_output", a.width, a.width), ("ffn_gate", a.inner, a.width),
                                    ("ffn_up", a.inner, a.width), ("ffn_down", a.width, a.inner)):
            matrix(f"blk.{i}.{name}.weight", rows, columns)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
