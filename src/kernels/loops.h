/* The loops of avx2.c and neon.c, which differ in their vectors alone. Each includes this once it has defined
 *
 *     TILE, tile           the dot products of a group of 8 rows for up to TILE tokens
 *     PANEL_BLOCK, widen   the codes of a block, a byte each
 *     floats               8 lanes of f32, with load, store, splat, add, mul, divide, negate, exp8, lane_sum
 *     shorts               8 lanes of 16 bits, with load_shorts, of_halves (f16 to floats), of_brains (bf16)
 *     of_bytes             8 of int8 to floats */

/* ---- dot products of quantised weights ---- */

/* One group of 8 rows for n tokens. */
SS_INLINE void tile(ss_pack pack, int n, ss_source from, float *y, size_t y_stride, const uint8_t *group,
                    const uint8_t *panel, size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  floats acc[TILE];
  SS_UNROLL for (int t = 0; t < n; t++) acc[t] = splat(0.0f);
  for (size_t i = 0; i < n_blocks; i++)
    add_block(pack, n, from, acc, group + i * ss_blocks[pack].bytes, panel + (from == SS_PANEL ? i * PANEL_BLOCK : 0),
              i, n_blocks, q, a);
  SS_UNROLL for (int t = 0; t < n; t++) store(y + (size_t)t * y_stride, acc[t]);
}

/* All groups in runs, for n tokens. */
SS_INLINE void in_runs(ss_pack pack, int n, float *y, size_t y_stride, const uint8_t *w, size_t n_groups,
                       size_t n_blocks, const int8_t *q, const ss_act_block *a) {
  const size_t in_run = ss_in_run(n_groups), group_bytes = n_blocks * ss_blocks[pack].bytes;
  for (size_t g = 0; g < in_run; g++) {
    const size_t n_runs = ss_runs_with(g, n_groups);
    floats acc[SS_RUNS][TILE];
    for (size_t r = 0; r < n_runs; r++) SS_UNROLL for (int t = 0; t < n; t++) acc[r][t] = splat(0.0f);
    for (size_t i = 0; i < n_blocks; i++)
      for (size_t r = 0; r < n_runs; r++)
        add_block(pack, n, SS_PACKED, acc[r], w + (r * in_run + g) * group_bytes + i * ss_blocks[pack].bytes, NULL, i,
                  n_blocks, q, a);
    for (size_t r = 0; r < n_runs; r++)
      SS_UNROLL for (int t = 0; t < n; t++) store(y + (size_t)t * y_stride + (r * in_run + g) * SS_ROWS, acc[r][t]);
  }
}

SS_INLINE void gemv(ss_pack pack, float *y, const void *w, size_t n_groups, size_t n_blocks, const int8_t *q,
                    const ss_act_block *a) {
  in_runs(pack, 1, y, 0, w, n_groups, n_blocks, q, a);
}

/* One group for all tokens. Meanwhile the next one comes from memory, a share with each tile. */
SS_INLINE void tiles(ss_pack pack, ss_source from, float *y, size_t y_stride, const uint8_t *group,
                     const uint8_t *panel, size_t n_blocks, const int8_t *q, const ss_act_block *a, size_t n_tokens) {
  const size_t cols = n_blocks * SS_COLS, group_bytes = n_blocks * ss_blocks[pack].bytes;
  const size_t share = ss_ceil_div(group_bytes, ss_max(1, n_tokens / TILE));
  const uint8_t *next = group + group_bytes;
  for (; n_tokens >= TILE; n_tokens -= TILE, y += TILE * y_stride, q += TILE * cols, a += TILE * n_blocks) {
    if (from == SS_PANEL) ss_prefetch(next, share);
    next += share;
    tile(pack, TILE, from, y, y_stride, group, panel, n_blocks, q, a);
  }
  if (n_tokens == 3) tile(pack, 3, from, y, y_stride, group, panel, n_blocks, q, a);
  else if (n_tokens == 2) tile(pack, 2, from, y, y_stride, group, panel, n_blocks, q, a);
  else if (n_tokens == 1) tile(pack, 1, from, y, y_stride, group, panel, n_blocks, q, a);
}

