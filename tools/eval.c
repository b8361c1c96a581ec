#include "eval.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "generate.h"
#include "mask.h"

static const struct {
  const char *name;
  row_kind kind;
} controls[] = {{"random", ROW_RANDOM}, {"oracle", ROW_ORACLE}, {"static", ROW_STATIC}};
#define N_CONTROLS (sizeof controls / sizeof controls[0])

/* ---- rows ---- */

static const char *kind_name(row_kind kind) {
  for (size_t i = 0; i < N_CONTROLS; i++)
    if (controls[i].kind == kind) return controls[i].name;
  return kind == ROW_ROUTED ? "routed" : "mask";
}

static eval_row *add_row(eval *e, row_kind kind) {
  e->rows = grow_memory(e->rows, e->n_rows + 1, sizeof *e->rows);
  eval_row *row = &e->rows[e->n_rows++];
  *row = (eval_row){.kind = kind};
  return row;
}

static void name_mask_row(eval_row *row, const char *name) {
  buffer text = {0}, copy = {0};
  buffer_addf(&text, "%s", name);
  buffer_addf(&copy, "%s", name);
  row->name = text.data;
  row->series = copy.data;
}

static bool wants(const eval *e, const char *recovery) {
  return !strcmp(e->args->recovery ? e->args->recovery : "on", recovery);
}

static void add_bank_row(eval *e, uint32_t bank, double depth, row_kind kind, bool no_recovery) {
  eval_row *row = add_row(e, kind);
  buffer name = {0}, series = {0};
  const char *more = no_recovery ? " no recovery" : "";
  buffer_addf(&name, "%s %g %s%s", e->banks[bank].name, depth, kind_name(kind), more);
  buffer_addf(&series, "%s %s%s", e->banks[bank].name, kind_name(kind), more);
  row->name = name.data;
  row->no_recovery = no_recovery;
  row->series = series.data;
  row->bank = bank;
  row->depth = depth;
}

/* With the bank's recovery, without it, or both; a bank without any has one row. */
static void add_rows_of_kind(eval *e, uint32_t bank, double depth, row_kind kind) {
  const bool has_some = e->banks[bank].router.info.n_recovered > 0;
  if (!has_some || !wants(e, "off")) add_bank_row(e, bank, depth, kind, false);
  if (has_some && !wants(e, "on")) add_bank_row(e, bank, depth, kind, true);
}

static ss_status add_bank_rows(eval *e, uint32_t bank, double depth, bool has_oracle, ss_error *err) {
  const option_list *wanted = &e->args->controls;
  uint32_t level;
  const ss_status status = ss_bank_level(e->banks[bank].router.bank, depth, &level, err);
  if (status != SS_OK) return status;
  add_rows_of_kind(e, bank, depth, e->banks[bank].routes ? ROW_ROUTED : ROW_STATIC);
  for (size_t i = 0; e->banks[bank].routes && i < wanted->n; i++) {
    size_t k = 0;
    while (k < N_CONTROLS && strcmp(wanted->items[i], controls[k].name) != 0) k++;
    if (k == N_CONTROLS)
      return ss_fail(err, SS_E_ARGUMENT, "eval: --control %s: want random, oracle or static", wanted->items[i]);
    if (controls[k].kind == ROW_ORACLE && !has_oracle)
      return ss_fail(err, SS_E_ARGUMENT, "eval: --control oracle needs the loss of a text: only eval nll has it");
    add_rows_of_kind(e, bank, depth, controls[k].kind);
  }
  return SS_OK;
}

/* spec: "NAME=PATH", or a path that is named by its last part */
static ss_status open_bank(eval *e, const char *spec, bool routes, ss_error *err) {
  const char *equals = strchr(spec, '='), *slash = strchr(spec, '/');
  const bool named = equals && (!slash || equals < slash);
  const char *path = named ? equals + 1 : spec, *last = strrchr(path, '/');
  buffer name = {0};
  if (named) buffer_add(&name, spec, (size_t)(equals - spec));
  else buffer_addf(&name, "%s", last ? last + 1 : path);
  e->banks = grow_memory(e->banks, e->n_banks + 1, sizeof *e->banks);
  eval_bank *bank = &e->banks[e->n_banks++];
  *bank = (eval_bank){.name = name.data, .routes = routes};
  for (uint32_t i = 0; i + 1 < e->n_banks; i++)
    if (!strcmp(e->banks[i].name, name.data) && e->banks[i].routes == routes)
      return ss_fail(err, SS_E_ARGUMENT, "eval: two banks are named %s: tell them apart with NAME=%s", name.data, path);
  if (routes) {
    const bank_options options = {.bank = path, .encoder = e->args->encoder, .depth = 1};
    return router_open(&bank->router, &e->engine, &options, err);
  }
  router *r = &bank->router;
  ss_status status = bank_load(&r->bank, path, e->engine.host, &r->bank_bytes, err);
  if (status == SS_OK) status = ss_bank_check(r->bank, e->engine.model, NULL, r->note, sizeof r->note, err);
  if (status != SS_OK) return status;
  if (r->note[0]) say("%s: %s", path, r->note);
  ss_bank_info_get(r->bank, &r->info);
  return SS_OK;
}

