"""Make tests/golden/models/NAME: tiny random models with what they give and their gradients.

Each folder holds what transformers' save_pretrained writes (config.json and model.safetensors, or
shards with their index) and reference.safetensors:

    input_ids    [B, T] int64
    logits       [B, T, V] float32; of encoders without a head hidden [B, T, D] and pooled [B, D]
    token_type_ids [B, T], lengths [B] int64: of encoders
    grad.PARAM   like PARAM, float32, for each PARAM of model.safetensors: the gradient of the mean
                 cross-entropy of logits[:, :-1] against input_ids[:, 1:]

computed by transformers' eager code in float64. Weights are drawn so that attention and logits are
far from uniform. Some folders wear older clothes: "old" config keys as written before transformers
5, or the tensor names of the published GPT-2.

    python make_models.py [NAME..]   write all folders, or those, and check them
    python make_models.py --check    only load each with plain transformers in float32 and compare

Needs torch, transformers and safetensors.
"""

import json
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, DeepseekV3Config, Gemma2Config, Gemma3TextConfig, GemmaConfig, GPT2Config, GraniteConfig,
                          LlamaConfig, Mamba2Config, MambaConfig, MistralConfig, MixtralConfig, Olmo2Config, Phi3Config, Qwen2Config, Qwen3Config, RoFormerConfig, RwkvConfig,
                          SmolLM3Config)
from transformers.models.roformer.modeling_roformer import RoFormerSinusoidalPositionalEmbedding
from transformers.utils.logging import disable_progress_bar

from common import HERE, build, exact, experts_of, loss_of, random_ids, write

MODELS = HERE / "models"
disable_progress_bar()


def gpt2(**changes):
    return GPT2Config(**dict(vocab_size=61, n_positions=40, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0.0,
                             embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0) | changes)


SIZE = dict(vocab_size=67, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64)


SMALL = SIZE | dict(vocab_size=53, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=2)
NO_IDS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=None)
CAPS = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)


def llama(**changes):
    return LlamaConfig(**SIZE | changes)


ENCODER = dict(vocab_size=67, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               max_position_embeddings=32, type_vocab_size=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
               pad_token_id=None)


def bert(**changes):
    return BertConfig(**ENCODER | changes)


def roformer(**changes):
    return RoFormerConfig(**ENCODER | changes)


def deepseek(**changes):
    return DeepseekV3Config(**SMALL | NO_IDS | dict(
        moe_intermediate_size=10, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, num_experts_per_tok=3,
        q_lora_rank=9, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=5, first_k_dense_replace=1,
        num_mtp_layers=0) | changes)


# Of Mamba's; heads and groups of the second.
STATE = dict(vocab_size=67, hidden_size=24, num_hidden_layers=2, expand=2, conv_kernel=4, pad_token_id=None,
             bos_token_id=0, eos_token_id=0)
HEADS = STATE | dict(num_heads=6, head_dim=8, state_size=16, n_groups=1, chunk_size=8)


def rope(kind, theta=10000.0, **values):
    return dict(rope_type=kind, rope_theta=theta, **values)


