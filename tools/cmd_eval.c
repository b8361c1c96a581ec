/* skipstone eval nll: what masks cost in quality, on held-out text.
 *
 * A row of the table is a way to choose a mask for a text: always the same one, or by a bank, or by a control. Each window of
 * text is run once densely and once with every different mask that some row gives it; per window the summed NLL and
 * KL(dense || masked) are kept, in a state file too, so that a killed run goes on and a new row costs only its own masks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "mask.h"
#include "state.h"
#include "windows.h"

#define MAX_FILES 256
#define MAX_ROWS 64
#define RESAMPLES 2000

typedef struct eval_args {
  engine_options engine;
  bank_options bank; /* its bank is not used: see banks */
  option_list data, masks, banks, controls;
  const char *operands[MAX_FILES + 1], *depths, *out, *recovery;
  uint32_t tokens, window;
  uint64_t seed;
  bool resume, json;
} eval_args;

static parse_result parse(eval_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "data",
       .list = &a->data,
       .argument = "FILE[@N]",
       .help =
           "JSON Lines with \"text\" and \"prompt\", or plain text;\nmore files may follow. @N: N tokens of it, not --tokens"},
      {.name = "mask",
       .list = &a->masks,
       .argument = "BLOCKS",
       .help = "a row that skips these: \"attn:3,7-9;ffn:12\"; may be repeated"},
      {.name = "bank",
       .list = &a->banks,
       .argument = "BANK",
       .help = "a row that is routed over this bank; may be repeated"},
      {.name = "depth", .text = &a->depths, .argument = "LIST", .help = "depths of the banks' rows (default 0.875)"},
      ENCODER_OPTION(a->bank),
      {.name = "control",
       .list = &a->controls,
       .argument = "random|oracle|static",
       .help = "more rows of each bank: a random cluster's mask, the\nbest cluster's for each text, the global one"},
      {.name = "recovery",
       .text = &a->recovery,
       .argument = "on|off|both",
       .help = "the banks' masks with what makes up for skipped blocks,\nwithout it, or a row of each (default on)"},
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
       .help = "tokens of a text at most (default 256)"},
      {.name = "seed",
       .u64 = &a->seed,
       .argument = "S",
       .help = "of samples, random routing and intervals (default 0)"},
      {.name = "out",
       .letter = 'o',
       .text = &a->out,
       .argument = "FILE",
       .help = "the result as JSON; FILE.state keeps what was measured"},
      {.name = "resume", .flag = &a->resume, .help = "goes on with FILE.state"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print the JSON instead of the table"},
  };
  const command c = {
      .name = "eval",
      .usage = "nll -m MODEL --data FILE... [options]",
      .about =
          "Measures masks, banks and controls on held-out text: mean next-token loss (NLL, nats) and KL divergence\n"
          "to the dense model, by domain (\"domain\" of a line, else the file's name) and as the mean over domains, with\n"
          "paired bootstrap intervals (95 %) over texts. A bank routes on each sample's prompt.",
      .examples =
          "  skipstone eval nll -m model.gguf --data *.heldout.jsonl --bank bank.gguf --control random --control oracle\n"
          "  skipstone eval nll -m model.gguf --data wiki.txt@40000 --mask 'ffn:12' --mask 'attn:3,7' -o result.json",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_FILES + 1,
  };
  return options_parse(&c, argc, argv);
}

/* ---- rows ---- */

typedef enum row_kind { ROW_MASK, ROW_ROUTED, ROW_RANDOM, ROW_ORACLE, ROW_STATIC } row_kind;

typedef struct row {
  row_kind kind;
  char *name;
  ss_mask mask;        /* ROW_MASK */
  uint32_t bank;
  double depth;
  bool no_recovery;
  double *nll, *kl;    /* [n windows] sums */
  double macs_skipped; /* mean over tokens */
} row;

