#!/usr/bin/env python3
"""The workloads of `examples/workloads` in PyTorch: a step compiled by torch.compile, a repetition as one CUDA graph.

    peers.py CASE PRECISION      for example: peers.py W4_train_b8_8 tf32

It says {"ready": true}, makes a repetition for each line `go` and prints its seconds, and at the end a record, as
`workloads --serve` does. PRECISION is f32 or tf32. Cells come last: [batch, rows, columns, channels].
"""
import json
import re
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def near(x):
    """The nine neighbours of each cell, zeros beyond the border."""
    rows, columns = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    return [padded[:, dy:dy + rows, dx:dx + columns] for dy in range(3) for dx in range(3)]


class Growing(nn.Module):
    """Mordvintsev et al. 2020: Sobel filters, two layers, cells that die."""
    kept, rate = 0, 0.5

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(48, 128)
        self.out = nn.Linear(128, 16, bias=False)
        slope = torch.tensor([[-1., 0., 1.], [-2., 0., 2.], [-1., 0., 1.]]) / 8
        same = torch.zeros(3, 3)
        same[1, 1] = 1
        self.register_buffer("filters", torch.stack([same, slope, slope.T]).reshape(3, 1, 3, 3).repeat(16, 1, 1, 1))

    def update(self, x):
        seen = F.conv2d(x.permute(0, 3, 1, 2), self.filters, padding=1, groups=16).permute(0, 2, 3, 1)
        return self.out(F.relu(self.hidden(seen)))

    @staticmethod
    def alive(x):
        return (F.max_pool2d(x[..., 3].unsqueeze(1), 3, 1, 1) > 0.1).permute(0, 2, 3, 1)


class Vitca(nn.Module):
    """Tesfaldet et al. 2022: attention of each cell to its nine neighbours."""
    rate = 0.5

    def __init__(self, channels, kept, side):
        super().__init__()
        self.kept = kept
        self.embed = nn.Linear(channels, 128)
        self.place = nn.Parameter(torch.zeros(side, side, 128))
        self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(3))
        self.qkv = nn.Linear(128, 384, bias=False)
        self.project = nn.Linear(128, 128)
        self.mlp = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 128))
        self.head = nn.Linear(128, channels - kept)

    def update(self, x):
        tokens = self.embed(x) + self.place
        q, k, v = self.qkv(self.norms[0](tokens)).chunk(3, -1)
        heads = lambda y: y.unflatten(-1, (4, 32))
        q = heads(q)
        logits = torch.stack([(q * heads(key)).sum(-1) for key in near(k)], -1) * 32 ** -0.5
        weights = logits.softmax(-1)
        seen = sum(weights[..., n:n + 1] * heads(value) for n, value in enumerate(near(v)))
        tokens = tokens + self.project(seen.flatten(-2))
        tokens = tokens + self.mlp(self.norms[1](tokens))
        return self.head(self.norms[2](tokens))


class Nafca(nn.Module):
    """The attention-free automaton of the latent NCA paper: gates, and a sum of nine learned taps."""
    kept, rate = 16, 1.0

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(3))
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)
        self.scale, self.shift = nn.Parameter(torch.ones(256)), nn.Parameter(torch.zeros(256))
        self.taps = nn.Parameter(torch.randn(9, 128) * 0.03)
        self.bias = nn.Parameter(torch.zeros(1))
        self.third, self.fourth = nn.Linear(64, 256), nn.Linear(128, 64)
        self.beta, self.gamma = nn.Parameter(torch.ones(64)), nn.Parameter(torch.ones(64))
        self.head = nn.Linear(64, 48)

    def update(self, x):
        u = self.first(self.norms[0](x)).repeat_interleave(2, -1) * self.scale + self.shift
        u = u[..., :128] * u[..., 128:]
        # A convolution with one output: nine numbers of each cell, which its neighbours add.
        numbers = F.linear(u, self.taps)
        attention = sum(tap[..., n:n + 1] for n, tap in enumerate(near(numbers))) + self.bias
        y = x + self.beta * self.second(u * attention)
        u = self.third(self.norms[1](y))
        z = y + self.gamma * self.fourth(u[..., :128] * u[..., 128:])
        return self.head(self.norms[2](z))


def model(workload, side):
    return {1: Growing, 2: Growing, 4: Nafca}.get(workload, lambda: Vitca(*{3: (38, 3), 5: (64, 16)}[workload], side))()


def step(net, x):
    update = net.update(x)
    if net.rate < 1:
        update = update * (torch.rand(x.shape[:3] + (1,), device=x.device) < net.rate)
    if net.kept:
        return torch.cat([x[..., :net.kept], x[..., net.kept:] + update], -1)
    grown = x + update
    if isinstance(net, Growing):
        return grown * (net.alive(x) & net.alive(grown))
    return grown


def main():
    name, precision = sys.argv[1:3]
    found = re.fullmatch(r"W([1-5])_(infer|train)_b(\d+)_(\d+)(?:_s(\d+))?", name)
    if not found or precision not in ("f32", "tf32"):
        sys.exit(f"expected W4_train_b8_8 or the like and f32 or tf32, found {name} {precision}")
    workload, batch, side = (int(found[n]) for n in (1, 3, 4))
    train = found[2] == "train"
    steps = int(found[5] or (20 if train and workload > 2 else 64))
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    net = model(workload, side).to(DEVICE)
    channels = {1: 16, 2: 16, 3: 38}.get(workload, 64)
    out = {1: (0, 4), 2: (0, 4), 3: (3, 3)}.get(workload, (16, 16))
    first = torch.rand(batch, side, side, channels, device=DEVICE)
    target = torch.rand(batch, side, side, out[1], device=DEVICE)
    compiled = torch.compile(step, fullgraph=True, dynamic=False) if DEVICE == "cuda" else step
    adam = torch.optim.Adam(net.parameters(), lr=1e-6, foreach=True, capturable=DEVICE == "cuda")

    def once():
        x = first
        with torch.set_grad_enabled(train):
            for _ in range(steps):
                x = compiled(net, x)
            if not train:
                return x
            adam.zero_grad(set_to_none=True)
            F.mse_loss(x[..., out[0]:out[0] + out[1]], target).backward()
        if workload == 2:
            for weight in net.parameters():
                weight.grad /= weight.grad.norm() + 1e-8
        adam.step()
        return x

    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    run = once
    if DEVICE == "cuda":
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                once()
        torch.cuda.current_stream().wait_stream(aside)
        wait()
        torch.cuda.reset_peak_memory_stats()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = once()  # noqa: F841: it keeps the memory of the graph
        run = graph.replay
    run()
    wait()
    print(json.dumps({"ready": True}), flush=True)
    times = []
    for line in sys.stdin:
        if line.strip() != "go":
            break
        # Enough calls for the clock.
        began = time.perf_counter()
        run()
        wait()
        calls = max(1, round(0.05 / max(time.perf_counter() - began, 1e-6)))
        began = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        times.append((time.perf_counter() - began) / calls)
        print(json.dumps({"t": times[-1]}), flush=True)
    peak = torch.cuda.max_memory_allocated() / 2 ** 20 if DEVICE == "cuda" else None
    times.sort()
    print(json.dumps({"case": name, "peer": f"torch-{precision}", "version": torch.__version__, "device": DEVICE,
                      "median_s": times[len(times) // 2] if times else None, "gpu_peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main()
