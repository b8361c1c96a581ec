"""Tiny llama models with random weights, one per quant type, and their logits: make_tiny.py [--out DIR] (needs numpy and gguf)

Written to tests/golden/tiny: TYPE.gguf for each type, and
  tiny.json   {"tokens": 16 ids, "n_vocab": 291, "models": {TYPE: {"file", "sha256", "logits": byte offset in logits.bin}}}
  logits.bin  f32 little-endian, per model [16][291]: a forward pass in float64 over the dequantised weights, rounded once

K-quants need rows of 256, so those models are one layer of 256 (4 heads, 1 KV head); the others are 64 wide (2 heads, 1 KV head,
head_dim 32), two layers, or one for F32, F16 and BF16. 291 output rows are no multiple of 8 on purpose. F16 has its own output
head, the rest are tied. QWEN2 is a qwen2 model of Q8_0: biases on q, k and v, and the other RoPE pairing. gguf cannot quantise to k-quants, but any bytes are a valid block: those weights are random
quants with scales chosen so that the weights have the wanted spread and a mean near zero.
"""
import argparse
import json
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

import golden

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "QWEN2"]
TOKENS = 16
HERE = os.path.dirname(os.path.abspath(__file__))
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = (
    "Ġ t|Ġ a|h e|i n|r e|o n|Ġt he|e r|a t|n d|Ġ s|e n|Ġa nd|o u|in g|Ġ o|i s|o r|Ġ w|e s|a n|Ġ c|i t|l l|Ġo f|Ġ b|a r|e d|Ġt o"
    "|Ġ in|Ċ Ċ|Ġ Ġ"
).split("|")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokens():
    """The 256 printable stand-ins of byte-level BPE, in byte order (GPT-2)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b if b in kept else next(extra)) for b in range(256)]


def f16_bytes(x):
    return np.asarray(x).astype("<f2")[:, None].view(np.uint8)


def random_k_quant(rng, shape, kind, spread):
    """Random blocks of a 256-wide k-quant: raw bytes [rows, bytes per row] whose weights have about the given standard deviation."""
    n = shape[0] * shape[1] // 256
    jitter = rng.uniform(0.8, 1.25, n)
    raw = lambda count: rng.integers(0, 256, (n, count), dtype=np.uint8)
    if kind == "Q6_K":  # ql[128] qh[64] i8 scales[16] f16 d; w = d * scale * (q - 32), q < 64
        d = jitter * spread / (64.0 * 18.5) * rng.choice([-1, 1], n)
        scales = rng.integers(-110, 111, (n, 16), dtype=np.int8).view(np.uint8)
        blocks = np.concatenate([raw(128), raw(64), scales, f16_bytes(d)], 1)
    else:  # f16 d, f16 dmin, 6-bit scales and minima [12], qh[32] for Q5_K, qs[128]; w = d * scale * q - dmin * min
        top = 31 if kind == "Q5_K" else 15
        d = jitter * spread / (36.5 * 0.46 * top)
        blocks = np.concatenate([f16_bytes(d), f16_bytes(d * top / 2), raw(12), raw(32 if kind == "Q5_K" else 0), raw(128)], 1)
    return blocks.reshape(shape[0], -1)


def write(path, kind, seed):
    rng = np.random.default_rng(seed)
    wide = kind.endswith("_K")
    n_embd, n_ff, heads, layers = (256, 256, 4, 1) if wide else (64, 96, 2, 1 if "F" in kind else 2)
    kv_rows = n_embd // heads
    tokens = SPECIAL + byte_tokens() + ["".join(pair.split(" ")) for pair in MERGES]
    qwen2 = kind == "QWEN2"
    w = gguf.GGUFWriter(path, "qwen2" if qwen2 else "llama")
    w.add_name(f"tiny random {kind}")
    kind = "Q8_0" if qwen2 else kind
    w.add_block_count(layers)
    w.add_context_length(512)
    w.add_embedding_length(n_embd)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(heads)
    w.add_head_count_kv(1)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(n_embd // heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(tokens))
    w.add_file_type(int(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}" + ("_S" if kind in ("Q4_K", "Q5_K") else ""))]))
    w.add_quantization_version(2)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    w.add_token_merges(MERGES)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)

    def matrix(name, rows, columns, spread):
        if wide:
            w.add_tensor(name, random_k_quant(rng, (rows, columns), kind, spread), raw_dtype=T[kind])
            return
        x = rng.normal(0, spread, (rows, columns)).astype(np.float32)
        x = x.astype(np.float16) if kind == "F16" else x if kind == "F32" else gguf.quants.quantize(x, T[kind])
        w.add_tensor(name, x, raw_dtype=T[kind])

    def gains(name):
        w.add_tensor(name, rng.normal(1, 0.15, n_embd).astype(np.float32))

    matrix("token_embd.weight", len(tokens), n_embd, 0.25)
    for i in range(layers):
        b = f"blk.{i}."
        gains(b + "attn_norm.weight")
        matrix(b + "attn_q.weight", n_embd, n_embd, 1.3 * n_embd**-0.5)
        matrix(b + "attn_k.weight", kv_rows, n_embd, 1.3 * n_embd**-0.5)
        matrix(b + "attn_v.weight", kv_rows, n_embd, n_embd**-0.5)
        for name, rows in ("attn_q", n_embd), ("attn_k", kv_rows), ("attn_v", kv_rows):
            if qwen2:
                w.add_tensor(f"{b}{name}.bias", rng.normal(0, 0.5, rows).astype(np.float32))
        matrix(b + "attn_output.weight", n_embd, n_embd, 0.5 * n_embd**-0.5)
        gains(b + "ffn_norm.weight")
        matrix(b + "ffn_gate.weight", n_ff, n_embd, 1.5 * n_embd**-0.5)
        matrix(b + "ffn_up.weight", n_ff, n_embd, 1.5 * n_embd**-0.5)
        matrix(b + "ffn_down.weight", n_embd, n_ff, n_ff**-0.5)
    gains("output_norm.weight")
    if kind == "F16":
        matrix("output.weight", len(tokens), n_embd, 0.25)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", default=os.path.join(HERE, "tiny"))
    out = a.parse_args().out
    os.makedirs(out, exist_ok=True)
    ids = np.random.default_rng(7).integers(3, 291, TOKENS).tolist()
    models, logits, at = {}, [], 0
    for seed, kind in enumerate(TYPES):
        path = os.path.join(out, kind.lower() + ".gguf")
        write(path, kind, 1000 + seed)
        m = golden.Model(path)
        x = golden.forward(m, ids).astype("<f4")
        print(f"{kind:5} {os.path.getsize(path):7} bytes, deviations: embedding {m.tensors['token_embd.weight'].std():.3f}",
              f"attn_q {m.tensors['blk.0.attn_q.weight'].std():.4f} logits {x.std():.3f}")
        models[kind] = {"file": kind.lower() + ".gguf", "sha256": golden.sha256(path), "logits": at}
        logits.append(x)
        at += x.nbytes
    np.stack(logits).tofile(os.path.join(out, "logits.bin"))
    with open(os.path.join(out, "tiny.json"), "w", encoding="utf-8") as f:
        json.dump({"tokens": ids, "n_vocab": 291, "models": models}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