static ss_status make_rows(eval *e, bool has_oracle, ss_error *err) {
  const eval_args *a = e->args;
  ss_status status = SS_OK;
  ss_mask_fill(&add_row(e, ROW_MASK)->mask, e->engine.info.n_blocks);
  name_mask_row(&e->rows[0], "dense");
  for (size_t i = 0; status == SS_OK && i < a->masks.n; i++) {
    eval_row *row = add_row(e, ROW_MASK);
    name_mask_row(row, a->masks.items[i]);
    status = ss_mask_parse_skip(&row->mask, e->engine.info.n_layers, a->masks.items[i], err);
  }
  for (size_t i = 0; status == SS_OK && i < a->baselines.n; i++)
    status = open_bank(e, a->baselines.items[i], false, err);
  for (size_t i = 0; status == SS_OK && i < a->banks.n; i++) status = open_bank(e, a->banks.items[i], true, err);
  for (uint32_t i = 0; status == SS_OK && i < e->n_banks; i++)
    for (const char *at = a->depths ? a->depths : "0.875"; status == SS_OK;) {
      char *end;
      const double depth = strtod(at, &end);
      if (end == at || (*end && *end != ',') || !(depth >= 0 && depth <= 1))
        return ss_fail(err, SS_E_ARGUMENT, "eval: --depth %s: want numbers from 0 to 1: \"0.875,0.75\"", a->depths);
      status = add_bank_rows(e, i, depth, has_oracle, err);
      if (!*end) break;
      at = end + 1;
    }
  return status;
}

/* ---- comparisons ---- */

static bool is_named(const eval *e, const eval_row *row, const char *name) {
  if (!strcmp(row->series, name)) return true;
  return row->kind != ROW_MASK && !strcmp(e->banks[row->bank].name, name);
}

/* Baselines are the first banks; with --recovery both each is meant twice. */
size_t eval_n_against(const eval *e) {
  return e->args->against.n ? e->args->against.n : e->args->baselines.n * (wants(e, "both") ? 2 : 1);
}

static bool is_meant(const eval *e, const eval_row *row, size_t i) {
  if (e->args->against.n) return is_named(e, row, e->args->against.items[i]);
  const size_t each = wants(e, "both") ? 2 : 1;
  return row->kind == ROW_STATIC && row->bank == i / each && (each == 1 || row->no_recovery == i % each);
}

const eval_row *eval_against(const eval *e, const eval_row *row, size_t i) {
  for (uint32_t k = 1; k < e->n_rows; k++) {
    const eval_row *other = &e->rows[k];
    const bool fits = row->depth == 0 || other->depth == 0 || row->depth == other->depth;
    if (fits && is_meant(e, other, i)) return other == row ? NULL : other;
  }
  return NULL;
}

static ss_status check_against(const eval *e, ss_error *err) {
  for (size_t i = 0; i < e->args->against.n; i++) {
    bool found = false;
    for (uint32_t k = 1; k < e->n_rows; k++) found = found || is_named(e, &e->rows[k], e->args->against.items[i]);
    if (!found)
      return ss_fail(err, SS_E_ARGUMENT, "eval: --against %s: no row has that name", e->args->against.items[i]);
  }
  return SS_OK;
}

/* ---- opening ---- */

static ss_status open_state(eval *e, const char *task, ss_error *err) {
  ss_fingerprint print;
  buffer path = {0};
  ss_status status = ss_model_fingerprint(e->engine.model, &print, err);
  const uint64_t of[] = {print.exact, SS_NUMERICS_VERSION};
  uint64_t hash = ss_fnv1a(SS_FNV_START, of, sizeof of);
  if (task) hash = ss_fnv1a(hash, task, strlen(task));
  buffer_addf(&path, e->args->out ? "%s.state" : "/dev/null", e->args->out);
  if (status == SS_OK) status = state_open(&e->state, path.data, hash, e->args->resume && e->args->out, err);
  buffer_free(&path);
  return status;
}

