"""A checkpoint as anyone may read it: weights by PyPI's safetensors, the decoder in a page of numpy. It must give the
logits of the library, which Python calls as it stands."""

import ctypes
import json
import os
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

LIBRARY = Path(os.environ["MHMOE"]).with_name("libmhmoe.so")


class Decoder:
    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.model, self.moe = config["model"], config["moe"]
        self.weights = {name: w.astype(np.float64) for name, w in load_file(folder / "model.safetensors").items()}

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0)

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.model["norm_eps"]) * self.weights[name + ".weight"]

    def rotate(self, x):  # [T, heads, d]: pairs (i, i + d/2) turn by position * base^(-2i/d)
        half = x.shape[2] // 2
        angle = np.outer(np.arange(len(x)), self.model["rotary_base"] ** (-np.arange(half) / half))[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def attention(self, x, name):
        heads, kv_heads = self.model["attention_heads"], self.model["kv_heads"]
        q, k, v = (self.linear(x, name + part).reshape(len(x), n, -1)
                   for part, n in ((".q", heads), (".k", kv_heads), (".v", kv_heads)))
        q, k, v = self.rotate(q), self.rotate(k).repeat(heads // kv_heads, 1), v.repeat(heads // kv_heads, 1)
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[2])
        scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
        return self.linear(np.einsum("hts,shd->thd", softmax(scores), v).reshape(x.shape), name + ".o")

    def ffn(self, x, gate, up, down):
        inner = x @ gate.T
        return (inner / (1 + np.exp(-inner)) * (x @ up.T)) @ down.T

    def matrices(self, name):
        return [self.weights[f"{name}.{part}.weight"] for part in ("gate", "up", "down")]

    def multi_head_moe(self, x, name):
        head = self.linear(x, name + ".head") if name + ".head.weight" in self.weights else x
        rows = head.reshape(len(x) * self.moe["heads"], -1)  # row n*h + j is slice j of token n
        gates = softmax(self.linear(rows, name + ".router"))
        gate, up, down = self.matrices(name + ".experts")
        out = np.zeros_like(rows)
        for r, row in enumerate(rows):
            for e in np.argsort(-gates[r], kind="stable")[: self.moe["top_k"]]:
                out[r] += gates[r, e] * self.ffn(row, gate[e], up[e], down[e])
        y = out.reshape(x.shape)
        y = self.linear(y, name + ".merge") if name + ".merge.weight" in self.weights else y
        return y + self.ffn(x, *self.matrices(name + ".shared")) if self.moe["shared_experts"] else y

    def logits(self, tokens):
        x = self.weights["embed.weight"][tokens]
        for i in range(self.model["layers"]):
            x = x + self.attention(self.norm(x, f"layers.{i}.attn_norm"), f"layers.{i}.attn")
            y = self.norm(x, f"layers.{i}.ffn_norm")
            routed = f"layers.{i}.moe.router.weight" in self.weights
            x = x + (self.multi_head_moe(y, f"layers.{i}.moe") if routed
                     else self.ffn(y, *self.matrices(f"layers.{i}.ffn")))
        return self.norm(x, "norm") @ self.weights.get("output.weight", self.weights["embed.weight"]).T


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def library_logits(folder, tokens):
    mh = ctypes.CDLL(str(LIBRARY))
    mh.mh_message.restype = ctypes.c_char_p
    mh.mh_model_vocab.restype = ctypes.c_int64
    mh.mh_session_logits.restype = ctypes.POINTER(ctypes.c_float)
    model, session = ctypes.c_void_p(), ctypes.c_void_p()

    def must(status):
        assert status == 0, mh.mh_message().decode()

    must(mh.mh_model_load(ctypes.byref(model), None, str(folder).encode(), 0))
    must(mh.mh_session_create(ctypes.byref(session), model))
    ids = (ctypes.c_int32 * len(tokens))(*tokens)
    rows = []
    for count in range(1, len(tokens) + 1):
        must(mh.mh_session_sync(session, ids, ctypes.c_int64(count)))
        rows.append(np.ctypeslib.as_array(mh.mh_session_logits(session), (mh.mh_model_vocab(model),)).copy())
    mh.mh_session_free(session)
    mh.mh_model_free(model)
    return np.array(rows)


class Logits(unittest.TestCase):
    def check(self, run):
        folder = max(Path(run).glob("checkpoints/step-*"))
        decoder = Decoder(folder)
        tokens = np.random.default_rng(1).integers(decoder.model["vocab"], size=decoder.model["context"])
        ours, theirs = library_logits(folder, tokens), decoder.logits(tokens)
        self.assertGreater(np.std(theirs), 0.1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)

    def test_multi_head_moe(self):
        self.check("run")

    def test_dense(self):
        self.check("runs/dense/seed-1")

    def test_smoe_with_shared_experts(self):
        self.check("shared")


if __name__ == "__main__":
    unittest.main()
