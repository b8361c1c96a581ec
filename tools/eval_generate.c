/* skipstone eval generate: what masks do to answers.
 *
 * Every prompt is answered greedily by the dense model and under each row's mask. Of the answers: how much they repeat themselves,
 * whether their first sentences are the same, and, along the dense answer, KL(dense || masked). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "eval.h"
#include "eval_prompts.h"
#include "generate.h"
#include "text_measures.h"

typedef struct generate_args {
  eval_args eval;
  const char *prompts;
  uint32_t tokens;
  bool show;
} generate_args;

static parse_result parse(generate_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->eval.engine),
      EVAL_ROW_OPTIONS(a->eval),
      {.name = "prompts",
       .text = &a->prompts,
       .argument = "FILE",
       .help = "a prompt a line (default: 60 of skipstone's own)"},
      {.name = "tokens",
       .letter = 'n',
       .u32 = &a->tokens,
       .argument = "N",
       .min = 8,
       .max = 4096,
       .help = "of an answer at most (default 128)"},
      {.name = "show", .flag = &a->show, .help = "prints the answers on stderr as they are made"},
      {.name = "seed", .u64 = &a->eval.seed, .argument = "S", .help = "of random routing and intervals (default 0)"},
      EVAL_OUT_OPTIONS(a->eval),
  };
  const command c = {
      .name = "eval generate",
      .usage = "-m MODEL [options]",
      .about =
          "Greedy answers to prompts in the chat's form, dense and under masks. Repetition is the share of an answer's\n"
          "4-grams of tokens that it had before. KL is the mean over the dense answers' tokens, each predicted from the\n"
          "dense answer so far. A first sentence ends with . ! ? before white space, or with the line. A bank routes on the\n"
          "prompt.",
      .examples =
          "  skipstone eval generate -m model.gguf --bank bank.gguf --baseline greedy.gguf -o generate.json\n"
          "  skipstone eval generate -m model.gguf --mask 'ffn:12' --prompts prompts.txt --show",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
  };
  return options_parse(&c, argc, argv);
}

typedef struct row_values {
  double *repeated, *tokens, *same, *kl; /* [n prompts] kl: sum over the dense answer's tokens */
} row_values;

typedef struct generate_task {
  const generate_args *args;
  eval eval;
  buffer file;
  ss_text *prompts;
  uint32_t n_prompts;
  eval_items items;   /* a prompt each */
  double *dense_tokens; /* [n prompts] of the dense answer */
  row_values *values; /* [n_rows] */
  ss_session *session;
  ss_sampler *sampler;
  buffer chat;
  token_list tokens;  /* of the prompt in its chat's form */
  generation dense;   /* the dense answer to the prompt at hand; tokens.n 0: not made */
  float *logits, *scratch; /* [tokens][stride] along it; [n_threads][stride] */
  double *nll, *kl;   /* [tokens] */
  size_t stride;
  uint32_t n_measured, n_known;
  double measured_ms;
} generate_task;

/* ---- answers ---- */

static ss_status answer(generate_task *e, const eval_pick *pick, generation *out, ss_error *err) {
  const sampling_options options = {.max_tokens = e->args->tokens};
  ss_status status = eval_use(e->session, pick, err);
  if (status == SS_OK)
    status =
        generate(out, &e->eval.engine, e->session, e->sampler, &options, e->tokens.items, e->tokens.n, NULL, NULL, err);
  if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
  return status;
}

/* The prompt and the dense answer under a mask: the logits that predict each token of that answer, in the session. */
static ss_status run_along(generate_task *e, const eval_pick *pick, ss_error *err) {
  const token_list *said = &e->dense.tokens;
  token_list all = {0};
  token_list_add(&all, e->tokens.items, e->tokens.n);
  token_list_add(&all, said->items, said->n - 1);
  ss_status status = eval_use(e->session, pick, err);
  if (status == SS_OK) status = ss_session_begin(e->session, all.items, all.n, said->n, err);
  while (status == SS_OK && (status = ss_session_run(e->session, 0, err)) == SS_MORE) status = SS_OK;
  token_list_free(&all);
  return status;
}

static ss_status make_dense(generate_task *e, ss_error *err) {
  const eval_pick pick = {.mask = e->eval.rows[0].mask};
  if (e->dense.tokens.n) return SS_OK;
  ss_status status = answer(e, &pick, &e->dense, err);
  if (status == SS_OK) status = run_along(e, &pick, err);
  if (status == SS_OK)
    memcpy(e->logits, ss_session_logits(e->session, 0), e->dense.tokens.n * e->stride * sizeof *e->logits);
  return status;
}

typedef struct measured {
  double repeated, tokens, same; /* shares; tokens of the answer */
  double kl, dense_tokens; /* sum; tokens of the dense answer */
} measured;