int eval_open(eval *e, const eval_args *args, const char *task, bool has_oracle) {
  ss_error err = {0};
  *e = (eval){.args = args};
  if (args->controls.n && !args->banks.n) {
    say("eval: --control wants a --bank");
    return CODE_USAGE;
  }
  if (args->resume && !args->out) {
    say("eval: --resume goes on with FILE.state: give --out FILE");
    return CODE_USAGE;
  }
  if (args->recovery && !args->banks.n && !args->baselines.n) {
    say("eval: --recovery wants a --bank");
    return CODE_USAGE;
  }
  if (!wants(e, "on") && !wants(e, "off") && !wants(e, "both")) {
    say("eval: --recovery %s: want on, off or both", args->recovery);
    return CODE_USAGE;
  }
  int code = engine_open(&e->engine, &args->engine);
  if (code == CODE_OK) code = engine_tokenizer(&e->engine);
  if (code != CODE_OK) return code;
  ss_status status = make_rows(e, has_oracle, &err);
  if (status == SS_OK) status = check_against(e, &err);
  if (status == SS_OK) status = block_costs(&e->costs, e->engine.model, &err);
  if (status == SS_OK) status = open_state(e, task, &err);
  if (status != SS_OK) return report_failure(&err);
  for (uint32_t b = 0; b < e->engine.info.n_blocks; b++) e->total_cost += e->costs[b];
  return CODE_OK;
}

void eval_close(eval *e) {
  for (uint32_t i = 0; i < e->n_rows; i++) {
    free(e->rows[i].name);
    free(e->rows[i].series);
  }
  for (uint32_t i = 0; i < e->n_banks; i++) {
    router_close(&e->banks[i].router);
    free(e->banks[i].name);
  }
  free(e->rows);
  free(e->banks);
  free(e->costs);
  state_close(&e->state);
  engine_close(&e->engine);
}

void eval_args_free(eval_args *a) {
  option_list *lists[] = {&a->data, &a->masks, &a->banks, &a->baselines, &a->controls, &a->against};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) option_list_free(lists[i]);
}

/* ---- masks ---- */

ss_status eval_route(eval *e, ss_text prompt, uint32_t *clusters, ss_error *err) {
  ss_status status = SS_OK;
  for (uint32_t b = 0; status == SS_OK && b < e->n_banks; b++) {
    routing r;
    clusters[b] = e->banks[b].router.info.n_clusters;
    if (!e->banks[b].routes) continue;
    status = route_text(&e->banks[b].router, prompt, &r, err);
    clusters[b] = r.cluster;
    e->routing_ms += r.ms;
    e->n_routed++;
  }
  return status;
}

void eval_clusters(const eval *e, const eval_row *row, const uint32_t *clusters, uint64_t draw, uint32_t *first,
                   uint32_t *last) {
  *first = *last = 0;
  if (row->kind == ROW_MASK) return;
  const uint32_t n = e->banks[row->bank].router.info.n_clusters;
  ss_rng rng = ss_rng_seed(e->args->seed ^ (draw << 20));
  if (row->kind == ROW_ROUTED) *first = *last = clusters[row->bank];
  else if (row->kind == ROW_STATIC) *first = *last = n;
  else if (row->kind == ROW_ORACLE) *last = n - 1;
  else *first = *last = (uint32_t)ss_rng_below(&rng, n);
}

ss_status eval_pick_of(const eval *e, const eval_row *row, uint32_t cluster, eval_pick *pick, ss_error *err) {
  *pick = (eval_pick){.mask = row->mask};
  if (row->kind == ROW_MASK) return SS_OK;
  const ss_bank *bank = e->banks[row->bank].router.bank;
  if (!row->no_recovery) pick->recovery = ss_bank_recovery(bank, cluster, row->depth);
  return ss_bank_mask(bank, cluster, row->depth, &pick->mask, err);
}

ss_status eval_use(ss_session *session, const eval_pick *pick, ss_error *err) {
  ss_status status = ss_session_truncate(session, 0, err);
  if (status == SS_OK) status = ss_session_set_run_mask(session, &pick->mask, err);
  return status == SS_OK ? ss_session_set_recovery(session, pick->recovery, err) : status;
}

bool eval_is_dense(const eval *e, const eval_pick *pick) {
  return !pick->recovery && !memcmp(&pick->mask, &e->rows[0].mask, sizeof pick->mask);
}