typedef struct eval {
  const eval_args *args;
  engine engine;
  corpus corpus;
  window_set windows;
  uint32_t *domains;   /* [n windows] of each window, counted without the domains that have none */
  uint32_t n_domains;
  uint32_t *domain_names; /* [n_domains] of corpus.domains */
  router *banks;
  uint32_t n_banks;
  uint32_t *clusters;  /* [n_banks][n windows] */
  double routing_ms;
  row rows[MAX_ROWS];
  uint32_t n_rows;
  uint64_t *costs, total_cost; /* MACs of the blocks */
  double *weights;     /* [n windows] scored tokens */
  state state;
  ss_session *session;
  float *dense, *scratch; /* [window][stride]; [n_threads][stride] */
  double *nll, *kl;    /* [window] */
  size_t stride;
  uint32_t n_measured, n_known;
  uint64_t measured_tokens;
  double measured_ms;
} eval;

static row *add_row(eval *e, row_kind kind) {
  if (e->n_rows == MAX_ROWS) return NULL;
  row *r = &e->rows[e->n_rows++];
  *r = (row){.kind = kind};
  return r;
}

static ss_status add_bank_rows(eval *e, uint32_t bank, double depth, ss_error *err) {
  static const struct {
    const char *name;
    row_kind kind;
  } controls[] = {{"random", ROW_RANDOM}, {"oracle", ROW_ORACLE}, {"static", ROW_STATIC}};
  const char *path = e->args->banks.items[bank], *slash = strrchr(path, '/');
  uint32_t level;
  const ss_status status = ss_bank_level(e->banks[bank].bank, depth, &level, err);
  if (status != SS_OK) return status;
  const char *const recovery = e->args->recovery ? e->args->recovery : "on";
  const bool both = !strcmp(recovery, "both");
  for (size_t k = 0; k < (both ? 2u : 1u) * (e->args->controls.n + 1); k++) {
    const size_t i = k / (both ? 2 : 1);
    const bool off = both ? k % 2 : !strcmp(recovery, "off");
    const char *control = i ? e->args->controls.items[i - 1] : "routed";
    row_kind kind = ROW_ROUTED;
    for (size_t c = 0; i && c < 3; c++)
      if (!strcmp(control, controls[c].name)) kind = controls[c].kind;
    if (i && kind == ROW_ROUTED)
      return ss_fail(err, SS_E_ARGUMENT, "eval: --control %s: want random, oracle or static", control);
    row *r = add_row(e, kind);
    if (!r) return ss_fail(err, SS_E_ARGUMENT, "eval: more than %d rows", MAX_ROWS);
    buffer name = {0};
    buffer_addf(&name, "%s %g %s%s", slash ? slash + 1 : path, depth, control, off ? " no recovery" : "");
    r->no_recovery = off;
    r->name = name.data;
    r->bank = bank;
    r->depth = depth;
  }
  return SS_OK;
}

static ss_status make_rows(eval *e, ss_error *err) {
  const eval_args *a = e->args;
  ss_status status = SS_OK;
  row *dense = add_row(e, ROW_MASK);
  ss_mask_fill(&dense->mask, e->engine.info.n_blocks);
  buffer name = {0};
  buffer_addf(&name, "dense");
  dense->name = name.data;
  for (size_t i = 0; status == SS_OK && i < a->masks.n; i++) {
    row *r = add_row(e, ROW_MASK);
    if (!r) return ss_fail(err, SS_E_ARGUMENT, "eval: more than %d rows", MAX_ROWS);
    name = (buffer){0};
    buffer_addf(&name, "%s", a->masks.items[i]);
    r->name = name.data;
    status = ss_mask_parse_skip(&r->mask, e->engine.info.n_layers, a->masks.items[i], err);
  }
  e->banks = take_memory(a->banks.n, sizeof *e->banks);
  for (size_t i = 0; status == SS_OK && i < a->banks.n; i++) {
    const bank_options options = {.bank = a->banks.items[i], .encoder = a->bank.encoder, .depth = 1};
    status = router_open(&e->banks[i], &e->engine, &options, err);
    if (status == SS_OK) e->n_banks++;
  }
  for (uint32_t i = 0; status == SS_OK && i < e->n_banks; i++)
    for (const char *at = a->depths ? a->depths : "0.875"; status == SS_OK;) {
      char *end;
      const double depth = strtod(at, &end);
      if (end == at || (*end && *end != ',') || !(depth >= 0 && depth <= 1))
        return ss_fail(err, SS_E_ARGUMENT, "eval: --depth %s: want numbers from 0 to 1: \"0.875,0.75\"", a->depths);
      status = add_bank_rows(e, i, depth, err);
      if (!*end) break;
      at = end + 1;
    }
  return status;
}

