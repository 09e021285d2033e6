#!/usr/bin/python3
"""Training steps of the reference model by mhmoe and by PyTorch, in turns; bench/README.md says how.

The model is written as one would write it in PyTorch: modules, autocast, rows sorted by expert, and either a loop
over the experts or, where PyTorch has it, its grouped product. It starts from the weights of
`mhmoe bench step --save`, and its losses and gradient are compared with ours before anything is timed.
"""
import argparse
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

# Threads that are not bound to processors may share one for a second, and then each of the thousands of operations
# of a step waits for the end of a time slice, 8 ms. OpenMP reads this once, before Python can set it for itself.
if "OMP_PROC_BIND" not in os.environ:
    os.environ["OMP_PROC_BIND"] = "true"
    os.execv(sys.executable, [sys.executable, *sys.argv])

PROCESSORS = os.sched_getaffinity(0)  # before PyTorch's OpenMP binds this thread to one of them

import torch
import torch.nn.functional as F
from torch import nn

BATCH, MICROS, CONTEXT = 8, 4, 512  # sequences a micro-batch, micro-batches an update, tokens a sequence
MODELS = "dense", "smoe-top1", "mhmoe-h2"
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}
# Of the nll of each token beside their spread, and of the gradient's norm. f32: sums in another order. bf16: each
# rounding is up to 0.4 %, a dozen layers follow each other, and autocast rounds in other places than we do.
BOUNDS = {"f32": 1e-3, "bf16": 0.03}


def load(path):
    """Tensors and metadata of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    types = {"F32": torch.float32, "I32": torch.int32}
    meta = header.pop("__metadata__", {})
    return {name: torch.frombuffer(memoryview(data)[t["data_offsets"][0] : t["data_offsets"][1]],
                                   dtype=types[t["dtype"]]).view(t["shape"]) for name, t in header.items()}, meta


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

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


class Stacked(nn.Module):
    """Linear layers of all experts; the rows of each follow each other."""

    def __init__(self, experts, rows, cols):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, rows, cols))
        # Its rows must begin at multiples of 16 bytes.
        self.grouped = hasattr(torch, "_grouped_mm") and rows % 8 == 0 and cols % 8 == 0

    def forward(self, x, loads):
        weight = self.weight
        if torch.is_autocast_cpu_enabled():
            x, weight = x.bfloat16(), weight.bfloat16()
        if self.grouped and x.dtype == torch.bfloat16:
            return torch._grouped_mm(x, weight.transpose(1, 2), offs=loads.cumsum(0).int())
        parts = zip(x.split(loads.tolist()), weight.unbind())
        return torch.cat([F.linear(part, w) for part, w in parts])


class Experts(nn.Module):
    def __init__(self, experts, dim, width):
        super().__init__()
        self.gate, self.up = Stacked(experts, width, dim), Stacked(experts, width, dim)
        self.down = Stacked(experts, dim, width)

    def forward(self, x, loads):
        return self.down(self.up(x, loads) * F.silu(self.gate(x, loads)), loads)


class MoE(nn.Module):
    def __init__(self, dim, heads, experts, top_k, width):
        super().__init__()
        self.slice, self.top_k, self.count = dim // heads, top_k, experts
        self.head = nn.Linear(dim, dim) if heads > 1 else nn.Identity()
        self.merge = nn.Linear(dim, dim) if heads > 1 else nn.Identity()
        self.router = nn.Linear(self.slice, experts, bias=False)
        self.experts = Experts(experts, self.slice, width)

    def forward(self, x):
        rows = self.head(x).reshape(-1, self.slice)
        with torch.autocast("cpu", enabled=False):  # the router is f32, as ours
            p = self.router(rows.float()).softmax(-1)
        gate, chosen = p.topk(self.top_k)
        first = torch.bincount(chosen[:, 0], minlength=self.count) / len(rows)
        self.balance = self.count * (first * p.mean(0)).sum()

        chosen = chosen.flatten()
        order = chosen.argsort(stable=True)
        loads = torch.bincount(chosen, minlength=self.count)
        source = order // self.top_k
        y = self.experts(rows.index_select(0, source), loads)
        y = y * gate.flatten().index_select(0, order)[:, None].to(y.dtype)
        y = torch.zeros_like(rows, dtype=y.dtype).index_add(0, source, y)
        return self.merge(y.reshape(x.shape))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim, heads, base):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        half = dim // heads // 2
        angle = torch.outer(torch.arange(CONTEXT), base ** (-torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("future", torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1), persistent=False)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
        if hasattr(F, "scaled_dot_product_attention"):  # from PyTorch 2.0 on
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            y = (scores + self.future.to(scores.dtype)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, model, moe, layer):
        super().__init__()
        dim, sparse = model["dim"], moe["experts"] > 0 and (layer + 1) % moe["every"] == 0
        self.attn_norm = RMSNorm(dim)
        self.attn = Attention(dim, model["attention_heads"], model["rotary_base"])
        self.ffn_norm = RMSNorm(dim)
        if sparse:
            self.moe = MoE(dim, moe["heads"], moe["experts"], moe["top_k"], moe["ffn_dim"])
        else:
            self.ffn = SwiGLU(dim, model["ffn_dim"])

    def forward(self, x):
        x = x + self.attn(self.attn_norm(x))
        return x + (self.moe if hasattr(self, "moe") else self.ffn)(self.ffn_norm(x))


class Model(nn.Module):
    """Its parameters are called as in our checkpoints, q, k and v apart, which are one product here."""

    def __init__(self, folder):
        super().__init__()
        with open(f"{folder}/config.json") as file:
            config = json.load(file)
        model = config["model"]
        self.embed = nn.Embedding(model["vocab"], model["dim"])
        self.layers = nn.ModuleList(Block(model, config["moe"], i) for i in range(model["layers"]))
        self.norm = RMSNorm(model["dim"])
        weights, _ = load(f"{folder}/model.safetensors")
        for i in range(model["layers"]):
            prefix = f"layers.{i}.attn."
            weights[f"{prefix}qkv.weight"] = torch.cat([weights.pop(f"{prefix}{x}.weight") for x in "qkv"])
        self.load_state_dict(weights)

    def forward(self, token, target):
        """The nll of each token, and the balance losses' sum."""
        x = self.embed(token)
        for block in self.layers:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed.weight)  # tied
        nll = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
        return nll, sum(block.moe.balance for block in self.layers if hasattr(block, "moe"))


