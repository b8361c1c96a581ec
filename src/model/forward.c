/* The forward pass: embedding, masked blocks, output head. This is the file to read.
 *
 * A layer of the llama architecture is two blocks on the residual stream h, each of which a mask may leave out:
 *
 *     attention     h += Wo attend(rope(Wq n(h)), rope(Wk n(h)), Wv n(h))       n = RMSNorm, GQA heads
 *     feed-forward  h += Wdown (silu(Wgate n(h)) * Wup n(h))                     SwiGLU
 *
 * A mask may come with a recovery: gains of its own for n, a scale on what a block adds, and for a block that is left out
 * h += a h + b, channel by channel.
 *
 * A step takes n tokens of a prompt (prefill) or one (decode) through every block. Work is split over threads by
 * tokens, output rows or heads and never inside a sum, so any number of threads gives the same bits. */
#include "model/session.h"

/* ---- splitting work ---- */

typedef struct job job;
typedef void job_part(const job *j, size_t first, size_t end, uint32_t thread);
typedef struct output {
  ss_matrix w;
  float *y; /* [n][rows padded] */
} output;
typedef struct job_step {
  job_part *run;
  size_t n_items; /* of output rows, all at once or some; 0: tokens */
} job_step;
#define MAX_STEPS 3
struct job {
  ss_session *s;
  job_part *run;
  size_t n_items;
  job_step steps[MAX_STEPS]; /* for run_steps */
  uint32_t n_steps;
  const ss_layer *layer;
  ss_kv *kv;
  const float *norm;  /* RMSNorm gains */
  const float *input; /* [n][cols] what the norm reads */
  ss_acts acts;
  size_t first_token; /* of the acts */
  output outputs[3];
  uint32_t n_outputs;
  float scale; /* of what the block adds to h */
  const ss_recovery_block *stand_in;
};

static void run_part(void *arg, uint32_t part, uint32_t n_parts) {
  const job *j = arg;
  size_t first, end;
  ss_part(j->n_items, part, n_parts, &first, &end);
  if (first < end) j->run(j, first, end, part);
}

static void parallel(job *j, job_part *run, size_t n_items) {
  j->run = run;
  j->n_items = n_items;
  ss_host_parallel(&j->s->host, (uint32_t)ss_min(j->s->host.n_threads, n_items), run_part, j);
}

/* With so many tokens for each thread, a thread takes its tokens through all steps, so that it reads what its own core has
 * written and waits for no other. With fewer, threads share the rows of a matmul, and the weights are read once. */
#define TOKENS_EACH 32

/* Items are tokens: the work of all output rows for them. */
static void rows_of_tokens(const job *j, const job_step *step, size_t first, size_t end, uint32_t thread) {
  job some = *j;
  some.first_token = first;
  some.acts.x += first * j->acts.cols;
  some.acts.q += first * j->acts.cols;
  some.acts.b += first * (j->acts.cols / SS_COLS);
  some.acts.n_tokens = (uint32_t)(end - first);
  for (uint32_t i = 0; i < j->n_outputs; i++) some.outputs[i].y += first * ss_matrix_groups(&j->outputs[i].w) * SS_ROWS;
  step->run(&some, 0, step->n_items, thread);
}

static void all_steps_part(const job *j, size_t first, size_t end, uint32_t thread) {
  for (uint32_t i = 0; i < j->n_steps; i++)
    if (j->steps[i].n_items) rows_of_tokens(j, &j->steps[i], first, end, thread);
    else j->steps[i].run(j, first, end, thread);
}

static void add_step(job *j, job_part *run, size_t n_items) { j->steps[j->n_steps++] = (job_step){run, n_items}; }

static void run_steps(job *j) {
  const size_t n = j->acts.n_tokens, n_threads = j->s->host.n_threads;
  if (n_threads > 1 && n >= n_threads * TOKENS_EACH) parallel(j, all_steps_part, n);
  else
    for (uint32_t i = 0; i < j->n_steps; i++)
      parallel(j, j->steps[i].run, j->steps[i].n_items ? j->steps[i].n_items : n);
}

/* ---- matmuls ---- */

/* Items are two groups of 8 rows, since kernels like pairs; those of all outputs in a row. */
static void matmul_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_session *s = j->s;
  uint8_t *panel = s->panel + thread * s->panel_bytes;
  size_t start = 0; /* of this output's groups */
  first *= 2, end *= 2;
  for (uint32_t i = 0; i < j->n_outputs && start < end; i++) {
    const output *o = &j->outputs[i];
    const size_t groups = ss_matrix_groups(&o->w), stride = groups * SS_ROWS;
    const size_t a = first > start ? first - start : 0, b = ss_min(end - start, groups);
    if (a < b) ss_matmul(s->kernels, o->y, stride, &o->w, a, b, &j->acts, panel);
    start += groups;
  }
}

