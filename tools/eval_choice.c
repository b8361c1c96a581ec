/* skipstone eval choice: zero-shot multiple choice under masks.
 *
 * A continuation's score is the sum of its tokens' log-probabilities behind its context. An item's options share one mask, that of
 * the context, and the KV of what their tokens begin with: it is kept from one option to the next. Each score goes to
 * the state file. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "choice_items.h"
#include "clustering.h"
#include "commands.h"
#include "eval.h"
#include "generate.h"

static const char *const normalised_sets[] = {"hellaswag", "arc_challenge", "openbookqa"};

typedef struct choice_args {
  eval_args eval;
  option_list normalised;
  uint32_t limit;
} choice_args;

static parse_result parse(choice_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->eval.engine),
      {.name = "data",
       .list = &a->eval.data,
       .argument = "FILE",
       .help = "JSON Lines, a set each; more files may follow"},
      EVAL_ROW_OPTIONS(a->eval),
      {.name = "limit",
       .u32 = &a->limit,
       .argument = "N",
       .min = 1,
       .max = 10000000,
       .help = "at most N items of a set, the same for one seed\n(default: all)"},
      {.name = "normalised",
       .list = &a->normalised,
       .argument = "SET",
       .help =
           "sets, by the beginning of their names, whose headline is\nnormalised by length; may be repeated (default:\n"
           "hellaswag, arc_challenge, openbookqa)"},
      {.name = "seed",
       .u64 = &a->eval.seed,
       .argument = "S",
       .help = "of the items, random routing and intervals (default 0)"},
      EVAL_OUT_OPTIONS(a->eval),
  };
  const command c = {
      .name = "eval choice",
      .usage = "-m MODEL --data FILE... [options]",
      .about =
          "Zero-shot accuracy by log-likelihood. A line of a file is {context, choices, gold}, {contexts, continuation,\n"
          "gold} or {context, continuation}; the last is right when the model would say just that, and has a perplexity.\n"
          "Plain accuracy takes the likeliest option, normalised accuracy the likeliest per byte. A bank routes on the\n"
          "context alone, or on what all contexts begin with. Retention is the share of the dense model's accuracy; above\n"
          "chance, that of its accuracy less what guessing gives.",
      .examples =
          "  skipstone eval choice -m model.gguf --data arc_easy.jsonl piqa.jsonl --limit 400 --bank bank.gguf -o choice.json\n"
          "  skipstone eval choice -m model.gguf --data lambada.jsonl --mask 'ffn:12'",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->eval.operands,
      .max_operands = EVAL_MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct row_values {
  double *plain, *normalised, *headline; /* [n items] 1: right */
  double *nll; /* [n items] of a continuation without options; else 0 */
} row_values;

typedef struct choice {
  const choice_args *args;
  eval eval;
  choice_items items;
  eval_items all; /* every item, a stratum a set */
  double *chance; /* [n items] */
  bool *by_length; /* [n sets] the headline is normalised */
  row_values *values; /* [n_rows] */

  /* the session and what it holds */
  ss_session *session;
  token_list held;
  eval_pick pick; /* of what is held */
  double *nll; /* [longest continuation] */
  float *scratch; /* [n_threads][stride] */
  size_t stride;
  uint32_t n_measured, n_known;
  uint64_t measured_tokens;
  double measured_ms;
} choice;

/* ---- scoring ---- */

typedef struct score {
  double logprob; /* sum over the continuation's tokens */
  bool greedy; /* each is the likeliest */
} score;

static bool is_likeliest(const float *logits, size_t n, int32_t token) {
  for (size_t i = 0; i < n; i++)
    if (logits[i] > logits[token] || (logits[i] == logits[token] && i < (size_t)token)) return false;
  return true;
}