/* ---- data ---- */

static ss_status add_file(eval *e, const char *spec, uint32_t *tokens_of, ss_error *err) {
  buffer path = {0};
  const char *at = strrchr(spec, '@');
  uint64_t n_tokens = e->args->tokens;
  buffer_addf(&path, "%s", spec);
  if (at && parse_number(at + 1, 16, 100000000, &n_tokens)) path.data[at - spec] = 0;
  const uint32_t before = e->corpus.n_domains;
  const ss_status status = corpus_add(&e->corpus, path.data, err);
  for (uint32_t d = before; status == SS_OK && d < e->corpus.n_domains && d < MAX_FILES; d++)
    tokens_of[d] = (uint32_t)n_tokens;
  buffer_free(&path);
  return status;
}

static ss_status make_windows(eval *e, ss_error *err) {
  const eval_args *a = e->args;
  uint32_t tokens_of[MAX_FILES] = {0};
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < a->data.n; i++) status = add_file(e, a->data.items[i], tokens_of, err);
  for (size_t i = 1; status == SS_OK && i <= MAX_FILES && a->operands[i]; i++)
    status = add_file(e, a->operands[i], tokens_of, err);
  if (status == SS_OK && e->corpus.n_domains > MAX_FILES)
    status = ss_fail(err, SS_E_ARGUMENT, "eval: %u domains, want at most %d", e->corpus.n_domains, MAX_FILES);
  if (status != SS_OK) return status;
  uint32_t *samples = take_memory(e->corpus.n, sizeof *samples);
  e->domain_names = take_memory(e->corpus.n_domains, sizeof *e->domain_names);
  for (uint32_t d = 0; status == SS_OK && d < e->corpus.n_domains; d++) {
    window_set *w = &e->windows;
    const uint32_t before = w->n;
    size_t n = 0;
    for (uint32_t i = 0; i < e->corpus.n; i++)
      if (e->corpus.samples[i].domain == d) samples[n++] = i;
    status = window_set_draw(w, e->engine.tokenizer, &e->corpus, samples, n, a->window, w->tokens.n + tokens_of[d],
                             a->seed + d, err);
    if (w->n == before) continue;
    e->domains = grow_memory(e->domains, w->n, sizeof *e->domains);
    for (uint32_t i = before; i < w->n; i++) e->domains[i] = e->n_domains;
    e->domain_names[e->n_domains++] = d;
  }
  free(samples);
  if (status == SS_OK && e->windows.n == 0)
    status = ss_fail(err, SS_E_ARGUMENT, "eval: no text has %d tokens", LEAST_WINDOW);
  e->weights = take_memory(e->windows.n, sizeof *e->weights);
  for (uint32_t i = 0; i < e->windows.n; i++) e->weights[i] = e->windows.starts[i + 1] - e->windows.starts[i] - 1;
  for (uint32_t i = 0; i < e->n_rows; i++) {
    e->rows[i].nll = take_memory(e->windows.n, sizeof(double));
    e->rows[i].kl = take_memory(e->windows.n, sizeof(double));
  }
  return status;
}

static ss_status route_windows(eval *e, ss_error *err) {
  ss_status status = SS_OK;
  e->clusters = take_memory((size_t)e->n_banks * e->windows.n, sizeof *e->clusters);
  for (uint32_t b = 0; b < e->n_banks; b++)
    for (uint32_t i = 0; status == SS_OK && i < e->windows.n; i++) {
      routing r;
      status = route_text(&e->banks[b], e->corpus.samples[e->windows.samples[i]].prompt, &r, err);
      e->clusters[(size_t)b * e->windows.n + i] = r.cluster;
      e->routing_ms += r.ms;
      if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
    }
  return status;
}

/* ---- measuring ---- */

typedef struct measured {
  double nll, kl; /* sums over the window */
} measured;

