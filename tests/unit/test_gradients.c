/* Every backward operation against central differences of a forward twin in double, and the whole pass on tiny models
 * against PyTorch (tests/golden/make_gradients.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "gguf_writer.h"
#include "host.h"
#include "model/model.h"
#include "test.h"
#include "train/backward.h"
#include "train/gate.h"
#include "train/pass.h"

/* ---- finite differences ---- */

#define MOST 4096 /* numbers of one input */

/* The twin: a number of its input x[n]; the other inputs are in ctx. */
typedef double twin(const double *x, const void *ctx);

static void fill(double *x, size_t n, double spread, ss_rng *rng) {
  for (size_t i = 0; i < n; i++) x[i] = spread * (2.0 * ss_rng_unit(rng) - 1.0);
}

static void to_floats(float *to, const double *from, size_t n) {
  for (size_t i = 0; i < n; i++) to[i] = (float)from[i];
}

/* The largest difference between gradient[n] and central differences of f at x, over the largest gradient. */
static double worst(twin *f, const void *ctx, double *x, const float *gradient, size_t n) {
  double error = 0.0, largest = 1e-3;
  for (size_t i = 0; i < n; i++) {
    const double was = x[i], step = 1e-5 * (1.0 + fabs(was));
    x[i] = was + step;
    const double up = f(x, ctx);
    x[i] = was - step;
    const double down = f(x, ctx);
    x[i] = was;
    const double want = (up - down) / (2.0 * step);
    error = fmax(error, fabs(want - (double)gradient[i]));
    largest = fmax(largest, fabs(want));
  }
  return error / largest;
}

#define check_gradient(f, ctx, x, gradient, n) assert_true(worst(f, ctx, x, gradient, n) < 2e-4)

/* ---- RMSNorm ---- */

#define N 96
#define EPS 1e-3

typedef struct norm_case {
  double x[N], w[N], dy[N];
  int of; /* which input the differences are of: 0: x, 1: w */
} norm_case;

static double norm_twin(const double *in, const void *ctx) {
  const norm_case *c = ctx;
  const double *x = c->of == 0 ? in : c->x, *w = c->of == 1 ? in : c->w;
  double squares = 0.0, sum = 0.0;
  for (int i = 0; i < N; i++) squares += x[i] * x[i];
  for (int i = 0; i < N; i++) sum += c->dy[i] * x[i] / sqrt(squares / N + EPS) * w[i];
  return sum;
}

static void test_rmsnorm_goes_back_to_its_input_and_its_gains(void **state) {
  (void)state;
  ss_rng rng = ss_rng_seed(1);
  norm_case c;
  float x[N], w[N], dy[N], dx[N] = {0}, dw[N] = {0};
  fill(c.x, N, 2.0, &rng);
  fill(c.w, N, 1.0, &rng);
  fill(c.dy, N, 1.0, &rng);
  to_floats(x, c.x, N);
  to_floats(w, c.w, N);
  to_floats(dy, c.dy, N);
  const float r = ss_rmsnorm_backward(dx, dy, x, w, N, (float)EPS);
  ss_rmsnorm_gains_backward(dw, dy, x, NULL, &r, 1, N, 0, 40);
  ss_rmsnorm_gains_backward(dw, dy, x, (const uint32_t[]){0}, &r, 1, N, 40, N);
  c.of = 0;
  double in[N];
  memcpy(in, c.x, sizeof in);
  check_gradient(norm_twin, &c, in, dx, N);
  dx[7] += 0.01f; /* the comparison sees a planted error */
  assert_true(worst(norm_twin, &c, in, dx, N) > 2e-4);
  c.of = 1;
  memcpy(in, c.w, sizeof in);
  check_gradient(norm_twin, &c, in, dw, N);
}

/* ---- rotation ---- */

typedef struct rope_case {
  double dy[64];
  float cosine[24], sine[24];
  bool neox;
} rope_case;

static double rope_twin(const double *x, const void *ctx) {
  const rope_case *c = ctx;
  double sum = 0.0;
  for (int i = 0; i < 24; i++) {
    const int a = c->neox ? i : 2 * i, b = c->neox ? i + 24 : 2 * i + 1;
    sum += c->dy[a] * (x[a] * (double)c->cosine[i] - x[b] * (double)c->sine[i]);
    sum += c->dy[b] * (x[a] * (double)c->sine[i] + x[b] * (double)c->cosine[i]);
  }
  for (int i = 48; i < 64; i++) sum += c->dy[i] * x[i]; /* these do not turn */
  return sum;
}