static void add_matmul(job *j) {
  size_t n_groups = 0;
  for (uint32_t i = 0; i < j->n_outputs; i++) n_groups += ss_matrix_groups(&j->outputs[i].w);
  add_step(j, matmul_part, ss_ceil_div(n_groups, 2));
}

/* Items are tokens: x[t] = RMSNorm(input[t]), quantised. */
static void norm_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  const ss_session *s = j->s;
  const size_t cols = j->acts.cols;
  for (size_t t = first; t < end; t++) {
    s->kernels->rmsnorm(s->x + t * cols, j->input + t * cols, j->norm, cols, s->model->config.norm_eps);
    s->kernels->quantize(s->act_q + t * cols, s->act_b + t * (cols / SS_COLS), s->x + t * cols, cols);
  }
}

/* What the matmuls of j read: x[n][cols] in f32, and quantised in q and b. */
static void set_input(job *j, const float *x, const int8_t *q, const ss_act_block *b, size_t n, size_t cols) {
  j->acts = (ss_acts){.x = x, .q = q, .b = b, .n_tokens = (uint32_t)n, .cols = (uint32_t)cols};
}

/* Their input becomes the norm of h[n][n_embd]. */
static void add_norm(job *j, const float *h, size_t n, const float *gains) {
  set_input(j, j->s->x, j->s->act_q, j->s->act_b, n, j->s->model->config.n_embd);
  j->input = h;
  j->norm = gains;
  add_step(j, norm_part, 0);
}

/* ---- recovery ---- */

static const float *gains_of(const ss_session *s, uint32_t block, uint32_t norm) {
  const float *own = s->recovery ? s->recovery->blocks[block].gains : NULL;
  return own ? own : ss_model_vector(s->model, norm);
}

static const float *output_gains(const ss_session *s) {
  const float *own = s->recovery ? s->recovery->output_gains : NULL;
  return own ? own : ss_model_vector(s->model, s->model->output_norm);
}

/* Items are tokens: h += scale * out. The matmul's threads could add their rows, but these would then change cores twice
 * a block. */
static void add_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  const ss_session *s = j->s;
  const size_t at = first * s->model->config.n_embd, n = end * s->model->config.n_embd - at;
  for (size_t k = 0; j->scale != 1.0f && k < n; k++) s->out[at + k] *= j->scale;
  s->kernels->add(s->h + at, s->out + at, n);
}

/* The last matmul of a block, and h += scale * out. */
static void add_block(job *j, uint32_t block, uint32_t matrix) {
  j->outputs[0] = (output){ss_model_matrix(j->s->model, matrix), j->s->out};
  j->n_outputs = 1;
  j->scale = j->s->recovery ? j->s->recovery->blocks[block].scale : 1.0f;
  add_matmul(j);
  add_step(j, add_part, 0);
  run_steps(j);
}

/* Items are tokens. */
static void stand_in_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  const size_t n = j->s->model->config.n_embd;
  const float *a = j->stand_in->a, *b = j->stand_in->b;
  for (float *h = j->s->h + first * n, *last = j->s->h + end * n; h < last; h += n)
    for (size_t i = 0; i < n; i++) h[i] = h[i] + (a[i] * h[i] + b[i]);
}

void ss_run_stand_in(ss_session *s, uint32_t block) {
  if (!s->recovery || !s->recovery->blocks[block].a) return;
  job j = {.s = s, .stand_in = &s->recovery->blocks[block]};
  parallel(&j, stand_in_part, s->n);
}

/* ---- attention ---- */

static void add_bias(const ss_session *s, float *y, uint32_t bias, size_t n) {
  if (bias != SS_NO_TENSOR) s->kernels->add(y, ss_model_vector(s->model, bias), n);
}

/* Items are tokens: rotates q and k, quantises the queries, and puts key and value into the cache.
 *
 * Keys have a few channels far larger than the rest, which would cost the others their bits. A Hadamard transform of
 * both sides spreads them out and leaves the scores as they are, times 32 (QuaRot, arXiv 2404.00456): the error that 8-bit
 * queries and keys add to the logits falls to a fifth. */