# name: (config, T, how the folder is written)
FOLDERS = {
    "gpt2": (gpt2(), 17, ""),
    "gpt2-odd": (gpt2(vocab_size=71, n_embd=36, n_head=3, n_inner=52), 13, ""),
    "gpt2-untied-gelu": (gpt2(activation_function="gelu", tie_word_embeddings=False), 9, ""),
    "gpt2-inverse-layer": (gpt2(n_layer=3, scale_attn_by_inverse_layer_idx=True), 12, ""),
    "gpt2-published": (gpt2(), 11, "published"),
    "llama-mha": (llama(), 19, ""),
    "llama-gqa-tied": (llama(vocab_size=131, num_key_value_heads=2, tie_word_embeddings=True), 16, "old"),
    "llama-mqa-headdim": (llama(num_key_value_heads=1, head_dim=10), 15, ""),
    "llama-bias": (llama(attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5), 14, ""),
    "llama-linear": (llama(rope_parameters=rope("linear", factor=4.0)), 21, "old"),
    "llama-dynamic": (llama(max_position_embeddings=12, rope_parameters=rope("dynamic", factor=2.0)), 33, ""),
    "llama-yarn": (llama(num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
                         rope_parameters=rope("yarn", 100.0, factor=4.0, original_max_position_embeddings=32,
                                              beta_fast=2.0, beta_slow=0.5)), 37, ""),
    "llama-yarn-factor": (llama(num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=4096,
                                rope_parameters=rope("yarn", factor=4.0, attention_factor=1.3,
                                                     original_max_position_embeddings=1024)), 29, "old"),
    "llama-llama3": (llama(num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
                           rope_parameters=rope("llama3", 500.0, factor=8.0, low_freq_factor=1.0,
                                                high_freq_factor=4.0, original_max_position_embeddings=32)), 33, "old"),
    "llama-sharded": (llama(num_key_value_heads=2), 10, "sharded"),
    "llama-bf16": (llama(num_key_value_heads=2), 10, "bf16"),
    "mistral": (MistralConfig(**SIZE | dict(num_key_value_heads=2, sliding_window=None)), 18, ""),
    "qwen2": (Qwen2Config(**SIZE | dict(num_key_value_heads=2, rope_parameters=rope("default", 1e6))), 18, ""),
    "qwen2-tied": (Qwen2Config(**SIZE | dict(vocab_size=61, tie_word_embeddings=True)), 9, "old"),
    "mistral-window": (MistralConfig(**SIZE | dict(num_key_value_heads=2, sliding_window=5)), 18, ""),
    "qwen2-window": (Qwen2Config(**SIZE | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=4,
                                               max_window_layers=1)), 15, ""),
    "qwen2-window-old": (Qwen2Config(**SIZE | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=6,
                                                   max_window_layers=2)), 14, "old"),
    "qwen3": (Qwen3Config(**SIZE | dict(num_key_value_heads=2, head_dim=10)), 13, ""),
    "qwen3-bias-window": (Qwen3Config(**SIZE | dict(head_dim=8, attention_bias=True, tie_word_embeddings=True,
                                                    use_sliding_window=True, sliding_window=3, max_window_layers=1)), 11, ""),
    "smollm3": (SmolLM3Config(**SIZE | NO_IDS | dict(num_hidden_layers=3, num_key_value_heads=2, no_rope_layers=[1, 0, 1])), 12, ""),
    "smollm3-window": (SmolLM3Config(**SIZE | NO_IDS | dict(num_hidden_layers=4, tie_word_embeddings=False, use_sliding_window=True,
                                                   sliding_window=4, no_rope_layer_interval=2)), 11, ""),
    "olmo2": (Olmo2Config(**SIZE | NO_IDS | dict(num_key_value_heads=2)), 13, ""),
    "granite": (GraniteConfig(**SIZE | dict(num_key_value_heads=2, embedding_multiplier=3.0, logits_scaling=2.5,
                                            residual_multiplier=0.4, attention_multiplier=0.3)), 12, ""),
    "phi3": (Phi3Config(**SIZE | NO_IDS | dict(num_key_value_heads=2, sliding_window=6)), 14, ""),
    "gemma": (GemmaConfig(**SIZE | NO_IDS | dict(num_key_value_heads=1, head_dim=10)), 13, ""),
    "gemma2": (Gemma2Config(**SIZE | NO_IDS | CAPS | dict(num_hidden_layers=3, num_key_value_heads=2, head_dim=10,
                                                 query_pre_attn_scalar=10, sliding_window=4)), 15, ""),
    "gemma3": (Gemma3TextConfig(**SIZE | NO_IDS | dict(num_hidden_layers=3, num_key_value_heads=2, head_dim=10,
                                              query_pre_attn_scalar=9, sliding_window=5, sliding_window_pattern=2)), 16, ""),
    "gemma3-old": (Gemma3TextConfig(**SIZE | NO_IDS | dict(
        final_logit_softcapping=3.0, head_dim=8, query_pre_attn_scalar=8, sliding_window=3, layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(full_attention=rope("linear", 5e5, factor=8.0), sliding_attention=rope("default", 2e4)))), 12,
                   "old"),
    "bert": (bert(), 13, ""),
    "bert-model": (bert(vocab_size=41, hidden_size=30, num_attention_heads=3, hidden_act="gelu_new"), 9, "headless"),
    "bert-published": (bert(hidden_act="relu"), 11, "gamma"),
    "roformer": (roformer(), 12, ""),
    "roformer-values": (roformer(rotary_value=True, tie_word_embeddings=False), 10, ""),
    "roformer-model": (roformer(num_attention_heads=2), 14, "headless"),
    "bert-poolerless": (bert(num_hidden_layers=1), 8, "poolerless"),
    "gemma3-six": (Gemma3TextConfig(**SMALL | NO_IDS | dict(num_hidden_layers=6, num_key_value_heads=1, head_dim=8,
                                                            query_pre_attn_scalar=8, sliding_window=4)), 14, ""),
    "smollm3-four": (SmolLM3Config(**SMALL | NO_IDS | dict(num_hidden_layers=4, num_key_value_heads=1)), 12, ""),
    "mistral-odd": (MistralConfig(**SMALL | dict(vocab_size=41, hidden_size=33, intermediate_size=35, num_attention_heads=3,
                                                 num_key_value_heads=1, head_dim=6, sliding_window=7)), 15, ""),
    "granite-bias": (GraniteConfig(**SMALL | dict(num_hidden_layers=1, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                                                  embedding_multiplier=2.0, logits_scaling=0.5, residual_multiplier=1.5,
                                                  attention_multiplier=0.2)), 9, ""),
    "olmo2-bias": (Olmo2Config(**SMALL | NO_IDS | dict(vocab_size=47, hidden_size=18, num_attention_heads=3, num_key_value_heads=1,
                                                       attention_bias=True, tie_word_embeddings=True)), 11, ""),
    "gemma-bias": (GemmaConfig(**SMALL | NO_IDS | dict(hidden_size=15, intermediate_size=21, num_attention_heads=3,
                                                       num_key_value_heads=3, head_dim=6, attention_bias=True)), 10, ""),
    "mixtral": (MixtralConfig(**SIZE | dict(vocab_size=61, num_key_value_heads=2, num_local_experts=4)), 14, ""),
    "mixtral-odd": (MixtralConfig(**SMALL | dict(num_hidden_layers=1, num_local_experts=5, num_experts_per_tok=3, head_dim=6,
                                                 sliding_window=5, tie_word_embeddings=True)), 11, "old"),
    "deepseek_v3": (deepseek(), 13, ""),
    "deepseek_v3-odd": (deepseek(hidden_size=18, num_hidden_layers=3, q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2,
                                 attention_bias=True, norm_topk_prob=False, routed_scaling_factor=1.5,
                                 rope_interleave=False, first_k_dense_replace=0), 11, ""),
    "deepseek_v3-yarn": (deepseek(max_position_embeddings=128, num_mtp_layers=1, rope_parameters=rope(
        "yarn", 100.0, factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=0.8,
        beta_fast=2.0, beta_slow=0.5)), 33, "old"),
    "phi3-partial": (Phi3Config(**SMALL | NO_IDS | dict(num_hidden_layers=1, rope_parameters=rope(
        "default", partial_rotary_factor=0.75))), 12, ""),
    "mamba": (MambaConfig(**STATE | dict(state_size=16)), 21, ""),
    "mamba-bias": (MambaConfig(**STATE | dict(hidden_size=18, state_size=7, conv_kernel=3, time_step_rank=5, use_bias=True,
                                              use_conv_bias=False, tie_word_embeddings=False)), 13, ""),
    "mamba2": (Mamba2Config(**HEADS), 29, ""),
    "mamba2-groups": (Mamba2Config(**HEADS | dict(hidden_size=20, num_heads=4, head_dim=10, state_size=5, n_groups=2, conv_kernel=2,
                                                  use_bias=True, use_conv_bias=False, tie_word_embeddings=True,
                                                  time_step_limit=(0.3, 1.1))), 15, ""),
    "rwkv": (RwkvConfig(vocab_size=53, hidden_size=24, num_hidden_layers=2, intermediate_size=40, rescale_every=0,
                        context_length=32), 15, ""),
}


