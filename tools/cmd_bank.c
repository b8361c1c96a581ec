/* skipstone bank build: from a corpus to a bank of greedy masks.
 *
 * Prompts are embedded and clustered; then blocks are removed greedily, once on samples of the whole corpus (the global mask,
 * which is also the static baseline) and once on samples of each cluster. Every loss that was measured goes to a
 * state file at once, and the search asks it before it measures: a run that goes on repeats its steps in no time. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "example_prompts.h"
#include "mask.h"
#include "mask_losses.h"

#define MAX_FILES 256
#define MAX_LEVELS 64
#define SAY_EVERY_MS 60000 /* where no terminal is */

typedef struct bank_args {
  engine_options engine;
  option_list corpus;
  const char *operands[MAX_FILES + 1], *encoder, *levels, *out, *state, *name, *provenance;
  uint32_t clusters, tokens_per_loss, global_tokens, window, restarts, max_samples;
  uint64_t seed;
  bool resume, leave_one_out, euclidean, json;
} bank_args;

static parse_result parse(bank_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "corpus",
       .list = &a->corpus,
       .argument = "FILE",
       .help = "JSON Lines with \"text\" and \"prompt\", or plain text;\nmore files may follow"},
      {.name = "encoder",
       .text = &a->encoder,
       .argument = "self|ENC.gguf",
       .help = "what embeds the prompts (default: self)"},
      {.name = "clusters",
       .letter = 'k',
       .u32 = &a->clusters,
       .argument = "K",
       .min = 1,
       .max = 256,
       .help = "clusters (default 8)"},
      {.name = "levels",
       .text = &a->levels,
       .argument = "LIST",
       .help = "shares of the block MACs to skip\n(default 0.0625,0.125,0.1875,0.25)"},
      {.name = "out", .letter = 'o', .text = &a->out, .argument = "BANK", .help = "the file to write"},
      {.name = "tokens-per-loss",
       .u32 = &a->tokens_per_loss,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = "of a cluster's text (default 1536)"},
      {.name = "global-tokens",
       .u32 = &a->global_tokens,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = "of all text, for the global mask (default: 4 times that)"},
      {.name = "window",
       .u32 = &a->window,
       .argument = "N",
       .min = LEAST_WINDOW,
       .max = 65536,
       .help = "tokens of a sample at most (default 128)"},
      {.name = "leave-one-out",
       .flag = &a->leave_one_out,
       .help = "masks from leave-one-out scores alone: quick and rough"},
      {.name = "euclidean", .flag = &a->euclidean, .help = "centroids are means (default: normalised, for cosine)"},
      {.name = "restarts",
       .u32 = &a->restarts,
       .argument = "N",
       .min = 1,
       .max = 1000,
       .help = "of k-means (default 8)"},
      {.name = "max-samples",
       .u32 = &a->max_samples,
       .argument = "N",
       .min = 1,
       .max = 10000000,
       .help = "at most N samples, drawn at random (default: all)"},
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
      .name = "bank",
      .usage = "build -m MODEL --corpus FILE... --out BANK [options]",
      .about =
          "Makes a mask bank: clusters the corpus by its prompts, and removes blocks greedily by loss per\n"
          "multiply-add, for the whole corpus and for each cluster, until every level's budget is met exactly.\n"
          "Ctrl-C and a kill lose nothing but the loss that was being measured: --resume goes on.\n"
          "Other masks to compare with: skipstone bank baseline --help. What makes up for skipped blocks:\n"
          "skipstone bank recover --help.",
      .examples =
          "  skipstone bank build -m model.gguf --corpus *.train.jsonl -k 8 --out bank.gguf\n"
          "  skipstone bank build -m model.gguf --corpus all.jsonl --encoder minilm.gguf --out bank.gguf --resume\n"
          "  skipstone inspect bank.gguf",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_FILES + 1,
  };
  return options_parse(&c, argc, argv);
}

