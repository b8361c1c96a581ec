/* skipstone eval nll: what masks cost in quality, on held-out text.
 *
 * Each window of text is run once densely and once with every different mask that some row gives it; per window the summed NLL
 * and KL(dense || masked) are kept, in a state file too, so that a killed run goes on and a new row costs only its
 * own masks. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "eval.h"
#include "windows.h"

#define PIECE 256 /* tokens whose logits are held at a time under a mask */

typedef struct nll_args {
  eval_args eval;
  uint32_t tokens, window, speed;
  bool whole;
} nll_args;

static parse_result parse(nll_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->eval.engine),
      {.name = "data",
       .list = &a->eval.data,
       .argument = "FILE[@N]",
       .help =
           "JSON Lines with \"text\" and \"prompt\", or plain text;\nmore files may follow. @N: N tokens of it, not --tokens"},
      EVAL_ROW_OPTIONS(a->eval),
      {.name = "tokens",
       .letter = 'n',
       .u32 = &a->tokens,
       .argument = "N",
       .min = 16,
       .max = 100000000,
       .help = "of each domain (default 4000)"},
      {.name = "window",
       .u32 = &a->window,
       .argument = "N",
       .min = LEAST_WINDOW,
       .max = 65536,
       .help = "tokens of a text at most, the context (default 256)"},
      {.name = "whole", .flag = &a->whole, .help = "only texts that fill the window; plain text is cut to fit"},
      {.name = "seed",
       .u64 = &a->eval.seed,
       .argument = "S",
       .help = "of samples, random routing and intervals (default 0)"},
      {.name = "speed",
       .u32 = &a->speed,
       .argument = "N",
       .min = 1,
       .max = 10000,
       .help = "also measures every row's tokens/s, on N texts"},
      EVAL_OUT_OPTIONS(a->eval),
  };
  const command c = {
      .name = "eval nll",
      .usage = "-m MODEL --data FILE... [options]",
      .about =
          "Measures masks, banks and controls on held-out text: mean next-token loss (NLL, nats) and KL divergence\n"
          "to the dense model, by domain (\"domain\" of a line, else the file's name) and as the mean over domains, with\n"
          "paired bootstrap intervals (95 %) over texts. A bank routes on each sample's prompt. A ratio is a row's excess\n"
          "over the dense loss by that of the row it is compared with. Holds the dense logits of a window: 4 bytes for each\n"
          "of its tokens and each token of the vocabulary.",
      .examples =
          "  skipstone eval nll -m model.gguf --data *.heldout.jsonl --bank bank.gguf --control random --control oracle\n"
          "  skipstone eval nll -m model.gguf --data *.heldout.jsonl --bank bank.gguf --baseline greedy=g.gguf --depth 0.875,0.75\n"
          "  skipstone eval nll -m model.gguf --data wiki.txt@40000 --window 2048 --whole --mask 'ffn:12' -o result.json",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->eval.operands,
      .max_operands = EVAL_MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct row_values {
  double *nll, *kl; /* [n windows] sums */
  double prefill, decode; /* tokens/s; 0: not measured */
} row_values;

typedef struct nll {
  const nll_args *args;
  eval eval;
  corpus corpus;
  window_set windows;
  eval_items items;
  uint32_t *domain_names; /* [items.n_strata] of corpus.domains */
  uint32_t *clusters;  /* [n windows][n_banks] */
  row_values *values;  /* [n_rows] */
  ss_session *session;
  float *dense, *scratch; /* [window][stride]; [n_threads][stride] */
  double *nll, *kl;    /* [PIECE] */
  size_t stride;
  uint32_t n_measured, n_known;
  uint64_t measured_tokens;
  double measured_ms;
} nll;

/* ---- data ---- */

static ss_status add_file(nll *e, const char *spec, uint32_t *tokens_of, ss_error *err) {
  buffer path = {0};
  const char *at = strrchr(spec, '@');
  uint64_t n_tokens = e->args->tokens;
  buffer_addf(&path, "%s", spec);
  if (at && parse_number(at + 1, 16, 100000000, &n_tokens)) path.data[at - spec] = 0;
  const uint32_t before = e->corpus.n_domains;
  const ss_status status = corpus_add(&e->corpus, path.data, err);
  for (uint32_t d = before; status == SS_OK && d < e->corpus.n_domains && d < EVAL_MAX_FILES; d++)
    tokens_of[d] = (uint32_t)n_tokens;
  buffer_free(&path);
  return status;
}

static ss_status make_windows(nll *e, ss_error *err) {
  const nll_args *a = e->args;
  uint32_t tokens_of[EVAL_MAX_FILES] = {0};
  ss_status status = SS_OK;
  if (a->whole) {
    e->windows.least = a->window;
    e->corpus.plain_bytes = (size_t)a->window * 8; /* more than it mostly takes */
  }
  for (size_t i = 0; status == SS_OK && i < a->eval.data.n; i++)
    status = add_file(e, a->eval.data.items[i], tokens_of, err);
  for (size_t i = 0; status == SS_OK && i < EVAL_MAX_FILES && a->eval.operands[i]; i++)
    status = add_file(e, a->eval.operands[i], tokens_of, err);
  if (status == SS_OK && e->corpus.n_domains > EVAL_MAX_FILES)
    status = ss_fail(err, SS_E_ARGUMENT, "eval: %u domains, want at most %d", e->corpus.n_domains, EVAL_MAX_FILES);
  if (status != SS_OK) return status;
  uint32_t *samples = take_memory(e->corpus.n, sizeof *samples);
  e->domain_names = take_memory(e->corpus.n_domains, sizeof *e->domain_names);
  for (uint32_t d = 0; status == SS_OK && d < e->corpus.n_domains; d++) {
    window_set *w = &e->windows;
    const uint32_t before = w->n;
    size_t n = 0;
    for (uint32_t i = 0; i < e->corpus.n; i++)
      if (e->corpus.samples[i].domain == d) samples[n++] = i;
    status = window_set_draw(w, e->eval.engine.tokenizer, &e->corpus, samples, n, a->window, w->tokens.n + tokens_of[d],
                             a->eval.seed + d, err);
    if (w->n == before) continue;
    e->items.strata = grow_memory(e->items.strata, w->n, sizeof *e->items.strata);
    for (uint32_t i = before; i < w->n; i++) e->items.strata[i] = e->items.n_strata;
    e->domain_names[e->items.n_strata++] = d;
  }
  free(samples);
  if (status == SS_OK && e->windows.n == 0)
    status = ss_fail(err, SS_E_ARGUMENT, "eval: no text has %u tokens", a->whole ? a->window : LEAST_WINDOW);
  e->items.n = e->windows.n;
  e->items.seed = a->eval.seed;
  e->items.host = e->eval.engine.host;
  e->items.weights = take_memory(e->windows.n, sizeof *e->items.weights);
  for (uint32_t i = 0; i < e->windows.n; i++)
    e->items.weights[i] = e->windows.starts[i + 1] - e->windows.starts[i] - 1; /* scored tokens */
  return status;
}

static ss_status route_windows(nll *e, ss_error *err) {
  const uint32_t n_banks = e->eval.n_banks;
  ss_status status = SS_OK;
  e->clusters = take_memory((size_t)n_banks * e->windows.n, sizeof *e->clusters);
  for (uint32_t i = 0; status == SS_OK && i < e->windows.n; i++) {
    const ss_text prompt = e->corpus.samples[e->windows.samples[i]].prompt;
    status = eval_route(&e->eval, prompt, e->clusters + (size_t)i * n_banks, err);
    if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
  }
  return status;
}

/* ---- measuring ---- */

typedef struct measured {
  double nll, kl; /* sums over the window */
} measured;

/* Runs the next tokens and leaves the logits of the last n_logits in the session. */
static ss_status run_tokens(ss_session *s, const int32_t *tokens, size_t n, size_t n_logits, ss_error *err) {
  ss_status status = ss_session_begin(s, tokens, n, n_logits, err);
  while (status == SS_OK && (status = ss_session_run(s, 0, err)) == SS_MORE) status = SS_OK;
  return status;
}

static void score_piece(nll *e, const int32_t *tokens, uint32_t at, uint32_t n_rows, const float *logits,
                        measured *out) {
  ss_score_rows(e->nll, e->kl, logits, e->dense + at * e->stride, tokens + at + 1, n_rows, e->eval.engine.info.n_vocab,
                e->stride, e->scratch, e->eval.engine.model, e->eval.engine.host);
  for (uint32_t i = 0; i < n_rows; i++) out->nll += e->nll[i], out->kl += e->kl[i];
}

/* All of a window's tokens but the last, piece by piece: under a mask, or with out NULL densely, which keeps the logits. */
static ss_status run_window(nll *e, const int32_t *tokens, uint32_t n, const eval_pick *pick, measured *out,
                            ss_error *err) {
  ss_status status = eval_use(e->session, pick, err);
  for (uint32_t at = 0; status == SS_OK && at + 1 < n; at += PIECE) {
    const uint32_t n_rows = (uint32_t)ss_min(PIECE, n - 1 - at);
    status = run_tokens(e->session, tokens + at, n_rows, n_rows, err);
    if (status != SS_OK) break;
    const float *logits = ss_session_logits(e->session, 0);
    if (out) score_piece(e, tokens, at, n_rows, logits, out);
    else memcpy(e->dense + at * e->stride, logits, n_rows * e->stride * sizeof *logits);
  }
  e->measured_tokens += n;
  return status;
}

/* The window under a mask; *has_dense: e->dense holds this window's dense logits. */
static ss_status measure(nll *e, uint32_t window, const eval_pick *pick, bool *has_dense, measured *out,
                         ss_error *err) {
  const int32_t *tokens = e->windows.tokens.items + e->windows.starts[window];
  const uint32_t n = e->windows.starts[window + 1] - e->windows.starts[window];
  const uint64_t key = eval_key(tokens, n * sizeof *tokens, pick);
  const double *known = state_find(&e->eval.state, key);
  if (known) {
    *out = (measured){known[0], known[1]};
    e->n_known++;
    return SS_OK;
  }
  const double start = now_ms();
  const eval_pick dense = {.mask = e->eval.rows[0].mask};
  ss_status status = SS_OK;
  *out = (measured){0};
  if (!*has_dense) status = run_window(e, tokens, n, &dense, NULL, err);
  *has_dense = status == SS_OK;
  if (status == SS_OK && !eval_is_dense(&e->eval, pick)) status = run_window(e, tokens, n, pick, out, err);
  else
    for (uint32_t at = 0; status == SS_OK && at + 1 < n; at += PIECE)
      score_piece(e, tokens, at, (uint32_t)ss_min(PIECE, n - 1 - at), e->dense + at * e->stride, out);
  if (status != SS_OK) return status;
  e->measured_ms += now_ms() - start;
  e->n_measured++;
  return state_add(&e->eval.state, key, (const double[STATE_VALUES]){out->nll, out->kl, n - 1}, err);
}

static ss_status measure_row(nll *e, uint32_t row_index, uint32_t window, bool *has_dense, ss_error *err) {
  eval_row *row = &e->eval.rows[row_index];
  row_values *values = &e->values[row_index];
  measured best = {0};
  eval_pick best_pick = {.mask = row->mask};
  ss_status status = SS_OK;
  uint32_t first, last;
  eval_clusters(&e->eval, row, e->clusters + (size_t)window * e->eval.n_banks, window, &first, &last);
  for (uint32_t c = first; status == SS_OK && c <= last; c++) {
    measured m;
    eval_pick pick;
    status = eval_pick_of(&e->eval, row, c, &pick, err);
    if (status == SS_OK) status = measure(e, window, &pick, has_dense, &m, err);
    if (status == SS_OK && (c == first || m.nll < best.nll)) best = m, best_pick = pick;
  }
  values->nll[window] = best.nll;
  values->kl[window] = best.kl;
  eval_count(&e->eval, row, &best_pick, e->items.weights[window]);
  return status;
}

static ss_status prepare(nll *e, ss_error *err) {
  const engine *g = &e->eval.engine;
  uint32_t longest = 0;
  for (uint32_t i = 0; i < e->windows.n; i++)
    longest = (uint32_t)ss_max(longest, e->windows.starts[i + 1] - e->windows.starts[i]);
  const ss_session_options options = {
      .context = longest, .chunk = (uint32_t)ss_min(longest, PIECE), .max_logits = (uint32_t)ss_min(longest, PIECE)};
  e->values = take_memory(e->eval.n_rows, sizeof *e->values);
  for (uint32_t i = 0; i < e->eval.n_rows; i++)
    e->values[i] =
        (row_values){.nll = take_memory(e->windows.n, sizeof(double)), .kl = take_memory(e->windows.n, sizeof(double))};
  e->stride = ((size_t)g->info.n_vocab + 7) / 8 * 8; /* rows of ss_session_logits */
  e->dense = take_memory(longest * e->stride, sizeof *e->dense);
  e->scratch = take_memory(g->host->n_threads * e->stride, sizeof *e->scratch);
  e->nll = take_memory(PIECE, sizeof *e->nll);
  e->kl = take_memory(PIECE, sizeof *e->kl);
  return ss_session_create(&e->session, g->model, &options, g->host, err);
}

static ss_status measure_all(nll *e, ss_error *err) {
  progress_line p = progress_begin();
  ss_status status = SS_OK;
  double last_said = now_ms();
  for (uint32_t i = 0; status == SS_OK && i < e->windows.n; i++) {
    bool has_dense = false;
    for (uint32_t k = 0; status == SS_OK && k < e->eval.n_rows; k++) status = measure_row(e, k, i, &has_dense, err);
    if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
    const bool plain = !isatty(STDERR_FILENO) && now_ms() - last_said > 60000;
    if (plain || progress_due(&p)) {
      const double left = e->measured_ms / (i + 1) * (e->windows.n - i - 1) / 1e3;
      fprintf(stderr, "%s%u of %u texts, %.0f tokens/s, %.0f s to go %s", plain ? "" : "\r", i + 1, e->windows.n,
              per_second((size_t)e->measured_tokens, e->measured_ms), left, plain ? "\n" : "");
      last_said = now_ms();
    }
  }
  progress_done(&p);
  return status;
}

/* ---- speed ---- */

#define SPEED_ROUNDS 3
#define SPEED_DECODE 16 /* of a text's tokens run one by one */

typedef struct timing {
  double prefill, decode; /* ms */
} timing;

/* Once; keeps the better of this and what there is. */
static ss_status time_window(nll *e, const eval_pick *pick, const int32_t *tokens, uint32_t n, timing *best,
                             ss_error *err) {
  ss_status status = eval_use(e->session, pick, err);
  const double start = now_ms();
  if (status == SS_OK) status = run_tokens(e->session, tokens, n - SPEED_DECODE, 1, err);
  const double middle = now_ms();
  for (uint32_t i = n - SPEED_DECODE; status == SS_OK && i < n; i++)
    status = run_tokens(e->session, tokens + i, 1, 1, err);
  const double end = now_ms();
  if (best->prefill == 0 || middle - start < best->prefill) best->prefill = middle - start;
  if (best->decode == 0 || end - middle < best->decode) best->decode = end - middle;
  return status;
}

/* Rows take turns on a text, some rounds long, and the best of each counts. */
static ss_status time_rows(nll *e, uint32_t window, timing *sums, ss_error *err) {
  const eval *v = &e->eval;
  const int32_t *tokens = e->windows.tokens.items + e->windows.starts[window];
  const uint32_t n = e->windows.starts[window + 1] - e->windows.starts[window];
  timing *best = take_memory(v->n_rows, sizeof *best);
  ss_status status = SS_OK;
  memset(best, 0, v->n_rows * sizeof *best);
  for (uint32_t i = 0; status == SS_OK && i < SPEED_ROUNDS * v->n_rows; i++) {
    const uint32_t row = i % v->n_rows;
    uint32_t first, last;
    eval_pick pick;
    eval_clusters(v, &v->rows[row], e->clusters + (size_t)window * v->n_banks, window, &first, &last);
    status = eval_pick_of(v, &v->rows[row], first, &pick, err);
    if (status == SS_OK) status = time_window(e, &pick, tokens, n, &best[row], err);
    if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
  }
  for (uint32_t row = 0; row < v->n_rows; row++) {
    sums[row].prefill += best[row].prefill;
    sums[row].decode += best[row].decode;
  }
  free(best);
  return status;
}

/* Routing is part of a routed row's prefill. */
static ss_status measure_speed(nll *e, ss_error *err) {
  const eval *v = &e->eval;
  const uint32_t n_texts = (uint32_t)ss_min(e->args->speed, e->windows.n);
  timing *sums = take_memory(v->n_rows, sizeof *sums);
  uint64_t n_prefill = 0, n_decode = 0;
  uint32_t n_timed = 0;
  ss_status status = SS_OK;
  memset(sums, 0, v->n_rows * sizeof *sums);
  for (uint32_t i = 0; status == SS_OK && i < n_texts; i++) {
    const uint32_t window = (uint32_t)((uint64_t)i * e->windows.n / n_texts);
    const uint32_t n = e->windows.starts[window + 1] - e->windows.starts[window];
    if (n < 2 * SPEED_DECODE) continue;
    n_prefill += n - SPEED_DECODE;
    n_decode += SPEED_DECODE;
    n_timed++;
    status = time_rows(e, window, sums, err);
  }
  if (status == SS_OK && n_timed == 0)
    status = ss_fail(err, SS_E_ARGUMENT, "eval: --speed: no text that it looked at has %d tokens", 2 * SPEED_DECODE);
  const double routing_ms = v->n_routed ? v->routing_ms / (double)v->n_routed * n_timed : 0;
  for (uint32_t k = 0; status == SS_OK && k < v->n_rows; k++) {
    if (v->rows[k].kind == ROW_ORACLE) continue; /* it has no cost of its own */
    e->values[k].prefill = per_second(n_prefill, sums[k].prefill + (v->rows[k].kind == ROW_ROUTED ? routing_ms : 0));
    e->values[k].decode = per_second(n_decode, sums[k].decode);
  }
  free(sums);
  return status;
}

/* ---- reports ---- */

static const char *domain_name(const nll *e, uint32_t domain) { return e->corpus.domains[e->domain_names[domain]]; }

static double scored_tokens(const nll *e, uint32_t domain) {
  double sum = 0;
  for (uint32_t i = 0; i < e->items.n; i++)
    if (domain == e->items.n_strata || e->items.strata[i] == domain) sum += e->items.weights[i];
  return sum;
}

typedef struct estimates {
  ss_estimate nll, excess, kl;
} estimates;

static ss_status estimate(const nll *e, uint32_t row, estimates *out, ss_error *err) {
  const row_values *v = &e->values[row];
  ss_status status = eval_estimate(&e->items, v->nll, NULL, &out->nll, err);
  if (status == SS_OK) status = eval_estimate(&e->items, v->nll, e->values[0].nll, &out->excess, err);
  if (status == SS_OK) status = eval_estimate(&e->items, v->kl, NULL, &out->kl, err);
  return status;
}

/* The row that `row` is compared with, i of them; NULL: none. */
static const row_values *other_row(const nll *e, uint32_t row, size_t i, const char **name) {
  const eval_row *other = row ? eval_against(&e->eval, &e->eval.rows[row], i) : NULL;
  if (!other) return NULL;
  *name = other->name;
  return &e->values[other - e->eval.rows];
}

static ss_status write_against(json *j, const nll *e, uint32_t row, ss_error *err) {
  ss_status status = SS_OK;
  json_open(j, "against", '[');
  for (size_t i = 0; status == SS_OK && i < eval_n_against(&e->eval); i++) {
    const char *name;
    const row_values *a = &e->values[row], *b = other_row(e, row, i, &name);
    ss_estimate difference, kl, ratio, kl_ratio;
    if (!b) continue;
    status = eval_estimate(&e->items, a->nll, b->nll, &difference, err);
    if (status == SS_OK) status = eval_estimate(&e->items, a->kl, b->kl, &kl, err);
    if (status == SS_OK) status = eval_ratio(&e->items, a->nll, b->nll, e->values[0].nll, &ratio, err);
    if (status == SS_OK) status = eval_ratio(&e->items, a->kl, b->kl, NULL, &kl_ratio, err);
    if (status != SS_OK) break;
    json_open(j, NULL, '{');
    json_string(j, "row", name);
    json_estimate(j, "nll_difference", &difference);
    json_estimate(j, "kl_difference", &kl);
    json_estimate(j, "excess_ratio", &ratio);
    json_estimate(j, "kl_ratio", &kl_ratio);
    json_close(j);
  }
  json_close(j);
  return status;
}

static ss_status write_row(json *j, const nll *e, uint32_t row, ss_error *err) {
  const row_values *v = &e->values[row];
  estimates x;
  ss_status status = estimate(e, row, &x, err);
  if (status != SS_OK) return status;
  json_open(j, NULL, '{');
  json_eval_row(j, &e->eval.rows[row]);
  json_estimate(j, "nll", &x.nll);
  json_estimate(j, "excess_nll", &x.excess);
  json_estimate(j, "kl", &x.kl);
  if (v->prefill > 0) {
    json_fixed(j, "prefill_tokens_per_second", v->prefill, 1);
    json_fixed(j, "decode_tokens_per_second", v->decode, 1);
  }
  json_open(j, "domains", '{');
  for (uint32_t d = 0; d < e->items.n_strata; d++) {
    const double mean = eval_stratum_mean(&e->items, v->nll, d);
    json_open(j, domain_name(e, d), '{');
    json_real(j, "nll", mean, true);
    json_real(j, "excess_nll", mean - eval_stratum_mean(&e->items, e->values[0].nll, d), true);
    json_real(j, "kl", eval_stratum_mean(&e->items, v->kl, d), true);
    json_close(j);
  }
  json_close(j);
  status = write_against(j, e, row, err);
  json_close(j);
  return status;
}

static ss_status write_json(const void *task, json *j, ss_error *err) {
  const nll *e = task;
  ss_status status = SS_OK;
  json_eval_head(j, &e->eval, "nll");
  json_uint(j, "window", e->args->window);
  json_bool(j, "whole", e->args->whole);
  json_uint(j, "texts", e->windows.n);
  json_open(j, "scored_tokens", '{');
  for (uint32_t d = 0; d < e->items.n_strata; d++) json_uint(j, domain_name(e, d), (uint64_t)scored_tokens(e, d));
  json_close(j);
  json_open(j, "rows", '[');
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) status = write_row(j, e, i, err);
  json_close(j);
  json_fixed(j, "routing_ms_per_prompt", e->eval.n_routed ? e->eval.routing_ms / (double)e->eval.n_routed : 0, 3);
  json_uint(j, "threads", e->eval.engine.host->n_threads);
  json_uint(j, "measured", e->n_measured);
  json_uint(j, "known", e->n_known);
  return status;
}

