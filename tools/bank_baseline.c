/* skipstone bank baseline: one mask for all prompts, by a method to compare with.
 *
 * Each method gets the same text, the same losses and exactly the same budget of multiply-adds as `bank build`. The result is a
 * bank of one cluster, so that everything that takes a bank takes it; random masks are a cluster each. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "mask.h"
#include "mask_losses.h"

#define MAX_FILES 256
#define MAX_LEVELS 64
#define SAY_EVERY_MS 60000 /* where no terminal is */

typedef enum method { GREEDY, LEAVE_ONE_OUT, BLOCK_INFLUENCE, EVOLUTION, RANDOM, N_METHODS } method;
static const char *const method_names[] = {"greedy", "leave-one-out", "block-influence", "evolution", "random", NULL};

typedef struct baseline_args {
  engine_options engine;
  option_list corpus;
  const char *operands[MAX_FILES], *method, *levels, *out, *state, *name, *provenance, *start;
  uint32_t tokens, window, max_samples, draws, generations, offspring;
  uint64_t seed;
  bool resume, json;
} baseline_args;

static parse_result parse(baseline_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "method",
       .text = &a->method,
       .argument = "NAME",
       .help =
           "greedy: block by block by loss per multiply-add (SLEB,\nBlockPruner); leave-one-out: by that score alone;\n"
           "block-influence: least change of the residual stream\nper multiply-add (ShortGPT); evolution (EvoPress);\n"
           "random"},
      {.name = "corpus",
       .list = &a->corpus,
       .argument = "FILE",
       .help = "JSON Lines with \"text\", or plain text; more files may\nfollow"},
      {.name = "levels",
       .text = &a->levels,
       .argument = "LIST",
       .help = "shares of the block MACs to skip\n(default 0.0625,0.125,0.1875,0.25)"},
      {.name = "out", .letter = 'o', .text = &a->out, .argument = "BANK", .help = "the file to write"},
      {.name = "tokens",
       .letter = 'n',
       .u32 = &a->tokens,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = "of the corpus, for a loss (default 6144, as the global\nmask of bank build)"},
      {.name = "window",
       .u32 = &a->window,
       .argument = "N",
       .min = LEAST_WINDOW,
       .max = 65536,
       .help = "tokens of a sample at most (default 128)"},
      {.name = "max-samples",
       .u32 = &a->max_samples,
       .argument = "N",
       .min = 1,
       .max = 10000000,
       .help = "at most N samples, drawn at random (default: all)"},
      {.name = "draws",
       .u32 = &a->draws,
       .argument = "N",
       .min = 1,
       .max = 256,
       .help = "random: so many masks, a cluster each, that eval's\n--control random draws from (default 8)"},
      {.name = "generations",
       .u32 = &a->generations,
       .argument = "N",
       .min = 1,
       .max = 100000,
       .help = "evolution: for each level (default 40)"},
      {.name = "offspring",
       .u32 = &a->offspring,
       .argument = "N",
       .min = 1,
       .max = 4096,
       .help =
           "evolution: of a generation; a quarter of the text picks a\nquarter of them, all text the best (default 16)"},
      {.name = "start",
       .text = &a->start,
       .argument = "BANK",
       .help = "evolution: starts from this bank's global masks\n(default: the best of some random ones)"},
      {.name = "seed", .u64 = &a->seed, .argument = "S", .help = "same seed, same bank (default 0)"},
      {.name = "state", .text = &a->state, .argument = "DIR", .help = "keeps what was measured (default: BANK.state)"},
      {.name = "resume", .flag = &a->resume, .help = "goes on where a run with the same state ended"},
      {.name = "name", .text = &a->name, .argument = "TEXT", .help = "the bank's name"},
      {.name = "provenance",
       .text = &a->provenance,
       .argument = "TEXT",
       .help = "where the corpus comes from, and its licences"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print one JSON object at the end"},
  };
  const command c = {
      .name = "bank baseline",
      .usage = "-m MODEL --method NAME --corpus FILE... --out BANK [options]",
      .about =
          "Makes a bank whose one mask per level is the same for every prompt: what routed masks are compared with,\n"
          "at exactly the same budget. The losses are kept in the same form as those of bank build: with its state folder,\n"
          "text and --resume, what it measured for its global mask is not measured again.",
      .examples =
          "  skipstone bank baseline -m model.gguf --method evolution --corpus *.train.jsonl --out evolution.gguf\n"
          "  skipstone eval nll -m model.gguf --data heldout.jsonl --bank bank.gguf --baseline evolution.gguf",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct baseline {
  const baseline_args *args;
  method method;
  engine engine;
  ss_fingerprint print;
  corpus corpus;
  mask_losses losses;
  ss_budget budget;
  uint64_t *costs;
  double levels[MAX_LEVELS];
  uint32_t n_levels, n_clusters;
  uint64_t units[MAX_LEVELS];
  ss_mask *masks;   /* [n_levels][n_clusters + 1] */
  double *found;    /* [n_levels][n_clusters + 1] losses */
  double dense_loss;
  uint32_t level;   /* being searched */
  progress_line progress;
  double last_said_ms;
} baseline;

/* ---- losses and progress ---- */

/* Where the search is, and how much text it may still take at most: losses over all text. */
static void show(baseline *b, double loss, double losses_left) {
  const double now = now_ms(), measured = (double)b->losses.measured_tokens;
  const bool plain = !isatty(STDERR_FILENO) && now - b->last_said_ms > SAY_EVERY_MS;
  if (!plain && !progress_due(&b->progress)) return;
  const double each = measured > 0 ? b->losses.measured_ms * (double)b->losses.windows.tokens.n / measured / 1e3 : 0;
  fprintf(stderr, "%s%s: level %u of %u, loss %.4f (dense %.4f), %u losses, at most %.0f min to go %s",
          plain ? "" : "\r", method_names[b->method], b->level + 1, b->n_levels, loss, b->dense_loss,
          b->losses.n_measured + b->losses.n_known, losses_left * each / 60, plain ? "\n" : "");
  b->last_said_ms = now;
}

static ss_status loss_of(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  baseline *b = ctx;
  return mask_losses_of(&b->losses, 0, mask, base, loss, err);
}

static bool watch_greedy(void *ctx, const ss_greedy_progress *p) {
  baseline *b = ctx;
  b->level = (uint32_t)ss_min(p->level, b->n_levels - 1);
  const double guess = b->engine.info.n_blocks + 1.5 * (double)p->target; /* as many as it mostly takes */
  show(b, p->loss, guess > p->n_losses ? guess - p->n_losses : 0);
  return !interrupted();
}

static uint32_t first_part(const baseline *b) { return b->losses.windows.n / 4; }

static ss_status loss_at_stage(void *ctx, uint32_t stage, const ss_mask *mask, const ss_mask *base, double *loss,
                               ss_error *err) {
  baseline *b = ctx;
  const bool part = stage == 0 && first_part(b) > 0;
  return mask_losses_of(&b->losses, part ? first_part(b) : 0, mask, base, loss, err);
}

static bool watch_evolution(void *ctx, const ss_evolution_progress *p) {
  baseline *b = ctx;
  const double each = b->args->offspring / 4.0 * 2, later = (b->n_levels - 1 - b->level) * (p->generations + 1) * each;
  show(b, p->loss, (p->generations - p->generation) * each + later);
  return !interrupted();
}

/* ---- methods ---- */

static ss_status by_greedy(baseline *b, ss_error *err) {
  const ss_greedy_options options = {.n_blocks = b->engine.info.n_blocks,
                                     .costs = b->costs,
                                     .levels = b->levels,
                                     .n_levels = b->n_levels,
                                     .loss = loss_of,
                                     .watch = watch_greedy,
                                     .ctx = b,
                                     .leave_one_out = b->method == LEAVE_ONE_OUT};
  ss_greedy_result r;
  const ss_status status = ss_greedy(&r, &options, b->engine.host, err);
  for (uint32_t i = 0; status == SS_OK && i < b->n_levels; i++) b->masks[2 * i] = r.masks[i];
  if (status == SS_OK) ss_greedy_free(&r, b->engine.host);
  return status;
}

static ss_status by_influence(baseline *b, ss_error *err) {
  double scores[SS_MAX_BLOCKS];
  ss_loss *tool;
  ss_status status = mask_losses_tool(&b->losses, 0, &tool, err);
  if (status == SS_OK) status = ss_loss_influence(tool, scores, err);
  for (uint32_t i = 0; status == SS_OK && i < b->n_levels; i++) {
    ss_mask_fill(&b->masks[2 * i], b->engine.info.n_blocks);
    ss_budget_fill(&b->budget, &b->masks[2 * i], scores, b->units[i]);
  }
  return status;
}

static ss_status by_evolution(baseline *b, ss_error *err) {
  const uint32_t survivors[] = {(uint32_t)ss_max(b->args->offspring / 4, 1)};
  ss_status status = SS_OK;
  ss_bank *start = NULL;
  uint64_t n;
  if (b->args->start) status = bank_load(&start, b->args->start, b->engine.host, &n, err);
  if (start) status = ss_bank_check(start, b->engine.model, NULL, NULL, 0, err);
  for (b->level = 0; status == SS_OK && b->level < b->n_levels; b->level++) {
    ss_evolution_options options = {.budget = &b->budget,
                                    .units = b->units[b->level],
                                    .generations = b->args->generations,
                                    .offspring = b->args->offspring,
                                    .survivors = survivors,
                                    .n_stages = first_part(b) ? 2 : 1,
                                    .seed = b->args->seed + b->level,
                                    .loss = loss_at_stage,
                                    .watch = watch_evolution,
                                    .ctx = b};
    ss_evolution_result r;
    ss_mask first;
    if (start) {
      ss_bank_info info;
      ss_bank_info_get(start, &info);
      status = ss_bank_mask(start, info.n_clusters, 1 - b->levels[b->level], &first, err);
      options.start = &first;
    }
    if (status == SS_OK) status = ss_evolution(&r, &options, b->engine.host, err);
    if (status != SS_OK) break;
    b->masks[2 * b->level] = r.mask;
    progress_done(&b->progress);
    fprintf(stderr, "level %u: %u generations, %u of them better, %u losses, %.4f -> %.4f\n", b->level + 1,
            options.generations, r.n_improved, r.n_losses, r.first_loss, r.loss);
  }
  ss_bank_free(start);
  return status;
}

static ss_status by_chance(baseline *b, ss_error *err) {
  for (uint32_t i = 0; i < b->n_levels; i++)
    for (uint32_t c = 0; c < b->n_clusters; c++) {
      const uint64_t of[] = {b->args->seed, i, c};
      ss_rng rng = ss_rng_seed(ss_fnv1a(SS_FNV_START, of, sizeof of));
      if (!ss_mask_random(&b->masks[i * (b->n_clusters + 1) + c], &b->budget, b->units[i], &rng))
        return ss_fail(err, SS_E_ARGUMENT, "no blocks have %llu units", (unsigned long long)b->units[i]);
    }
  return SS_OK;
}

static ss_status search(baseline *b, ss_error *err) {
  static ss_status (*const methods[N_METHODS])(baseline *, ss_error *) = {by_greedy, by_greedy, by_influence,
                                                                          by_evolution, by_chance};
  const uint32_t each = b->n_clusters + 1;
  ss_mask dense;
  ss_mask_fill(&dense, b->engine.info.n_blocks);
  ss_status status = loss_of(b, &dense, &dense, &b->dense_loss, err);
  if (status == SS_OK) status = methods[b->method](b, err);
  for (b->level = 0; status == SS_OK && b->level < b->n_levels; b->level++) {
    ss_mask *masks = b->masks + b->level * each;
    double *found = b->found + b->level * each;
    for (uint32_t c = 0; status == SS_OK && c < b->n_clusters; c++) {
      status = loss_of(b, &masks[c], &masks[c], &found[c], err);
      if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped");
      show(b, found[c], (b->n_levels - b->level) * b->n_clusters - c);
    }
    masks[b->n_clusters] = masks[0]; /* the global mask: the only one, or the first draw */
    found[b->n_clusters] = found[0];
  }
  progress_done(&b->progress);
  return status;
}

/* ---- the bank ---- */

/* Settings as JSON, to be freed. */
static char *training_text(const baseline *b) {
  const baseline_args *a = b->args;
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) return NULL;
  json j = {.out = out};
  json_open(&j, NULL, '{');
  json_uint(&j, "tokens_per_loss", b->losses.windows.tokens.n);
  json_uint(&j, "window", a->window);
  json_uint(&j, "seed", a->seed);
  json_uint(&j, "samples", b->corpus.n);
  if (b->method == EVOLUTION) {
    json_uint(&j, "generations", a->generations);
    json_uint(&j, "offspring", a->offspring);
    json_string(&j, "start", a->start ? "a bank's masks" : "random");
  }
  if (b->method == RANDOM) json_uint(&j, "draws", b->n_clusters);
  json_string(&j, "quantisation", b->engine.info.quantisation);
  json_string(&j, "made_by", "skipstone " SS_VERSION);
  json_done(&j);
  fclose(out);
  text[len - 1] = 0; /* the end of the line */
  return text;
}