/* What a build makes; released by build_free, whatever was reached. */
typedef struct build {
  const bank_args *args;
  engine engine;
  text_encoder encoder;
  ss_fingerprint model_print, encoder_print;
  corpus corpus;
  float *points;
  ss_kmeans_result clusters;
  double levels[MAX_LEVELS], silhouette;
  uint32_t n_levels;
  uint64_t *costs;
  ss_greedy_result *results; /* [K + 1], the last is the global one; masks NULL: not done */
  uint32_t n_done;
  double measured_ms; /* of all losses that were measured in this run, and how many tokens and losses */
  uint64_t measured_tokens;
  uint32_t n_measured, n_known;
  uint64_t n_losses_done; /* of finished searches */
} build;

/* ---- one search ---- */

typedef struct search {
  build *b;
  uint32_t job; /* 0: global, else cluster job - 1 */
  mask_losses losses;
  progress_line progress;
  double last_said_ms;
} search;

static uint32_t index_of_job(const build *b, uint32_t job) { return job == 0 ? b->clusters.k : job - 1; }

static ss_status loss_of(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  search *s = ctx;
  return mask_losses_of(&s->losses, 0, mask, base, loss, err);
}

/* Seconds to go, by what a loss took so far and how many a search took or will take about. */
static double seconds_left(const search *s, const ss_greedy_progress *p) {
  const build *b = s->b;
  const uint64_t n_tokens = b->measured_tokens + s->losses.measured_tokens;
  const double ms_each_token = n_tokens ? (b->measured_ms + s->losses.measured_ms) / (double)n_tokens : 0;
  const double guess =
      1.0 + b->engine.info.n_blocks * 1.0 + (b->args->leave_one_out ? b->n_levels : 1.5 * (double)p->target);
  const double each = b->n_done ? (double)b->n_losses_done / b->n_done : guess;
  const double here = each > p->n_losses ? each - p->n_losses : 0, later = each * (b->clusters.k - s->job);
  return ms_each_token * (here * (double)s->losses.windows.tokens.n + later * b->args->tokens_per_loss) / 1e3;
}

static bool watch(void *ctx, const ss_greedy_progress *p) {
  search *s = ctx;
  const double now = now_ms();
  const bool plain = !isatty(STDERR_FILENO) && now - s->last_said_ms > SAY_EVERY_MS;
  if (plain || progress_due(&s->progress)) {
    const double left = seconds_left(s, p);
    char job[32] = "all text";
    if (s->job) snprintf(job, sizeof job, "cluster %u of %u", s->job, s->b->clusters.k);
    fprintf(
        stderr,
        "%s%s: level %u of %u, %llu of %llu units skipped, loss %.4f (dense %.4f), %u losses, %.0f:%02.0f:%02.0f to go %s",
        plain ? "" : "\r", job, p->level + 1, p->n_levels, (unsigned long long)p->units, (unsigned long long)p->target,
        p->loss, p->dense_loss, p->n_losses, (double)((uint64_t)left / 3600), (double)((uint64_t)left / 60 % 60),
        (double)((uint64_t)left % 60), plain ? "\n" : "");
    s->last_said_ms = now;
  }
  return !interrupted();
}

static ss_status draw_windows(search *s, ss_error *err) {
  build *b = s->b;
  const bank_args *a = b->args;
  uint32_t *samples = take_memory(b->corpus.n, sizeof *samples);
  size_t n = 0;
  for (uint32_t i = 0; i < b->corpus.n; i++)
    if (s->job == 0 || b->clusters.clusters[i] == s->job - 1) samples[n++] = i;
  const uint32_t n_tokens = s->job ? a->tokens_per_loss : a->global_tokens ? a->global_tokens : 4 * a->tokens_per_loss;
  ss_status status = window_set_draw(&s->losses.windows, b->engine.tokenizer, &b->corpus, samples, n, a->window,
                                     n_tokens, a->seed + s->job, err);
  if (status == SS_OK && s->losses.windows.n == 0)
    status =
        ss_fail(err, SS_E_ARGUMENT, "cluster %u: none of its %zu samples has %d tokens", s->job - 1, n, LEAST_WINDOW);
  free(samples);
  return status;
}