def class_of(config, form):
    encoder = config.model_type in ("bert", "roformer")
    return AutoModel if form in ("headless", "poolerless") else AutoModelForMaskedLM if encoder else AutoModelForCausalLM


def sines(table):
    """RoFormer's table of positions; its own is made in float32."""
    count, width = table.weight.shape
    angle = torch.arange(count)[:, None].double() / 10000 ** (torch.arange(0, width, 2).double() / width)
    return torch.cat([angle.sin(), angle.cos()], 1).to(table.weight.dtype)


RoFormerSinusoidalPositionalEmbedding.create_weight = sines


def randomise(model, seed):
    """Norm gains near one, biases small, matrices large enough to matter."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if not p.requires_grad:  # RoFormer's table of sines
            continue
        noise = torch.randn(p.shape, generator=draw)
        norm = p.ndim == 1 and name.endswith("weight")
        p.data = 1 + 0.1 * noise if norm else (0.3 if p.ndim > 1 else 0.1) * noise
    for name, bias in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            bias.copy_(0.2 * torch.randn(bias.shape, generator=draw))


def as_before_5(path):
    """Rewrite a config with the keys of older checkpoints: rope_theta and rope_scaling, torch_dtype."""
    config = json.loads(path.read_text())
    values = config.pop("rope_parameters")
    if "full_attention" in values:
        config["rope_local_base_freq"] = values.pop("sliding_attention")["rope_theta"]
        values = values["full_attention"]
    config["rope_theta"] = values.pop("rope_theta")
    kind = values.pop("rope_type")
    older = kind == "linear" and "rope_local_base_freq" not in config
    scaling = {"type" if older else "rope_type": kind, **values}
    config["rope_scaling"] = None if kind == "default" else scaling
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] != "gemma3_text":
        config.pop("layer_types", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def as_published(folder):
    """Rewrite GPT-2's tensors as in the published files: no prefix, each layer's causal mask stored."""
    path = folder / "model.safetensors"
    weights = {name.removeprefix("transformer."): w for name, w in load_file(path).items()}
    mask = torch.ones(1, 1, 40, 40).tril()
    weights |= {f"h.{layer}.attn.bias": mask.clone() for layer in range(2)}
    save_file(weights, path, metadata={"format": "pt"})


def with_gamma(folder):
    """Rewrite BERT's tensors as in its first files: gamma and beta of norms, a pooler, a second head."""
    path = folder / "model.safetensors"
    weights = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): w
               for name, w in load_file(path).items()}
    weights |= {"bert.pooler.dense.weight": torch.ones(24, 24), "bert.pooler.dense.bias": torch.ones(24),
                "cls.seq_relationship.weight": torch.ones(2, 24), "cls.seq_relationship.bias": torch.ones(2)}
    save_file(weights, path, metadata={"format": "pt"})