SS_INLINE void gemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_groups, size_t n_blocks,
                    const int8_t *q, const ss_act_block *a, size_t n_tokens, uint8_t *panel) {
  const uint8_t *group = w;
  const size_t block_bytes = ss_blocks[pack].bytes;
  const bool use_panel = pack != SS_PACK_8 && n_tokens > TILE; /* else the codes are wide enough, or used only once */
  if (n_tokens == 2) { /* of a token that the head has twice */
    in_runs(pack, 2, y, y_stride, w, n_groups, n_blocks, q, a);
    return;
  }
  for (size_t g = 0; g < n_groups; g++, group += n_blocks * block_bytes, y += SS_ROWS) {
    if (!use_panel) {
      tiles(pack, SS_PACKED, y, y_stride, group, NULL, n_blocks, q, a, n_tokens);
      continue;
    }
    for (size_t i = 0; i < n_blocks; i++) widen(pack, panel + i * PANEL_BLOCK, group + i * block_bytes);
    tiles(pack, SS_PANEL, y, y_stride, group, panel, n_blocks, q, a, n_tokens);
  }
}

/* ---- float weights: a vector holds the 8 lanes of one row and token ---- */

/* Weights [at, at + n) as f32, the rest zero. A lane is never -0, so adding a product of zeros changes nothing. */
SS_INLINE floats weights(ss_pack pack, const void *w, size_t at, size_t n) {
  if (pack == SS_PACK_F32) {
    float part[8] = {0};
    if (n == 8) return load((const float *)w + at);
    memcpy(part, (const float *)w + at, n * sizeof(float));
    return load(part);
  }
  shorts u;
  if (n == 8) {
    u = load_shorts((const uint16_t *)w + at);
  } else {
    uint16_t part[8] = {0};
    memcpy(part, (const uint16_t *)w + at, n * sizeof(uint16_t));
    u = load_shorts(part);
  }
  return pack == SS_PACK_F16 ? of_halves(u) : of_brains(u);
}

/* rows x tokens dot products. */
SS_INLINE void ftile(ss_pack pack, int rows, int tokens, float *y, size_t y_stride, const void *w, size_t first_row,
                     size_t cols, const float *x) {
  floats acc[8];
  SS_UNROLL for (int i = 0; i < rows * tokens; i++) acc[i] = splat(0.0f);
  for (size_t k = 0; k < cols; k += 8) {
    const size_t n = ss_min(8, cols - k);
    floats v[8];
    SS_UNROLL for (int t = 0; t < tokens; t++) v[t] = weights(SS_PACK_F32, x, (size_t)t * cols + k, n);
    SS_UNROLL for (int r = 0; r < rows; r++) {
      const floats u = weights(pack, w, (first_row + (size_t)r) * cols + k, n);
      SS_UNROLL for (int t = 0; t < tokens; t++) acc[r * tokens + t] = add(acc[r * tokens + t], mul(u, v[t]));
    }
  }
  SS_UNROLL for (int r = 0; r < rows; r++) SS_UNROLL for (int t = 0; t < tokens; t++)
      y[(size_t)t * y_stride + first_row + (size_t)r] = lane_sum(acc[r * tokens + t]);
}

