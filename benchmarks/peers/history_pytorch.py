"""The supervised start of a history tower in plain PyTorch, run by `benchmarks/scripts/supervised_start.py`.

    e(x) = exp(s) * n( dropout( sum_j softmax(w)_j v[item_j] ) ),   f(a | x) = e(x) . n(v[a]),   n(v) = v/|v|
    loss = -mean log softmax(f, the items seen before left out)[next item];   autograd;   Adam

    python history_pytorch.py PROBLEM.npz SETTINGS.json RESULT.npz

The problem holds moments with their histories and next items, and the users of the validation part.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torch import nn


class Tower(nn.Module):
    """Pools the last items by learnt weights; the vectors are shared between history and catalogue."""

    def __init__(self, num_items: int, dim: int, length: int, tags: np.ndarray, dropout: float):
        super().__init__()
        self.table = nn.Parameter(0.05 * torch.randn(num_items, dim))
        self.tags = nn.Parameter(0.05 * torch.randn(int(tags.max()) + 1, dim))
        self.place = nn.Parameter(torch.linspace(-2, 0, length))
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.dropout = nn.Dropout(dropout)
        there = torch.from_numpy(tags >= 0).float()
        self.share = there / there.sum(1, keepdim=True).clamp(min=1)  # [N, T]
        self.item_tags = torch.from_numpy(np.maximum(tags, 0)).long()

    def forward(self, histories: torch.Tensor) -> torch.Tensor:
        """Logits [B, N] of histories [B, length], in which -1 stands before the first item."""
        items = nn.functional.embedding_bag(
            self.item_tags, self.tags, mode="sum", per_sample_weights=self.share
        )
        vectors = self.table + items
        there = histories >= 0
        weights = self.place.expand_as(histories).masked_fill(~there, -torch.inf).softmax(dim=1)
        pooled = (weights[..., None] * vectors[histories.clamp(min=0)]).sum(1)
        pooled = nn.functional.normalize(self.dropout(pooled), dim=1, eps=1e-6)
        catalogue = nn.functional.normalize(vectors, dim=1, eps=1e-6)
        return self.log_scale.exp() * pooled @ catalogue.T


class Sequences:
    """Items of every user in their order, and what was seen before a place."""

    def __init__(self, problem: dict[str, np.ndarray]):
        self.starts = torch.from_numpy(problem["starts"]).long()
        self.items = torch.from_numpy(problem["items"]).long()

    def histories(self, users: torch.Tensor, ends: torch.Tensor, length: int) -> torch.Tensor:
        place = ends[:, None] - length + torch.arange(length)
        found = self.items[(self.starts[users][:, None] + place).clamp(0, len(self.items) - 1)]
        return found.where(place >= 0, torch.tensor(-1))

    def mask_seen(
        self, logits: torch.Tensor, users: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        rows = torch.repeat_interleave(torch.arange(len(users)), ends)
        first = torch.repeat_interleave(ends.cumsum(0) - ends, ends)
        place = torch.arange(len(rows)) - first
        seen = self.items[self.starts[users][rows] + place]
        return logits.index_put((rows, seen), torch.tensor(-torch.inf))


def train(problem: dict[str, np.ndarray], settings: dict[str, float]) -> dict[str, object]:
    """Trains the tower, and returns losses, ranks of the validation items, and seconds."""
    torch.manual_seed(int(settings["seed"]))
    torch.set_num_threads(int(settings["threads"]))
    sequences, batch, length = (
        Sequences(problem),
        int(settings["batch_size"]),
        int(settings["length"]),
    )
    tower = Tower(
        int(settings["num_items"]),
        int(settings["dim"]),
        length,
        problem["tags"],
        settings["dropout"],
    )
    optimizer = torch.optim.Adam(tower.parameters(), lr=settings["learning_rate"])
    users, ends = (torch.from_numpy(problem[name]).long() for name in ("users", "ends"))
    wanted = sequences.items[sequences.starts[users] + ends]
    losses, cpu, wall = [], time.process_time(), time.perf_counter()
    for _ in range(int(settings["num_epochs"])):
        order = torch.randperm(len(users))
        for begin in range(0, len(order) - batch + 1, batch):
            rows = order[begin : begin + batch]
            logits = tower(sequences.histories(users[rows], ends[rows], length))
            logits = sequences.mask_seen(logits, users[rows], ends[rows])
            loss = nn.functional.cross_entropy(logits, wanted[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "losses": np.array(losses),
        "ranks": ranks(tower, sequences, problem, length),
        "cpu": cpu,
        "wall": wall,
    }


@torch.no_grad()
def ranks(
    tower: Tower, sequences: Sequences, problem: dict[str, np.ndarray], length: int
) -> np.ndarray:
    """Numbers of items before the validation item of each user."""
    tower.eval()
    users, ends = (torch.from_numpy(problem[f"held_{name}"]).long() for name in ("users", "ends"))
    found = []
    for begin in range(0, len(users), 1024):
        some, at = users[begin : begin + 1024], ends[begin : begin + 1024]
        logits = sequences.mask_seen(tower(sequences.histories(some, at, length)), some, at)
        own = logits.gather(1, sequences.items[sequences.starts[some] + at][:, None])
        found.append((logits > own).sum(1).numpy())
    return np.concatenate(found)


def main() -> None:
    """Reads the problem and the settings, and writes the result."""
    problem_file, settings_file, result_file = sys.argv[1:]
    with np.load(problem_file) as arrays, open(settings_file, encoding="utf-8") as settings:
        result = train(dict(arrays), json.load(settings))
    np.savez(result_file, versions=torch.__version__, **result)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
