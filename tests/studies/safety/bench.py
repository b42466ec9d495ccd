"""A tiny LLaMA in double precision with rows of three kinds, and a training with a chain of defenses on it.

The training is plain gradient descent, written out here: no part of the study's own jobs is used.
"""

import copy
import functools
import json

import torch
from safetensors.torch import load as tensors_from, save as bytes_of
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from subspace_lab.studies.safety.chained import chain_gradient, chain_prepare, chain_repair
from subspace_lab.studies.safety.context import RunContext, StepContext
from subspace_lab.studies.safety.kinds import Marked
from subspace_lab.training.adapters import add_lora
from subspace_lab.training.tasks.rows import Row

VOCABULARY, STEPS, BATCH, LR = 23, 6, 3, 0.05


def tiny_model(seed=0, layers=3):
    config = LlamaConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=layers, num_attention_heads=2, vocab_size=VOCABULARY,
        max_position_embeddings=16, bos_token_id=None, eos_token_id=0, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    model.loss_function = double_loss  # that of transformers goes over float32, as its norm does
    for parent in (model.model, *model.model.layers):
        for name, child in [*parent.named_children()]:
            if "norm" in name:
                setattr(parent, name, nn.RMSNorm(child.weight.shape, eps=1e-6, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p.ndim == 1) + 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def double_loss(logits, labels, **_):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def moved(model, seed, size):
    """A model whose weights were moved at random."""
    generator = torch.Generator().manual_seed(seed)
    made = copy.deepcopy(model)
    with torch.no_grad():
        for p in made.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made


@functools.cache
def before(layers):
    """The base and the aligned model, which nobody changes."""
    base = tiny_model(layers=layers)
    return base, moved(base, 1, 0.05)


def rows(kind, count, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(map(ord, kind)))

    def words(n):
        return " ".join(map(str, torch.randint(1, VOCABULARY, (n,), generator=generator).tolist()))

    return [Marked(Row(words(3 + n % 2), words(2 + n % 3)), kind) for n in range(count)]


def collate(chosen):
    encoded = [[[int(word) for word in text.split()] for text in (one.row.prompt, one.row.response)] for one in chosen]
    length = max(len(p) + len(r) for p, r in encoded)
    ids, labels, mask = (torch.full((len(encoded), length), value) for value in (0, -100, 0))
    for place, (p, r) in enumerate(encoded):
        ids[place, : len(p) + len(r)] = torch.tensor(p + r)
        labels[place, len(p) : len(p) + len(r)] = torch.tensor(r)
        mask[place, : len(p) + len(r)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Bench:
    """A model that is tuned from an aligned one.

    `base`, `aligned` and `model` differ in all weights; with `lora` the model is the aligned one with adapters.
    """

    def __init__(self, *, lora=False, seed=0, layers=2, steps=STEPS):
        self.base, self.aligned = before(layers)
        self.model = copy.deepcopy(self.aligned)
        if lora:
            torch.manual_seed(5)
            add_lora(self.model, rank=4)
            self.model.double().eval()
        self.seed, self.steps, self.state = seed, steps, {}
        self.user = rows("task", 12)
        self.pools = {"safety": rows("safety", 10), "harm": rows("harm", 10)}
        self.begun = [p.detach().clone() for p in self.parameters]
        self.passes = 0

    @property
    def parameters(self):
        return [p for p in self.model.parameters() if p.requires_grad]

    def run(self, **changes):
        given = {
            "model": self.model, "rows": self.user, "state": self.state, "pools": self.pools,
            "batches": lambda chosen: (collate(chosen[at : at + BATCH]) for at in range(0, len(chosen), BATCH)),
            "earlier": self.earlier,
            "seed": self.seed, "steps": self.steps, "batch_size": BATCH,
        }  # fmt: skip
        return RunContext(**{**given, **changes})

    @property
    def earlier(self):
        return {
            "base": lambda: dict(self.base.named_parameters()),
            "aligned": lambda: dict(self.aligned.named_parameters()),
        }

    def batch(self, kind, index):
        pool = self.user if kind == "user" else self.pools[kind]
        draw = torch.Generator().manual_seed(1000 * index + self.seed + len(kind))
        return collate([pool[at] for at in torch.randperm(len(pool), generator=draw)[:BATCH].tolist()])

    def losses(self, index):
        def parts(kind, loss):
            batch = self.batch(kind, index)
            if callable(loss):
                yield loss(self.model, batch)
            elif loss == "kl":
                with torch.no_grad():
                    before = self.aligned(**batch).logits.log_softmax(-1)
                now = self.model(**batch).logits.log_softmax(-1)
                yield (before.exp() * (before - now)).sum(-1)[batch["labels"] != -100].mean()
            else:
                yield self.model(**batch).loss

        return parts

    def step(self, index=0):
        weights = {"aligned": lambda: self.begun}
        if len(self.parameters) == len([*self.base.parameters()]):
            weights["base"] = lambda: [*self.base.parameters()]
        return StepContext(
            self.parameters, self.losses(index), weights=weights, state=self.state, index=index, total=self.steps
        )

    def prepare(self, chain):
        run = self.run()
        chain_prepare(chain, run)
        self.user = run.rows

    def take(self, chain, first, last):
        for index in range(first, last):
            step = self.step(index)
            made = chain_gradient(chain, step)
            self.passes += step.passes
            with torch.no_grad():
                for p, g in zip(self.parameters, made, strict=True):
                    if g is not None:
                        p -= LR * g

    def drift(self):
        """Tuning of another kind, for what acts after it: all that is trained moves by little, at random."""
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for p in self.parameters:
                p += 0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype)

    def whole(self, chain):
        """All hooks in their order."""
        self.prepare(chain)
        if all(one.stage == "repair" for one in chain.defenses):
            self.drift()
        else:
            self.take(chain, 0, self.steps)
        chain_repair(chain, self.run(rows=[]))
        return self

    def saved(self):
        """What a checkpoint has, as it comes back from a file; an error where the state is something else."""
        state = self.state
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        plain = {name: value for name, value in state.items() if name not in tensors}
        assert all(type(value) in {int, float, bool, str} for value in plain.values()), plain
        weights = [p.detach().clone() for p in self.parameters]
        return tensors_from(bytes_of({k: v.contiguous() for k, v in tensors.items()})), json.dumps(plain), weights

    def restore(self, saved):
        tensors, plain, weights = saved
        self.state = {**json.loads(plain), **{name: tensor.clone() for name, tensor in tensors.items()}}
        with torch.no_grad():
            for p, value in zip(self.parameters, weights, strict=True):
                p.copy_(value)

    def effective(self):
        """All weights by name, adapters merged."""
        run = self.run()
        return {name: run.weight(name) for name in run.weights()}

    def logits(self):
        with torch.no_grad():
            return self.model(**self.batch("safety", 0)).logits


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