static size_t answer_length(const generate_task *e, const generation *g) { /* without the token that ends it */
  const size_t n = g->tokens.n;
  return n && ss_token_is_end(e->eval.engine.tokenizer, g->tokens.items[n - 1]) ? n - 1 : n;
}

static ss_status measure_answer(generate_task *e, const eval_row *row, const eval_pick *pick, measured *out,
                                ss_error *err) {
  const engine *g = &e->eval.engine;
  generation made = {0};
  ss_status status = make_dense(e, err);
  const bool dense = eval_is_dense(&e->eval, pick);
  if (status == SS_OK && !dense) status = answer(e, pick, &made, err);
  const generation *said = dense ? &e->dense : &made;
  if (status == SS_OK) {
    const ss_text a = buffer_text(&said->text), b = buffer_text(&e->dense.text);
    out->tokens = (double)answer_length(e, said);
    out->repeated = repeated_share(said->tokens.items, answer_length(e, said), 4);
    out->same = same_text(first_sentence(a), first_sentence(b));
    out->dense_tokens = (double)e->dense.tokens.n;
    if (e->args->show) fprintf(stderr, "[%s] %.*s\n\n", row->name, (int)a.len, a.data);
    if (!dense) status = run_along(e, pick, err);
  }
  if (status == SS_OK && !dense) {
    ss_score_rows(e->nll, e->kl, ss_session_logits(e->session, 0), e->logits, e->dense.tokens.items, e->dense.tokens.n,
                  g->info.n_vocab, e->stride, e->scratch, g->model, g->host);
    for (size_t i = 0; i < e->dense.tokens.n; i++) out->kl += e->kl[i];
  }
  generation_free(&made);
  return status;
}

/* Two entries of the state: what is known of the answer, and of the dense answer under the mask. */
static ss_status measure(generate_task *e, const eval_row *row, const eval_pick *pick, measured *out, ss_error *err) {
  uint64_t hash = eval_key(e->tokens.items, e->tokens.n * sizeof *e->tokens.items, pick);
  hash = ss_fnv1a(hash, &e->args->tokens, sizeof e->args->tokens);
  const uint64_t keys[] = {hash | 1, (hash | 2) & ~(uint64_t)1};
  const double *one = state_find(&e->eval.state, keys[0]), *two = state_find(&e->eval.state, keys[1]);
  *out = (measured){0};
  if (one && two) {
    *out = (measured){one[0], one[1], one[2], two[0], two[1]};
    e->n_known++;
    return SS_OK;
  }
  const double start = now_ms();
  ss_status status = measure_answer(e, row, pick, out, err);
  if (status != SS_OK) return status;
  e->measured_ms += now_ms() - start;
  e->n_measured++;
  const double values[2][STATE_VALUES] = {{out->repeated, out->tokens, out->same}, {out->kl, out->dense_tokens}};
  status = state_add(&e->eval.state, keys[0], values[0], err);
  return status == SS_OK ? state_add(&e->eval.state, keys[1], values[1], err) : status;
}

/* ---- all prompts ---- */

static ss_status read_prompts(generate_task *e, ss_error *err) {
  ss_status status = SS_OK;
  uint32_t capacity = 0;
  if (e->args->prompts) status = read_all(&e->file, e->args->prompts, err);
  if (status != SS_OK) return status;
  const char *at = e->file.data ? e->file.data : "";
  for (uint32_t i = 0; e->args->prompts ? *at != 0 : eval_prompts[i] != NULL; i++) {
    ss_text prompt = {at, strcspn(at, "\r\n")};
    if (!e->args->prompts) prompt = text_of(eval_prompts[i]);
    else at += prompt.len + strspn(at + prompt.len, "\r\n");
    if (!prompt.len) continue;
    if (e->n_prompts == capacity) {
      capacity = capacity ? 2 * capacity : 64;
      e->prompts = grow_memory(e->prompts, capacity, sizeof *e->prompts);
    }
    e->prompts[e->n_prompts++] = prompt;
  }
  return e->n_prompts ? SS_OK : ss_fail(err, SS_E_FORMAT, "%s: no prompts", e->args->prompts);
}

static ss_status format_prompt(generate_task *e, uint32_t index, ss_error *err) {
  const ss_chat_message message = {text_of("user"), e->prompts[index]};
  ss_status status = format_chat(&e->chat, e->eval.engine.model, &message, 1, err);
  if (status == SS_OK)
    status = tokenize_text(&e->tokens, e->eval.engine.tokenizer, buffer_text(&e->chat),
                           SS_TOKENIZE_SPECIAL | SS_TOKENIZE_BOS, err);
  return status;
}