static ss_status write_bank(const baseline *b, ss_error *err) {
  const uint32_t k = b->n_clusters, n_masks = b->n_levels * (k + 1);
  ss_encoder
      *encoder; /* one cluster needs none, but a bank has one: nothing is nearer than the other centroids, all 0 */
  ss_status status = ss_encoder_create(&encoder, b->engine.model, b->engine.host, err);
  if (status != SS_OK) return status;
  const uint32_t dim = ss_encoder_dim(encoder);
  float levels[MAX_LEVELS], *losses = take_memory(n_masks, sizeof *losses), *dense = take_memory(k + 1, sizeof *dense);
  float *centroids = take_memory((size_t)k * dim, sizeof *centroids);
  char *training = training_text(b), *provenance = corpus_provenance(&b->corpus, b->args->provenance);
  for (uint32_t i = 0; i < b->n_levels; i++) levels[i] = (float)b->levels[i];
  for (uint32_t i = 0; i < n_masks; i++) losses[i] = (float)b->found[i];
  for (uint32_t i = 0; i <= k; i++) dense[i] = (float)b->dense_loss;
  for (size_t i = 0; i < (size_t)k * dim; i++) centroids[i] = 0;
  const ss_bank_parts parts = {
      .n_clusters = k,
      .n_levels = b->n_levels,
      .n_layers = b->engine.info.n_layers,
      .dim = dim,
      .levels = levels,
      .centroids = centroids,
      .masks = b->masks,
      .losses = losses,
      .dense_losses = dense,
      .model = b->print,
      .encoder = b->print,
      .name = b->args->name ? b->args->name : b->engine.info.name,
      .model_name = b->engine.info.name,
      .encoder_kind = ss_encoder_kind(encoder),
      .encoder_name = b->engine.info.name,
      .method = method_names[b->method],
      .training = training,
      .provenance = provenance,
  };
  uint8_t *bytes = NULL;
  size_t n = 0;
  status = ss_bank_write(&bytes, &n, &parts, b->engine.host, err);
  if (status == SS_OK) status = write_whole(b->args->out, bytes, n, err);
  if (bytes) b->engine.host->free(b->engine.host->ctx, bytes, n);
  ss_encoder_free(encoder);
  free(losses);
  free(dense);
  free(centroids);
  free(training);
  free(provenance);
  return status;
}

