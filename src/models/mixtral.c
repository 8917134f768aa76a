/* Mixtral: a Llama whose feed-forwards are mixtures of experts. */
#include "models/llama.h"

static bool translate(qpi_config *c, json_t *stack) {
    bool balanced =
        qpi_config_bool(c, "output_router_logits", false); /* as transformers: no loss without them */
    if (!qpi_llama_translate(c, stack, (qpi_llama){.theta = 1e6, .eps = 1e-5})) return false;
    if (qpi_config_number(c, "router_jitter_noise", 0) != 0)
        qpi_json_fail(&c->root, QP_ERR_UNSUPPORTED, "router_jitter_noise is not 0");
    double  balance = qpi_config_number(c, "router_aux_loss_coef", 0.001);
    json_t *ffn =
        json_pack("{s:s, s:I, s:I, s:f}", "type", "mixtral", "experts",
                  (json_int_t)qpi_config_int(c, "num_local_experts", 8), "per_token",
                  (json_int_t)qpi_config_int(c, "num_experts_per_tok", 2), "balance", balanced ? balance : 0);
    qpi_config_put(c, ffn, "width", json_integer((json_int_t)qpi_config_int(c, "intermediate_size", 14336)));
    qpi_config_put(c, stack, "ffn", ffn);
    return qpi_llama_layers(c, stack, (qpi_layers){.window = qpi_llama_window(c, 0)});
}

static const qpi_name_rule rules[] = {
    {"model.layers.%d.block_sparse_moe.gate.weight", "blocks.%d.ffn.router.weight", 0, false},
    {"model.layers.%d.block_sparse_moe.experts.%d.w1.weight", "blocks.%d.ffn.experts.gate", 0, false},
    {"model.layers.%d.block_sparse_moe.experts.%d.w3.weight", "blocks.%d.ffn.experts.up", 0, false},
    {"model.layers.%d.block_sparse_moe.experts.%d.w2.weight", "blocks.%d.ffn.experts.down", 0, false},
    {0}};

static const qpi_name_rule gguf_rules[] = {
    {"blk.%d.ffn_gate_inp.weight", "blocks.%d.ffn.router.weight", 0, false},
    {"blk.%d.ffn_gate_exps.weight", "blocks.%d.ffn.experts.gate", 0, false},
    {"blk.%d.ffn_up_exps.weight", "blocks.%d.ffn.experts.up", 0, false},
    {"blk.%d.ffn_down_exps.weight", "blocks.%d.ffn.experts.down", 0, false},
    {0}};
static const qpi_gguf_key    gguf_keys[] = {QPI_LLAMA_GGUF_KEYS,
                                            {"expert_count", "num_local_experts", true},
                                            {"expert_used_count", "num_experts_per_tok", true},
                                            {0}};
static const qpi_gguf_family gguf = {.architecture = "llama",
                                     .rules = qpi_llama_gguf_rules,
                                     .own = gguf_rules,
                                     .keys = gguf_keys,
                                     .interleaved = "blocks.*.mixer.[qk].*",
                                     .windows = true};

QP_PRESET(mixtral) = QPI_LLAMA_PRESET(
    "mixtral", "arXiv:2401.04088",
    QPI_LLAMA_DEFAULTS("mixtral", "MixtralForCausalLM",
                       ", \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05, \"num_local_experts\": 8, "
                       "\"num_experts_per_tok\": 2, \"output_router_logits\": true, "
                       "\"router_aux_loss_coef\": 0.01"),
    translate, .own = rules, .gguf = &gguf);