static void rope_and_store_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_session *s = j->s;
  const ss_config *c = &s->model->config;
  const size_t dim = c->head_dim, blocks = dim / SS_COLS, group = c->n_heads / c->n_kv_heads;
  int8_t *q8 = s->head_q + thread * dim;
  ss_act_block *b8 = s->head_b + thread * blocks;
  for (size_t t = first; t < end; t++) {
    const size_t position = s->length + t, lane = position % SS_ROWS;
    const float *cosine = s->cosine + t * (c->n_rot / 2), *sine = s->sine + t * (c->n_rot / 2);
    add_bias(s, s->q + t * c->n_heads * dim, j->layer->q_bias, c->n_heads * dim);
    add_bias(s, s->k + t * c->n_kv_heads * dim, j->layer->k_bias, c->n_kv_heads * dim);
    add_bias(s, s->v + t * c->n_kv_heads * dim, j->layer->v_bias, c->n_kv_heads * dim);
    for (size_t i = 0; i < c->n_heads; i++) {
      float *query = s->q + (t * c->n_heads + i) * dim;
      ss_rope(query, cosine, sine, c->n_rot, c->rope_neox);
      ss_hadamard(query, dim);
      const size_t row = ((i / group) * s->chunk + t) * group + i % group;
      s->kernels->quantize(s->query_q + row * dim, s->query_b + row * blocks, query, dim);
    }
    for (size_t i = 0; i < c->n_kv_heads; i++) {
      float *key = s->k + (t * c->n_kv_heads + i) * dim;
      ss_rope(key, cosine, sine, c->n_rot, c->rope_neox);
      ss_hadamard(key, dim);
      s->kernels->quantize(q8, b8, key, dim);
      ss_block8 *to = j->kv->k + (i * ss_ceil_div(s->context, SS_ROWS) + position / SS_ROWS) * blocks;
      for (size_t b = 0; b < blocks; b++) {
        to[b].d[lane] = b8[b].d;
        for (size_t step = 0; step < SS_COLS / 4; step++)
          memcpy(to[b].q + 32 * step + 4 * lane, q8 + SS_COLS * b + 4 * step, 4);
      }
      const size_t row = i * s->context + position;
      s->kernels->quantize(j->kv->v + row * dim, b8, s->v + (t * c->n_kv_heads + i) * dim, dim);
      for (size_t b = 0; b < blocks; b++) j->kv->v_scale[row * blocks + b] = b8[b].d;
    }
  }
}

/* x = softmax(q K / sqrt(dim)) V, quantised. Items are (KV head, tile of tokens), the last tile behind the first and so
 * on, since a later one takes longer; of one token, query heads. */
static void attend_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_session *s = j->s;
  const ss_config *c = &s->model->config;
  const ss_kernels *kernels = s->kernels;
  const size_t dim = c->head_dim, blocks = dim / SS_COLS, group = c->n_heads / c->n_kv_heads;
  const size_t stride = ss_padded(s->context), n = s->n, n_tiles = ss_ceil_div(n, SS_ATTN_TILE);
  const float scale = 1.0f / (ss_sqrtf((float)dim) * SS_COLS); /* SS_COLS: of the Hadamard transform */
  float *scores = s->scores + thread * s->scores_each;
  for (size_t item = first, next; item < end; item = next) {
    const size_t kv_head = item / (n == 1 ? group : n_tiles), i_tile = n == 1 ? 0 : item % n_tiles;
    const size_t t0 = (i_tile % 2 ? n_tiles - 1 - i_tile / 2 : i_tile / 2) * SS_ATTN_TILE;
    const size_t t1 = ss_min(t0 + SS_ATTN_TILE, n), positions = s->length + t1;
    const size_t head = n == 1 ? item % group : 0; /* the first of n_heads of the KV head's */
    const size_t n_heads = n == 1 ? ss_min(group - head, end - item) : group;
    const size_t row = (kv_head * s->chunk + t0) * group + head;
    next = n == 1 ? item + n_heads : item + 1;
    kernels->gemm[SS_PACK_8](scores, stride, j->kv->k + kv_head * ss_ceil_div(s->context, SS_ROWS) * blocks,
                             ss_ceil_div(positions, SS_ROWS), blocks, s->query_q + row * dim, s->query_b + row * blocks,
                             (t1 - t0) * n_heads, s->panel + thread * s->panel_bytes);
    for (size_t t = t0; t < t1; t++) {
      const size_t seen = s->length + t + 1;
      const size_t column = (t * c->n_heads + kv_head * group + head) * dim;
      float *p = scores + (t - t0) * n_heads * stride, *out = s->x + column;
      float sums[SS_MAX_GROUP];
      for (size_t i = 0; i < n_heads; i++) sums[i] = kernels->softmax(p + i * stride, seen, scale);
      memset(out, 0, n_heads * dim * sizeof *out);
      kernels->mix(out, n_heads, dim, p, stride, j->kv->v + kv_head * s->context * dim,
                   j->kv->v_scale + kv_head * s->context * blocks, seen);
      for (size_t i = 0; i < n_heads; i++) {
        const float inverse = 1.0f / sums[i];
        for (size_t k = 0; k < dim; k++) out[i * dim + k] *= inverse;
      }
      kernels->quantize(s->act_q + column, s->act_b + column / SS_COLS, out, n_heads * dim);
    }
  }
}