static void report(const baseline *b, double ms) {
  const uint32_t each = b->n_clusters + 1;
  if (!b->args->json) {
    printf("%s: %s, %zu tokens in %u windows, dense %.4f", b->args->out, method_names[b->method],
           b->losses.windows.tokens.n, b->losses.windows.n, b->dense_loss);
    for (uint32_t i = 0; i < b->n_levels; i++)
      printf(", %.4f at %llu", b->found[i * each], (unsigned long long)b->units[i]);
    printf(" of %llu units; %.0f s\n", (unsigned long long)b->budget.total, ms / 1e3);
    return;
  }
  json j = {.out = stdout};
  json_open(&j, NULL, '{');
  json_string(&j, "out", b->args->out);
  json_string(&j, "method", method_names[b->method]);
  json_real(&j, "dense_loss", b->dense_loss, true);
  json_uint(&j, "units_total", b->budget.total);
  json_open(&j, "levels", '[');
  for (uint32_t i = 0; i < b->n_levels; i++) {
    json_open(&j, NULL, '{');
    json_real(&j, "level", b->levels[i], true);
    json_uint(&j, "units", b->units[i]);
    json_open(&j, "losses", '[');
    for (uint32_t c = 0; c < b->n_clusters; c++) json_real(&j, NULL, b->found[i * each + c], true);
    json_close(&j);
    json_close(&j);
  }
  json_close(&j);
  json_uint(&j, "losses_measured", b->losses.n_measured);
  json_uint(&j, "losses_known", b->losses.n_known);
  json_fixed(&j, "ms", ms, 0);
  json_done(&j);
}