static ss_status run_session(eval *e, const int32_t *tokens, uint32_t n, const ss_mask *mask,
                             const ss_recovery *recovery, ss_error *err) {
  ss_session *s = e->session;
  ss_status status = ss_session_truncate(s, 0, err);
  if (status == SS_OK) status = ss_session_set_run_mask(s, mask, err);
  if (status == SS_OK) status = ss_session_set_recovery(s, recovery, err);
  if (status == SS_OK) status = ss_session_begin(s, tokens, n - 1, n - 1, err);
  while (status == SS_OK && (status = ss_session_run(s, 0, err)) == SS_MORE) status = SS_OK;
  return status;
}

/* The window under a mask and its recovery, which may be NULL; *has_dense: e->dense holds this window's dense logits. */
static ss_status measure(eval *e, uint32_t window, const ss_mask *mask, const ss_recovery *recovery, bool *has_dense,
                         measured *out, ss_error *err) {
  const int32_t *tokens = e->windows.tokens.items + e->windows.starts[window];
  const uint32_t n = e->windows.starts[window + 1] - e->windows.starts[window];
  const ss_mask *dense = &e->rows[0].mask;
  uint64_t key = ss_fnv1a(ss_fnv1a(SS_FNV_START, tokens, n * sizeof *tokens), mask->bits, sizeof mask->bits);
  if (recovery) key = recovery_hash(key, recovery);
  if (!key) key = 1;
  const double *known = state_find(&e->state, key);
  if (known) {
    *out = (measured){known[0], known[1]};
    e->n_known++;
    return SS_OK;
  }
  const double start = now_ms();
  const size_t n_bytes = (size_t)(n - 1) * e->stride * sizeof(float);
  ss_status status = SS_OK;
  if (!*has_dense) {
    status = run_session(e, tokens, n, dense, NULL, err);
    if (status == SS_OK) memcpy(e->dense, ss_session_logits(e->session, 0), n_bytes);
    *has_dense = status == SS_OK;
    e->measured_tokens += n;
  }
  if (status == SS_OK && memcmp(mask, dense, sizeof *mask) != 0) {
    status = run_session(e, tokens, n, mask, recovery, err);
    e->measured_tokens += n;
  } else if (status == SS_OK) {
    memcpy(ss_session_logits(e->session, 0), e->dense, n_bytes);
  }
  if (status != SS_OK) return status;
  ss_score_rows(e->nll, e->kl, ss_session_logits(e->session, 0), e->dense, tokens + 1, n - 1, e->engine.info.n_vocab,
                e->stride, e->scratch, e->engine.model, e->engine.host);
  *out = (measured){0};
  for (uint32_t i = 0; i + 1 < n; i++) out->nll += e->nll[i], out->kl += e->kl[i];
  e->measured_ms += now_ms() - start;
  e->n_measured++;
  return state_add(&e->state, key, (const double[STATE_VALUES]){out->nll, out->kl, n - 1}, err);
}

static double share_skipped(const eval *e, const ss_mask *mask) {
  uint64_t skipped = 0;
  for (uint32_t b = 0; b < e->engine.info.n_blocks; b++)
    if (!ss_mask_has(mask, b)) skipped += e->costs[b];
  return (double)skipped / (double)e->total_cost;
}

static ss_status measure_row(eval *e, row *r, uint32_t window, bool *has_dense, ss_error *err) {
  const router *bank = r->kind == ROW_MASK ? NULL : &e->banks[r->bank];
  measured best = {0};
  ss_mask mask = r->mask, best_mask = r->mask;
  ss_status status = SS_OK;
  uint32_t first = 0, last = 0; /* clusters to try */
  if (r->kind == ROW_ROUTED) first = last = e->clusters[(size_t)r->bank * e->windows.n + window];
  else if (r->kind == ROW_STATIC) first = last = bank->info.n_clusters;
  else if (r->kind == ROW_ORACLE) last = bank->info.n_clusters - 1;
  else if (r->kind == ROW_RANDOM) {
    ss_rng rng = ss_rng_seed(e->args->seed ^ ((uint64_t)window << 20));
    first = last = (uint32_t)ss_rng_below(&rng, bank->info.n_clusters);
  }
  for (uint32_t c = first; status == SS_OK && c <= last; c++) {
    measured m;
    const ss_recovery *recovery = bank && !r->no_recovery ? ss_bank_recovery(bank->bank, c, r->depth) : NULL;
    if (bank) status = ss_bank_mask(bank->bank, c, r->depth, &mask, err);
    if (status == SS_OK) status = measure(e, window, &mask, recovery, has_dense, &m, err);
    if (status == SS_OK && (c == first || m.nll < best.nll)) best = m, best_mask = mask;
  }
  r->nll[window] = best.nll;
  r->kl[window] = best.kl;
  r->macs_skipped += share_skipped(e, &best_mask) * e->weights[window];
  return status;
}