class Training:
    """A model in training; a sample is one micro-batch and its share of the optimizer's step."""

    def __init__(self, folder):
        self.model = Model(folder)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1)
        self.batch, meta = load(f"{folder}/batch.safetensors")
        self.grad_norm = float(meta["grad_norm"])
        self.token, self.target = self.batch["token"].long(), self.batch["target"].long()

    def gradient(self, dtype):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            nll, balance = self.model(self.token, self.target)
            loss = nll.mean() + 0.01 * balance
        loss.backward()
        return nll.detach()

    def differences(self, dtype):
        """From ours: the nll of each token, relative to their spread, and the gradient's norm."""
        nll, ours = self.gradient(dtype), self.batch["nll"].flatten()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1e9).item()
        self.optimizer.zero_grad(set_to_none=False)
        return ((nll - ours).norm() / (ours - ours.mean()).norm()).item(), abs(norm / self.grad_norm - 1)

    def sample(self, dtype):
        """Seconds."""
        start = time.perf_counter()
        self.gradient(dtype)
        middle = time.perf_counter()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return middle - start + (time.perf_counter() - middle) / MICROS


def bench(args, precision, *more):
    """What `mhmoe bench step` reports: tokens a second of each model, the median of the samples it keeps."""
    command = [args.program, "bench", "step", "--precision", precision, "--threads", str(args.threads)]
    command += ["--seconds", "1", "--json", *more]  # the fewest samples: short turns
    unbind = lambda: os.sched_setaffinity(0, PROCESSORS)
    results = json.loads(subprocess.check_output(command, preexec_fn=unbind))["results"]
    return {r["who"]: r["figures"]["tokens/s"]["median"] for r in results if r["pass"] == "training"}


def spread(values):
    return f"{statistics.median(values):6.2f} [{min(values):.2f} {max(values):.2f}]" if values else "-"


def row(*columns):
    print("{:5} {:10} {:20} {:24} {:24} {}".format(*columns), flush=True)


def race(args, precision, folder):
    bench(args, precision, "--save", folder)
    trainings = {name: Training(f"{folder}/{name}") for name in MODELS}
    for name, training in trainings.items():
        nll, norm = training.differences(PRECISIONS[precision])
        if max(nll, norm) > BOUNDS[precision]:
            raise SystemExit(f"{precision} {name}: PyTorch's losses differ from ours by {nll:.2g} of their spread and "
                             f"its gradient's norm by {norm:.2g}, more than {BOUNDS[precision]}: not the same model")
        print(f"{precision:5} {name:10} the same model: losses differ by {nll:.1e} of their spread, the gradient's "
              f"norm by {norm:.1e}", flush=True)
    rates = {name: ([], []) for name in trainings}
    for _ in range(args.rounds):
        mhmoe = bench(args, precision)
        for name, training in trainings.items():
            # The faster of two: mhmoe, too, leaves out its warm-up and slow moments of the machine.
            seconds = min(training.sample(PRECISIONS[precision]) for _ in range(2))
            if mhmoe[name] is not None:
                rates[name][0].append(mhmoe[name])
                rates[name][1].append(BATCH * CONTEXT / seconds)
    row("type", "model", "mhmoe/PyTorch", "mhmoe tokens/s", "PyTorch tokens/s", "rounds")
    for name, (mhmoe, peer) in rates.items():
        ratio = [a / b for a, b in zip(mhmoe, peer)]
        row(precision, name, spread(ratio), spread(mhmoe), spread(peer), len(ratio))
    print()


def main():
    parser = argparse.ArgumentParser(description="Training steps by mhmoe and by PyTorch, in turns.")
    parser.add_argument("--program", default="build/mhmoe", help="default: build/mhmoe")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--threads", type=int, default=len(PROCESSORS), help="default: all processors")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="default: both")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    version = subprocess.check_output([args.program, "--version"], text=True).splitlines()[0]
    config = torch.__config__.show()
    onednn = re.search(r"MKL-DNN v(\S+)", config)
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    print(f"{version}; PyTorch {torch.__version__} with oneDNN {onednn.group(1) if onednn else '-'} and "
          f"{blas.group(1) if blas else 'BLAS'}, OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'found')}, "
          f"{'torch._grouped_mm where it can' if hasattr(torch, '_grouped_mm') else 'a loop over the experts'}.")
    print(f"Threads: {args.threads}. Medians over the rounds, [lowest highest].\n")
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precision or PRECISIONS:
            race(args, precision, folder)


if __name__ == "__main__":
    main()