def inputs_of(config, ids, seed):
    """Encoders also take types of tokens, and rows of different lengths."""
    if config.model_type not in ("bert", "roformer"):
        return dict(input_ids=ids), {}
    lengths = torch.tensor([ids.shape[1], ids.shape[1] - 4])
    types = random_ids(config.type_vocab_size, *ids.shape, seed=seed)
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    return dict(input_ids=ids, token_type_ids=types, attention_mask=mask), dict(token_type_ids=types, lengths=lengths)


def outputs_of(model, inputs):
    """Logits, or hidden states and the pooled vector."""
    out = model(**inputs) if model.config.model_type in ("bert", "roformer") else model(**inputs, use_cache=False)
    names = {"logits": "logits", "last_hidden_state": "hidden", "pooler_output": "pooled"}
    return {ours: out[theirs] for theirs, ours in names.items() if theirs in out}


def stored(folder):
    """All tensors of a folder, from one file or from shards."""
    return {k: v for path in sorted(folder.glob("model*.safetensors")) for k, v in load_file(path).items()}


def is_mixture(config):
    return config.model_type in ("mixtral", "deepseek_v3")


class Slice:
    """One expert's part of a gradient."""

    def __init__(self, grad):
        self.grad = grad


def named_gradients(model):
    """Parameters under the names of files: experts, which are one tensor in memory, have files' each."""
    for key, p in model.named_parameters():
        if ".mlp.experts." not in key:
            yield key.replace(".mlp.gate.", ".block_sparse_moe.gate.") if model.config.model_type == "mixtral" else key, p
            continue
        head, of = key.split(".mlp.experts.")
        mixtral = model.config.model_type == "mixtral"
        names = {"gate_up_proj": ["w1", "w3"] if mixtral else ["gate_proj", "up_proj"], "down_proj": ["w2" if mixtral else "down_proj"]}
        where = "block_sparse_moe" if mixtral else "mlp"
        for e in range(p.shape[0]):
            for name, part in zip(names[of], p.grad[e].chunk(len(names[of]), dim=0)):
                yield f"{head}.{where}.experts.{e}.{name}.weight", Slice(part)


