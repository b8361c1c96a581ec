/* The forward pass of a BERT encoder, on the kernels and in the exact order of the language model's.
 *
 *     h = N(token + position + type)                                N = LayerNorm with gain and bias
 *     attention     h = N(h + Wo attend(Wq h, Wk h, Wv h))          every token sees every token
 *     feed-forward  h = N(h + Wdown gelu(Wup h))                    each matrix with its bias
 *
 * Work is split over threads by output rows, tokens or heads and never inside a sum. */
#include "route/encoder.h"

void ss_bert_carve(ss_bert *b, ss_arena *arena, const ss_model *m, uint32_t capacity, uint32_t n_threads) {
  const ss_config *c = &m->config;
  const size_t T = capacity, n = c->n_embd, widest = ss_max(n, c->n_ff), dim = c->head_dim;
  b->model = m;
  b->capacity = capacity;
  b->panel_bytes = ss_panel_bytes((uint32_t)widest);
  b->h = ss_carve(arena, T * n, sizeof *b->h);
  b->q = ss_carve(arena, T * n, sizeof *b->q);
  b->k = ss_carve(arena, T * n, sizeof *b->k);
  b->v = ss_carve(arena, T * n, sizeof *b->v);
  b->x = ss_carve(arena, T * n, sizeof *b->x);
  b->out = ss_carve(arena, T * n, sizeof *b->out);
  b->up = ss_carve(arena, T * c->n_ff, sizeof *b->up);
  b->act_q = ss_carve(arena, T * widest, sizeof *b->act_q);
  b->act_b = ss_carve(arena, T * (widest / SS_COLS), sizeof *b->act_b);
  b->query_q = ss_carve(arena, T * n, sizeof *b->query_q);
  b->query_b = ss_carve(arena, T * (n / SS_COLS), sizeof *b->query_b);
  b->keys = ss_carve(arena, c->n_heads * ss_ceil_div(T, SS_ROWS) * (dim / SS_COLS), sizeof *b->keys);
  b->values = ss_carve(arena, T * n, sizeof *b->values);
  b->value_scale = ss_carve(arena, T * (n / SS_COLS), sizeof *b->value_scale);
  b->panel = ss_carve(arena, n_threads, b->panel_bytes);
  b->scores = ss_carve(arena, n_threads * SS_BERT_TILE * (ss_ceil_div(T, SS_ROWS) * SS_ROWS), sizeof *b->scores);
  b->mixed = ss_carve(arena, n_threads * SS_BERT_TILE * dim, sizeof *b->mixed);
  b->head_q = ss_carve(arena, n_threads * dim, sizeof *b->head_q);
  b->head_b = ss_carve(arena, n_threads * (dim / SS_COLS), sizeof *b->head_b);
}

/* ---- splitting work ---- */

typedef struct job job;
typedef void job_part(const job *j, size_t first, size_t end, uint32_t thread);
typedef struct output {
  ss_matrix w;
  float *y; /* [n][rows] */
} output;
struct job {
  ss_bert *b;
  job_part *run;
  size_t n_items;
  const ss_layer *layer;
  const int32_t *tokens;
  uint32_t n; /* tokens */
  ss_acts acts; /* what the matmuls read */
  output outputs[3];
  uint32_t n_outputs;
  uint32_t bias, norm, norm_bias; /* of the block that ends */
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
  ss_host_parallel(j->b->host, (uint32_t)ss_min(j->b->host->n_threads, n_items), run_part, j);
}

static const float *vector(const job *j, uint32_t tensor) { return ss_model_vector(j->b->model, tensor); }

/* ---- matmuls ---- */

static void add_output(job *j, uint32_t tensor, float *y) {
  j->outputs[j->n_outputs++] = (output){ss_model_matrix(j->b->model, tensor), y};
}

/* Items are groups of 8 rows, those of all outputs in a row. Widths are multiples of 32, so no row is padding. */
static void matmul_part(const job *j, size_t first, size_t end, uint32_t thread) {
  uint8_t *panel = j->b->panel + thread * j->b->panel_bytes;
  size_t start = 0; /* of this output's groups */
  for (uint32_t i = 0; i < j->n_outputs && start < end; i++) {
    const output *o = &j->outputs[i];
    const size_t groups = ss_matrix_groups(&o->w), from = first > start ? first - start : 0;
    ss_matmul(j->b->model->kernels, o->y, o->w.rows, &o->w, from, ss_min(end - start, groups), &j->acts, panel);
    start += groups;
  }
}