/* tokens[from .. n) behind the others, 1 <= from < n. Keeps what the session holds of the same beginning. */
static ss_status score_tokens(choice *e, const eval_pick *pick, const int32_t *tokens, size_t n, size_t from,
                              score *out, ss_error *err) {
  ss_session *s = e->session;
  size_t same = 0;
  if (e->pick.recovery == pick->recovery && !memcmp(&e->pick.mask, &pick->mask, sizeof pick->mask))
    while (same < e->held.n && same + 1 < from && e->held.items[same] == tokens[same]) same++;
  e->held.n = 0;
  ss_status status = same ? ss_session_truncate(s, (uint32_t)same, err) : eval_use(s, pick, err);
  if (status == SS_OK) status = ss_session_begin(s, tokens + same, n - 1 - same, n - from, err);
  while (status == SS_OK && (status = ss_session_run(s, 0, err)) == SS_MORE) status = SS_OK;
  if (status != SS_OK) return status;
  e->pick = *pick;
  token_list_add(&e->held, tokens, n - 1);
  e->measured_tokens += n - 1 - same;
  const size_t n_vocab = e->eval.engine.info.n_vocab;
  ss_score_rows(e->nll, NULL, ss_session_logits(s, 0), NULL, tokens + from, n - from, n_vocab, e->stride, e->scratch,
                e->eval.engine.model, e->eval.engine.host);
  *out = (score){.greedy = true};
  for (size_t i = 0; i < n - from; i++) {
    out->logprob -= e->nll[i];
    out->greedy = out->greedy && is_likeliest(ss_session_logits(s, i), n_vocab, tokens[from + i]);
  }
  return SS_OK;
}

/* An option of an item: its tokens, and where the continuation starts. */
static ss_status option_tokens(const choice *e, const choice_item *item, uint32_t which, token_list *out, size_t *from,
                               ss_error *err) {
  token_list more = {0};
  const ss_tokenizer *t = e->eval.engine.tokenizer;
  ss_status status = tokenize_text(out, t, item->contexts[which], SS_TOKENIZE_BOS, err);
  if (status == SS_OK) status = tokenize_text(&more, t, item->continuations[which], SS_TOKENIZE_PLAIN, err);
  *from = out->n;
  if (status == SS_OK) token_list_add(out, more.items, more.n);
  token_list_free(&more);
  return status;
}

static ss_status score_option(choice *e, const choice_item *item, uint32_t which, const eval_pick *pick, score *out,
                              ss_error *err) {
  token_list tokens = {0};
  size_t from;
  ss_status status = option_tokens(e, item, which, &tokens, &from, err);
  if (status == SS_OK) {
    uint64_t key = eval_key(tokens.items, tokens.n * sizeof *tokens.items, pick);
    key = ss_fnv1a(key, &from, sizeof from);
    const double *known = state_find(&e->eval.state, key ? key : 1);
    if (known) {
      *out = (score){known[0], known[1] != 0};
      e->n_known++;
    } else {
      const double start = now_ms();
      status = score_tokens(e, pick, tokens.items, tokens.n, from, out, err);
      e->measured_ms += now_ms() - start;
      e->n_measured++;
      if (status == SS_OK)
        status = state_add(&e->eval.state, key ? key : 1,
                           (const double[STATE_VALUES]){out->logprob, out->greedy, (double)(tokens.n - from)}, err);
    }
  }
  token_list_free(&tokens);
  return status;
}

/* The item under the row's mask, into the row's values. */
static ss_status measure_item(choice *e, uint32_t row, uint32_t index, const uint32_t *clusters, ss_error *err) {
  const choice_item *item = &e->items.items[index];
  row_values *v = &e->values[row];
  uint32_t first, last, best = 0, best_each = 0;
  double most = -INFINITY, most_each = -INFINITY;
  eval_pick pick;
  score s = {0};
  eval_clusters(&e->eval, &e->eval.rows[row], clusters, item->number, &first, &last);
  ss_status status = eval_pick_of(&e->eval, &e->eval.rows[row], first, &pick, err);
  for (uint32_t i = 0; status == SS_OK && i < item->n_options; i++) {
    status = score_option(e, item, i, &pick, &s, err);
    const double each = s.logprob / (double)continuation_bytes(item->continuations[i]);
    if (s.logprob > most) most = s.logprob, best = i;
    if (each > most_each) most_each = each, best_each = i;
  }
  if (status != SS_OK) return status;
  const bool alone = item->n_options == 1;
  v->plain[index] = alone ? s.greedy : best == item->gold;
  v->normalised[index] = alone ? s.greedy : best_each == item->gold;
  v->headline[index] = e->by_length[item->set] ? v->normalised[index] : v->plain[index];
  v->nll[index] = alone ? -s.logprob : 0;
  eval_count(&e->eval, &e->eval.rows[row], &pick, 1);
  return SS_OK;
}

/* ---- data ---- */

static bool has_prefix(const char *name, const char *prefix) { return !strncmp(name, prefix, strlen(prefix)); }

