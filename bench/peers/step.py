#!/usr/bin/python3
"""Training steps of the reference model by mhmoe and by PyTorch, in turns; bench/README.md says how.

The model is written as one would write it in PyTorch: modules, autocast, and a loop over the experts, each of
which gets all rows that chose it.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import time

# Debian's OpenBLAS takes processors younger than itself for AVX2 ones; it reads this when torch loads it.
if "avx512f" in open("/proc/cpuinfo").read():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")

import torch
import torch.nn.functional as F
from torch import nn

DIM, LAYERS, HEADS, WIDTH, VOCAB, CONTEXT = 512, 6, 8, 1365, 16384, 512
BATCH, MICROS = 8, 4  # sequences a micro-batch, micro-batches an update
MOE = {  # heads, experts, top-k, width of an expert: what `mhmoe info` tells of the presets
    "dense": None,
    "smoe-top1": (1, 8, 1, 1365),
    "mhmoe-h2": (2, 41, 2, 512),
}
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class SwiGLU(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.gate = nn.Linear(dim, width, bias=False)
        self.up = nn.Linear(dim, width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x):
        return self.down(self.up(x) * F.silu(self.gate(x)))


class MoE(nn.Module):
    def __init__(self, heads, experts, top_k, width):
        super().__init__()
        self.slice, self.top_k = DIM // heads, top_k
        self.head = nn.Linear(DIM, DIM) if heads > 1 else nn.Identity()
        self.merge = nn.Linear(DIM, DIM) if heads > 1 else nn.Identity()
        self.router = nn.Linear(self.slice, experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(self.slice, width) for _ in range(experts))

    def forward(self, x):
        rows = self.head(x).reshape(-1, self.slice)
        p = self.router(rows).float().softmax(-1)
        gate, chosen = p.topk(self.top_k)
        first = torch.bincount(chosen[:, 0], minlength=len(self.experts)) / len(rows)
        self.balance = len(self.experts) * (first * p.mean(0)).sum()

        chosen = chosen.flatten()
        order = chosen.argsort()
        loads = torch.bincount(chosen, minlength=len(self.experts)).tolist()
        source = order // self.top_k
        parts = rows[source].split(loads)
        y = torch.cat([expert(part) for expert, part in zip(self.experts, parts)])
        y = y * gate.flatten()[order, None].to(y.dtype)
        y = torch.zeros_like(rows, dtype=y.dtype).index_add(0, source, y)
        return self.merge(y.reshape(x.shape))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM, bias=False)
        half = DIM // HEADS // 2
        angle = torch.outer(torch.arange(CONTEXT), 10000 ** (-torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.register_buffer("future", torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1))

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
        if hasattr(F, "scaled_dot_product_attention"):  # from PyTorch 2.0 on
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            y = (scores + self.future.to(scores.dtype)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, moe):
        super().__init__()
        self.norm1, self.attention = RMSNorm(), Attention()
        self.norm2, self.ffn = RMSNorm(), MoE(*moe) if moe else SwiGLU(DIM, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Model(nn.Module):
    def __init__(self, moe):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        nn.init.normal_(self.embed.weight, std=DIM**-0.5)
        self.blocks = nn.Sequential(*(Block(moe if i % 2 else None) for i in range(LAYERS)))
        self.norm = RMSNorm()

    def forward(self, token, target):
        logits = F.linear(self.norm(self.blocks(self.embed(token))), self.embed.weight)  # tied
        balance = sum(b.ffn.balance for b in self.blocks if isinstance(b.ffn, MoE))
        return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten()) + 0.01 * balance


class Training:
    """A model in training; a sample is one micro-batch and its share of the optimizer's step."""

    def __init__(self, name):
        torch.manual_seed(1)
        self.model = Model(MOE[name])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1)
        self.token, self.target = torch.randint(VOCAB, (2, BATCH, CONTEXT))

    def sample(self, dtype):
        """Seconds."""
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = self.model(self.token, self.target)
        loss.backward()
        middle = time.perf_counter()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return middle - start + (time.perf_counter() - middle) / MICROS


def ours(args, precision):
    """What `mhmoe bench step` reports: tokens a second of each model, the median of the samples it keeps."""
    command = [args.program, "bench", "step", "--precision", precision, "--threads", str(args.threads)]
    command += ["--seconds", "1", "--json"]  # the fewest samples: short turns
    results = json.loads(subprocess.check_output(command))["results"]
    return {r["who"]: r["figures"]["tokens/s"]["median"] for r in results if r["pass"] == "training"}


def spread(values):
    return f"{statistics.median(values):6.2f} [{min(values):.2f} {max(values):.2f}]" if values else "-"


def row(*columns):
    print("{:5} {:10} {:20} {:24} {:24} {}".format(*columns), flush=True)


def race(args, precision, trainings):
    rates = {name: ([], []) for name in trainings}
    for _ in range(args.rounds):
        mhmoe = ours(args, precision)
        for name, training in trainings.items():
            # The faster of two: mhmoe, too, leaves out its warm-up and slow moments of the machine.
            seconds = min(training.sample(PRECISIONS[precision]) for _ in range(2))
            if mhmoe[name] is not None:
                rates[name][0].append(mhmoe[name])
                rates[name][1].append(BATCH * CONTEXT / seconds)
    for name, (mhmoe, peer) in rates.items():
        ratio = [a / b for a, b in zip(mhmoe, peer)]
        row(precision, name, spread(ratio), spread(mhmoe), spread(peer), len(ratio))


def main():
    parser = argparse.ArgumentParser(description="Training steps by mhmoe and by PyTorch, in turns.")
    parser.add_argument("--program", default="build/mhmoe", help="default: build/mhmoe")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    processors = len(os.sched_getaffinity(0))  # PyTorch itself would take half of them
    parser.add_argument("--threads", type=int, default=processors, help="default: all processors")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainings = {name: Training(name) for name in MOE}

    version = subprocess.check_output([args.program, "--version"], text=True).strip()
    core = os.environ.get("OPENBLAS_CORETYPE", "found by itself")
    onednn = re.search(r"MKL-DNN v(\S+)", torch.__config__.show())
    onednn = onednn.group(1) if onednn else "-"
    print(f"{version}; PyTorch {torch.__version__} with oneDNN {onednn}, OPENBLAS_CORETYPE {core}.")
    print(f"Threads: {args.threads}. Medians over the rounds, [lowest highest].\n")
    row("type", "model", "mhmoe/PyTorch", "mhmoe tokens/s", "PyTorch tokens/s", "rounds")
    for precision in PRECISIONS:
        race(args, precision, trainings)


if __name__ == "__main__":
    main()