static void matmul(job *j) {
  size_t n_groups = 0;
  for (uint32_t i = 0; i < j->n_outputs; i++) n_groups += ss_matrix_groups(&j->outputs[i].w);
  parallel(j, matmul_part, n_groups);
  j->n_outputs = 0;
}

/* What the matmuls read from now on, input [n][cols]; token t still has to be quantised. */
static void set_input(job *j, const float *input, size_t cols) {
  j->acts = (ss_acts){.x = input, .q = j->b->act_q, .b = j->b->act_b, .n_tokens = j->n, .cols = (uint32_t)cols};
}
static void quantize(const job *j, size_t t) {
  const size_t cols = j->acts.cols;
  j->b->model->kernels->quantize(j->b->act_q + t * cols, j->b->act_b + t * (cols / SS_COLS), j->acts.x + t * cols,
                                 cols);
}

/* ---- parts; their items are tokens, if nothing else is said ---- */

/* h[t] = N(token + position + type), quantised. */
static void embed_part(const job *j, size_t first, size_t end, uint32_t thread) {
  const ss_model *m = j->b->model;
  const size_t n = m->config.n_embd;
  const ss_matrix tokens = ss_model_matrix(m, m->embedding), positions = ss_model_matrix(m, m->positions);
  const ss_matrix types = ss_model_matrix(m, m->token_types);
  (void)thread;
  for (size_t t = first; t < end; t++) {
    float *h = j->b->h + t * n, *row = j->b->out + t * n;
    ss_matrix_row(h, &tokens, (uint32_t)j->tokens[t]);
    ss_matrix_row(row, &types, 0);
    m->kernels->add(h, row, n);
    ss_matrix_row(row, &positions, (uint32_t)t);
    m->kernels->add(h, row, n);
    ss_layernorm(h, vector(j, m->embedding_norm), vector(j, m->embedding_norm_bias), n, m->config.norm_eps);
    quantize(j, t);
  }
}

/* h[t] = N(h[t] + out[t] + bias), quantised. */
static void end_block_part(const job *j, size_t first, size_t end, uint32_t thread) {
  const ss_model *m = j->b->model;
  const size_t n = m->config.n_embd;
  (void)thread;
  for (size_t t = first; t < end; t++) {
    float *h = j->b->h + t * n;
    m->kernels->add(h, j->b->out + t * n, n);
    m->kernels->add(h, vector(j, j->bias), n);
    ss_layernorm(h, vector(j, j->norm), vector(j, j->norm_bias), n, m->config.norm_eps);
    quantize(j, t);
  }
}

/* q, k and v get their biases and are quantised by heads; keys in the layout of SS_PACK_8, so that scores are a matmul.
 * The Hadamard transform of queries and keys is explained in model/forward.c. */
static void heads_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_bert *b = j->b;
  const ss_kernels *kernels = b->model->kernels;
  const ss_config *c = &b->model->config;
  const size_t n = c->n_embd, dim = c->head_dim, blocks = dim / SS_COLS, groups = ss_ceil_div(b->capacity, SS_ROWS);
  int8_t *q8 = b->head_q + thread * dim;
  ss_act_block *b8 = b->head_b + thread * blocks;
  for (size_t t = first; t < end; t++) {
    kernels->add(b->q + t * n, vector(j, j->layer->q_bias), n);
    kernels->add(b->k + t * n, vector(j, j->layer->k_bias), n);
    kernels->add(b->v + t * n, vector(j, j->layer->v_bias), n);
    ss_hadamard(b->q + t * n, n);
    ss_hadamard(b->k + t * n, n);
    for (size_t i = 0; i < c->n_heads; i++) {
      const size_t row = i * b->capacity + t, lane = t % SS_ROWS;
      kernels->quantize(b->query_q + row * dim, b->query_b + row * blocks, b->q + t * n + i * dim, dim);
      kernels->quantize(q8, b8, b->k + t * n + i * dim, dim);
      ss_block8 *to = b->keys + (i * groups + t / SS_ROWS) * blocks;
      for (size_t k = 0; k < blocks; k++) {
        to[k].d[lane] = b8[k].d;
        for (size_t step = 0; step < SS_COLS / 4; step++)
          memcpy(to[k].q + 32 * step + 4 * lane, q8 + SS_COLS * k + 4 * step, 4);
      }
      kernels->quantize(b->values + row * dim, b8, b->v + t * n + i * dim, dim);
      for (size_t k = 0; k < blocks; k++) b->value_scale[row * blocks + k] = b8[k].d;
    }
  }
}