static ss_status prepare(eval *e, ss_error *err) {
  uint32_t longest = 0;
  for (uint32_t i = 0; i < e->windows.n; i++)
    longest = (uint32_t)ss_max(longest, e->windows.starts[i + 1] - e->windows.starts[i]);
  const ss_session_options options = {.context = longest, .chunk = longest, .max_logits = longest};
  ss_status status = ss_session_create(&e->session, e->engine.model, &options, e->engine.host, err);
  e->stride = ((size_t)e->engine.info.n_vocab + 7) / 8 * 8; /* rows of ss_session_logits */
  e->dense = take_memory(longest * e->stride, sizeof *e->dense);
  e->scratch = take_memory(e->engine.host->n_threads * e->stride, sizeof *e->scratch);
  e->nll = take_memory(longest, sizeof *e->nll);
  e->kl = take_memory(longest, sizeof *e->kl);
  e->costs = take_memory(e->engine.info.n_blocks, sizeof *e->costs);
  for (uint32_t b = 0; status == SS_OK && b < e->engine.info.n_blocks; b++) {
    ss_block_cost cost;
    status = ss_model_block_cost(e->engine.model, b, &cost, err);
    e->costs[b] = cost.macs;
    e->total_cost += cost.macs;
  }
  return status;
}

static ss_status open_state(eval *e, ss_error *err) {
  ss_fingerprint print;
  buffer path = {0};
  ss_status status = ss_model_fingerprint(e->engine.model, &print, err);
  const uint64_t of[] = {print.exact, SS_NUMERICS_VERSION};
  buffer_addf(&path, e->args->out ? "%s.state" : "/dev/null", e->args->out);
  if (status == SS_OK)
    status =
        state_open(&e->state, path.data, ss_fnv1a(SS_FNV_START, of, sizeof of), e->args->resume && e->args->out, err);
  buffer_free(&path);
  return status;
}

