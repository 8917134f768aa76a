"""What the golden makers share: exact models, the training loss, random tensors and files.

Everything is computed in float64 and stored as float32, so a golden value is nearer to the truth
than any float32 engine that is held against it.
"""

import contextlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent

torch.set_num_threads(1)


class NoFloat32(TorchDispatchMode):
    """Fails on any operation that yields float32."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            assert getattr(value, "dtype", None) is not single, f"{function} computed in float32"
        return result


single = torch.float32


@contextlib.contextmanager
def exact():
    """Inside, "float" means float64: transformers asks for float32 by name in norms, softmax, angles."""
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        with NoFloat32():
            yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved
        torch.set_default_dtype(single)


def experts_of(config):
    """Experts one after another: the other ways compute in float32."""
    return dict(experts_implementation="eager") if config.model_type in ("mixtral", "deepseek_v3") else {}


def build(config, weights, kind=AutoModelForCausalLM):
    """A float64 model of `config` holding `weights`; call inside exact()."""
    model = kind.from_config(config, dtype=torch.float64, attn_implementation="eager", **experts_of(config))
    missing, unexpected = model.load_state_dict({k: v.double() for k, v in weights.items()}, strict=False)
    assert not unexpected and set(missing) <= set(model._tied_weights_keys or ()), (missing, unexpected)
    return model.eval()


def loss_of(logits, ids):
    """Mean cross-entropy of each token given those before it."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def random_ids(vocab, *shape, seed):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def write(path, tensors, attrs=None):
    """A safetensors file; `attrs` becomes JSON text under the metadata key "attrs"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    save_file(tensors, path, metadata=None if attrs is None else {"attrs": json.dumps(attrs)})