static ss_status open_losses(search *s, const char *folder, ss_error *err) {
  buffer path = {0};
  if (s->job) buffer_addf(&path, "%s/cluster-%u.losses", folder, s->job - 1);
  else buffer_addf(&path, "%s/global.losses", folder);
  const ss_status status =
      mask_losses_open(&s->losses, &s->b->engine, s->b->model_print.exact, path.data, s->b->args->resume, err);
  buffer_free(&path);
  return status;
}

static ss_status run_job(build *b, uint32_t job, const char *folder, ss_error *err) {
  search s = {.b = b, .job = job, .progress = progress_begin(), .last_said_ms = now_ms()};
  ss_greedy_result *r = &b->results[index_of_job(b, job)];
  ss_status status = draw_windows(&s, err);
  if (status == SS_OK) status = open_losses(&s, folder, err);
  if (status == SS_OK) {
    const ss_greedy_options options = {.n_blocks = b->engine.info.n_blocks,
                                       .costs = b->costs,
                                       .levels = b->levels,
                                       .n_levels = b->n_levels,
                                       .loss = loss_of,
                                       .watch = watch,
                                       .ctx = &s,
                                       .leave_one_out = b->args->leave_one_out};
    status = ss_greedy(r, &options, b->engine.host, err);
  }
  progress_done(&s.progress);
  if (status == SS_OK) {
    b->n_done++;
    b->n_losses_done += r->n_losses;
    fprintf(stderr, "%s %u: %zu tokens in %u windows, dense %.4f, ", job ? "cluster" : "all text, clusters",
            job ? job - 1 : b->clusters.k, s.losses.windows.tokens.n, s.losses.windows.n, r->dense_loss);
    for (uint32_t i = 0; i < b->n_levels; i++)
      fprintf(stderr, "%s%.4f at %llu", i ? ", " : "", r->losses[i], (unsigned long long)r->units[i]);
    fprintf(stderr, " of %llu units; %u losses\n", (unsigned long long)r->units_total, r->n_losses);
  }
  b->measured_ms += s.losses.measured_ms;
  b->measured_tokens += s.losses.measured_tokens;
  b->n_measured += s.losses.n_measured;
  b->n_known += s.losses.n_known;
  mask_losses_close(&s.losses);
  return status;
}

/* ---- the bank ---- */

/* Settings as JSON, to be freed. */
static char *training_text(const build *b) {
  const bank_args *a = b->args;
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) return NULL;
  json j = {.out = out};
  json_open(&j, NULL, '{');
  json_uint(&j, "tokens_per_loss", a->tokens_per_loss);
  json_uint(&j, "global_tokens", a->global_tokens ? a->global_tokens : 4 * a->tokens_per_loss);
  json_uint(&j, "window", a->window);
  json_uint(&j, "seed", a->seed);
  json_string(&j, "metric", a->euclidean ? "euclidean" : "cosine");
  json_uint(&j, "samples", b->corpus.n);
  json_real(&j, "inertia", b->clusters.inertia, true);
  json_real(&j, "silhouette", b->silhouette, true);
  json_string(&j, "quantisation", b->engine.info.quantisation);
  json_string(&j, "made_by", "skipstone " SS_VERSION);
  while (j.depth) json_close(&j);
  fclose(out);
  return text;
}