static void test_rope_goes_back_in_both_orders(void **state) {
  (void)state;
  for (int neox = 0; neox < 2; neox++) {
    ss_rng rng = ss_rng_seed(2);
    rope_case c = {.neox = neox};
    double x[64];
    float dx[64];
    for (int i = 0; i < 24; i++) c.cosine[i] = (float)cos(0.3 * i + 0.1), c.sine[i] = (float)sin(0.3 * i + 0.1);
    fill(x, 64, 1.0, &rng);
    fill(c.dy, 64, 1.0, &rng);
    to_floats(dx, c.dy, 64);
    ss_rope_backward(dx, c.cosine, c.sine, 48, neox);
    check_gradient(rope_twin, &c, x, dx, 64);
  }
}

/* ---- SwiGLU ---- */

typedef struct swiglu_case {
  double gate[N], up[N], dy[N];
  int of;
} swiglu_case;

static double swiglu_twin(const double *in, const void *ctx) {
  const swiglu_case *c = ctx;
  const double *g = c->of == 0 ? in : c->gate, *u = c->of == 1 ? in : c->up;
  double sum = 0.0;
  for (int i = 0; i < N; i++) sum += c->dy[i] * g[i] / (1.0 + exp(-g[i])) * u[i];
  return sum;
}

static void test_swiglu_goes_back_to_gate_and_up(void **state) {
  (void)state;
  ss_rng rng = ss_rng_seed(3);
  swiglu_case c;
  float g[N], u[N], dy[N], dg[N], du[N];
  fill(c.gate, N, 6.0, &rng);
  fill(c.up, N, 2.0, &rng);
  fill(c.dy, N, 1.0, &rng);
  c.gate[3] = 300.0, c.gate[4] = -300.0, c.gate[5] = 0.0;
  to_floats(g, c.gate, N);
  to_floats(u, c.up, N);
  to_floats(dy, c.dy, N);
  const double dot = ss_swiglu_backward(dg, du, dy, g, u, 1.0f, N);
  c.of = 0;
  assert_true(fabs(dot - swiglu_twin(c.gate, &c)) < 1e-3);
  double in[N];
  memcpy(in, c.gate, sizeof in);
  check_gradient(swiglu_twin, &c, in, dg, N);
  c.of = 1;
  memcpy(in, c.up, sizeof in);
  check_gradient(swiglu_twin, &c, in, du, N);
  ss_swiglu_backward(dg, du, dy, g, u, 0.5f, N); /* scale: of the gradients alone */
  for (int i = 0; i < N; i++) c.dy[i] *= 0.5;
  check_gradient(swiglu_twin, &c, in, du, N);
}

/* ---- stand-in ---- */

typedef struct stand_in_case {
  double h[N], a[N], b[N], dy[N];
  int of;
} stand_in_case;

static double stand_in_twin(const double *in, const void *ctx) {
  const stand_in_case *c = ctx;
  const double *h = c->of == 0 ? in : c->h, *a = c->of == 1 ? in : c->a, *b = c->of == 2 ? in : c->b;
  double sum = 0.0;
  for (int i = 0; i < N; i++) sum += c->dy[i] * (h[i] + (a[i] * h[i] + b[i]));
  return sum;
}

static void test_stand_in_goes_back_to_its_input_and_both_vectors(void **state) {
  (void)state;
  ss_rng rng = ss_rng_seed(4);
  stand_in_case c;
  float h[N], a[N], dy[N], da[N] = {0}, db[N] = {0};
  fill(c.h, N, 2.0, &rng);
  fill(c.a, N, 0.5, &rng);
  fill(c.b, N, 0.5, &rng);
  fill(c.dy, N, 1.0, &rng);
  to_floats(h, c.h, N);
  to_floats(a, c.a, N);
  to_floats(dy, c.dy, N);
  ss_stand_in_backward(dy, da, db, h, a, N);
  double *const ins[] = {c.h, c.a, c.b};
  const float *const gradients[] = {dy, da, db};
  for (c.of = 0; c.of < 3; c.of++) {
    double in[N];
    memcpy(in, ins[c.of], sizeof in);
    check_gradient(stand_in_twin, &c, in, gradients[c.of], N);
  }
}

