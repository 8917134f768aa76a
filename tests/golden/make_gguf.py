"""The models of tests/golden/models as GGUF files, by the gguf package: tests/golden/gguf/NAME.gguf.

    pip install gguf; python3 tests/golden/make_gguf.py [LLAMA_CPP [NAME..]]

Their logits are those of NAME/reference.safetensors. Queries and keys of llama and mistral stand in
GGUF's order of rows. test_gguf_models reads them.

With LLAMA_CPP, a folder of llama.cpp's sources, also those of CONVERTED, written by its own converter; the keys of
the architecture and the tensors are kept, the rest (names, vocabularies) is not. Needs torch and transformers.
gguf/split is `llama-gguf-split --split --split-max-tensors 20 qwen2.gguf split/qwen2`.
"""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

if len(sys.argv) > 1:
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]  # the converter wants its own
import gguf
import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
F16 = gguf.GGMLQuantizationType.F16

NAMES = ["llama-gqa-tied", "llama-mqa-headdim", "llama-bias", "llama-llama3", "llama-yarn", "llama-linear", "mistral-window",
         "qwen2", "gpt2", "gpt2-odd"]
CONVERTED = ["qwen3", "smollm3-four", "olmo2", "granite", "phi3", "phi3-partial", "gemma", "gemma2", "gemma3-six",
             "bert-poolerless", "mixtral"]
GPT2 = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight", "ln_f": "output_norm",
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "lm_head": "output"}
LLAMA = {"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "lm_head": "output"}


def rename(name, table):
    name = name.removeprefix("transformer.").removeprefix("model.")
    parts = name.split(".")
    head = ""
    if parts[0] in ("h", "layers"):
        head, name = f"blk.{parts[1]}.", ".".join(parts[2:])
    stem, dot, tail = name.rpartition(".")
    if name == "norm.weight":
        return "output_norm.weight"
    return head + (table.get(name) or table[stem] + dot + tail)


def interleave(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)


def rope_of(config):
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    return rope.get("rope_theta", config.get("rope_theta", 10000.0)), rope


def add_llama(w, config, tensors, arch):
    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads)
    width = config.get("head_dim") or config["hidden_size"] // heads
    theta, rope = rope_of(config)
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(width)
    w.add_value_length(width)
    w.add_rope_dimension_count(width)
    w.add_rope_freq_base(theta)
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "mistral" and config.get("sliding_window"):
        w.add_sliding_window(config["sliding_window"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR if kind == "linear" else gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if kind == "llama3":
        f = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
        turns = rope["original_max_position_embeddings"] * f / (2 * math.pi)
        smooth = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
        w.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32))
    for name, t in tensors.items():
        if arch == "llama" and ".q_proj." in name:
            t = interleave(t, heads)
        if arch == "llama" and ".k_proj." in name:
            t = interleave(t, kv)
        w.add_tensor(rename(name, LLAMA), t)


def add_gpt2(w, config, tensors):
    w.add_context_length(config["n_positions"])
    w.add_embedding_length(config["n_embd"])
    w.add_block_count(config["n_layer"])
    w.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    w.add_head_count(config["n_head"])
    w.add_layer_norm_eps(config["layer_norm_epsilon"])
    for name, t in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        transpose = t.ndim == 2 and (".attn." in name or ".mlp." in name)
        w.add_tensor(rename(name, GPT2), np.ascontiguousarray(t.T) if transpose else t)


def convert(names):
    """By llama.cpp's converter, but without a vocabulary."""
    import convert_hf_to_gguf as converter
    from conversion import base, bert, gemma, granite, llama, olmo, phi, qwen  # noqa: F401 (classes register)

    def no_vocabulary(self):
        if "type_vocab_size" in self.hparams:
            self.gguf_writer.add_token_type_count(self.hparams["type_vocab_size"])

    def patch(kind):
        if "set_vocab" in vars(kind):
            kind.set_vocab = no_vocabulary
        for inner in kind.__subclasses__():
            patch(inner)

    patch(base.TextModel)
    for name in names:
        out = HERE / "gguf" / (name + ".gguf")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(HERE / "models" / name, folder, dirs_exist_ok=True)
            config = json.loads((Path(folder) / "config.json").read_text())
            words = {str(i): i for i in range(config["vocab_size"])}  # gemma's are counted
            (Path(folder) / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}, "added_tokens": []}))
            sys.argv = ["convert", folder, "--outtype", "f32", "--outfile", str(out)]
            converter.main()
        strip(out)


def strip(path):
    """Only general.architecture, its keys, and the number of token types."""
    file = gguf.GGUFReader(path)
    arch = file.fields["general.architecture"].contents()
    whole = path.with_suffix(".whole")
    w = gguf.GGUFWriter(whole, arch)
    for key, field in file.fields.items():
        if key.startswith(arch + ".") or key == "tokenizer.ggml.token_type_count":
            inner = field.types[1] if len(field.types) > 1 else None
            w.add_key_value(key, field.contents(), field.types[0], inner)
    for t in file.tensors:
        w.add_tensor(t.name, np.array(t.data))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    whole.rename(path)


def main():
    (HERE / "gguf").mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        convert(sys.argv[2:] or CONVERTED)
        return
    for name in NAMES:
        folder = HERE / "models" / name
        config = json.loads((folder / "config.json").read_text())
        tensors = {k: v.astype(np.float32) for k, v in load_file(folder / "model.safetensors").items()}
        arch = "llama" if config["model_type"] == "mistral" else config["model_type"]
        w = gguf.GGUFWriter(HERE / "gguf" / (name + ".gguf"), arch)
        if arch == "gpt2":
            add_gpt2(w, config, tensors)
        else:
            add_llama(w, config, tensors, arch)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


if __name__ == "__main__":
    main()