static ss_status write_bank(build *b, ss_error *err) {
  const uint32_t k = b->clusters.k, n_masks = b->n_levels * (k + 1);
  ss_mask *masks = take_memory(n_masks, sizeof *masks);
  float *losses = take_memory(n_masks, sizeof *losses), *dense = take_memory(k + 1, sizeof *dense), levels[MAX_LEVELS];
  ss_text *examples = take_memory(k, sizeof *examples);
  char *training = training_text(b), *provenance = corpus_provenance(&b->corpus, b->args->provenance);
  for (uint32_t c = 0; c <= k; c++) {
    dense[c] = (float)b->results[c].dense_loss;
    for (uint32_t i = 0; i < b->n_levels; i++) {
      masks[i * (k + 1) + c] = b->results[c].masks[i];
      losses[i * (k + 1) + c] = (float)b->results[c].losses[i];
    }
  }
  for (uint32_t i = 0; i < b->n_levels; i++) levels[i] = (float)b->levels[i];
  const ss_bank_parts parts = {
      .n_clusters = k,
      .n_levels = b->n_levels,
      .n_layers = b->engine.info.n_layers,
      .dim = b->encoder.dim,
      .levels = levels,
      .centroids = b->clusters.centroids,
      .masks = masks,
      .losses = losses,
      .dense_losses = dense,
      .sizes = b->clusters.sizes,
      .examples = examples,
      .model = b->model_print,
      .encoder = b->encoder_print,
      .name = b->args->name ? b->args->name : b->engine.info.name,
      .model_name = b->engine.info.name,
      .encoder_kind = ss_encoder_kind(b->encoder.encoder),
      .encoder_name = b->encoder.name,
      .method = b->args->leave_one_out ? "leave-one-out" : "greedy",
      .training = training,
      .provenance = provenance,
  };
  uint8_t *bytes = NULL;
  size_t n = 0;
  ss_status status = example_prompts_nearest(b->encoder.encoder, b->clusters.centroids, k, examples, err);
  if (status == SS_OK) status = ss_bank_write(&bytes, &n, &parts, b->engine.host, err);
  if (status == SS_OK) status = write_whole(b->args->out, bytes, n, err);
  if (bytes) b->engine.host->free(b->engine.host->ctx, bytes, n);
  free(masks);
  free(losses);
  free(dense);
  free(examples);
  free(training);
  free(provenance);
  return status;
}

/* ---- the report ---- */

static void print_json(const build *b, double ms) {
  json j = {.out = stdout};
  json_open(&j, NULL, '{');
  json_string(&j, "out", b->args->out);
  clusters_json(&j, "clustering", &b->clusters, b->silhouette, b->points, &b->corpus);
  json_open(&j, "masks", '[');
  for (uint32_t c = 0; c <= b->clusters.k; c++) {
    const ss_greedy_result *r = &b->results[c];
    json_open(&j, NULL, '{');
    if (c < b->clusters.k) json_uint(&j, "cluster", c);
    else json_null(&j, "cluster");
    json_real(&j, "dense_loss", r->dense_loss, true);
    json_open(&j, "losses", '[');
    for (uint32_t i = 0; i < b->n_levels; i++) json_real(&j, NULL, r->losses[i], true);
    json_close(&j);
    json_open(&j, "units", '[');
    for (uint32_t i = 0; i < b->n_levels; i++) json_uint(&j, NULL, r->units[i]);
    json_close(&j);
    json_uint(&j, "units_total", r->units_total);
    json_uint(&j, "n_losses", r->n_losses);
    json_open(&j, "order", '[');
    for (uint32_t i = 0; i < r->n_removed; i++) json_uint(&j, NULL, r->order[i]);
    json_close(&j);
    json_close(&j);
  }
  json_close(&j);
  json_uint(&j, "losses_measured", b->n_measured);
  json_uint(&j, "losses_known", b->n_known);
  json_fixed(&j, "tokens_per_second", b->measured_ms > 0 ? 1e3 * (double)b->measured_tokens / b->measured_ms : 0, 1);
  json_fixed(&j, "ms", ms, 0);
  json_done(&j);
}

/* ---- all of it ---- */