static ss_status print_row(const nll *e, uint32_t row, int width, ss_error *err) {
  const row_values *v = &e->values[row];
  estimates x;
  ss_status status = estimate(e, row, &x, err);
  if (status != SS_OK) return status;
  printf("%-*.48s  %5.2f %%  %6.4f  %+.4f (%+.4f, %+.4f)  %.4f (%.4f, %.4f)", width, e->eval.rows[row].name,
         100 * eval_skipped(&e->eval.rows[row]), x.nll.value, x.excess.value, x.excess.low, x.excess.high, x.kl.value,
         x.kl.low, x.kl.high);
  if (e->args->speed) printf("  %7.1f %7.1f", v->prefill, v->decode);
  for (size_t i = 0; status == SS_OK && i < eval_n_against(&e->eval); i++) {
    const char *name;
    const row_values *b = other_row(e, row, i, &name);
    ss_estimate ratio;
    if (!b) continue;
    status = eval_ratio(&e->items, v->nll, b->nll, e->values[0].nll, &ratio, err);
    printf("  %.3f (%.3f, %.3f) of %s", ratio.value, ratio.low, ratio.high, name);
  }
  putchar('\n');
  return status;
}

static ss_status print_table(const void *task, ss_error *err) {
  const nll *e = task;
  const int width = eval_name_width(&e->eval);
  ss_status status = SS_OK;
  printf("%u texts of %u domains, %.0f scored tokens; mean over domains, 95 %% intervals\n", e->windows.n,
         e->items.n_strata, scored_tokens(e, e->items.n_strata));
  printf("%-*s  skipped     NLL   over dense                 KL%s%s\n", width, "row",
         e->args->speed ? "                        prefill  decode" : "",
         eval_n_against(&e->eval) ? "   over dense, as a share" : "");
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) status = print_row(e, i, width, err);
  printf("\nNLL over dense by domain\n%-*s", width, "row");
  for (uint32_t d = 0; d < e->items.n_strata; d++) printf(" %8.8s", domain_name(e, d));
  putchar('\n');
  for (uint32_t i = 0; i < e->eval.n_rows; i++) {
    printf("%-*.48s", width, e->eval.rows[i].name);
    for (uint32_t d = 0; d < e->items.n_strata; d++)
      printf(i ? " %+8.4f" : " %8.4f", eval_stratum_mean(&e->items, e->values[i].nll, d) -
                                           (i ? eval_stratum_mean(&e->items, e->values[0].nll, d) : 0));
    putchar('\n');
  }
  return status;
}