static void run_attention(ss_session *s, uint32_t layer) {
  const ss_model *m = s->model;
  const ss_config *c = &m->config;
  const ss_layer *l = &m->layers[layer];
  job j = {.s = s, .layer = l, .kv = &s->kv[layer]}, last = {.s = s};

  add_norm(&j, s->h, s->n, gains_of(s, 2 * layer, l->attn_norm));
  j.outputs[0] = (output){ss_model_matrix(m, l->q), s->q};
  j.outputs[1] = (output){ss_model_matrix(m, l->k), s->k};
  j.outputs[2] = (output){ss_model_matrix(m, l->v), s->v};
  j.n_outputs = 3;
  add_matmul(&j);
  add_step(&j, rope_and_store_part, 0);
  run_steps(&j);
  parallel(&j, attend_part, s->n == 1 ? c->n_heads : ss_ceil_div(s->n, SS_ATTN_TILE) * c->n_kv_heads);

  set_input(&last, s->x, s->act_q, s->act_b, s->n, (size_t)c->n_heads * c->head_dim);
  add_block(&last, 2 * layer, l->o);
  s->kv[layer].filled = s->length + s->n;
}

/* ---- feed-forward ---- */

/* Items are 32 columns of the feed-forward block's inside: silu(gate) * up, quantised. The thread that made the columns
 * goes on with them, as many at a time as its cache holds. */
static void gate_up_part(const job *j, size_t first, size_t end, uint32_t thread) {
  const ss_session *s = j->s;
  const size_t n_ff = s->model->config.n_ff, n_tokens = j->acts.n_tokens;
  const size_t at_once = s->inside_each / (2 * SS_COLS * n_tokens);
  float *gate = s->inside + thread * s->inside_each;
  for (size_t last; first < end; first = last) {
    last = ss_min(first + at_once, end);
    const size_t column = first * SS_COLS, n = (last - first) * SS_COLS;
    float *up = gate + n_tokens * n;
    for (uint32_t i = 0; i < 2; i++)
      ss_matmul(s->kernels, (i ? up : gate) - column, n, &j->outputs[i].w, column / SS_ROWS, (column + n) / SS_ROWS,
                &j->acts, s->panel + thread * s->panel_bytes);
    for (size_t t = 0, at = j->first_token * n_ff + column; s->gate_kept && t < n_tokens; t++, at += n_ff) {
      memcpy(s->gate_kept + at, gate + t * n, n * sizeof *gate);
      memcpy(s->up_kept + at, up + t * n, n * sizeof *up);
    }
    s->kernels->swiglu(gate, up, n_tokens * n);
    for (size_t t = 0, at = j->first_token * n_ff + column; t < n_tokens; t++, at += n_ff) {
      s->kernels->quantize(s->ff_q + at, s->ff_b + at / SS_COLS, gate + t * n, n);
      if (s->ff_x) memcpy(s->ff_x + at, gate + t * n, n * sizeof *gate);
    }
  }
}

void ss_run_gate_up(ss_session *s, uint32_t layer) {
  const ss_model *m = s->model;
  const ss_layer *l = &m->layers[layer];
  job j = {.s = s};

  add_norm(&j, s->h, s->n, gains_of(s, 2 * layer + 1, l->ffn_norm));
  j.outputs[0].w = ss_model_matrix(m, l->gate);
  j.outputs[1].w = ss_model_matrix(m, l->up);
  add_step(&j, gate_up_part, m->config.n_ff / SS_COLS);
  run_steps(&j);
}

static void run_feed_forward(ss_session *s, uint32_t layer) {
  job j = {.s = s};
  ss_run_gate_up(s, layer);
  set_input(&j, s->ff_x, s->ff_q, s->ff_b, s->n, s->model->config.n_ff);
  add_block(&j, 2 * layer + 1, s->model->layers[layer].down);
}

void ss_run_block(ss_session *s, uint32_t block) {
  if (block % 2 == 0) run_attention(s, block / 2);
  else run_feed_forward(s, block / 2);
}