void eval_count(eval *e, eval_row *row, const eval_pick *pick, double weight) {
  uint64_t skipped = 0;
  for (uint32_t b = 0; b < e->engine.info.n_blocks; b++)
    if (!ss_mask_has(&pick->mask, b)) skipped += e->costs[b];
  row->skipped += (double)skipped / (double)e->total_cost * weight;
  row->weight += weight;
}

double eval_skipped(const eval_row *row) { return row->weight > 0 ? row->skipped / row->weight : 0; }

uint64_t eval_key(const void *bytes, size_t n, const eval_pick *pick) {
  uint64_t key = ss_fnv1a(ss_fnv1a(SS_FNV_START, bytes, n), pick->mask.bits, sizeof pick->mask.bits);
  if (pick->recovery) key = recovery_hash(key, pick->recovery);
  return key ? key : 1;
}

/* ---- intervals ---- */

/* sums less base, to be freed */
static double *less(const eval_items *items, const double *sums, const double *base) {
  double *out = take_memory(items->n, sizeof *out);
  for (uint32_t i = 0; i < items->n; i++) out[i] = sums[i] - (base ? base[i] : 0);
  return out;
}

ss_status eval_estimate(const eval_items *items, const double *a, const double *b, ss_estimate *out, ss_error *err) {
  double *sums = less(items, a, b);
  const ss_status status = ss_bootstrap(out, sums, items->weights, items->strata, items->n, items->n_strata,
                                        EVAL_RESAMPLES, items->seed, items->host, err);
  free(sums);
  return status;
}

ss_status eval_ratio(const eval_items *items, const double *a, const double *b, const double *base, ss_estimate *out,
                     ss_error *err) {
  double *above = less(items, a, base), *below = less(items, b, base);
  const ss_status status = ss_bootstrap_ratio(out, above, below, items->weights, items->strata, items->n,
                                              items->n_strata, EVAL_RESAMPLES, items->seed, items->host, err);
  free(above);
  free(below);
  return status;
}

double eval_stratum_mean(const eval_items *items, const double *sums, uint32_t stratum) {
  double sum = 0, weight = 0;
  for (uint32_t i = 0; i < items->n; i++)
    if (items->strata[i] == stratum) sum += sums[i], weight += items->weights[i];
  return sum / weight;
}

/* ---- reports ---- */

void json_estimate(json *j, const char *key, const ss_estimate *x) {
  json_open(j, key, '{');
  json_real(j, "mean", x->value, true);
  json_real(j, "low", x->low, true);
  json_real(j, "high", x->high, true);
  json_close(j);
}

void json_eval_row(json *j, const eval_row *row) {
  json_string(j, "name", row->name);
  json_string(j, "series", row->series);
  json_string(j, "kind", kind_name(row->kind));
  if (row->kind == ROW_MASK) json_null(j, "depth");
  else json_real(j, "depth", row->depth, true);
  json_real(j, "macs_skipped", eval_skipped(row), true);
}

void json_eval_head(json *j, const eval *e, const char *task) {
  json_string(j, "task", task);
  json_string(j, "model", e->engine.info.name);
  json_string(j, "quantisation", e->engine.info.quantisation);
  json_uint(j, "numerics_version", SS_NUMERICS_VERSION);
  json_uint(j, "seed", e->args->seed);
}

int eval_name_width(const eval *e) {
  size_t width = 5;
  for (uint32_t i = 0; i < e->n_rows; i++) width = ss_max(width, ss_min(strlen(e->rows[i].name), 48));
  return (int)width;
}

ss_status eval_report(const eval *e, eval_write *write, eval_print *print, const void *task, ss_error *err) {
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) return ss_fail(err, SS_E_MEMORY, "eval: no memory for the report");
  json j = {.out = out};
  json_open(&j, NULL, '{');
  ss_status status = write(task, &j, err);
  json_done(&j);
  fclose(out);
  if (status == SS_OK && e->args->out) status = write_whole(e->args->out, text, len, err);
  if (status == SS_OK && e->args->json) fwrite(text, 1, len, stdout);
  else if (status == SS_OK) status = print(task, err);
  free(text);
  return status;
}

int eval_end(const eval *e, ss_status status, bool stopped, const ss_error *err) {
  if (status == SS_OK) return CODE_OK;
  if (!stopped) return report_failure(err);
  say(e->args->out ? "stopped; --resume goes on" : "stopped");
  return CODE_INTERRUPTED;
}
