"""What llama.cpp computes from GGUF files that quipu wrote, beside what transformers computed from the folders.

    for n in NAME..; do quipu convert tests/golden/models/$n --out OUT/$n.gguf; done
    python bench/peers/llama_logits.py LIBRARIES LLAMA_CPP_PYTHON tests/golden/models OUT/NAME.gguf..

LIBRARIES is the folder of libllama.so, LLAMA_CPP_PYTHON the one that holds llama_cpp. Prints, for each file, the largest
difference of logits (of encoders: of hidden states) of the first text, relative to the largest. llama.cpp takes
activations from tables in f16, so about 1e-3 may be expected; it has no windows where mistral and phi3 have them.
Needs numpy and safetensors, for encoders torch and transformers.
"""

import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

os.environ["LLAMA_CPP_LIB_PATH"] = sys.argv[1]
sys.path.insert(0, sys.argv[2])
import llama_cpp as L  # noqa: E402


@L.llama_log_callback
def silent(level, text, user):
    if level == 4:  # an error
        sys.stderr.write(text.decode())


def rows(path, ids, width, hidden):
    """Logits [T, V], or hidden states [T, D], of one text."""
    model = L.llama_load_model_from_file(str(path).encode(), L.llama_model_default_params())
    if not model:
        return None
    p = L.llama_context_default_params()
    p.n_ctx = p.n_batch = p.n_ubatch = 64
    p.n_threads = p.n_threads_batch = 1
    p.type_k = p.type_v = p.flash_attn_type = 0
    p.embeddings = hidden
    p.pooling_type = 0
    context = L.llama_new_context_with_model(model, p)
    batch = L.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, id in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(id), i, 1, 1
        batch.seq_id[i][0] = 0
    run = L.llama_encode if hidden else L.llama_decode
    assert run(context, batch) == 0
    get = L.llama_get_embeddings_ith if hidden else L.llama_get_logits_ith
    out = np.array([np.ctypeslib.as_array(get(context, i), (width,)) for i in range(len(ids))])
    L.llama_free(context)
    L.llama_free_model(model)
    return out


def of_type_0(folder, ids):
    """An encoder's hidden states: llama.cpp takes all tokens for those of type 0."""
    import torch
    from transformers import AutoModel

    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(torch.tensor(ids)[None]).last_hidden_state[0].numpy()


def main():
    L.llama_backend_init()
    L.llama_log_set(silent, None)
    for path in map(Path, sys.argv[4:]):
        reference = load_file(Path(sys.argv[3]) / path.stem / "reference.safetensors")
        ids, hidden = reference["input_ids"][0], "logits" not in reference
        want = of_type_0(Path(sys.argv[3]) / path.stem, ids) if hidden else reference["logits"][0]
        found = rows(path, ids, want.shape[1], hidden)
        print(f"{path.stem:20}", "does not load" if found is None else
              f"off by {np.abs(found - want).max(1).max() / np.abs(want).max():.1e}", flush=True)


if __name__ == "__main__":
    main()