/* ---- losses ---- */

typedef struct loss_case {
  double dense[N];
  int target; /* -1: KL */
} loss_case;

static double log_sum_exp(const double *x) {
  double sum = 0.0;
  for (int i = 0; i < N; i++) sum += exp(x[i]);
  return log(sum);
}

static double loss_twin(const double *x, const void *ctx) {
  const loss_case *c = ctx;
  const double lse = log_sum_exp(x);
  if (c->target >= 0) return lse - x[c->target];
  const double dense_lse = log_sum_exp(c->dense);
  double kl = 0.0;
  for (int i = 0; i < N; i++) kl += exp(c->dense[i] - dense_lse) * ((c->dense[i] - dense_lse) - (x[i] - lse));
  return kl;
}

static void test_next_token_loss_and_kl_go_back_to_the_logits(void **state) {
  (void)state;
  for (int target = -1; target < N; target += 40) {
    ss_rng rng = ss_rng_seed(5);
    loss_case c = {.target = target};
    double x[N];
    float logits[N], dense[N];
    fill(x, N, 5.0, &rng);
    fill(c.dense, N, 5.0, &rng);
    to_floats(logits, x, N);
    to_floats(dense, c.dense, N);
    ss_softmax_backward(logits, target < 0 ? dense : NULL, target, N, ss_kernels_find("scalar"));
    check_gradient(loss_twin, &c, x, logits, N);
  }
}

/* ---- attention ---- */

#define LONG 150 /* more than a tile of queries */
#define DIM 32
#define GROUP 2

typedef struct attention_case {
  size_t n;
  double *q, *k, *v, *dout;
  int of;
} attention_case;

static double attention_twin(const double *in, const void *ctx) {
  const attention_case *c = ctx;
  const double *q = c->of == 0 ? in : c->q, *k = c->of == 1 ? in : c->k, *v = c->of == 2 ? in : c->v;
  double sum = 0.0, p[LONG];
  for (size_t t = 0; t < c->n; t++)
    for (size_t i = 0; i < GROUP; i++) {
      const double *query = q + (t * GROUP + i) * DIM, *dout = c->dout + (t * GROUP + i) * DIM;
      double total = 0.0;
      for (size_t j = 0; j <= t; j++) {
        double score = 0.0;
        for (size_t d = 0; d < DIM; d++) score += query[d] * k[j * DIM + d];
        total += p[j] = exp(0.2 * score);
      }
      for (size_t j = 0; j <= t; j++)
        for (size_t d = 0; d < DIM; d++) sum += p[j] / total * v[j * DIM + d] * dout[d];
    }
  return sum;
}

static void check_attention(size_t n, const ss_gemm *gemm, size_t n_checked) {
  ss_rng rng = ss_rng_seed(6);
  const size_t nq = n * GROUP * DIM, nk = n * DIM, stride = (GROUP + 2) * DIM;
  double *x = malloc((2 * nq + 2 * nk) * sizeof *x);
  float *f = malloc((2 * nq + 2 * nk) * sizeof *f), *d = malloc(n * stride * sizeof *d),
        *gradient = malloc(nq * sizeof *d);
  float *scratch = test_alloc(NULL, ss_attention_scratch(n) * sizeof *scratch);
  void *panels = test_alloc(NULL, ss_gemm_panel_bytes());
  attention_case c = {.n = n, .q = x, .k = x + nq, .v = x + nq + nk, .dout = x + nq + 2 * nk};
  fill(x, 2 * nq + 2 * nk, 1.0, &rng);
  to_floats(f, x, 2 * nq + 2 * nk);
  for (size_t i = 0; i < n * stride; i++) d[i] = NAN;
  const ss_attention a = {.n = n,
                          .dim = DIM,
                          .group = GROUP,
                          .scale = 0.2f,
                          .q = f,
                          .k = f + nq,
                          .v = f + nq + nk,
                          .dout = f + nq + 2 * nk,
                          .dq = d,
                          .dk = d + GROUP * DIM,
                          .dv = d + (GROUP + 1) * DIM,
                          .q_stride = GROUP * DIM,
                          .kv_stride = DIM,
                          .dout_stride = GROUP * DIM,
                          .d_stride = stride};
  ss_attention_backward(&a, scratch, gemm, panels, ss_kernels_find(NULL));
  double *const ins[] = {c.q, c.k, c.v};
  const size_t widths[] = {GROUP * DIM, DIM, DIM}, offsets[] = {0, GROUP * DIM, (GROUP + 1) * DIM};
  for (c.of = 0; c.of < 3; c.of++) {
    const size_t w = widths[c.of];
    for (size_t i = 0; i < n * w; i++) gradient[i] = d[i / w * stride + offsets[c.of] + i % w];
    double *in = malloc(n * w * sizeof *in);
    memcpy(in, ins[c.of], n * w * sizeof *in);
    /* of a long one, the last numbers: they see every tile */
    const size_t from = n * w > n_checked ? n * w - n_checked : 0;
    double error = 0.0, largest = 1e-3;
    for (size_t i = from; i < n * w; i++) {
      const double was = in[i];
      in[i] = was + 1e-4;
      const double up = attention_twin(in, &c);
      in[i] = was - 1e-4;
      const double want = (up - attention_twin(in, &c)) / 2e-4;
      in[i] = was;
      error = fmax(error, fabs(want - (double)gradient[i]));
      largest = fmax(largest, fabs(want));
    }
    assert_true(error / largest < 1e-3);
    free(in);
  }
  free(x), free(f), free(d), free(gradient), free(scratch), free(panels);
}