static ss_status measure_all(eval *e, ss_error *err) {
  progress_line p = progress_begin();
  ss_status status = SS_OK;
  double last_said = now_ms();
  for (uint32_t i = 0; status == SS_OK && i < e->windows.n; i++) {
    bool has_dense = false;
    for (uint32_t k = 0; status == SS_OK && k < e->n_rows; k++)
      status = measure_row(e, &e->rows[k], i, &has_dense, err);
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

/* ---- reports ---- */

/* The mean over domains of a row's value less that of another (NULL: of the row alone). */
static ss_status estimate(const eval *e, const double *a, const double *b, ss_estimate *out, ss_error *err) {
  double *sums = take_memory(e->windows.n, sizeof *sums);
  for (uint32_t i = 0; i < e->windows.n; i++) sums[i] = a[i] - (b ? b[i] : 0);
  const ss_status status = ss_bootstrap(out, sums, e->weights, e->domains, e->windows.n, e->n_domains, RESAMPLES,
                                        e->args->seed, e->engine.host, err);
  free(sums);
  return status;
}

static double domain_mean(const eval *e, const double *sums, uint32_t domain) {
  double sum = 0, weight = 0;
  for (uint32_t i = 0; i < e->windows.n; i++)
    if (e->domains[i] == domain) sum += sums[i], weight += e->weights[i];
  return sum / weight;
}

static const char *domain_name(const eval *e, uint32_t domain) { return e->corpus.domains[e->domain_names[domain]]; }

static double total_weight(const eval *e) {
  double sum = 0;
  for (uint32_t i = 0; i < e->windows.n; i++) sum += e->weights[i];
  return sum;
}

static void json_estimate(json *j, const char *key, const ss_estimate *x) {
  json_open(j, key, '{');
  json_real(j, "mean", x->value, true);
  json_real(j, "low", x->low, true);
  json_real(j, "high", x->high, true);
  json_close(j);
}

static ss_status json_row(json *j, const eval *e, const row *r, ss_error *err) {
  ss_estimate nll, excess, kl;
  ss_status status = estimate(e, r->nll, NULL, &nll, err);
  if (status == SS_OK) status = estimate(e, r->nll, e->rows[0].nll, &excess, err);
  if (status == SS_OK) status = estimate(e, r->kl, NULL, &kl, err);
  if (status != SS_OK) return status;
  json_open(j, NULL, '{');
  json_string(j, "name", r->name);
  json_real(j, "macs_skipped", r->macs_skipped / total_weight(e), true);
  json_estimate(j, "nll", &nll);
  json_estimate(j, "excess_nll", &excess);
  json_estimate(j, "kl", &kl);
  json_open(j, "domains", '{');
  for (uint32_t d = 0; d < e->n_domains; d++) {
    json_open(j, domain_name(e, d), '{');
    json_real(j, "nll", domain_mean(e, r->nll, d), true);
    json_real(j, "excess_nll", domain_mean(e, r->nll, d) - domain_mean(e, e->rows[0].nll, d), true);
    json_real(j, "kl", domain_mean(e, r->kl, d), true);
    json_close(j);
  }
  json_close(j);
  json_close(j);
  return SS_OK;
}

static ss_status write_json(FILE *out, const eval *e, ss_error *err) {
  json j = {.out = out};
  ss_status status = SS_OK;
  json_open(&j, NULL, '{');
  json_string(&j, "model", e->engine.info.name);
  json_string(&j, "quantisation", e->engine.info.quantisation);
  json_uint(&j, "numerics_version", SS_NUMERICS_VERSION);
  json_uint(&j, "window", e->args->window);
  json_uint(&j, "seed", e->args->seed);
  json_uint(&j, "texts", e->windows.n);
  json_open(&j, "scored_tokens", '{');
  for (uint32_t d = 0; d < e->n_domains; d++) {
    double n = 0;
    for (uint32_t i = 0; i < e->windows.n; i++) n += e->domains[i] == d ? e->weights[i] : 0;
    json_uint(&j, domain_name(e, d), (uint64_t)n);
  }
  json_close(&j);
  json_open(&j, "rows", '[');
  for (uint32_t i = 0; status == SS_OK && i < e->n_rows; i++) status = json_row(&j, e, &e->rows[i], err);
  json_close(&j);
  json_open(&j, "differences", '['); /* NLL of a less that of b, paired */
  for (uint32_t a = 1; status == SS_OK && a < e->n_rows; a++)
    for (uint32_t b = 1; status == SS_OK && b < a; b++) {
      ss_estimate d;
      status = estimate(e, e->rows[a].nll, e->rows[b].nll, &d, err);
      json_open(&j, NULL, '{');
      json_string(&j, "a", e->rows[a].name);
      json_string(&j, "b", e->rows[b].name);
      json_estimate(&j, "nll", &d);
      json_close(&j);
    }
  json_close(&j);
  json_fixed(&j, "routing_ms_per_prompt", e->n_banks ? e->routing_ms / ((double)e->n_banks * e->windows.n) : 0, 3);
  json_uint(&j, "measured", e->n_measured);
  json_uint(&j, "known", e->n_known);
  json_done(&j);
  return status;
}

static ss_status print_table(const eval *e, ss_error *err) {
  ss_status status = SS_OK;
  size_t width = 4;
  for (uint32_t i = 0; i < e->n_rows; i++) width = ss_max(width, ss_min(strlen(e->rows[i].name), 48));
  printf("%u texts of %u domains, %.0f scored tokens; mean over domains, 95 %% intervals\n", e->windows.n, e->n_domains,
         total_weight(e));
  printf("%-*s  skipped     NLL   over dense                 KL\n", (int)width, "row");
  for (uint32_t i = 0; status == SS_OK && i < e->n_rows; i++) {
    const row *r = &e->rows[i];
    ss_estimate nll, excess, kl;
    status = estimate(e, r->nll, NULL, &nll, err);
    if (status == SS_OK) status = estimate(e, r->nll, e->rows[0].nll, &excess, err);
    if (status == SS_OK) status = estimate(e, r->kl, NULL, &kl, err);
    if (status != SS_OK) break;
    printf("%-*.48s  %5.2f %%  %6.4f  %+.4f (%+.4f, %+.4f)  %.4f (%.4f, %.4f)\n", (int)width, r->name,
           100 * r->macs_skipped / total_weight(e), nll.value, excess.value, excess.low, excess.high, kl.value, kl.low,
           kl.high);
  }
  printf("\nNLL over dense by domain\n%-*s", (int)width, "row");
  for (uint32_t d = 0; d < e->n_domains; d++) printf(" %8.8s", domain_name(e, d));
  putchar('\n');
  for (uint32_t i = 0; i < e->n_rows; i++) {
    printf("%-*.48s", (int)width, e->rows[i].name);
    for (uint32_t d = 0; d < e->n_domains; d++)
      printf(i ? " %+8.4f" : " %8.4f", domain_mean(e, e->rows[i].nll, d) - (i ? domain_mean(e, e->rows[0].nll, d) : 0));
    putchar('\n');
  }
  return status;
}

static ss_status report(const eval *e, ss_error *err) {
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) return ss_fail(err, SS_E_MEMORY, "eval: no memory for the report");
  ss_status status = write_json(out, e, err);
  fclose(out);
  if (status == SS_OK && e->args->out) status = write_whole(e->args->out, text, len, err);
  if (status == SS_OK && e->args->json) fwrite(text, 1, len, stdout);
  else if (status == SS_OK) status = print_table(e, err);
  free(text);
  return status;
}

/* ---- all of it ---- */

static int run(eval *e) {
  const eval_args *a = e->args;
  ss_error err = {0};
  if (!a->operands[0] || strcmp(a->operands[0], "nll") != 0) {
    say("eval: want: skipstone eval nll ...; see skipstone eval --help");
    return CODE_USAGE;
  }
  if (!a->data.n && !a->operands[1]) {
    say("eval: no text: give --data FILE...");
    return CODE_USAGE;
  }
  if ((a->controls.n || a->recovery) && !a->banks.n) {
    say("eval: --%s wants a --bank", a->controls.n ? "control" : "recovery");
    return CODE_USAGE;
  }
  if (a->recovery && strcmp(a->recovery, "on") && strcmp(a->recovery, "off") && strcmp(a->recovery, "both")) {
    say("eval: --recovery %s: want on, off or both", a->recovery);
    return CODE_USAGE;
  }
  int code = engine_open(&e->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&e->engine);
  if (code != CODE_OK) return code;
  interrupt_begin();
  ss_status status = make_rows(e, &err);
  if (status == SS_OK) status = make_windows(e, &err);
  if (status == SS_OK) status = route_windows(e, &err);
  if (status == SS_OK) status = prepare(e, &err);
  if (status == SS_OK) status = open_state(e, &err);
  if (status == SS_OK) status = measure_all(e, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = report(e, &err);
  if (status != SS_OK && stopped) {
    say(a->out ? "stopped; --resume goes on" : "stopped");
    return CODE_INTERRUPTED;
  }
  return status == SS_OK ? CODE_OK : report_failure(&err);
}

static void eval_free(eval *e) {
  for (uint32_t i = 0; i < e->n_rows; i++) {
    free(e->rows[i].name);
    free(e->rows[i].nll);
    free(e->rows[i].kl);
  }
  for (uint32_t i = 0; i < e->n_banks; i++) router_close(&e->banks[i]);
  free(e->banks);
  free(e->clusters);
  free(e->domains);
  free(e->domain_names);
  free(e->weights);
  free(e->costs);
  free(e->dense);
  free(e->scratch);
  free(e->nll);
  free(e->kl);
  state_close(&e->state);
  ss_session_free(e->session);
  window_set_free(&e->windows);
  corpus_free(&e->corpus);
  engine_close(&e->engine);
}

int cmd_eval(int argc, char **argv) {
  eval_args a = {.tokens = 4000, .window = 256};
  static eval e; /* zero; too large for a stack */
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  e.args = &a;
  if (parsed == PARSE_OK) code = run(&e);
  eval_free(&e);
  option_list_free(&a.data);
  option_list_free(&a.masks);
  option_list_free(&a.banks);
  option_list_free(&a.controls);
  return code;
}
