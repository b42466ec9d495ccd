"""Leading Hessian eigenvalues of a 1M LLaMA, ours against others', to the same residual on the same loss.

The others are not installed with this project, since some of them drag much behind them::

    pip install --no-deps --target PEERS hessian-eigenthings==1.0.0a5 PyHessian==0.1 \
        curvlinops-for-pytorch==3.0.1 einops einconv linear_operator
    PYTHONPATH=PEERS OMP_NUM_THREADS=1 ... python -m benchmarks.hessian

Each runs in the way of its documentation, on a model that attends eagerly. What it returns is judged by products of
ours: its largest eigenvalue's residual ``||H v - lambda v||`` must be at most TOL times the largest eigenvalue, and so
must those of the others. Of hessian-eigenthings, which takes a number of steps and not a tolerance, the smallest number
of tens that converges is looked for first and not timed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._measure import alternate, compare, publish_result, require_one_thread
from subspace_lab.analysis import hessian
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.analysis.loss.operator import HessianOperator, LossOnBatch

K, TOL = 5, 1e-3
SIZES = {"1m": (96, 256, 4, 3072, 4, 64), "tiny": (16, 24, 2, 64, 2, 12)}
Batch = dict[str, Tensor]
Pairs = tuple[np.ndarray, Tensor | None]


def problem(size: str, steps: int) -> tuple[nn.Module, Batch]:
    """A LLaMA after some steps of AdamW on tokens of Zipf's distribution, and a batch of them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, num_layers, vocab, sequences, length = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=num_layers, num_attention_heads=4,
        vocab_size=vocab, max_position_embeddings=length, use_cache=False, attn_implementation="eager",
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    shares = 1 / torch.arange(1, vocab + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def draw(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.multinomial(shares, sequences * length, replacement=True, generator=generator)
        return {"input_ids": ids.view(sequences, length), "labels": ids.view(sequences, length)}

    for step in range(steps):
        loss_of(model, draw(step + 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), draw(0)


def loss_of(model: Any, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def ours(model: nn.Module, batch: Batch) -> Pairs:
    return hessian(model, loss_of, batch, k=K, tol=TOL)["eigenvalue"].to_numpy(np.float64), None


def eigenthings(model: nn.Module, batch: Batch, steps: int) -> Pairs:
    import hessian_eigenthings

    operator = hessian_eigenthings.HessianOperator(model, [batch], loss_of)
    found = hessian_eigenthings.lanczos(
        operator, k=K, max_iter=steps, tol=TOL, which="LA", reorthogonalize=True, seed=0
    )
    return found.eigenvalues.double().numpy(), found.eigenvectors


def eigenthings_defaults(model: nn.Module, batch: Batch) -> Pairs:
    import hessian_eigenthings

    operator = hessian_eigenthings.HessianOperator(model, [batch], loss_of)
    found = hessian_eigenthings.lanczos(operator, k=K, seed=0)
    return found.eigenvalues.double().numpy(), found.eigenvectors


class Logits(nn.Module):
    """A model of transformers as a map from tokens to logits of the next ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (tokens, vocabulary)."""
        logits: Tensor = self.model(input_ids=ids).logits[:, :-1]
        return logits.flatten(0, 1)


def pyhessian(model: nn.Module, batch: Batch) -> Pairs:
    from pyhessian import hessian as theirs

    torch.manual_seed(0)
    ids = batch["input_ids"]
    data = (ids, ids[:, 1:].flatten())
    measured = theirs(Logits(model), nn.functional.cross_entropy, data=data, cuda=False)
    values, vectors = measured.eigenvalues(maxIter=100, tol=TOL, top_n=K)
    flat = torch.stack([torch.cat([part.flatten() for part in vector]) for vector in vectors], 1)
    for parameter in model.parameters():
        parameter.grad = None
    return np.array(values, dtype=np.float64), flat


def curvlinops(model: nn.Module, batch: Batch) -> Pairs:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    ids = batch["input_ids"]
    data = [(ids, ids[:, 1:].flatten())]
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(Logits(model), nn.CrossEntropyLoss(), parameters, data).to_scipy()
    values, vectors = eigsh(operator, k=K, which="LA", tol=TOL)
    return values[::-1].astype(np.float64), torch.from_numpy(vectors[:, ::-1].copy())


def residuals(model: nn.Module, batch: Batch, found: Pairs) -> list[float]:
    """Residuals of eigenpairs by products of ours, as a share of the largest eigenvalue that we know."""
    values, vectors = found
    assert vectors is not None
    (block,) = select_blocks(model, None)
    operator = HessianOperator(LossOnBatch(model, loss_of, batch, None), block)
    V = vectors.float()
    V = V if V.shape[0] == block.size else V.mT
    largest = float(ours(model, batch)[0][0])
    unit = [v / torch.linalg.vector_norm(v) for v in V.mT]
    pairs = zip(unit, values, strict=True)
    return [float(torch.linalg.vector_norm(operator.product(v) - value * v)) / abs(largest) for v, value in pairs]


def enough_steps(model: nn.Module, batch: Batch) -> int:
    """The tens of Lanczos steps after which hessian-eigenthings has converged."""
    for steps in range(20, 210, 10):
        if max(residuals(model, batch, eigenthings(model, batch, steps))) <= TOL:
            return steps
    raise SystemExit("hessian-eigenthings did not converge in 200 steps")


def tried(model: nn.Module, batch: Batch, run: Callable[[nn.Module, Batch], Pairs]) -> dict[str, Any]:
    """Whether somebody else's way works, and how exact it is."""
    try:
        found = run(model, batch)
    except Exception as error:  # whatever it has to say is the result
        return {"works": False, "error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
    shares = residuals(model, batch, found)
    return {
        "works": True,
        "eigenvalues": [float(value) for value in found[0]],
        "residuals_over_largest": shares,
        "converged": max(shares) <= TOL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--steps", type=int, default=50, help="steps of training before")
    arguments = parser.parse_args()
    require_one_thread()
    model, batch = problem(arguments.size, arguments.steps)
    steps = enough_steps(model, batch)

    def lanczos(model: nn.Module, batch: Batch) -> Pairs:
        return eigenthings(model, batch, steps)

    peers: dict[str, Callable[[nn.Module, Batch], Pairs]] = {
        f"hessian-eigenthings, {steps} steps": lanczos,
        "hessian-eigenthings, defaults": eigenthings_defaults,
        "PyHessian": pyhessian,
        "curvlinops": curvlinops,
    }
    outcomes = {name: tried(model, batch, run) for name, run in peers.items()}
    timed = {name: (lambda run=run: run(model, batch)) for name, run in peers.items() if outcomes[name]["works"]}
    seconds = alternate({"ours": lambda: ours(model, batch), **timed}, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    converged = [name for name in timed if outcomes[name]["converged"]]
    fastest = min(converged, key=lambda name: medians[name])
    table = hessian(model, loss_of, batch, k=K, tol=TOL)
    speed = compare(seconds, fastest, "ours")
    results = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "eigenvalues": K,
        "tolerance": TOL,
        "ours": {
            "eigenvalues": [float(value) for value in table["eigenvalue"]],
            "residuals_over_largest": [float(r) for r in table["residual"] / table["eigenvalue"].iloc[0]],
            "converged": bool(table["converged"].all()),
        },
        "others": outcomes,
        "fastest_that_converges": fastest,
        "seconds": medians,
        "speed": speed,
    }
    worst = max(results["ours"]["residuals_over_largest"])
    targets = {
        "fastest other that converges, over ours": (speed["ratio"], ">=", 1.0),
        "largest residual of ours over the largest eigenvalue": (worst, "<=", TOL),
    }
    publish_result(results, targets)


if __name__ == "__main__":
    main()