static ss_status prepare(generate_task *e, ss_error *err) {
  const engine *g = &e->eval.engine;
  const uint32_t n = e->n_prompts, n_tokens = e->args->tokens;
  size_t longest = 0;
  ss_status status = SS_OK;
  for (uint32_t i = 0; status == SS_OK && i < n; i++) {
    status = format_prompt(e, i, err);
    longest = ss_max(longest, e->tokens.n);
  }
  if (status != SS_OK) return status;
  e->items = (eval_items){.n = n, .n_strata = 1, .seed = e->args->eval.seed, .host = g->host};
  e->items.weights = take_memory(n, sizeof *e->items.weights);
  e->items.strata = take_memory(n, sizeof *e->items.strata);
  e->dense_tokens = take_memory(n, sizeof *e->dense_tokens);
  for (uint32_t i = 0; i < n; i++) e->items.weights[i] = 1, e->items.strata[i] = 0;
  e->values = take_memory(e->eval.n_rows, sizeof *e->values);
  for (uint32_t i = 0; i < e->eval.n_rows; i++)
    e->values[i] = (row_values){take_memory(n, sizeof(double)), take_memory(n, sizeof(double)),
                                take_memory(n, sizeof(double)), take_memory(n, sizeof(double))};
  e->stride = ((size_t)g->info.n_vocab + 7) / 8 * 8; /* rows of ss_session_logits */
  e->logits = take_memory(n_tokens * e->stride, sizeof *e->logits);
  e->scratch = take_memory(g->host->n_threads * e->stride, sizeof *e->scratch);
  e->nll = take_memory(n_tokens, sizeof *e->nll);
  e->kl = take_memory(n_tokens, sizeof *e->kl);
  const ss_session_options options = {.context = (uint32_t)longest + n_tokens, .max_logits = n_tokens};
  ss_sampler_options greedy = ss_sampler_defaults();
  greedy.temperature = 0;
  status = ss_session_create(&e->session, g->model, &options, g->host, err);
  if (status == SS_OK) status = ss_sampler_create(&e->sampler, g->info.n_vocab, &greedy, g->host, err);
  return status;
}

static ss_status measure_prompt(generate_task *e, uint32_t index, uint32_t *clusters, ss_error *err) {
  generation_free(&e->dense);
  ss_status status = format_prompt(e, index, err);
  if (status == SS_OK) status = eval_route(&e->eval, e->prompts[index], clusters, err);
  if (status == SS_OK && e->args->show)
    fprintf(stderr, "> %.*s\n\n", (int)e->prompts[index].len, e->prompts[index].data);
  for (uint32_t k = 0; status == SS_OK && k < e->eval.n_rows; k++) {
    uint32_t first, last;
    eval_pick pick;
    measured m;
    row_values *v = &e->values[k];
    eval_clusters(&e->eval, &e->eval.rows[k], clusters, index, &first, &last);
    status = eval_pick_of(&e->eval, &e->eval.rows[k], first, &pick, err);
    if (status == SS_OK) status = measure(e, &e->eval.rows[k], &pick, &m, err);
    if (status != SS_OK) break;
    v->repeated[index] = m.repeated;
    v->tokens[index] = m.tokens;
    v->same[index] = m.same;
    v->kl[index] = m.kl;
    e->dense_tokens[index] = m.dense_tokens;
    eval_count(&e->eval, &e->eval.rows[k], &pick, 1);
  }
  return status;
}

static ss_status measure_all(generate_task *e, ss_error *err) {
  progress_line p = progress_begin();
  ss_status status = SS_OK;
  double last_said = now_ms();
  uint32_t *clusters = take_memory(e->eval.n_banks, sizeof *clusters);
  for (uint32_t i = 0; status == SS_OK && i < e->n_prompts; i++) {
    status = measure_prompt(e, i, clusters, err);
    const bool plain = !isatty(STDERR_FILENO) && now_ms() - last_said > 60000;
    if (plain || progress_due(&p)) {
      fprintf(stderr, "%s%u of %u prompts, %.0f s to go %s", plain ? "" : "\r", i + 1, e->n_prompts,
              e->measured_ms / (i + 1) * (e->n_prompts - i - 1) / 1e3, plain ? "\n" : "");
      last_said = now_ms();
    }
  }
  progress_done(&p);
  free(clusters);
  return status;
}

/* ---- reports ---- */

typedef struct estimates {
  ss_estimate repeated, tokens, same, kl;
} estimates;

static ss_status estimate(const generate_task *e, uint32_t row, estimates *out, ss_error *err) {
  const row_values *v = &e->values[row];
  eval_items along = e->items; /* a prompt weighs as many tokens as its dense answer has */
  along.weights = e->dense_tokens;
  ss_status status = eval_estimate(&e->items, v->repeated, NULL, &out->repeated, err);
  if (status == SS_OK) status = eval_estimate(&e->items, v->tokens, NULL, &out->tokens, err);
  if (status == SS_OK) status = eval_estimate(&e->items, v->same, NULL, &out->same, err);
  if (status == SS_OK) status = eval_estimate(&along, v->kl, NULL, &out->kl, err);
  return status;
}

