"""The step of top1_pg in plain PyTorch.

    logits = U[c] V^T;  S = top-K of logits + G;  a = the best of S by reward
    loss = -mean r log softmax(logits)[a];  autograd;  Adagrad

`benchmarks/scripts/speed.py` compares with it. The problem is the paper's; only candidates have rewards.
"""

from __future__ import annotations

import time

import torch

__all__ = ["seconds_per_step"]


class Problem:
    """Features, tables and an optimizer; `step` is one update."""

    def __init__(
        self, num_contexts: int, num_items: int, dim: int, num_candidates: int, batch: int
    ):
        torch.manual_seed(0)
        self.batch, self.num_candidates, self.num_contexts = batch, num_candidates, num_contexts
        self.x = torch.nn.functional.normalize(2 * torch.rand(num_contexts, 10) - 1)
        self.e = torch.nn.functional.normalize(2 * torch.rand(num_items, 10) - 1)
        self.projection = torch.nn.functional.normalize(torch.randn(10, 10))
        self.contexts = torch.nn.Parameter(torch.randn(num_contexts, dim))
        self.items = torch.nn.Parameter(torch.randn(num_items, dim))
        self.optimizer = torch.optim.Adagrad([self.contexts, self.items], lr=1e-2)

    def step(self) -> None:
        """Trains one step."""
        context = torch.randint(0, self.num_contexts, (self.batch,))
        logits = self.contexts[context] @ self.items.T
        with torch.no_grad():
            gumbel = -torch.log(torch.empty_like(logits).exponential_())
            candidates = torch.topk(logits + gumbel, self.num_candidates).indices
            q = torch.einsum("bf,bkf->bk", self.x[context] @ self.projection, self.e[candidates])
            mean = torch.nn.functional.softplus(10 * q) + 1
            best = mean.argmax(dim=1, keepdim=True)
            shown = candidates.gather(1, best)[:, 0]
            reward = mean.gather(1, best)[:, 0] + torch.randn(self.batch)
        loss = (reward * torch.nn.functional.cross_entropy(logits, shown, reduction="none")).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def seconds_per_step(problem: Problem, steps: int) -> float:
    """Wall time of `steps` further steps, in seconds per step."""
    began = time.perf_counter()
    for _ in range(steps):
        problem.step()
    return (time.perf_counter() - began) / steps
