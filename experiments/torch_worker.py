"""The PyTorch side of `bench_engine.py`: federated rounds as a researcher writes them, in a process of its own.

It runs in an environment of its own (PyTorch and numpy are all it needs) and stays alive between rounds. Requests are
lines of JSON on stdin, answers lines of JSON on stdout:

  {"do": "version"}                                           ->  {"torch": version}
  {"do": "load", "clients": NPZ, "start": NPZ, "threads": n}  ->  {"threads": n}
  {"do": "round"}                                             ->  {"seconds": s, "examples": trained on}
  {"do": "check", "rate": r, "orders": NPZ, "out": NPZ}       ->  {}; one round from the start with the orders given

An answer {"error": text} instead means that it could not. Letters: K candidates, C clients, T tasks (candidate by
candidate, each on all clients).
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    print(json.dumps({"error": f"{sys.executable} has no torch"}), flush=True)
    sys.exit(0)


class CNN(nn.Module):
    """The FedAvg paper's network: two 5x5 convolutions, each with 2x2 max pooling, a dense layer, the classifier."""

    def __init__(self, channels: int, conv1: int, conv2: int, pixels: int, dense: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, conv1, 5, padding=2)
        self.conv2 = nn.Conv2d(conv1, conv2, 5, padding=2)
        self.dense = nn.Linear(pixels * conv2, dense)
        self.classifier = nn.Linear(dense, classes)

    def forward(self, x: Any) -> Any:
        """Logits [B, classes] of images [B, channels, H, W]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.dense(x.flatten(1)))
        return self.classifier(x)


class Federation:
    """Everything loaded, and `round`."""

    def __init__(self, clients: Any, start: Any):
        mean, std = (clients[name].astype(np.float32) for name in ("mean", "std"))
        images = (clients["images"].astype(np.float32) / 255 - mean) / std
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        self.labels = torch.from_numpy(clients["labels"].astype(np.int64))
        self.offsets, self.train_count, self.steps = (clients[n] for n in ("offsets", "train_count", "steps"))
        self.batch, self.rounds, self.scored = (int(clients[n]) for n in ("batch", "rounds", "scored"))
        self.rate, self.momentum, self.decay = (float(clients[n]) for n in ("rate", "momentum", "decay"))
        weights = {name: torch.from_numpy(start[name]) for name in start.files}
        self.start = [{n: w[k] for n, w in weights.items()} for k in range(len(weights["conv1.weight"]))]
        self.candidates = self.start
        conv1, conv2, dense = (weights[f"{name}.weight"] for name in ("conv1", "conv2", "dense"))
        pixels = dense.shape[2] // conv2.shape[1]
        classes = weights["classifier.weight"].shape[1]
        self.model = CNN(conv1.shape[2], conv1.shape[1], conv2.shape[1], pixels, dense.shape[1], classes)

    def train_client(self, weights: dict[str, Any], client: int, order: Any) -> dict[str, Any]:
        """The weights after a client's local steps on its examples in this order."""
        model, first = self.model, int(self.offsets[client])
        model.load_state_dict(weights)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=self.momentum, weight_decay=self.decay)
        for rows in (first + order).split(self.batch):
            loss = F.cross_entropy(model(self.images[rows]), self.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return model.state_dict()

    def train_candidate(self, weights: dict[str, Any], orders: Any) -> dict[str, Any]:
        """FedAvg: the clients' weights, averaged by their examples. `orders` gives each client's, by number."""
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for client, count in enumerate(self.train_count):
            trained = self.train_client(weights, client, orders(client))
            for name, value in trained.items():
                total[name].add_(value, alpha=int(count))
        return {name: value / int(self.train_count.sum()) for name, value in total.items()}

    def score(self, weights: dict[str, Any]) -> float:
        """Accuracy on all clients' validation examples, 128 at once."""
        self.model.load_state_dict(weights)
        self.model.eval()
        right = count = 0
        with torch.inference_mode():
            for client, trains in enumerate(self.train_count):
                rows = torch.arange(int(self.offsets[client]) + int(trains), int(self.offsets[client + 1]))
                for part in rows.split(128):
                    right += int((self.model(self.images[part]).argmax(1) == self.labels[part]).sum())
                count += len(rows)
        return right / count

    def shuffled(self, client: int) -> Any:
        """A client's examples in random order, over again until all its steps have full batches."""
        length, count = int(self.steps[client]) * self.batch, int(self.train_count[client])
        return torch.cat([torch.randperm(count) for _ in range(-(-length // count))])[:length]

    def work(self) -> dict[str, Any]:
        """One timed piece of work: some rounds of all candidates on all clients."""
        began = time.perf_counter()
        for _ in range(self.rounds):
            self.candidates = [self.train_candidate(weights, self.shuffled) for weights in self.candidates]
            if self.scored:
                for weights in self.candidates:
                    self.score(weights)
        examples = int(self.steps.sum()) * self.batch * self.rounds * len(self.candidates)
        return {"seconds": time.perf_counter() - began, "examples": examples}

    def check(self, orders: Any, out: str) -> None:
        """One round from the start weights with orders [T, longest] given; writes the averaged weights [K, ...]."""
        clients, found = len(self.train_count), []
        for k, weights in enumerate(self.start):
            mine = torch.from_numpy(orders[k * clients : (k + 1) * clients].astype(np.int64))
            lengths = self.steps * self.batch
            found.append(
                self.train_candidate(weights, lambda c, mine=mine, lengths=lengths: mine[c, : int(lengths[c])])
            )
        averaged: dict[str, Any] = {name: np.stack([w[name].numpy() for w in found]) for name in found[0]}
        np.savez(out, **averaged)


def answer(request: dict[str, Any], federations: list[Federation]) -> dict[str, Any]:
    """What one request comes to; `federations` holds what was loaded last."""
    if request["do"] == "version":
        return {"torch": torch.__version__}
    if request["do"] == "load":
        torch.manual_seed(0)
        torch.set_num_threads(request["threads"])
        federations[:] = [Federation(np.load(request["clients"]), np.load(request["start"]))]
        return {"threads": torch.get_num_threads()}
    if request["do"] == "round":
        return federations[0].work()
    usual, federations[0].rate = federations[0].rate, request["rate"]
    federations[0].check(np.load(request["orders"])["orders"], request["out"])
    federations[0].rate = usual
    return {}


def main() -> None:
    """Answers requests until stdin ends."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    federations: list[Federation] = []
    for line in sys.stdin:
        try:
            told = answer(json.loads(line), federations)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), file=said, flush=True)


if __name__ == "__main__":
    main()
