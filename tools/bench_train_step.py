"""Times one training step of the gates in PyTorch or JAX, for comparison with `skipstone bench --train-step`.

    python3 tools/bench_train_step.py --backend torch --threads 2      (needs torch)
    python3 tools/bench_train_step.py --backend jax                    (needs jax; XLA takes the cores that taskset gives it)

The same work: a model of SmolLM2-135M's shape with random f32 weights, 8 windows of 128 tokens, a gate on each of the 60 blocks
for each window (h += z * block(h)), next-token loss over all positions, gradient by the gates alone, weights frozen. One step
to warm up, then the median of the repeats.
"""
import argparse
import json
import os
import statistics
import time

LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, DIM, VOCAB, EPS, THETA = 30, 576, 1536, 9, 3, 64, 49152, 1e-5, 1e5
SHAPES = {"q": (WIDTH, WIDTH), "k": (KV_HEADS * DIM, WIDTH), "v": (KV_HEADS * DIM, WIDTH), "o": (WIDTH, WIDTH),
          "gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}


def torch_step(args):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    layers = [{name: torch.randn(shape) * shape[1] ** -0.5 for name, shape in SHAPES.items()} for _ in range(LAYERS)]
    embedding, norm = torch.randn(VOCAB, WIDTH) * 0.04, torch.ones(WIDTH)
    tokens = torch.randint(0, VOCAB, (args.windows, args.window))
    angle = torch.arange(args.window)[:, None] * THETA ** (-torch.arange(0, DIM, 2) / DIM)[None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)

    def rope(x):  # [windows, heads, window, DIM]
        a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def heads(x, n):
        return x.view(args.windows, args.window, n, DIM).transpose(1, 2)

    def loss(z):
        h = embedding[tokens]
        for i, w in enumerate(layers):
            x = F.rms_norm(h, (WIDTH,), norm, EPS)
            q, k, v = (heads(F.linear(x, w[name]), n) for name, n in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)))
            k, v = rope(k).repeat_interleave(HEADS // KV_HEADS, 1), v.repeat_interleave(HEADS // KV_HEADS, 1)
            y = F.scaled_dot_product_attention(rope(q), k, v, is_causal=True).transpose(1, 2).reshape(h.shape)
            h = h + z[:, 2 * i, None, None] * F.linear(y, w["o"])
            x = F.rms_norm(h, (WIDTH,), norm, EPS)
            h = h + z[:, 2 * i + 1, None, None] * F.linear(F.silu(F.linear(x, w["gate"])) * F.linear(x, w["up"]), w["down"])
        logits = F.linear(F.rms_norm(h[:, :-1], (WIDTH,), norm, EPS), embedding)
        return F.cross_entropy(logits.reshape(-1, VOCAB), tokens[:, 1:].reshape(-1))

    def step():
        z = torch.full((args.windows, 2 * LAYERS), 0.9, requires_grad=True)
        loss(z).backward()
        return float(z.grad.sum())

    return step, "torch " + torch.__version__


def jax_step(args):
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.PRNGKey(1), LAYERS * len(SHAPES) + 2))
    random = lambda shape: jax.random.normal(next(keys), shape) * shape[1] ** -0.5
    layers = [{name: random(shape) for name, shape in SHAPES.items()} for _ in range(LAYERS)]
    embedding = jax.random.normal(next(keys), (VOCAB, WIDTH)) * 0.04
    tokens = jax.random.randint(next(keys), (args.windows, args.window), 0, VOCAB)
    angle = jnp.arange(args.window)[:, None] * THETA ** (-jnp.arange(0, DIM, 2) / DIM)[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    causal = jnp.tril(jnp.ones((args.window, args.window), bool))

    def norm(x):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)

    def rope(x):
        a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def heads(x, n):
        return x.reshape(args.windows, args.window, n, DIM).transpose(0, 2, 1, 3)

    def loss(z, layers, embedding):
        h = embedding[tokens]
        for i, w in enumerate(layers):
            x = norm(h)
            q, k, v = (heads(x @ w[name].T, n) for name, n in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)))
            k, v = jnp.repeat(rope(k), HEADS // KV_HEADS, 1), jnp.repeat(v, HEADS // KV_HEADS, 1)
            s = jnp.where(causal, rope(q) @ k.transpose(0, 1, 3, 2) * DIM**-0.5, -jnp.inf)
            y = (jax.nn.softmax(s) @ v).transpose(0, 2, 1, 3).reshape(h.shape)
            h = h + z[:, 2 * i, None, None] * (y @ w["o"].T)
            x = norm(h)
            h = h + z[:, 2 * i + 1, None, None] * ((jax.nn.silu(x @ w["gate"].T) * (x @ w["up"].T)) @ w["down"].T)
        lp = jax.nn.log_softmax(norm(h[:, :-1]) @ embedding.T)
        return -jnp.take_along_axis(lp, tokens[:, 1:, None], -1).mean()

    grad = jax.jit(jax.grad(loss))
    z = jnp.full((args.windows, 2 * LAYERS), 0.9)
    return lambda: float(grad(z, layers, embedding).sum()), "jax " + jax.__version__


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--backend", choices=["torch", "jax"], default="torch")
    a.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch (default: one per core)")
    a.add_argument("--windows", type=int, default=8)
    a.add_argument("--window", type=int, default=128, help="tokens of each")
    a.add_argument("--repeats", type=int, default=3)
    args = a.parse_args()
    step, name = {"torch": torch_step, "jax": jax_step}[args.backend](args)
    step()
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    tokens = args.windows * args.window
    print(json.dumps({"backend": name, "threads": args.threads, "tokens": tokens, "seconds": round(median, 3),
                      "min": round(min(seconds), 3), "max": round(max(seconds), 3),
                      "tokens_per_second": round(tokens / median, 1)}))


if __name__ == "__main__":
    main()