/* ---- all of it ---- */

static ss_status prepare(baseline *b, const char *folder, ss_error *err) {
  const baseline_args *a = b->args;
  buffer path = {0};
  ss_status status = make_folder(folder, err);
  for (size_t i = 0; status == SS_OK && i < a->corpus.n; i++) status = corpus_add(&b->corpus, a->corpus.items[i], err);
  for (size_t i = 0; status == SS_OK && i < MAX_FILES && a->operands[i]; i++)
    status = corpus_add(&b->corpus, a->operands[i], err);
  if (status != SS_OK) return status;
  if (a->max_samples) corpus_draw(&b->corpus, a->max_samples, a->seed);
  uint32_t *samples = take_memory(b->corpus.n, sizeof *samples);
  for (uint32_t i = 0; i < b->corpus.n; i++) samples[i] = i;
  status = window_set_draw(&b->losses.windows, b->engine.tokenizer, &b->corpus, samples, b->corpus.n, a->window,
                           a->tokens, a->seed, err);
  free(samples);
  if (status == SS_OK && b->losses.windows.n == 0)
    status = ss_fail(err, SS_E_ARGUMENT, "none of the %zu samples has %d tokens", b->corpus.n, LEAST_WINDOW);
  if (status == SS_OK) status = ss_model_fingerprint(b->engine.model, &b->print, err);
  buffer_addf(&path, "%s/global.losses", folder);
  if (status == SS_OK) status = mask_losses_open(&b->losses, &b->engine, b->print.exact, path.data, a->resume, err);
  buffer_free(&path);
  if (status == SS_OK) status = block_costs(&b->costs, b->engine.model, err);
  if (status == SS_OK) status = ss_budget_create(&b->budget, b->costs, b->engine.info.n_blocks, b->engine.host, err);
  if (status != SS_OK) return status;
  ss_mask dense;
  ss_mask_fill(&dense, b->engine.info.n_blocks);
  for (uint32_t i = 0; i < b->n_levels; i++) b->units[i] = ss_budget_target(&b->budget, &dense, b->levels[i]);
  b->n_clusters = b->method == RANDOM ? a->draws : 1;
  b->masks = take_memory((size_t)b->n_levels * (b->n_clusters + 1), sizeof *b->masks);
  b->found = take_memory((size_t)b->n_levels * (b->n_clusters + 1), sizeof *b->found);
  return SS_OK;
}