static void test_attention_goes_back_to_queries_keys_and_values(void **state) {
  (void)state;
  for (size_t i = 0; ss_gemm_at(i).run; i++) {
    const ss_gemm gemm = ss_gemm_at(i);
    check_attention(9, &gemm, MOST);
    if (!SS_SLOW_TARGET) check_attention(LONG, &gemm, 24);
  }
}

/* ---- matrix products and weights ---- */

static void test_every_matrix_product_agrees_with_a_plain_one(void **state) {
  (void)state;
  static const size_t sizes[][3] = {{1, 1, 1}, {7, 33, 5}, {13, 31, 300}, {150, 70, 257}, {5, 1600, 9}, {300, 40, 64}};
  void *panels = test_alloc(NULL, ss_gemm_panel_bytes());
  for (size_t i = 0; ss_gemm_at(i).run; i++)
    for (size_t s = 0; s < 6; s++)
      for (int form = 0; form < 8; form++) {
        const size_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
        const bool ta = form & 1, tb = form & 2;
        const size_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 2, ldc = n + 5;
        float *a = malloc((ta ? k : m) * lda * sizeof *a), *b = malloc((tb ? n : k) * ldb * sizeof *b);
        float *c = malloc(m * ldc * sizeof *c);
        ss_rng rng = ss_rng_seed(s);
        for (size_t x = 0; x < (ta ? k : m) * lda; x++) a[x] = (float)ss_rng_below(&rng, 9) - 4.0f;
        for (size_t x = 0; x < (tb ? n : k) * ldb; x++) b[x] = (float)ss_rng_below(&rng, 9) - 4.0f;
        for (size_t x = 0; x < m * ldc; x++) c[x] = form & 4 ? 3.0f : NAN;
        const ss_product p = {.m = m,
                              .n = n,
                              .k = k,
                              .alpha = 0.5f,
                              .beta = form & 4 ? 2.0f : 0.0f,
                              .a = a,
                              .b = b,
                              .c = c,
                              .lda = lda,
                              .ldb = ldb,
                              .ldc = ldc,
                              .trans_a = ta,
                              .trans_b = tb};
        if (form & 4) ss_gemm_at(i).run(&p, panels);
        else {
          const ss_gemm gemm = ss_gemm_at(i);
          ss_gemm_rows(&gemm, &p, panels, &test_host);
        }
        for (size_t row = 0; row < m; row++)
          for (size_t col = 0; col < n; col++) { /* small integers: exact */
            double want = 0.0;
            for (size_t x = 0; x < k; x++)
              want += (double)a[ta ? x * lda + row : row * lda + x] * (double)b[tb ? col * ldb + x : x * ldb + col];
            want = 0.5 * want + (form & 4 ? 6.0 : 0.0);
            if ((double)c[row * ldc + col] != want) fail_msg("%s, form %d", ss_gemm_at(i).name, form);
          }
        for (size_t row = 0; row < m; row++) /* what lies between the rows stays */
          for (size_t col = n; col < ldc; col++)
            assert_true(form & 4 ? c[row * ldc + col] == 3.0f : isnan(c[row * ldc + col]));
        free(a), free(b), free(c);
      }
  free(panels);
}