def make(name, seed):
    config, length, form = FOLDERS[name]
    folder = MODELS / name
    kind = class_of(config, form)
    model = kind.from_config(config, attn_implementation="eager")
    randomise(model, seed)
    model.to(torch.bfloat16 if form == "bf16" else torch.float32)
    model.save_pretrained(folder, max_shard_size="24KB" if form == "sharded" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    weights = model.state_dict() if is_mixture(config) else stored(folder)

    ids = random_ids(config.vocab_size, 2, length, seed=seed + 1)
    with exact():
        model = build(config, weights, kind)
        for table in model.modules():
            if isinstance(table, RoFormerSinusoidalPositionalEmbedding):
                table.weight.data = sines(table)
        inputs, fields = inputs_of(config, ids, seed + 2)
        outputs = outputs_of(model, inputs)
        if form == "poolerless":
            del outputs["pooled"]
        if "logits" in outputs:
            loss_of(outputs["logits"], ids).backward()
    tensors = {"input_ids": ids} | fields | {k: v.to(torch.float32) for k, v in outputs.items()}
    for key, p in named_gradients(model):
        if p.grad is None or p.grad.abs().max() < 1e-9:  # a bias of keys alone changes nothing
            continue
        assert key in weights or is_mixture(config)
        key = key.removeprefix("transformer.") if form == "published" else key
        key = key.replace("predictions.bias", "predictions.decoder.bias")  # tied: the same
        tensors[f"grad.{key}"] = p.grad.to(torch.float32)
    write(folder / "reference.safetensors", tensors)

    if form == "old":
        as_before_5(folder / "config.json")
    if form == "published":
        as_published(folder)
    if form == "gamma":
        with_gamma(folder)
    if form == "poolerless":
        path = folder / "model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if "pooler" not in k}, path, metadata={"format": "pt"})


def check(name):
    """The folder as anyone would load it, in float32, against its reference."""
    folder = MODELS / name
    reference = load_file(folder / "reference.safetensors")
    config, _, form = FOLDERS[name]
    model = class_of(config, form).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **experts_of(config)).eval()
    ids = reference["input_ids"]
    found = outputs_of(model, inputs_of(config, ids, 0)[0] | {k: v for k, v in reference.items() if k == "token_type_ids"})
    found = {k: v for k, v in found.items() if k in reference}
    logits = found.get("logits")
    if logits is not None:
        loss_of(logits, ids).backward()
    found = {k: v.detach() for k, v in found.items()}
    for key, p in named_gradients(model):
        if p.grad is None or p.grad.abs().max() < 1e-6:
            continue
        key = f"grad.{key}".replace("predictions.bias", "predictions.decoder.bias")
        found[key if key in reference else key.replace("transformer.", "")] = p.grad
    assert found.keys() == reference.keys() - {"input_ids", "token_type_ids", "lengths"}
    off = {k: ((found[k] - reference[k]).norm() / reference[k].norm()).item() for k in found}
    grads = {k: v for k, v in off.items() if k.startswith("grad.")}
    worst = max(grads or off, key=off.get)
    off_outputs = max(v for k, v in off.items() if k not in grads)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:20} {size / 1024:5.0f} KiB  off by {off_outputs:.1e}, gradients {off[worst]:.1e} ({worst})")
    assert off_outputs < 1e-5 and off[worst] < 1e-4


if __name__ == "__main__":
    if "--check" not in sys.argv:
        for seed, name in enumerate(FOLDERS):
            if name in sys.argv[1:] or len(sys.argv) == 1:
                shutil.rmtree(MODELS / name, ignore_errors=True)
                make(name, 100 * seed)
    for name in FOLDERS:
        if name in sys.argv[1:] or not set(sys.argv[1:]) & set(FOLDERS):
            check(name)
