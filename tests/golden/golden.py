"""Shared by make_logits.py and make_tiny.py: the GGUF's weights as floats, a plain llama forward pass, the KL estimate.

Needs numpy and gguf; make_logits.py also needs torch, transformers and tokenizers.
"""
import hashlib

import gguf
import numpy as np

TOP = 64  # log-probabilities kept per position


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Model:
    """Metadata and dequantised f32 tensors of a GGUF file, in the file's own order of rows."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(tuple(int(n) for n in t.shape[::-1]))
            for t in self.reader.tensors
        }
        self.neox = self.get("general.architecture") == "qwen2"
        self.n_layers = self.get("llama.block_count")
        self.n_embd = self.get("llama.embedding_length")
        self.n_ff = self.get("llama.feed_forward_length")
        self.n_heads = self.get("llama.attention.head_count")
        self.n_kv_heads = self.get("llama.attention.head_count_kv")
        self.head_dim = self.n_embd // self.n_heads
        self.eps = self.get("llama.attention.layer_norm_rms_epsilon")
        self.rope_base = self.get("llama.rope.freq_base")
        self.n_vocab = len(self.get("tokenizer.ggml.tokens"))

    def get(self, key):
        key = key.replace("llama.", self.reader.fields["general.architecture"].contents() + ".")
        return self.reader.fields[key].contents()


def rope(x, base, neox):
    """Rotates the pairs (0, 1), (2, 3), ... of each head, or (i, i + dim / 2); x: [n, heads, head_dim], row i at position i."""
    n, _, dim = x.shape
    angle = np.arange(n)[:, None] * base ** (-np.arange(0, dim, 2) / dim)[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    first, second = (slice(0, dim // 2), slice(dim // 2, dim)) if neox else (slice(0, dim, 2), slice(1, dim, 2))
    y = np.empty_like(x)
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


def forward(m, ids, dtype=np.float64):
    """Logits [n, n_vocab] of one window. Independent of any framework; float64 by default, so rounding is not in it."""
    w = lambda name: m.tensors[name].astype(dtype)
    linear = lambda x, name: x @ w(name + ".weight").T + (w(name + ".bias") if name + ".bias" in m.tensors else 0)
    norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + m.eps) * w(name)
    n, group = len(ids), m.n_heads // m.n_kv_heads
    future = np.triu(np.ones((n, n), bool), 1)
    h = w("token_embd.weight")[ids]
    for i in range(m.n_layers):
        b = f"blk.{i}."
        x = norm(h, b + "attn_norm.weight")
        q = rope(linear(x, b + "attn_q").reshape(n, m.n_heads, m.head_dim), m.rope_base, m.neox)
        k = rope(linear(x, b + "attn_k").reshape(n, m.n_kv_heads, m.head_dim), m.rope_base, m.neox)
        v = linear(x, b + "attn_v").reshape(n, m.n_kv_heads, m.head_dim)
        k, v = k.repeat(group, 1), v.repeat(group, 1)
        s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(m.head_dim)
        s[:, future] = -np.inf
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        h = h + np.einsum("hij,jhd->ihd", p, v).reshape(n, -1) @ w(b + "attn_output.weight").T
        x = norm(h, b + "ffn_norm.weight")
        gate = x @ w(b + "ffn_gate.weight").T
        h = h + (gate / (1 + np.exp(-gate)) * (x @ w(b + "ffn_up.weight").T)) @ w(b + "ffn_down.weight").T
    head = "output.weight" if "output.weight" in m.tensors else "token_embd.weight"
    return norm(h, "output_norm.weight") @ w(head).T


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def compact(logits):
    """(ids u16 [n, TOP], log-probabilities f32 [n, TOP], log of the rest's mass f32 [n]), most likely first."""
    lp = log_softmax(logits)
    ids = np.argsort(-lp, axis=-1, kind="stable")[:, :TOP]
    rest = lp.copy()
    np.put_along_axis(rest, ids, -np.inf, -1)
    return ids.astype("<u2"), np.take_along_axis(lp, ids, -1).astype("<f4"), np.log(np.exp(rest).sum(-1)).astype("<f4")


def compare(ref, logits):
    """(top-1 agreements [n] bool, KL [n] in nats) of other logits [n, n_vocab] against compact() reference rows.

    KL = sum over the TOP ids of p (log p - log q), plus P (log P - log Q), where P and Q are the masses of all other ids.
    """
    ids, lp, rest = ref
    ids = ids.astype(np.int64)
    lq = log_softmax(logits)
    q = np.take_along_axis(lq, ids, -1)
    others = lq.copy()
    np.put_along_axis(others, ids, -np.inf, -1)
    lq_rest = np.log(np.exp(others).sum(-1))
    lp, rest = lp.astype(np.float64), rest.astype(np.float64)
    kl = (np.exp(lp) * (lp - q)).sum(-1) + np.exp(rest) * (rest - lq_rest)
    return logits.argmax(-1) == ids[:, 0], kl