static void test_weights_of_every_type_are_those_of_the_forward_pass(void **state) {
  (void)state;
  static const uint32_t types[] = {SS_GGUF_F32,  SS_GGUF_F16,  SS_GGUF_BF16, SS_GGUF_Q4_0, SS_GGUF_Q4_1, SS_GGUF_Q5_0,
                                   SS_GGUF_Q5_1, SS_GGUF_Q8_0, SS_GGUF_Q4_K, SS_GGUF_Q5_K, SS_GGUF_Q6_K};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    gguf_image image = tiny_model_image(&(tiny_model){.type = types[i], .seed = i});
    ss_model *m;
    assert_int_equal(ss_model_create(&m, &test_host, NULL, NULL), SS_OK);
    assert_int_equal(ss_model_feed(m, 0, image.data, image.len, NULL), SS_OK);
    const ss_matrix w = ss_model_matrix(m, m->layers[0].down);
    float *x = malloc((size_t)w.rows * w.cols * sizeof *x), *row = malloc(w.cols * sizeof *row);
    ss_dequantize(x, &w, 0, 2);
    ss_dequantize(x + 2 * 8 * (size_t)w.cols, &w, 2, ss_matrix_groups(&w));
    for (uint32_t r = 0; r < w.rows; r++) {
      ss_matrix_row(row, &w, r);
      for (uint32_t c = 0; c < w.cols; c++)
        if (x[(size_t)r * w.cols + c] != row[c]) fail_msg("type %u, row %u, column %u", types[i], r, c);
    }
    free(x), free(row);
    ss_model_free(m);
    gguf_image_free(&image);
  }
}

/* ---- gates ---- */

static void test_gates_have_the_slopes_of_their_formulas(void **state) {
  (void)state;
  for (double a = -3.9; a <= 4.0; a += 0.37)
    for (double u = 0.02; u < 1.0; u += 0.05) {
      double slope, p;
      const double z = ss_gate_of_noise(a, u, &slope), up = ss_gate_of_noise(a + 1e-6, u, NULL);
      const double down = ss_gate_of_noise(a - 1e-6, u, NULL);
      if ((z > 0.0 && z < 1.0) || (up == down)) assert_true(fabs((up - down) / 2e-6 - slope) < 1e-6);
      assert_true(z > 0.0 || slope == 0.0);
      p = ss_gate_open(a, &slope);
      assert_true(fabs((ss_gate_open(a + 1e-6, NULL) - ss_gate_open(a - 1e-6, NULL)) / 2e-6 - slope) < 1e-6);
      assert_true(fabs(ss_gate_of_open(p) - a) < 1e-9);
      p = ss_gate_rounded(a, &slope);
      assert_true(fabs((ss_gate_rounded(a + 1e-6, NULL) - ss_gate_rounded(a - 1e-6, NULL)) / 2e-6 - slope) < 1e-6);
      assert_true((u > 1.0 - p) == (z > 0.5)); /* z grows with u */
    }
}

static void test_samples_are_open_as_often_as_the_formula_says_and_pairs_are_antithetic(void **state) {
  (void)state;
  enum { BLOCKS = 5, WINDOWS = 20001 };
  static float z[WINDOWS * BLOCKS], slopes[WINDOWS * BLOCKS];
  const double a[BLOCKS] = {-3.0, -1.0, 0.0, 1.0, 3.0};
  ss_rng rng = ss_rng_seed(7), again = rng;
  ss_gates_sample(z, slopes, a, BLOCKS, WINDOWS, &rng);
  for (int b = 0; b < BLOCKS; b++) {
    double open = 0.0, rounded = 0.0;
    for (int w = 0; w < WINDOWS; w++) open += z[w * BLOCKS + b] > 0.0f, rounded += z[w * BLOCKS + b] > 0.5f;
    assert_true(fabs(open / WINDOWS - ss_gate_open(a[b], NULL)) < 0.01);
    assert_true(fabs(rounded / WINDOWS - ss_gate_rounded(a[b], NULL)) < 0.01);
  }
  for (int w = 0; w + 1 < WINDOWS; w += 2) /* log alpha 0: z(u) + z(1 - u) = 1 */
    assert_true(fabsf(z[w * BLOCKS + 2] + z[(w + 1) * BLOCKS + 2] - 1.0f) < 1e-6f);
  static float z2[WINDOWS * BLOCKS];
  ss_gates_sample(z2, slopes, a, BLOCKS, WINDOWS, &again);
  assert_memory_equal(z, z2, sizeof z);
}