/* ---- all of it ---- */

static int run(nll *e) {
  const eval_args *a = &e->args->eval;
  ss_error err = {0};
  if (!a->data.n && !a->operands[0]) {
    say("eval: no text: give --data FILE...");
    return CODE_USAGE;
  }
  const int code = eval_open(&e->eval, a, NULL, true);
  if (code != CODE_OK) return code;
  interrupt_begin();
  ss_status status = make_windows(e, &err);
  if (status == SS_OK) status = route_windows(e, &err);
  if (status == SS_OK) status = prepare(e, &err);
  if (status == SS_OK) status = measure_all(e, &err);
  if (status == SS_OK && e->args->speed) status = measure_speed(e, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = eval_report(&e->eval, write_json, print_table, e, &err);
  return eval_end(&e->eval, status, stopped, &err);
}

int eval_nll(int argc, char **argv) {
  nll_args a = {.tokens = 4000, .window = 256};
  nll e = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&e);
  for (uint32_t i = 0; e.values && i < e.eval.n_rows; i++) {
    free(e.values[i].nll);
    free(e.values[i].kl);
  }
  free(e.values);
  free(e.clusters);
  free(e.domain_names);
  free(e.items.weights);
  free(e.items.strata);
  free(e.dense);
  free(e.scratch);
  free(e.nll);
  free(e.kl);
  ss_session_free(e.session);
  window_set_free(&e.windows);
  corpus_free(&e.corpus);
  eval_close(&e.eval);
  eval_args_free(&a.eval);
  return code;
}