static bool by_length(const choice *e, const char *name) {
  const option_list *wanted = &e->args->normalised;
  for (size_t i = 0; i < wanted->n; i++)
    if (has_prefix(name, wanted->items[i])) return true;
  for (size_t i = 0; !wanted->n && i < sizeof normalised_sets / sizeof normalised_sets[0]; i++)
    if (has_prefix(name, normalised_sets[i])) return true;
  return false;
}

static ss_status read_items(choice *e, ss_error *err) {
  const choice_args *a = e->args;
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < a->eval.data.n; i++)
    status = choice_items_add(&e->items, a->eval.data.items[i], a->limit, a->eval.seed, err);
  for (size_t i = 0; status == SS_OK && i < EVAL_MAX_FILES && a->eval.operands[i]; i++)
    status = choice_items_add(&e->items, a->eval.operands[i], a->limit, a->eval.seed, err);
  if (status != SS_OK) return status;
  const uint32_t n = e->items.n;
  e->all = (eval_items){.n = n, .n_strata = e->items.n_sets, .seed = a->eval.seed, .host = e->eval.engine.host};
  e->all.weights = take_memory(n, sizeof *e->all.weights);
  e->all.strata = take_memory(n, sizeof *e->all.strata);
  e->chance = take_memory(n, sizeof *e->chance);
  e->by_length = take_memory(e->items.n_sets, sizeof *e->by_length);
  for (uint32_t i = 0; i < n; i++) {
    const choice_item *item = &e->items.items[i];
    e->all.weights[i] = 1;
    e->all.strata[i] = item->set;
    e->chance[i] = item->n_options == 1 ? 0 : 1.0 / item->n_options;
  }
  for (uint32_t i = 0; i < e->items.n_sets; i++) e->by_length[i] = by_length(e, e->items.sets[i].name);
  return SS_OK;
}

/* The session for the longest option; every text is checked before the first is run. */
static ss_status prepare(choice *e, ss_error *err) {
  const engine *g = &e->eval.engine;
  size_t longest = 0, longest_continuation = 0;
  token_list tokens = {0};
  ss_status status = SS_OK;
  for (uint32_t i = 0; status == SS_OK && i < e->items.n; i++)
    for (uint32_t k = 0; status == SS_OK && k < e->items.items[i].n_options; k++) {
      const choice_item *item = &e->items.items[i];
      size_t from;
      status = option_tokens(e, item, k, &tokens, &from, err);
      if (status == SS_OK && (from == 0 || from == tokens.n))
        status = ss_fail(err, SS_E_FORMAT, "%s: line %llu: option %u has no tokens before or in its continuation",
                         e->items.sets[item->set].name, (unsigned long long)item->number, k);
      longest = ss_max(longest, tokens.n);
      longest_continuation = ss_max(longest_continuation, tokens.n - from);
    }
  token_list_free(&tokens);
  if (status != SS_OK) return status;
  e->stride = ((size_t)g->info.n_vocab + 7) / 8 * 8; /* rows of ss_session_logits */
  e->scratch = take_memory(g->host->n_threads * e->stride, sizeof *e->scratch);
  e->nll = take_memory(longest_continuation, sizeof *e->nll);
  e->values = take_memory(e->eval.n_rows, sizeof *e->values);
  for (uint32_t i = 0; i < e->eval.n_rows; i++)
    e->values[i] = (row_values){.plain = take_memory(e->items.n, sizeof(double)),
                                .normalised = take_memory(e->items.n, sizeof(double)),
                                .headline = take_memory(e->items.n, sizeof(double)),
                                .nll = take_memory(e->items.n, sizeof(double))};
  const ss_session_options options = {.context = (uint32_t)longest, .max_logits = (uint32_t)longest_continuation};
  return ss_session_create(&e->session, g->model, &options, g->host, err);
}