/* ---- the whole pass ---- */

static ss_status run_pass(const ss_model *m, const ss_windows *w, const float *z, const ss_recovery *r, ss_objective o,
                          size_t keep_bytes, const ss_host *host, ss_pass_output *out) {
  ss_pass *p;
  ss_error err = {0};
  uint32_t which[8];
  for (uint32_t i = 0; i < w->n; i++) which[i] = i;
  const uint32_t n_tokens = w->starts[w->n];
  const ss_pass_options options = {
      .max_windows = w->n, .max_tokens = n_tokens, .longest = n_tokens, .keep_bytes = keep_bytes};
  if (ss_pass_create(&p, m, &options, host, &err)) fail_msg("%s", err.message);
  const ss_batch batch = {w, which, w->n};
  float *dense = malloc((size_t)n_tokens * m->config.n_embd * sizeof *dense);
  assert_int_equal(ss_pass_dense(p, &batch, dense, &err), SS_OK);
  const ss_pass_input in = {.batch = batch, .z = z, .recovery = r, .dense = dense, .objective = o};
  const ss_status status = ss_pass_run(p, &in, out, &err);
  if (status) print_message("%s\n", err.message);
  free(dense);
  ss_pass_free(p);
  return status;
}

/* |got - want| / |want|, both [n] */
static double distance(const float *got, const double *want, size_t n) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < n; i++) {
    error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    size += want[i] * want[i];
  }
  return sqrt(error / size);
}

#define E 64
#define BLOCKS 4

static void check_against_pytorch(const char *json, const char *name, double bound) {
  char path[128], quoted[32];
  double numbers[BLOCKS * E], z_in[2 * BLOCKS], tokens_in[28], scales[BLOCKS];
  float z[2 * BLOCKS], gains[BLOCKS * E], a[BLOCKS * E], b[BLOCKS * E], output_gains[E];
  float d_gates[2 * BLOCKS], d_gains[BLOCKS * E], d_a[BLOCKS * E], d_b[BLOCKS * E], d_output[E], d_scales[BLOCKS];
  int32_t tokens[28];
  snprintf(quoted, sizeof quoted, "\"%s\": {", name);
  const char *of_model = strstr(json, quoted);
  assert_non_null(of_model);
  snprintf(path, sizeof path, "tests/golden/tiny/%s.gguf",
           strcmp(name, "F32") ? strcmp(name, "Q8_0") ? "qwen2" : "q8_0" : "f32");
  ss_model *m = load_model(path, NULL);
  assert_non_null(m);
  const uint32_t n_blocks = 2 * m->config.n_layers;
  assert_int_equal(json_numbers(json, "tokens", tokens_in, 28), 28);
  for (int i = 0; i < 28; i++) tokens[i] = (int32_t)tokens_in[i];
  assert_int_equal(json_numbers(json, "z", z_in, 2 * BLOCKS), 2 * BLOCKS);
  for (uint32_t w = 0; w < 2; w++)
    for (uint32_t i = 0; i < n_blocks; i++) z[w * n_blocks + i] = (float)z_in[w * BLOCKS + i];
  float *const parts[] = {gains, a, b, output_gains};
  static const char *const keys[] = {"gains", "a", "b", "output_gains"};
  for (int i = 0; i < 4; i++) {
    const size_t n = json_numbers(json, keys[i], numbers, BLOCKS * E);
    assert_int_equal(n, i < 3 ? BLOCKS * E : E);
    to_floats(parts[i], numbers, n);
  }
  assert_int_equal(json_numbers(json, "scales", scales, BLOCKS), BLOCKS);
  ss_recovery_block blocks[BLOCKS];
  for (uint32_t i = 0; i < BLOCKS; i++)
    blocks[i] = (ss_recovery_block){gains + i * E, (float)scales[i], a + i * E, b + i * E};
  const ss_recovery recovery = {n_blocks, E, blocks, output_gains};
  const ss_recovery_grads grads = {d_gains, d_scales, d_a, d_b, d_output};
  const uint32_t starts[] = {0, 16, 28};
  const ss_windows windows = {tokens, starts, NULL, 2};
  for (int objective = 0; objective < 2; objective++) {
    const char *want = strstr(of_model, objective ? "\"kl\": {" : "\"lm\": {") + 6;
    double nll, kl, worst_of = 0.0;
    ss_pass_output out = {.d_gates = d_gates, .recovery = &grads};
    assert_int_equal(
        run_pass(m, &windows, z, &recovery, objective ? SS_OBJECTIVE_KL : SS_OBJECTIVE_LM, 0, &test_host, &out), SS_OK);
    assert_int_equal(json_numbers(want, "nll", &nll, 1), 1);
    assert_int_equal(json_numbers(want, "kl", &kl, 1), 1);
    assert_int_equal(out.n_scored, 26);
    assert_true(fabs(out.nll - nll) < bound * nll);
    assert_true(fabs(out.kl - kl) < bound * kl);
    const float *const got[] = {d_gates, d_gains, d_a, d_b, d_output, d_scales};
    static const char *const names[] = {"d_gates", "d_gains", "d_a", "d_b", "d_output_gains", "d_scales"};
    const size_t sizes[] = {2 * n_blocks, n_blocks * E, n_blocks * E, n_blocks * E, E, n_blocks};
    for (int i = 0; i < 6; i++) {
      if (n_blocks == 2 && (i == 2 || i == 3)) continue; /* no block of it is skipped */
      assert_int_equal(json_numbers(want, names[i], numbers, sizes[i]), sizes[i]);
      const double d = distance(got[i], numbers, sizes[i]);
      worst_of = fmax(worst_of, d);
    }
    assert_true(worst_of < bound);
  }
  ss_model_free(m);
}