static bool find_method(baseline *b, const char *name) {
  for (b->method = 0; b->method < N_METHODS; b->method++)
    if (name && !strcmp(name, method_names[b->method])) return true;
  const char *near = name ? nearest_name(name, method_names) : NULL;
  if (near) say("bank baseline: --method %s; did you mean %s?", name, near);
  else say("bank baseline: --method: want greedy, leave-one-out, block-influence, evolution or random");
  return false;
}

static int run(baseline *b) {
  const baseline_args *a = b->args;
  ss_error err = {0};
  if (!find_method(b, a->method)) return CODE_USAGE;
  if (!a->out || (!a->corpus.n && !a->operands[0])) {
    say(a->out ? "bank baseline: no corpus: give --corpus FILE..."
               : "bank baseline: nowhere to write: give --out BANK");
    return CODE_USAGE;
  }
  if (a->start && b->method != EVOLUTION) {
    say("bank baseline: --start is for --method evolution");
    return CODE_USAGE;
  }
  if (!parse_levels("bank baseline", a->levels ? a->levels : "0.0625,0.125,0.1875,0.25", b->levels, MAX_LEVELS,
                    &b->n_levels))
    return CODE_USAGE;
  int code = engine_open(&b->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&b->engine);
  if (code != CODE_OK) return code;
  const double start = now_ms();
  buffer folder = {0};
  buffer_addf(&folder, a->state ? "%s" : "%s.state", a->state ? a->state : a->out);
  b->progress = progress_begin();
  b->last_said_ms = start;
  interrupt_begin();
  ss_status status = prepare(b, folder.data, &err);
  if (status == SS_OK) status = search(b, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = write_bank(b, &err);
  code = status == SS_OK ? CODE_OK : stopped ? CODE_INTERRUPTED : report_failure(&err);
  if (code == CODE_OK) report(b, now_ms() - start);
  if (code == CODE_INTERRUPTED) say("stopped; what was measured is in %s: --resume goes on", folder.data);
  buffer_free(&folder);
  return code;
}

int bank_baseline(int argc, char **argv) {
  baseline_args a = {.tokens = 6144, .window = 128, .draws = 8, .generations = 40, .offspring = 16};
  baseline b = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&b);
  if (b.engine.host) ss_budget_free(&b.budget, b.engine.host);
  mask_losses_close(&b.losses);
  free(b.costs);
  free(b.masks);
  free(b.found);
  corpus_free(&b.corpus);
  engine_close(&b.engine);
  option_list_free(&a.corpus);
  return code;
}
