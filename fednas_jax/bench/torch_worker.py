"""The PyTorch side of comparisons: federated rounds as a researcher writes them, in a process of its own.

It runs in an environment of its own (PyTorch and numpy are all it needs) and stays alive between rounds. Requests are
lines of JSON on stdin, answers lines of JSON on stdout:

  {"do": "version"}  ->  {"torch": version, "cuda": whether it has a GPU}
  {"do": "load", "clients": NPZ, "start": NPZ, "net": name, "device": "cpu" or "cuda", "threads": n, "exact": bool}
      ->  {"threads": n}
  {"do": "round", "way": WAY, "lanes": L, "clients": n, "scored": bool}  ->  {"seconds": s, "examples": trained on}
  {"do": "check", "way": WAY, "lanes": L, "clients": n, "rate": r, "orders": NPZ, "out": NPZ}
      ->  {}; one round from the start with the orders given

Ways: `sequential`, one client after another; `graph`, the same with the step captured as a CUDA graph; `func`, L
clients side by side by torch.func's vmap of grad. `clients` are the first n, 0 all. Steps that a lane idles through
while the longest client beside it goes on count as trained examples: the step's speed is told, not the padding.

An answer {"error": text} instead means that it could not. Letters: K candidates, C clients, T tasks (candidate by
candidate, each on all clients), L lanes.
"""

import json
import os
import re
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

# Strides of MobileNetV1's blocks, table 1 of arXiv 1704.04861.
MOBILENET_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WARM_UP = 3  # steps before a CUDA graph is captured


class CNN(nn.Module):
    """The FedAvg paper's network: two 5x5 convolutions, each with 2x2 max pooling, a dense layer, the classifier."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        for name in ("conv1", "conv2"):
            width, channels = shapes[f"{name}.weight"][:2]
            setattr(self, name, nn.Conv2d(channels, width, 5, padding=2))
        self.dense = nn.Linear(*shapes["dense.weight"][::-1])
        self.classifier = nn.Linear(*shapes["classifier.weight"][::-1])

    def forward(self, x: Any) -> Any:
        """Logits [B, classes] of images [B, channels, H, W]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.dense(x.flatten(1)))
        return self.classifier(x)


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm, and an activation."""

    def __init__(self, shape: tuple[int, ...], stride: int, groups: int, statistics: bool, activation: Any):
        super().__init__()
        width, channels, size, _ = shape
        padding = (size - 1) // 2
        self.conv = nn.Conv2d(channels * groups, width, size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width, track_running_stats=statistics)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        """[B, C, H, W] to [B, width, H', W']."""
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


class MobileNetV1(nn.Module):
    """The stem at stride 1, depthwise separable blocks, global average pooling, the classifier."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], statistics: bool):
        super().__init__()
        blocks = sum(bool(re.fullmatch(r"pointwise\.\d+\.conv\.weight", name)) for name in shapes)

        def layer(name: str, stride: int, depthwise: bool = False) -> ConvNorm:
            shape = shapes[f"{name}.conv.weight"]
            return ConvNorm(shape, stride, shape[0] if depthwise else 1, statistics, F.relu6)

        self.stem = layer("stem", 1)
        strides = MOBILENET_STRIDES[:blocks]
        self.depthwise = nn.ModuleList(layer(f"depthwise.{n}", stride, True) for n, stride in enumerate(strides))
        self.pointwise = nn.ModuleList(layer(f"pointwise.{n}", 1) for n in range(blocks))
        self.classifier = nn.Linear(*shapes["classifier.weight"][::-1])

    def forward(self, x: Any) -> Any:
        """Logits [B, classes] of images [B, channels, H, W]."""
        x = self.stem(x)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = pointwise(depthwise(x))
        return self.classifier(x.mean((2, 3)))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of arXiv 1512.03385).

    A block that adds channels halves the image, as in the published networks.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], name: str, statistics: bool):
        super().__init__()
        first, second = (shapes[f"{name}.{part}.conv.weight"] for part in ("first", "second"))
        self.added = second[0] - first[1]  # channels
        self.stride = 2 if self.added else 1
        self.first = ConvNorm(first, self.stride, 1, statistics, F.relu)
        self.second = ConvNorm(second, 1, 1, statistics, None)

    def forward(self, x: Any) -> Any:
        """[B, C, H, W] to [B, width, H / stride, W / stride]."""
        skip = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            skip = F.pad(skip, (0, 0, 0, 0, 0, self.added))
        return F.relu(skip + self.second(self.first(x)))