static void test_pass_agrees_with_pytorch(void **state) {
  (void)state;
  size_t n;
  char *json = read_file("tests/golden/gradients.json", &n);
  assert_non_null(json);
  /* rounding of the KV cache alone, then of every matmul's input as well */
  check_against_pytorch(json, "F32", 0.03);
  check_against_pytorch(json, "Q8_0", 0.08);
  check_against_pytorch(json, "QWEN2", 0.08);
  free(json);
}

typedef struct small {
  ss_model *model;
  int32_t tokens[40];
  uint32_t starts[4], from[3];
  ss_windows windows;
} small;

static void small_open(small *s) {
  ss_rng rng = ss_rng_seed(9);
  *s = (small){.model = load_model("tests/golden/tiny/q4_1.gguf", NULL), .starts = {0, 9, 30, 40}, .from = {1, 8, 3}};
  assert_non_null(s->model);
  for (int i = 0; i < 40; i++) s->tokens[i] = (int32_t)ss_rng_below(&rng, 291);
  s->windows = (ss_windows){s->tokens, s->starts, s->from, 3};
}

static void test_gates_of_zero_and_one_give_the_bits_of_inference(void **state) {
  (void)state;
  small s;
  small_open(&s);
  ss_loss *loss;
  assert_int_equal(ss_loss_create(&loss, s.model, &s.windows, 0, &test_host, NULL), SS_OK);
  for (uint32_t bits = 0; bits < 16; bits += 5) {
    ss_mask mask = {.bits = {bits}};
    float z[12], d[12];
    double nll;
    for (int i = 0; i < 12; i++) z[i] = (float)(bits >> i % 4 & 1);
    ss_pass_output out = {.d_gates = d};
    assert_int_equal(run_pass(s.model, &s.windows, z, NULL, SS_OBJECTIVE_KL, 1 << 20, &test_host, &out), SS_OK);
    assert_int_equal(ss_loss_of(loss, &mask, &nll, NULL), SS_OK);
    assert_int_equal(out.n_scored, 8 + 13 + 7);
    assert_true(out.nll / out.n_scored == nll);
    assert_true(bits == 15 ? out.kl == 0.0 : out.kl > 0.0);
    assert_int_equal(out.block_tokens, 40 * (uint64_t)__builtin_popcount(bits));
    for (int i = 0; i < 12; i++) assert_true(z[i] > 0.0f || d[i] == 0.0f);
  }
  ss_loss_free(loss);
  ss_model_free(s.model);
}