static ss_status measure_all(choice *e, ss_error *err) {
  progress_line p = progress_begin();
  ss_status status = SS_OK;
  double last_said = now_ms();
  uint32_t *clusters = take_memory(e->eval.n_banks, sizeof *clusters);
  for (uint32_t i = 0; status == SS_OK && i < e->items.n; i++) {
    status = eval_route(&e->eval, e->items.items[i].prompt, clusters, err);
    for (uint32_t k = 0; status == SS_OK && k < e->eval.n_rows; k++) {
      status = measure_item(e, k, i, clusters, err);
      if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
    }
    const bool plain = !isatty(STDERR_FILENO) && now_ms() - last_said > 60000;
    if (plain || progress_due(&p)) {
      const double left = e->measured_ms / (i + 1) * (e->items.n - i - 1) / 1e3;
      fprintf(stderr, "%s%s: %u of %u items, %.0f tokens/s, %.0f s to go %s", plain ? "" : "\r",
              e->items.sets[e->items.items[i].set].name, i + 1, e->items.n,
              per_second((size_t)e->measured_tokens, e->measured_ms), left, plain ? "\n" : "");
      last_said = now_ms();
    }
  }
  progress_done(&p);
  free(clusters);
  return status;
}

/* ---- reports ---- */

/* The items of one set, as a stratum of its own. */
static eval_items items_of(const choice *e, uint32_t set, uint32_t *zeros) {
  const choice_set *s = &e->items.sets[set];
  eval_items items = e->all;
  items.weights += s->first;
  items.strata = zeros;
  items.n = s->n;
  items.n_strata = 1;
  return items;
}

typedef struct retentions {
  ss_estimate accuracy, retention, above_chance;
} retentions;

/* Of values that start at item `first`. */
static ss_status estimate(const choice *e, const eval_items *items, uint32_t first, const double *values,
                          const double *dense, retentions *out, ss_error *err) {
  ss_status status = eval_estimate(items, values + first, NULL, &out->accuracy, err);
  if (status == SS_OK) status = eval_ratio(items, values + first, dense + first, NULL, &out->retention, err);
  if (status == SS_OK)
    status = eval_ratio(items, values + first, dense + first, e->chance + first, &out->above_chance, err);
  return status;
}

static ss_status write_set(json *j, const choice *e, uint32_t row, uint32_t set, uint32_t *zeros, ss_error *err) {
  const choice_set *s = &e->items.sets[set];
  const eval_items items = items_of(e, set, zeros);
  const row_values *v = &e->values[row];
  ss_estimate plain, normalised, nll;
  retentions r;
  ss_status status = estimate(e, &items, s->first, v->headline, e->values[0].headline, &r, err);
  if (status == SS_OK) status = eval_estimate(&items, v->plain + s->first, NULL, &plain, err);
  if (status == SS_OK) status = eval_estimate(&items, v->normalised + s->first, NULL, &normalised, err);
  if (status == SS_OK) status = eval_estimate(&items, v->nll + s->first, NULL, &nll, err);
  if (status != SS_OK) return status;
  json_open(j, s->name, '{');
  json_string(j, "headline", e->by_length[set] ? "normalised" : "plain");
  json_estimate(j, "plain", &plain);
  json_estimate(j, "normalised", &normalised);
  json_estimate(j, "retention", &r.retention);
  json_estimate(j, "retention_above_chance", &r.above_chance);
  if (s->form == FORM_CONTINUATION)
    json_estimate(j, "perplexity", &(ss_estimate){exp(nll.value), exp(nll.low), exp(nll.high)});
  json_close(j);
  return SS_OK;
}

static ss_status write_row(json *j, const choice *e, uint32_t row, uint32_t *zeros, ss_error *err) {
  const row_values *v = &e->values[row];
  retentions r;
  ss_status status = estimate(e, &e->all, 0, v->headline, e->values[0].headline, &r, err);
  if (status != SS_OK) return status;
  json_open(j, NULL, '{');
  json_eval_row(j, &e->eval.rows[row]);
  json_estimate(j, "accuracy", &r.accuracy);
  json_estimate(j, "retention", &r.retention);
  json_estimate(j, "retention_above_chance", &r.above_chance);
  json_open(j, "sets", '{');
  for (uint32_t set = 0; status == SS_OK && set < e->items.n_sets; set++)
    status = write_set(j, e, row, set, zeros, err);
  json_close(j);
  json_open(j, "against", '[');
  for (size_t i = 0; status == SS_OK && i < eval_n_against(&e->eval); i++) {
    const eval_row *other = row ? eval_against(&e->eval, &e->eval.rows[row], i) : NULL;
    ss_estimate difference;
    if (!other) continue;
    status = eval_estimate(&e->all, v->headline, e->values[other - e->eval.rows].headline, &difference, err);
    if (status != SS_OK) break;
    json_open(j, NULL, '{');
    json_string(j, "row", other->name);
    json_estimate(j, "accuracy_difference", &difference);
    json_close(j);
  }
  json_close(j);
  json_close(j);
  return status;
}