SS_INLINE void fgemm(ss_pack pack, float *y, size_t y_stride, const void *w, size_t n_rows, size_t cols, const float *x,
                     size_t n_tokens) {
  size_t r = 0;
  for (; n_rows - r >= 4; r += 4) {
    size_t t = 0;
    for (; n_tokens - t >= 2; t += 2) ftile(pack, 4, 2, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
    if (t < n_tokens) ftile(pack, 4, 1, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
  }
  for (; r < n_rows; r++)
    for (size_t t = 0; t < n_tokens; t++) ftile(pack, 1, 1, y + t * y_stride, y_stride, w, r, cols, x + t * cols);
}

/* ---- element-wise ---- */

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
  floats squares = splat(0.0f);
  float lane[8];
  size_t i = 0;
  for (; n - i >= 8; i += 8) squares = add(squares, mul(load(x + i), load(x + i)));
  store(lane, squares);
  for (size_t k = i; k < n; k++) lane[k % 8] += x[k] * x[k];
  const float scale = 1.0f / ss_sqrtf(ss_lane_sum(lane) / (float)n + eps);
  for (i = 0; n - i >= 8; i += 8) store(y + i, mul(mul(load(x + i), splat(scale)), load(w + i)));
  for (; i < n; i++) y[i] = (x[i] * scale) * w[i];
}

static void add_to(float *y, const float *x, size_t n) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) store(y + i, add(load(y + i), load(x + i)));
  ss_add_scalar(y + i, x + i, n - i);
}

static void swiglu(float *g, const float *u, size_t n) {
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    const floats v = load(g + i), silu = divide(v, add(splat(1.0f), exp8(negate(v))));
    store(g + i, mul(silu, load(u + i)));
  }
  ss_swiglu_scalar(g + i, u + i, n - i);
}

enum { MIX_QUERIES = 3, MIX_CHUNK = 64 };

/* 32 columns of n_q outputs over a chunk of positions: s[i][t] = p * d; the sums stay in registers. */
SS_INLINE void mix_tile(int n_q, float *out, size_t dim, float s[MIX_QUERIES][MIX_CHUNK], const int8_t *v, size_t n) {
  floats acc[MIX_QUERIES][4];
  SS_UNROLL for (int i = 0; i < n_q; i++) SS_UNROLL for (int k = 0; k < 4; k++) acc[i][k] =
      load(out + (size_t)i * dim + 8 * k);
  for (size_t t = 0; t < n; t++, v += dim) SS_UNROLL for (int k = 0; k < 4; k++) {
      const floats u = of_bytes(v + 8 * k);
      SS_UNROLL for (int i = 0; i < n_q; i++) acc[i][k] = add(acc[i][k], mul(splat(s[i][t]), u));
    }
  SS_UNROLL for (int i = 0; i < n_q; i++) SS_UNROLL for (int k = 0; k < 4; k++)
      store(out + (size_t)i * dim + 8 * k, acc[i][k]);
}

static void mix(float *out, size_t n_q, size_t dim, const float *p, size_t p_stride, const int8_t *v, const float *d,
                size_t n_pos) {
  const size_t parts = dim / SS_COLS;
  for (size_t first = 0; first < n_pos; first += MIX_CHUNK) {
    const size_t n = ss_min(MIX_CHUNK, n_pos - first);
    for (size_t part = 0; part < parts; part++) {
      float d_part[MIX_CHUNK], s[MIX_QUERIES][MIX_CHUNK];
      for (size_t t = 0; t < n; t++) d_part[t] = d[(first + t) * parts + part];
      for (size_t i = 0; i < n_q;) {
        const size_t queries = ss_min(n_q - i, n_q - i == 4 ? 2 : MIX_QUERIES); /* 4 = 2 + 2 */
        for (size_t k = 0; k < queries; k++)
          for (size_t t = 0; t < n; t++) s[k][t] = p[(i + k) * p_stride + first + t] * d_part[t];
        float *o = out + i * dim + part * SS_COLS;
        const int8_t *values = v + first * dim + part * SS_COLS;
        if (queries == 3) mix_tile(3, o, dim, s, values, n);
        else if (queries == 2) mix_tile(2, o, dim, s, values, n);
        else mix_tile(1, o, dim, s, values, n);
        i += queries;
      }
    }
  }
}