static void test_results_depend_neither_on_what_is_kept_nor_on_threads(void **state) {
  (void)state;
  small s;
  small_open(&s);
  float z[12], first[12], d[12];
  double nll = 0.0;
  ss_rng rng = ss_rng_seed(10);
  for (int i = 0; i < 12; i++) z[i] = i % 5 == 1 ? 0.0f : (float)ss_rng_unit(&rng);
  ss_host host = test_host;
  for (int form = 0; form < 6; form++) {
    static const size_t keep[] = {0, 50000, SIZE_MAX};
    host.n_threads = form < 3 ? 1 : 3;
    host.parallel_for = reverse_parallel;
    ss_pass_output out = {.d_gates = d};
    assert_int_equal(run_pass(s.model, &s.windows, z, NULL, SS_OBJECTIVE_LM, keep[form % 3], &host, &out), SS_OK);
    if (form == 0) memcpy(first, d, sizeof d), nll = out.nll;
    assert_memory_equal(first, d, sizeof d);
    assert_true(nll == out.nll);
  }
  ss_model_free(s.model);
}

static void test_pass_refuses_what_it_cannot_do_and_names_it(void **state) {
  (void)state;
  small s;
  small_open(&s);
  ss_error err;
  ss_pass *p;
  ss_pass_options options = {.max_windows = 2, .max_tokens = 30, .longest = 21};
  counting_memory memory = {0};
  ss_host host = counting_host(&memory);
  assert_int_equal(ss_pass_create(&p, s.model, &options, &host, &err), SS_OK);
  assert_int_equal(ss_pass_bytes(s.model, &options, &host), memory.bytes_live);
  const uint32_t which[] = {0, 1, 2, 7};
  ss_pass_output out = {0};
  ss_pass_input in = {.batch = {&s.windows, which, 3}};
  assert_int_equal(ss_pass_run(p, &in, &out, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "3 windows"));
  in.batch = (ss_batch){&s.windows, which + 3, 1};
  assert_int_equal(ss_pass_run(p, &in, &out, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "window 7 of 3"));
  in.batch = (ss_batch){&s.windows, which, 1};
  in.objective = SS_OBJECTIVE_KL;
  assert_int_equal(ss_pass_run(p, &in, &out, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "dense"));
  in.objective = SS_OBJECTIVE_LM;
  const float z[] = {1.0f, 0.0f, NAN, 1.0f};
  in.z = z;
  assert_int_equal(ss_pass_run(p, &in, &out, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "block 2 in window 0"));
  s.starts[2] = 31;
  in.batch = (ss_batch){&s.windows, which + 1, 1};
  assert_int_equal(ss_pass_run(p, &in, &out, &err), SS_E_ARGUMENT);
  assert_non_null(strstr(err.message, "22 tokens"));
  ss_pass_free(p);
  assert_int_equal(memory.n_live, 0);
  const size_t n_allocs = memory.n_allocs;
  for (size_t i = 1; i <= n_allocs; i++) { /* every refused allocation */
    memory = (counting_memory){.fail_at = i};
    assert_int_equal(ss_pass_create(&p, s.model, &options, &host, &err), SS_E_MEMORY);
    assert_null(p);
    assert_int_equal(memory.n_live, 0);
  }
  options.longest = 31;
  assert_int_equal(ss_pass_create(&p, s.model, &options, &host, &err), SS_E_ARGUMENT);
  assert_int_equal(ss_pass_bytes(s.model, &options, &host), 0);
  ss_model_free(s.model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rmsnorm_goes_back_to_its_input_and_its_gains),
      cmocka_unit_test(test_rope_goes_back_in_both_orders),
      cmocka_unit_test(test_swiglu_goes_back_to_gate_and_up),
      cmocka_unit_test(test_stand_in_goes_back_to_its_input_and_both_vectors),
      cmocka_unit_test(test_next_token_loss_and_kl_go_back_to_the_logits),
      cmocka_unit_test(test_attention_goes_back_to_queries_keys_and_values),
      cmocka_unit_test(test_every_matrix_product_agrees_with_a_plain_one),
      cmocka_unit_test(test_weights_of_every_type_are_those_of_the_forward_pass),
      cmocka_unit_test(test_gates_have_the_slopes_of_their_formulas),
      cmocka_unit_test(test_samples_are_open_as_often_as_the_formula_says_and_pairs_are_antithetic),
      cmocka_unit_test(test_pass_agrees_with_pytorch),
      cmocka_unit_test(test_gates_of_zero_and_one_give_the_bits_of_inference),
      cmocka_unit_test(test_results_depend_neither_on_what_is_kept_nor_on_threads),
      cmocka_unit_test(test_pass_refuses_what_it_cannot_do_and_names_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