class ResNet(nn.Module):
    """ResNets for small images: a 3x3 stem, stages of blocks, global average pooling, the classifier."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], statistics: bool):
        super().__init__()
        blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.first\.conv\.weight", name)) for name in shapes)
        self.stem = ConvNorm(shapes["stem.conv.weight"], 1, 1, statistics, F.relu)
        self.blocks = nn.Sequential(*(Block(shapes, f"blocks.{n}", statistics) for n in range(blocks)))
        self.classifier = nn.Linear(*shapes["classifier.weight"][::-1])

    def forward(self, x: Any) -> Any:
        """Logits [B, classes] of images [B, channels, H, W]."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


NETWORKS: dict[str, Any] = {
    "cnn": lambda shapes, statistics: CNN(shapes),
    "mobilenet_v1": MobileNetV1,
    "resnet20": ResNet,
}


class Federation:
    """Everything loaded, and what a round asks for."""

    def __init__(self, clients: Any, start: Any, net: str, device: str):
        self.net, self.device = net, torch.device(device)
        mean, std = (clients[name].astype(np.float32) for name in ("mean", "std"))
        images = (clients["images"].astype(np.float32) / 255 - mean) / std
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self.device)
        self.labels = torch.from_numpy(clients["labels"].astype(np.int64)).to(self.device)
        self.offsets, self.train_count, self.steps = (clients[n] for n in ("offsets", "train_count", "steps"))
        self.batch, self.rounds = (int(clients[n]) for n in ("batch", "rounds"))
        self.rate, self.momentum, self.decay = (float(clients[n]) for n in ("rate", "momentum", "decay"))
        weights = {name: torch.from_numpy(start[name]).to(self.device) for name in start.files}
        slots = len(next(iter(weights.values())))
        self.start = [{n: w[k] for n, w in weights.items()} for k in range(slots)]
        self.candidates = self.start
        self.trainers: dict[tuple[str, int, float], OneByOne | SideBySide] = {}

    def model(self, statistics: bool = True) -> Any:
        """The network in training mode; without running statistics where vmap could not write them."""
        shapes = {name: tuple(value.shape) for name, value in self.start[0].items()}
        return NETWORKS[self.net](shapes, statistics).to(self.device).train()

    def trainer(self, way: str, lanes: int) -> Any:
        """What trains clients in this way, at the rate of now."""
        kind = (way, lanes, self.rate)
        if kind not in self.trainers:
            ways = {"sequential": OneByOne, "graph": Graphed}
            self.trainers[kind] = SideBySide(self, lanes) if way == "func" else ways[way](self)
        return self.trainers[kind]

    def rows(self, client: int, order: Any) -> Any:
        """Places of a client's examples in the data, in the order of its steps."""
        return (int(self.offsets[client]) + order).to(self.device)

    def shuffled(self, client: int) -> Any:
        """A client's examples in random order, over again until all its steps have full batches."""
        length, count = int(self.steps[client]) * self.batch, int(self.train_count[client])
        return torch.cat([torch.randperm(count) for _ in range(-(-length // count))])[:length]

    def train_candidate(self, trainer: Any, weights: Any, clients: int, orders: Any) -> tuple[dict[str, Any], int]:
        """FedAvg: the clients' weights, averaged by their examples; and the steps that lanes went through."""
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        steps = trainer.train(total, weights, range(clients), orders)
        return {name: value / int(self.train_count[:clients].sum()) for name, value in total.items()}, steps

    def score(self, model: Any, weights: dict[str, Any]) -> float:
        """Accuracy on all clients' validation examples, 128 at once."""
        model.load_state_dict(weights, strict=False)
        model.eval()
        right = count = 0
        with torch.inference_mode():
            for client, trains in enumerate(self.train_count):
                rows = torch.arange(int(self.offsets[client]) + int(trains), int(self.offsets[client + 1]))
                for part in rows.to(self.device).split(128):
                    right += int((model(self.images[part]).argmax(1) == self.labels[part]).sum())
                count += len(rows)
        model.train()
        return right / count

    def finished(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def work(self, way: str, lanes: int, clients: int, scored: bool) -> dict[str, Any]:
        """One timed piece of work: some rounds of all candidates on the first clients."""
        trainer, steps, clients = self.trainer(way, lanes), 0, clients or len(self.train_count)
        self.finished()
        began = time.perf_counter()
        for _ in range(self.rounds):
            for k, weights in enumerate(self.candidates):
                trained, gone = self.train_candidate(trainer, weights, clients, self.shuffled)
                self.candidates = [*self.candidates[:k], trained, *self.candidates[k + 1 :]]
                steps += gone
            if scored:
                for weights in self.candidates:
                    self.score(trainer.model, weights)
        self.finished()
        return {"seconds": time.perf_counter() - began, "examples": steps * self.batch}

    def check(self, way: str, lanes: int, clients: int, orders: Any, out: str) -> None:
        """One round from the start weights with orders [T, longest] given; writes the averaged weights [K, ...]."""
        found = []
        for k, weights in enumerate(self.start):
            mine = torch.from_numpy(orders[k * clients : (k + 1) * clients].astype(np.int64))

            def order(client: int, mine: Any = mine) -> Any:
                return mine[client, : int(self.steps[client]) * self.batch]

            found.append(self.train_candidate(self.trainer(way, lanes), weights, clients, order)[0])
        averaged: dict[str, Any] = {name: np.stack([w[name].cpu().numpy() for w in found]) for name in found[0]}
        np.savez(out, **averaged)


class OneByOne:
    """One client after another: a loop over its batches."""

    def __init__(self, federation: Federation):
        self.federation, self.model = federation, federation.model()

    def train(self, total: dict[str, Any], weights: dict[str, Any], clients: Any, orders: Any) -> int:
        """Adds each client's trained weights, times its examples, to `total`; the steps taken."""
        f, steps = self.federation, 0
        for client in clients:
            self.client(weights, f.rows(client, orders(client)))
            for name, value in self.model.named_parameters():
                total[name].add_(value.detach(), alpha=int(f.train_count[client]))
            steps += int(f.steps[client])
        return steps

    def client(self, weights: dict[str, Any], rows: Any) -> None:
        """Trains the model from these weights on these examples."""
        f, model = self.federation, self.model
        model.load_state_dict(weights, strict=False)
        optimizer = self.optimizer()
        for part in rows.split(f.batch):
            loss = F.cross_entropy(model(f.images[part]), f.labels[part])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def optimizer(self) -> Any:
        """SGD as the workload has it."""
        f = self.federation
        return torch.optim.SGD(self.model.parameters(), lr=f.rate, momentum=f.momentum, weight_decay=f.decay)


class Graphed(OneByOne):
    """The same with the whole step captured once as a CUDA graph and replayed."""

    def __init__(self, federation: Federation):
        super().__init__(federation)
        f = federation
        self.images = torch.zeros_like(f.images[: f.batch])
        self.labels = torch.zeros_like(f.labels[: f.batch])
        self.memory = self.optimizer()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(aside)
        self.memory.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    def _step(self) -> None:
        self.memory.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.memory.step()

    def client(self, weights: dict[str, Any], rows: Any) -> None:
        """Trains the model from these weights on these examples."""
        f = self.federation
        self.model.load_state_dict(weights, strict=False)
        for state in self.memory.state.values():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].zero_()
        for part in rows.split(f.batch):
            torch.index_select(f.images, 0, part, out=self.images)
            torch.index_select(f.labels, 0, part, out=self.labels)
            self.graph.replay()


class SideBySide:
    """L clients side by side: torch.func's vmap of grad, and SGD on all lanes at once."""

    def __init__(self, federation: Federation, lanes: int):
        self.federation, self.lanes, self.model = federation, lanes, federation.model(statistics=False)

        def loss(params: dict[str, Any], images: Any, labels: Any) -> Any:
            return F.cross_entropy(torch.func.functional_call(self.model, params, (images,)), labels)

        self.gradients = torch.func.vmap(torch.func.grad(loss))

    def train(self, total: dict[str, Any], weights: dict[str, Any], clients: Any, orders: Any) -> int:
        """Adds each client's trained weights, times its examples, to `total`; the steps that lanes went through."""
        return sum(
            self.chunk(total, weights, clients[first : first + self.lanes], orders)
            for first in range(0, len(clients), self.lanes)
        )

    def chunk(self, total: dict[str, Any], weights: dict[str, Any], clients: Any, orders: Any) -> int:
        """The same for as many clients as there are lanes, or fewer."""
        f, mine = self.federation, list(clients)
        params = {name: value.repeat(len(mine), *[1] * value.ndim) for name, value in weights.items()}
        memory = {name: torch.zeros_like(value) for name, value in params.items()} if f.momentum else {}
        rows = [f.rows(client, orders(client)) for client in mine]
        longest = max(map(len, rows))
        table = torch.stack([F.pad(r, (0, longest - len(r)), value=int(r[0])) for r in rows])
        steps = torch.tensor([int(f.steps[client]) for client in mine], device=f.device)
        for t in range(longest // f.batch):
            part = table[:, t * f.batch : (t + 1) * f.batch]
            gradients = self.gradients(params, f.images[part], f.labels[part])
            rate = f.rate * (t < steps)
            for name, value in params.items():
                change = gradients[name]
                if f.decay:
                    change = change.add(value, alpha=f.decay)
                if memory:
                    change = memory[name].mul_(f.momentum).add_(change)
                value.addcmul_(change, rate.view(-1, *[1] * (value.ndim - 1)), value=-1)
        counts = torch.tensor([float(f.train_count[client]) for client in mine], device=f.device)
        for name, value in params.items():
            total[name].add_(torch.tensordot(counts, value, dims=1))
        return longest // f.batch * len(mine)


def answer(request: dict[str, Any], federations: list[Federation]) -> dict[str, Any]:
    """What one request comes to; `federations` holds what was loaded last."""
    if request["do"] == "version":
        return {"torch": torch.__version__, "cuda": torch.cuda.is_available()}
    if request["do"] == "load":
        torch.manual_seed(0)
        torch.set_num_threads(request["threads"])
        # As jax's default on recent NVIDIA hardware, where it was not asked to be exact: TF32.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not request["exact"]
        torch.backends.cudnn.benchmark = True
        clients, start = (np.load(request[name]) for name in ("clients", "start"))
        federations[:] = [Federation(clients, start, request["net"], request["device"])]
        return {"threads": torch.get_num_threads()}
    loaded, how = federations[0], (request["way"], request["lanes"], request["clients"])
    if request["do"] == "round":
        return loaded.work(*how, request["scored"])
    usual, loaded.rate = loaded.rate, request["rate"]
    loaded.check(*how, np.load(request["orders"])["orders"], request["out"])
    loaded.rate = usual
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
            first, *_ = f"{error}".splitlines() or [""]
            told = {"error": f"{type(error).__name__}: {first}"}
        print(json.dumps(told), file=said, flush=True)


if __name__ == "__main__":
    main()