static ss_status write_json(const void *task, json *j, ss_error *err) {
  const choice *e = task;
  uint32_t *zeros = take_memory(e->items.n, sizeof *zeros);
  ss_status status = SS_OK;
  memset(zeros, 0, e->items.n * sizeof *zeros);
  json_eval_head(j, &e->eval, "choice");
  json_uint(j, "limit", e->args->limit);
  json_open(j, "items", '{');
  for (uint32_t set = 0; set < e->items.n_sets; set++) json_uint(j, e->items.sets[set].name, e->items.sets[set].n);
  json_close(j);
  json_open(j, "rows", '[');
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) status = write_row(j, e, i, zeros, err);
  json_close(j);
  json_uint(j, "measured", e->n_measured);
  json_uint(j, "known", e->n_known);
  free(zeros);
  return status;
}

static ss_status print_table(const void *task, ss_error *err) {
  const choice *e = task;
  const int width = eval_name_width(&e->eval);
  ss_status status = SS_OK;
  printf("headline accuracy in %% (*: normalised by length); mean over %u sets of %u items, 95 %% intervals\n",
         e->items.n_sets, e->items.n);
  printf("%-*s  skipped  mean                 of dense             above chance        ", width, "row");
  for (uint32_t set = 0; set < e->items.n_sets; set++)
    printf(" %13.13s%s", e->items.sets[set].name, e->by_length[set] ? "*" : " ");
  putchar('\n');
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) {
    retentions r;
    status = estimate(e, &e->all, 0, e->values[i].headline, e->values[0].headline, &r, err);
    if (status != SS_OK) break;
    printf("%-*.48s  %5.2f %%", width, e->eval.rows[i].name, 100 * eval_skipped(&e->eval.rows[i]));
    const ss_estimate shown[] = {r.accuracy, r.retention, r.above_chance};
    for (int k = 0; k < 3; k++)
      printf("  %5.1f (%5.1f, %5.1f)", 100 * shown[k].value, 100 * shown[k].low, 100 * shown[k].high);
    for (uint32_t set = 0; set < e->items.n_sets; set++)
      printf(" %13.1f ", 100 * eval_stratum_mean(&e->all, e->values[i].headline, set));
    putchar('\n');
  }
  for (uint32_t set = 0; set < e->items.n_sets; set++) {
    if (e->items.sets[set].form != FORM_CONTINUATION) continue;
    printf("%s perplexity:", e->items.sets[set].name);
    for (uint32_t i = 0; i < e->eval.n_rows; i++)
      printf("%s %s %.2f", i ? "," : "", e->eval.rows[i].name, exp(eval_stratum_mean(&e->all, e->values[i].nll, set)));
    putchar('\n');
  }
  return status;
}

/* ---- all of it ---- */

static int run(choice *e) {
  const eval_args *a = &e->args->eval;
  ss_error err = {0};
  if (!a->data.n && !a->operands[0]) {
    say("eval: no items: give --data FILE...");
    return CODE_USAGE;
  }
  const int code = eval_open(&e->eval, a, "choice", false);
  if (code != CODE_OK) return code;
  interrupt_begin();
  ss_status status = read_items(e, &err);
  if (status == SS_OK) status = prepare(e, &err);
  if (status == SS_OK) status = measure_all(e, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = eval_report(&e->eval, write_json, print_table, e, &err);
  return eval_end(&e->eval, status, stopped, &err);
}

int eval_choice(int argc, char **argv) {
  choice_args a = {0};
  choice e = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&e);
  for (uint32_t i = 0; e.values && i < e.eval.n_rows; i++) {
    free(e.values[i].plain);
    free(e.values[i].normalised);
    free(e.values[i].headline);
    free(e.values[i].nll);
  }
  free(e.values);
  free(e.all.weights);
  free(e.all.strata);
  free(e.chance);
  free(e.by_length);
  free(e.nll);
  free(e.scratch);
  token_list_free(&e.held);
  ss_session_free(e.session);
  choice_items_free(&e.items);
  eval_close(&e.eval);
  eval_args_free(&a.eval);
  option_list_free(&a.normalised);
  return code;
}
