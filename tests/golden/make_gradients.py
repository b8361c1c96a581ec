"""Gradients of gates and recovery on the tiny models, by PyTorch in float64: make_gradients.py [--out FILE]

Needs torch, numpy and gguf. Written to tests/golden/gradients.json: {"tokens": 28 ids, two windows of 16 and 12, "z": [2][4],
"gains": [4][64], "output_gains": [64], "scales": [4], "a": [4][64], "b": [4][64], "models": {NAME: {"file", "lm": {...},
"kl": {...}}}}. Of a model with one layer only the first two blocks' numbers count. For each objective: the summed "nll" and
"kl" over the scored tokens (all but the first of each window), and the gradients of the objective's sum: "d_gates"
[2][n_blocks], "d_gains" [n_blocks][64], "d_output_gains" [64], "d_scales", "d_a", "d_b".

A gate of exactly 0 leaves a block out and its stand-in h += a h + b takes its place; else h += z * scale * block(h), with the
block's own gains of its norm. KL is that of the model without recovery and with all gates 1, to the model with both.
"""
import argparse
import json
import os

import numpy as np
import torch

import golden

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {"F32": "f32.gguf", "Q8_0": "q8_0.gguf", "QWEN2": "qwen2.gguf"}
LENGTHS = [16, 12]
Z = [[0.7, 1.0, 0.25, 0.0], [1.0, 0.4, 0.0, 1.0]]


def rope(x, base, neox):
    n, _, dim = x.shape
    frequency = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * frequency[None, :]
    cos, sin = torch.cos(angle)[:, None, :], torch.sin(angle)[:, None, :]
    if neox:
        first, second = x[..., : dim // 2], x[..., dim // 2 :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


class Net:
    def __init__(self, m):
        self.m = m
        self.w = {name: torch.tensor(np.array(x), dtype=torch.float64) for name, x in m.tensors.items()}

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def norm(self, x, gains):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.m.eps) * gains

    def attention(self, x, b):
        m, n, group = self.m, len(x), self.m.n_heads // self.m.n_kv_heads
        q = rope(self.linear(x, b + "attn_q").view(n, m.n_heads, m.head_dim), m.rope_base, m.neox)
        k = rope(self.linear(x, b + "attn_k").view(n, m.n_kv_heads, m.head_dim), m.rope_base, m.neox)
        v = self.linear(x, b + "attn_v").view(n, m.n_kv_heads, m.head_dim)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        s = torch.einsum("ihd,jhd->hij", q, k) / m.head_dim**0.5
        s = s.masked_fill(torch.triu(torch.ones(n, n, dtype=torch.bool), 1), float("-inf"))
        return self.linear(torch.einsum("hij,jhd->ihd", s.softmax(-1), v).reshape(n, -1), b + "attn_output")

    def feed_forward(self, x, b):
        gate = torch.nn.functional.silu(self.linear(x, b + "ffn_gate"))
        return self.linear(gate * self.linear(x, b + "ffn_up"), b + "ffn_down")

    def logits(self, ids, z=None, r=None):
        h = self.w["token_embd.weight"][ids]
        for block in range(2 * self.m.n_layers):
            b = f"blk.{block // 2}."
            if z is not None and z[block].item() == 0:
                h = h + (r["a"][block] * h + r["b"][block])
                continue
            own = self.w[b + ("ffn_norm" if block % 2 else "attn_norm") + ".weight"]
            x = self.norm(h, own if r is None else r["gains"][block])
            y = self.feed_forward(x, b) if block % 2 else self.attention(x, b)
            h = h + (y if z is None else z[block] * r["scales"][block] * y)
        x = self.norm(h, self.w["output_norm.weight"] if r is None else r["output_gains"])
        head = "output.weight" if "output.weight" in self.w else "token_embd.weight"
        return x @ self.w[head].T


def gradients(net, windows, parts, objective):
    n_blocks = 2 * net.m.n_layers
    leaf = lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True)
    z = leaf([row[:n_blocks] for row in Z])
    r = {name: leaf(value if name == "output_gains" else value[:n_blocks]) for name, value in parts.items()}
    nll = kl = 0
    for i, ids in enumerate(windows):
        lp = net.logits(ids, z[i], r)[:-1].log_softmax(-1)
        dense = net.logits(ids)[:-1].log_softmax(-1)
        nll = nll - lp.gather(-1, torch.tensor(ids[1:])[:, None]).sum()
        kl = kl + (dense.exp() * (dense - lp)).sum()
    (nll if objective == "lm" else kl).backward()
    grad = lambda x: [round(float(v), 7) for v in (torch.zeros_like(x) if x.grad is None else x.grad).flatten()]
    out = {"nll": float(nll), "kl": float(kl), "d_gates": grad(z)}
    return out | {"d_" + name: grad(value) for name, value in r.items()}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", default=os.path.join(HERE, "gradients.json"))
    out = a.parse_args().out
    rng = np.random.default_rng(11)
    tokens = rng.integers(3, 291, sum(LENGTHS)).tolist()
    windows = [tokens[: LENGTHS[0]], tokens[LENGTHS[0] :]]
    rounded = lambda x: np.asarray(x, np.float32).round(3).tolist()
    parts = {
        "gains": rounded(rng.normal(1, 0.2, (4, 64))),
        "output_gains": rounded(rng.normal(1, 0.2, 64)),
        "scales": [1.2, 0.8, 1.0, 0.5],
        "a": rounded(rng.normal(0, 0.2, (4, 64))),
        "b": rounded(rng.normal(0, 0.2, (4, 64))),
    }
    models = {}
    for name, file in MODELS.items():
        net = Net(golden.Model(os.path.join(HERE, "tiny", file)))
        models[name] = {"file": file} | {o: gradients(net, windows, parts, o) for o in ("lm", "kl")}
        print(name, {o: (models[name][o]["nll"], models[name][o]["kl"], models[name][o]["d_gates"]) for o in ("lm", "kl")})
    flat = {name: np.asarray(value).flatten().round(3).tolist() for name, value in parts.items()}
    with open(out, "w", encoding="utf-8") as f:
        json.dump({"tokens": tokens, "z": [z for row in Z for z in row]} | flat | {"models": models}, f)
        f.write("\n")


if __name__ == "__main__":
    main()