static ss_status write_against(json *j, const generate_task *e, uint32_t row, ss_error *err) {
  ss_status status = SS_OK;
  eval_items along = e->items;
  along.weights = e->dense_tokens;
  json_open(j, "against", '[');
  for (size_t i = 0; status == SS_OK && i < eval_n_against(&e->eval); i++) {
    const eval_row *other = row ? eval_against(&e->eval, &e->eval.rows[row], i) : NULL;
    ss_estimate repeated, kl;
    if (!other) continue;
    const row_values *a = &e->values[row], *b = &e->values[other - e->eval.rows];
    status = eval_estimate(&e->items, a->repeated, b->repeated, &repeated, err);
    if (status == SS_OK) status = eval_estimate(&along, a->kl, b->kl, &kl, err);
    if (status != SS_OK) break;
    json_open(j, NULL, '{');
    json_string(j, "row", other->name);
    json_estimate(j, "repetition_difference", &repeated);
    json_estimate(j, "kl_difference", &kl);
    json_close(j);
  }
  json_close(j);
  return status;
}

static ss_status write_json(const void *task, json *j, ss_error *err) {
  const generate_task *e = task;
  ss_status status = SS_OK;
  json_eval_head(j, &e->eval, "generate");
  json_uint(j, "prompts", e->n_prompts);
  json_uint(j, "tokens", e->args->tokens);
  json_open(j, "rows", '[');
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) {
    estimates x;
    status = estimate(e, i, &x, err);
    if (status != SS_OK) break;
    json_open(j, NULL, '{');
    json_eval_row(j, &e->eval.rows[i]);
    json_estimate(j, "repetition", &x.repeated);
    json_estimate(j, "answer_tokens", &x.tokens);
    json_estimate(j, "same_first_sentence", &x.same);
    json_estimate(j, "kl", &x.kl);
    status = write_against(j, e, i, err);
    json_close(j);
  }
  json_close(j);
  json_uint(j, "measured", e->n_measured);
  json_uint(j, "known", e->n_known);
  return status;
}

static ss_status print_table(const void *task, ss_error *err) {
  const generate_task *e = task;
  const int width = eval_name_width(&e->eval);
  ss_status status = SS_OK;
  printf("%u prompts, greedy answers of at most %u tokens; 95 %% intervals\n", e->n_prompts, e->args->tokens);
  printf("%-*s  skipped  repetition              same first sentence     KL along the dense answer  tokens\n", width,
         "row");
  for (uint32_t i = 0; status == SS_OK && i < e->eval.n_rows; i++) {
    estimates x;
    status = estimate(e, i, &x, err);
    if (status != SS_OK) break;
    printf("%-*.48s  %5.2f %%  %5.1f %% (%5.1f, %5.1f)  %5.1f %% (%5.1f, %5.1f)  %.4f (%.4f, %.4f)    %6.1f\n", width,
           e->eval.rows[i].name, 100 * eval_skipped(&e->eval.rows[i]), 100 * x.repeated.value, 100 * x.repeated.low,
           100 * x.repeated.high, 100 * x.same.value, 100 * x.same.low, 100 * x.same.high, x.kl.value, x.kl.low,
           x.kl.high, x.tokens.value);
  }
  return status;
}

/* ---- all of it ---- */

static int run(generate_task *e) {
  ss_error err = {0};
  const int code = eval_open(&e->eval, &e->args->eval, "generate", false);
  if (code != CODE_OK) return code;
  interrupt_begin();
  ss_status status = read_prompts(e, &err);
  if (status == SS_OK) status = prepare(e, &err);
  if (status == SS_OK) status = measure_all(e, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = eval_report(&e->eval, write_json, print_table, e, &err);
  return eval_end(&e->eval, status, stopped, &err);
}

int eval_generate(int argc, char **argv) {
  generate_args a = {.tokens = 128};
  generate_task e = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&e);
  for (uint32_t i = 0; e.values && i < e.eval.n_rows; i++) {
    free(e.values[i].repeated);
    free(e.values[i].tokens);
    free(e.values[i].same);
    free(e.values[i].kl);
  }
  free(e.values);
  free(e.prompts);
  free(e.items.weights);
  free(e.items.strata);
  free(e.dense_tokens);
  free(e.logits);
  free(e.scratch);
  free(e.nll);
  free(e.kl);
  buffer_free(&e.file);
  buffer_free(&e.chat);
  token_list_free(&e.tokens);
  generation_free(&e.dense);
  ss_sampler_free(e.sampler);
  ss_session_free(e.session);
  eval_close(&e.eval);
  eval_args_free(&a.eval);
  return code;
}
