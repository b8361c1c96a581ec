"""Reference logits of SmolLM2-135M-Instruct over a fixed text: make_logits.py MODEL.gguf [--out PREFIX] [--nll TOKENS] [--compare DUMP]

The weights are dequantised to f32 by the `gguf` package and run by transformers' LlamaForCausalLM on the CPU in f32. The
text is tests/golden/text.txt, tokenised by Hugging Face `tokenizers`, cut to whole windows of 256 tokens; each window
starts with an empty cache at position 0 and has no BOS token in front.

Written (all little-endian), P = n_windows * window positions:
  PREFIX.json       model, its SHA-256 and size, window, n_windows, top, tokens (P ids), rows (positions in PREFIX.rows.bin),
                    nll (mean of -log p(next token) over the 255 scored tokens of each window)
  PREFIX.top.bin    u16 ids[P][64], then f32 logprobs[P][64], then f32 log_rest[P]: per position the 64 most likely ids, most
                    likely first, their natural log-probabilities, and the log of the mass of all other ids
  PREFIX.rows.bin   f32 logits[len(rows)][n_vocab], complete, for the positions in `rows`

The KL of another run q from this reference p is taken over 65 buckets, the 64 ids and "the rest":
  KL = sum_i p_i (log p_i - log q_i) + P (log P - log Q),   P = exp(log_rest), Q = 1 - sum_i q_i (summed over the other ids).
Merging ids into a bucket can only lower a KL, and lowers every run's in the same way, so runs stay comparable.

--nll TOKENS      int32 ids: prints the f32 reference's mean NLL over windows of 512 (scored: positions 1..511 of each window)
--compare DUMP    f32 logits[P][n_vocab] of another program on the same positions: prints top-1 agreement and mean KL
"""
import argparse
import json
import os

import numpy as np

import golden

WINDOW = 256
ROWS = [255, 1291]  # complete rows: the end of the first window, and a place inside another one
HERE = os.path.dirname(os.path.abspath(__file__))


def tokenizer(m):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens, kinds = m.get("tokenizer.ggml.tokens"), m.get("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in m.get("tokenizer.ggml.merges")]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    t.add_special_tokens([s for s, kind in zip(tokens, kinds) if kind == 3])
    return t


def torch_model(m):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=m.n_vocab, hidden_size=m.n_embd, intermediate_size=m.n_ff, num_hidden_layers=m.n_layers,
        num_attention_heads=m.n_heads, num_key_value_heads=m.n_kv_heads, rms_norm_eps=m.eps,
        max_position_embeddings=m.get("llama.context_length"), tie_word_embeddings="output.weight" not in m.tensors,
        rope_parameters={"rope_type": "default", "rope_theta": m.rope_base}, attn_implementation="eager",
    )
    names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }
    state = {}
    for name, w in m.tensors.items():
        part = name.split(".")
        if part[0] == "blk":
            if part[2] in ("attn_q", "attn_k"):  # pairs (2i, 2i + 1) of GGUF -> pairs (i, i + head_dim / 2)
                heads = m.n_heads if part[2] == "attn_q" else m.n_kv_heads
                w = w.reshape(heads, m.head_dim // 2, 2, m.n_embd).swapaxes(1, 2).reshape(w.shape)
            key = f"model.layers.{part[1]}.{names[part[2]]}.weight"
        else:
            key = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[part[0]] + ".weight"
        state[key] = torch.from_numpy(w.copy())
    model = LlamaForCausalLM(config)
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model.float().eval()


def run(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def window_nll(logits, ids):
    """-log p of ids[1:], each given the tokens before it."""
    lp = golden.log_softmax(logits[:-1])
    return -lp[np.arange(len(ids) - 1), ids[1:]]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--out", default=os.path.join(HERE, "smollm2-q4_1"))
    a.add_argument("--nll")
    a.add_argument("--compare")
    a = a.parse_args()

    if a.compare:
        with open(a.out + ".json", encoding="utf-8") as f:
            meta = json.load(f)
        n, top = len(meta["tokens"]), meta["top"]
        with open(a.out + ".top.bin", "rb") as f:
            ref = [np.fromfile(f, t, n * k).reshape(shape) for t, k, shape in
                   (("<u2", top, (n, top)), ("<f4", top, (n, top)), ("<f4", 1, (n,)))]
        logits = np.memmap(a.compare, "<f4", "r").reshape(n, -1)
        same, kl = zip(*(golden.compare([r[i : i + WINDOW] for r in ref], logits[i : i + WINDOW]) for i in range(0, n, WINDOW)))
        same, kl = np.concatenate(same), np.concatenate(kl)
        rows = np.fromfile(a.out + ".rows.bin", "<f4").reshape(len(meta["rows"]), -1)
        off = [float(np.sqrt(np.mean((logits[r] - rows[i]) ** 2)) / rows[i].std()) for i, r in enumerate(meta["rows"])]
        print(json.dumps({"positions": n, "top1": float(same.mean()), "top1_same": int(same.sum()), "kl_mean": float(kl.mean()),
                          "kl_median": float(np.median(kl)), "kl_max": float(kl.max()), "rows_relative_rms": off}))
        return

    m = golden.Model(a.model)
    model = torch_model(m)
    if a.nll:
        ids = np.fromfile(a.nll, "<i4").reshape(-1, 512).tolist()
        nll = np.concatenate([window_nll(run(model, w), w) for w in ids])
        print(json.dumps({"scored": nll.size, "nll": float(nll.mean()), "perplexity": float(np.exp(nll.mean()))}))
        return

    with open(os.path.join(HERE, "text.txt"), encoding="utf-8") as f:
        ids = tokenizer(m).encode(f.read()).ids
    n_windows = len(ids) // WINDOW
    ids = ids[: n_windows * WINDOW]
    parts, rows, nll = [], [], []
    for at in range(0, len(ids), WINDOW):
        w = ids[at : at + WINDOW]
        logits = run(model, w)
        if at == 0:  # the two implementations must agree before anything is written
            own = golden.forward(m, w)
            assert np.abs(own - logits).max() < 2e-2, np.abs(own - logits).max()
            print("largest difference between transformers (f32) and numpy (f64):", np.abs(own - logits).max())
        parts.append(golden.compact(logits))
        rows += [logits[r - at] for r in ROWS if at <= r < at + WINDOW]
        nll.append(window_nll(logits, w))
    with open(a.out + ".top.bin", "wb") as f:
        for part in zip(*parts):
            f.write(np.concatenate(part).tobytes())
    np.stack(rows).astype("<f4").tofile(a.out + ".rows.bin")
    meta = {
        "model": os.path.basename(a.model), "sha256": golden.sha256(a.model), "bytes": os.path.getsize(a.model), "window": WINDOW,
        "n_windows": n_windows, "top": golden.TOP, "n_vocab": m.n_vocab, "rows": ROWS, "nll": float(np.concatenate(nll).mean()),
        "tokens": ids,
    }
    with open(a.out + ".json", "w", encoding="utf-8") as f:
        json.dump(meta, f, separators=(",", ":"))
        f.write("\n")
    print({k: v for k, v in meta.items() if k != "tokens"})


if __name__ == "__main__":
    main()