/* ---- the two ends ---- */

/* Items are tokens: their rows of the embedding, and cos and sin of position * theta^(-2i / n_rot), in double up to the
 * last rounding. */
static void embed_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  const ss_session *s = j->s;
  const ss_model *m = s->model;
  const ss_config *c = &m->config;
  const ss_matrix w = ss_model_matrix(m, m->embedding);
  const uint32_t half = c->n_rot / 2;
  const float *factors = m->rope_factors < 0 ? NULL : ss_model_vector(m, (uint32_t)m->rope_factors);
  for (size_t t = first; t < end; t++) ss_matrix_row(s->h + t * w.cols, &w, (uint32_t)s->tokens[s->n_done + t]);
  for (uint32_t i = 0; i < half; i++) {
    double frequency = ss_pow(c->rope_theta, -2.0 * i / c->n_rot) * c->rope_scale;
    if (factors) frequency /= factors[i];
    for (size_t t = first; t < end; t++) {
      double sine, cosine;
      ss_sincos((double)(s->length + t) * frequency, &sine, &cosine);
      s->cosine[t * half + i] = (float)cosine;
      s->sine[t * half + i] = (float)sine;
    }
  }
}

void ss_run_embedding(ss_session *s) {
  job j = {.s = s};
  parallel(&j, embed_part, s->n);
}

/* Items are tokens: x[t] = RMSNorm(input[t]), quantised to 8 bits in row 2t, and what that leaves over in row 2t + 1. */
static void norm_twice_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  const ss_session *s = j->s;
  const size_t cols = j->acts.cols, blocks = cols / SS_COLS;
  for (size_t t = first; t < end; t++) {
    float *x = s->x + t * cols;
    int8_t *q = s->act_q + 2 * t * cols;
    ss_act_block *b = s->act_b + 2 * t * blocks;
    s->kernels->rmsnorm(x, j->input + t * cols, j->norm, cols, s->model->config.norm_eps);
    s->kernels->quantize(q, b, x, cols);
    for (size_t i = 0; i < cols; i++) x[i] -= b[i / SS_COLS].d * (float)q[i];
    s->kernels->quantize(q + cols, b + blocks, x, cols);
  }
}

/* Items are groups of 8 rows of the head: logits = W x of both rows of each token, added. */
static void head_part(const job *j, size_t first, size_t end, uint32_t thread) {
  const ss_session *s = j->s;
  const output *o = &j->outputs[0];
  const size_t stride = ss_matrix_groups(&o->w) * SS_ROWS, n_rows = j->acts.n_tokens;
  const size_t at_once = s->head_y_each / n_rows / SS_ROWS, y_stride = at_once * SS_ROWS;
  float *y = s->head_y + thread * s->head_y_each;
  for (size_t g = first; g < end; g += at_once) {
    const size_t last = ss_min(g + at_once, end), rows = (last - g) * SS_ROWS;
    ss_matmul(s->kernels, y - g * SS_ROWS, y_stride, &o->w, g, last, &j->acts, s->panel + thread * s->panel_bytes);
    for (uint32_t t = 0; t < n_rows / 2; t++) {
      const float *high = y + 2 * t * y_stride, *low = high + y_stride;
      float *logits = o->y + t * stride + g * SS_ROWS;
      for (size_t i = 0; i < rows; i++) logits[i] = high[i] + low[i];
    }
  }
}

/* The head's input is quantised twice, to about 15 bits: an error there goes straight into the logits, and on quantised
 * weights 8 bits would make a quarter of the whole error. It costs little, since the time goes into reading the head. */
void ss_run_head(ss_session *s, uint32_t first, uint32_t row) {
  const ss_model *m = s->model;
  const uint32_t n = s->n - first;
  const float *h = s->h + (size_t)first * m->config.n_embd;
  job j = {.s = s};
  j.outputs[0] = (output){ss_model_matrix(m, m->head), s->logits + row * ss_padded(m->config.n_vocab)};
  j.n_outputs = 1;
  if (ss_packs[j.outputs[0].w.pack].is_float) {
    add_norm(&j, h, n, output_gains(s));
    add_matmul(&j);
    run_steps(&j);
    return;
  }
  set_input(&j, s->x, s->act_q, s->act_b, n, m->config.n_embd);
  j.input = h;
  j.norm = output_gains(s);
  parallel(&j, norm_twice_part, n);
  j.acts.n_tokens = 2 * n;
  parallel(&j, head_part, ss_matrix_groups(&j.outputs[0].w));
}
