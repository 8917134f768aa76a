"""What transformers' generate draws from: its own chain of logits processors over one row of logits.

    python make_sampler.py > sampler/cases.txt

A line each: repetition_penalty temperature top_k top_p min_p typical_p, bias of token 3 and of token 8,
how many of the first tokens were seen; then the probabilities of the tokens.
"""
import itertools

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import LogitsProcessorList

LOGITS = [1.5, -0.5, 2.0, 0.25, -3.0, 1.0, 0.0, 2.0, -1.0, 0.5, -8.0, 1.75]

model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_layer=1, n_head=1, n_embd=4, n_positions=16))
names = ["repetition_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p"]
off = [1.0, 1.0, 0, 1.0, None, 1.0]
cases = [
    dict(typical_p=0.2), dict(typical_p=0.5), dict(typical_p=0.9), dict(typical_p=0.95, temperature=0.4),
    dict(typical_p=0.5, temperature=2.0), dict(typical_p=0.6, top_k=6), dict(typical_p=0.6, top_p=0.7),
    dict(typical_p=0.7, min_p=0.2), dict(typical_p=0.8, top_k=8, top_p=0.9, min_p=0.1, temperature=1.3),
    dict(repetition_penalty=1.7), dict(repetition_penalty=0.6, top_p=0.8),
    dict(repetition_penalty=1.4, typical_p=0.5, temperature=0.7), dict(top_k=5, top_p=0.8, min_p=0.3),
]
for case, bias, seen in itertools.product(cases, [(0, 0), (2.5, -1.0)], [1, 5]):
    config = GenerationConfig(do_sample=True, **{n: case.get(n, o) for n, o in zip(names, off)})
    if bias != (0, 0):
        config.sequence_bias = [[[3], bias[0]], [[8], bias[1]]]
    ids = torch.arange(seen)[None]
    chain = model._get_logits_processor(config, input_ids_seq_length=seen, encoder_input_ids=ids,
                                        prefix_allowed_tokens_fn=None, logits_processor=LogitsProcessorList(), device="cpu")
    p = torch.softmax(chain(ids, torch.tensor([LOGITS], dtype=torch.float32)), -1)[0]
    given = [case.get(n, o) for n, o in zip(names, off)]
    print(*[0 if g is None else g for g in given], *bias, seen, *[f"{float(x):.7g}" for x in p])