/* Items are (head, tile of tokens): x = softmax(q K / sqrt(dim)) V. */
static void attend_part(const job *j, size_t first, size_t end, uint32_t thread) {
  ss_bert *b = j->b;
  const ss_kernels *kernels = b->model->kernels;
  const size_t n = b->model->config.n_embd, dim = b->model->config.head_dim, blocks = dim / SS_COLS;
  const size_t groups = ss_ceil_div(b->capacity, SS_ROWS), stride = groups * SS_ROWS;
  const size_t n_tiles = ss_ceil_div(j->n, SS_BERT_TILE);
  const float scale = 1.0f / (ss_sqrtf((float)dim) * SS_COLS);
  float *scores = b->scores + thread * SS_BERT_TILE * stride, *mixed = b->mixed + thread * SS_BERT_TILE * dim;
  for (size_t item = first; item < end; item++) {
    const size_t head = item / n_tiles, t0 = item % n_tiles * SS_BERT_TILE, n_q = ss_min(SS_BERT_TILE, j->n - t0);
    const size_t row = head * b->capacity;
    float inverse[SS_BERT_TILE];
    kernels->gemm[SS_PACK_8](scores, stride, b->keys + head * groups * blocks, ss_ceil_div(j->n, SS_ROWS), blocks,
                             b->query_q + (row + t0) * dim, b->query_b + (row + t0) * blocks, n_q,
                             b->panel + thread * b->panel_bytes);
    for (size_t i = 0; i < n_q; i++) inverse[i] = 1.0f / kernels->softmax(scores + i * stride, j->n, scale);
    memset(mixed, 0, n_q * dim * sizeof *mixed);
    kernels->mix(mixed, n_q, dim, scores, stride, b->values + row * dim, b->value_scale + row * blocks, j->n);
    for (size_t i = 0; i < n_q; i++)
      for (size_t k = 0; k < dim; k++) b->x[(t0 + i) * n + head * dim + k] = mixed[i * dim + k] * inverse[i];
  }
}

static void quantize_part(const job *j, size_t first, size_t end, uint32_t thread) {
  (void)thread;
  for (size_t t = first; t < end; t++) quantize(j, t);
}

/* up[t] = gelu(up[t] + bias), quantised. */
static void gelu_part(const job *j, size_t first, size_t end, uint32_t thread) {
  const size_t n_ff = j->acts.cols;
  (void)thread;
  for (size_t t = first; t < end; t++) {
    ss_gelu(j->b->up + t * n_ff, vector(j, j->layer->up_bias), n_ff);
    quantize(j, t);
  }
}

/* ---- the model ---- */

static void end_block(job *j, uint32_t bias, uint32_t norm, uint32_t norm_bias) {
  j->bias = bias;
  j->norm = norm;
  j->norm_bias = norm_bias;
  set_input(j, j->b->h, j->b->model->config.n_embd);
  parallel(j, end_block_part, j->n);
}

static void run_attention(job *j) {
  ss_bert *b = j->b;
  const ss_layer *l = j->layer;
  add_output(j, l->q, b->q);
  add_output(j, l->k, b->k);
  add_output(j, l->v, b->v);
  matmul(j);
  parallel(j, heads_part, j->n);
  parallel(j, attend_part, ss_ceil_div(j->n, SS_BERT_TILE) * b->model->config.n_heads);
  set_input(j, b->x, b->model->config.n_embd);
  parallel(j, quantize_part, j->n);
  add_output(j, l->o, b->out);
  matmul(j);
  end_block(j, l->o_bias, l->attn_norm, l->attn_norm_bias);
}

static void run_feed_forward(job *j) {
  ss_bert *b = j->b;
  const ss_layer *l = j->layer;
  add_output(j, l->up, b->up);
  matmul(j);
  set_input(j, b->up, b->model->config.n_ff);
  parallel(j, gelu_part, j->n);
  add_output(j, l->down, b->out);
  matmul(j);
  end_block(j, l->down_bias, l->ffn_norm, l->ffn_norm_bias);
}

const float *ss_bert_run(ss_bert *b, const int32_t *tokens, uint32_t n) {
  const ss_model *m = b->model;
  job j = {.b = b, .tokens = tokens, .n = n};
  set_input(&j, b->h, m->config.n_embd);
  parallel(&j, embed_part, n);
  for (uint32_t l = 0; l < m->config.n_layers; l++) {
    j.layer = &m->layers[l];
    run_attention(&j);
    run_feed_forward(&j);
  }
  return b->h;
}