static ss_status prepare(build *b, const char *folder, ss_error *err) {
  const bank_args *a = b->args;
  buffer cache = {0};
  ss_status status = make_folder(folder, err);
  for (size_t i = 0; status == SS_OK && i < a->corpus.n; i++) status = corpus_add(&b->corpus, a->corpus.items[i], err);
  for (size_t i = 1; status == SS_OK && i <= MAX_FILES && a->operands[i]; i++)
    status = corpus_add(&b->corpus, a->operands[i], err);
  if (status == SS_OK && a->max_samples) corpus_draw(&b->corpus, a->max_samples, a->seed);
  if (status == SS_OK) status = text_encoder_open(&b->encoder, &b->engine, a->encoder ? a->encoder : "self", err);
  if (status == SS_OK) status = ss_model_fingerprint(b->engine.model, &b->model_print, err);
  if (status == SS_OK) status = ss_model_fingerprint(b->encoder.of, &b->encoder_print, err);
  buffer_addf(&cache, "%s/embeddings", folder);
  if (status == SS_OK) status = embed_corpus(&b->points, &b->encoder, &b->corpus, cache.data, err);
  buffer_free(&cache);
  if (status != SS_OK) return status;
  const ss_kmeans_options options = {
      .k = a->clusters, .restarts = a->restarts, .cosine = !a->euclidean, .seed = a->seed};
  status = ss_kmeans(&b->clusters, b->points, (uint32_t)b->corpus.n, b->encoder.dim, &options, b->engine.host, err);
  if (status == SS_OK)
    status = ss_silhouette(&b->silhouette, &b->clusters, b->points, SILHOUETTE_SAMPLE, a->seed, b->engine.host, err);
  if (status == SS_OK) status = block_costs(&b->costs, b->engine.model, err);
  return status;
}

static int build_bank(build *b, const char *folder) {
  ss_error err = {0};
  const double start = now_ms();
  interrupt_begin();
  ss_status status = prepare(b, folder, &err);
  if (status == SS_OK && !b->args->json) clusters_print(&b->clusters, b->silhouette, b->points, &b->corpus);
  fflush(stdout);
  b->results = take_memory(b->args->clusters + 1, sizeof *b->results);
  memset(b->results, 0, (b->args->clusters + 1) * sizeof *b->results);
  for (uint32_t job = 0; status == SS_OK && job <= b->clusters.k; job++) status = run_job(b, job, folder, &err);
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = write_bank(b, &err);
  if (status != SS_OK && stopped) {
    say("stopped; what was measured is in %s: --resume goes on", folder);
    return CODE_INTERRUPTED;
  }
  if (status != SS_OK) return report_failure(&err);
  if (b->args->json) print_json(b, now_ms() - start);
  else
    printf("%s: %u clusters and %u levels in %.0f s, %.0f tokens/s\n", b->args->out, b->clusters.k, b->n_levels,
           (now_ms() - start) / 1e3, b->measured_ms > 0 ? 1e3 * (double)b->measured_tokens / b->measured_ms : 0);
  return CODE_OK;
}

static void build_free(build *b) {
  for (uint32_t i = 0; b->results && i <= b->args->clusters; i++) ss_greedy_free(&b->results[i], b->engine.host);
  free(b->results);
  free(b->costs);
  if (b->engine.host) ss_kmeans_free(&b->clusters, b->engine.host);
  free(b->points);
  corpus_free(&b->corpus);
  text_encoder_close(&b->encoder);
  engine_close(&b->engine);
}

static int run(build *b) {
  const bank_args *a = b->args;
  if (!a->operands[0] || strcmp(a->operands[0], "build") != 0) {
    say("bank: want: skipstone bank build, baseline or recover; see skipstone bank --help");
    return CODE_USAGE;
  }
  if (!a->out || (!a->corpus.n && !a->operands[1])) {
    say(a->out ? "bank: no corpus: give --corpus FILE..." : "bank: nowhere to write: give --out BANK");
    return CODE_USAGE;
  }
  if (!parse_levels("bank", a->levels ? a->levels : "0.0625,0.125,0.1875,0.25", b->levels, MAX_LEVELS, &b->n_levels))
    return CODE_USAGE;
  int code = engine_open(&b->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&b->engine);
  if (code != CODE_OK) return code;
  buffer folder = {0};
  if (a->state) buffer_addf(&folder, "%s", a->state);
  else buffer_addf(&folder, "%s.state", a->out);
  code = build_bank(b, folder.data);
  buffer_free(&folder);
  return code;
}

int cmd_bank(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "baseline")) return bank_baseline(argc - 1, argv + 1);
  if (argc > 1 && !strcmp(argv[1], "recover")) return bank_recover(argc - 1, argv + 1);
  bank_args a = {.clusters = 8, .tokens_per_loss = 1536, .window = 128};
  build b = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&b);
  build_free(&b);
  option_list_free(&a.corpus);
  return code;
}
