/* skipstone bank recover: fits what makes up for skipped blocks, for every mask of a bank.
 *
 * Each sample of the corpus goes to the cluster that the bank routes its prompt to; the global mask gets samples of all. Some
 * samples of each are held back and decide what stays (train/recover.h). The state of the mask being fitted goes to disk every
 * half minute, and that of each finished one stays there: a run that goes on takes them from there. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "chat_samples.h"
#include "clustering.h"
#include "commands.h"
#include "mask.h"
#include "state.h"
#include "train/recover.h"

#define MAX_FILES 256
#define MAX_LEVELS 64
#define SAY_EVERY_MS 60000  /* where no terminal is */
#define SAVE_EVERY_MS 30000 /* the state of a mask that is not finished */
#define HELD_SHARE 5        /* one sample of so many is held back */

typedef struct recover_args {
  engine_options engine;
  option_list corpus;
  const char *operands[MAX_FILES], *bank, *encoder, *out, *parts, *levels, *state;
  uint32_t steps, global_steps, tokens_per_step, held_tokens, window, memory_mb;
  float chat_share, rate, ridge;
  uint64_t seed;
  bool go_on, resume, json;
} recover_args;

static parse_result parse(recover_args *a, int argc, char **argv) {
  const option options[] = {
      MODEL_OPTION(a->engine),
      {.name = "bank", .text = &a->bank, .argument = "BANK", .help = "the masks"},
      {.name = "continue", .flag = &a->go_on, .help = "masks that have recovery in the bank start from that"},
      {.name = "corpus",
       .list = &a->corpus,
       .argument = "FILE",
       .help = "JSON Lines with \"text\" and \"prompt\", or plain text;\nmore files may follow"},
      {.name = "encoder",
       .text = &a->encoder,
       .argument = "ENC.gguf",
       .help = "the bank's sentence encoder, where it is not `self`"},
      {.name = "out", .letter = 'o', .text = &a->out, .argument = "BANK", .help = "the file to write"},
      {.name = "parts",
       .text = &a->parts,
       .argument = "LIST",
       .help = "of gains, scales and stand-ins (default: all); each\nstays only where it lowers KL on held-back text"},
      {.name = "levels",
       .text = &a->levels,
       .argument = "LIST",
       .help = "of the bank, those to fit (default: all); other masks\nkeep what they have"},
      {.name = "steps",
       .u32 = &a->steps,
       .argument = "N",
       .min = 0,
       .max = 100000,
       .help = "of training at most, for each mask; 0: only stand-ins in\nclosed form (default 30)"},
      {.name = "global-steps",
       .u32 = &a->global_steps,
       .argument = "N",
       .min = 0,
       .max = 100000,
       .help = "for a global mask, where the others of its level start\n(default: twice that)"},
      {.name = "tokens-per-step",
       .u32 = &a->tokens_per_step,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = "(default 1024)"},
      {.name = "held-tokens",
       .u32 = &a->held_tokens,
       .argument = "N",
       .min = 32,
       .max = 10000000,
       .help = "of held-back text for each mask (default 3072)"},
      {.name = "window",
       .u32 = &a->window,
       .argument = "N",
       .min = LEAST_WINDOW,
       .max = 65536,
       .help = "tokens of a sample at most (default 128)"},
      {.name = "chat-share",
       .real = &a->chat_share,
       .argument = "X",
       .min = 0,
       .max = 1,
       .help = "share of the samples with a prompt that is put in the form\nof the chat template (default 0.5)"},
      {.name = "rate",
       .real = &a->rate,
       .argument = "X",
       .min = 1e-6,
       .max = 0.9,
       .help = "of Adam: the share by which a gain moves in a step\n(default 0.02)"},
      {.name = "ridge",
       .real = &a->ridge,
       .argument = "X",
       .min = 1e-9,
       .max = 1e9,
       .help = "of the closed form, relative to a channel's variance\n(default 0.01)"},
      {.name = "memory",
       .u32 = &a->memory_mb,
       .argument = "MB",
       .min = 0,
       .max = 1000000,
       .help = "for what the backward pass keeps (default 512): less\nis slower, and changes no result"},
      {.name = "seed", .u64 = &a->seed, .argument = "S", .help = "same seed, same bank (default 0)"},
      {.name = "state",
       .text = &a->state,
       .argument = "DIR",
       .help = "what is known so far, and log.jsonl (default:\nBANK.state of the file to write)"},
      {.name = "resume", .flag = &a->resume, .help = "goes on where a run with the same state ended"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print one JSON object at the end"},
  };
  const command c = {
      .name = "bank recover",
      .usage = "-m MODEL --bank IN --corpus FILE... --out BANK [options]",
      .about =
          "Fits what makes up for the blocks that a bank's masks skip, and writes the bank with it: RMSNorm gains and\n"
          "an output scale for each block that runs, and for each skipped block a stand-in, h += a * h + b, channel by\n"
          "channel. Stand-ins start in closed form; then all are trained by KL to the dense model. A cluster's mask goes\n"
          "on from what was found for the global one of its level, and that from the level before. The weights stay.",
      .examples =
          "  skipstone bank recover -m model.gguf --bank bank.gguf --corpus *.train.jsonl --out recovered.gguf\n"
          "  skipstone eval nll -m model.gguf --data heldout.jsonl --bank recovered.gguf --recovery both",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct job { /* of one mask */
  uint32_t level, cluster; /* cluster n_clusters: the global mask */
  const ss_recovery *own;  /* the bank's, with --continue; NULL: none */
  const struct job *start; /* whose result this one starts from otherwise; NULL: none */
  ss_mask mask;
  ss_recovery *recovery; /* NULL: none, or not fitted yet */
  ss_recover_report report;
  recovery_sizes sizes;
  bool done;
} job;

typedef struct recovering {
  const recover_args *args;
  engine engine;
  router router; /* the bank and its encoder */
  corpus corpus;
  chat_samples chats;
  uint32_t *clusters; /* [samples] */
  ss_recover_options options;
  job *jobs;
  uint32_t n_jobs, current;
  FILE *log;
  progress_line progress;
  double last_said_ms, worked_ms;
  uint32_t n_stepped; /* steps of training that this run took */
} recovering;

static uint32_t steps_of(const recovering *r, uint32_t cluster) {
  return cluster == r->router.info.n_clusters ? r->args->global_steps : r->args->steps;
}

/* ---- text ---- */

/* The cluster's samples, shuffled; one of HELD_SHARE is held back. */
static ss_status draw_windows(const recovering *r, uint32_t cluster, window_set *train, window_set *held,
                              ss_error *err) {
  const recover_args *a = r->args;
  uint32_t *samples = take_memory(r->corpus.n, sizeof *samples), *kept = take_memory(r->corpus.n, sizeof *kept);
  size_t n = 0, n_held = 0, n_train = 0;
  for (uint32_t i = 0; i < r->corpus.n; i++)
    if (cluster == r->router.info.n_clusters || r->clusters[i] == cluster) samples[n++] = i;
  ss_rng rng = ss_rng_seed(a->seed);
  for (size_t i = 0; i < n; i++) {
    const size_t k = i + ss_rng_below(&rng, n - i);
    const uint32_t chosen = samples[k];
    samples[k] = samples[i];
    if (i % HELD_SHARE == 0) kept[n_held++] = chosen;
    else samples[n_train++] = chosen;
  }
  const size_t n_tokens = (size_t)ss_max(steps_of(r, cluster), 4) * a->tokens_per_step;
  ss_status status = chat_samples_add(&r->chats, held, &r->corpus, kept, n_held, a->window, a->held_tokens, err);
  if (status == SS_OK)
    status = chat_samples_add(&r->chats, train, &r->corpus, samples, n_train, a->window, n_tokens, err);
  if (status == SS_OK && (!held->n || !train->n))
    status = ss_fail(err, SS_E_ARGUMENT,
                     "cluster %u: of its %zu samples %u to train on and %u held back have %d tokens, want some of both",
                     cluster, n, train->n, held->n, LEAST_WINDOW);
  free(samples);
  free(kept);
  return status;
}

static ss_status route_samples(recovering *r, const char *folder, ss_error *err) {
  buffer cache = {0};
  float *points = NULL;
  buffer_addf(&cache, "%s/embeddings", folder);
  ss_status status = embed_corpus(&points, &r->router.encoder, &r->corpus, cache.data, err);
  r->clusters = take_memory(r->corpus.n, sizeof *r->clusters);
  for (size_t i = 0; status == SS_OK && i < r->corpus.n; i++) {
    float distance;
    const uint32_t dim = r->router.encoder.dim;
    status = ss_bank_route(r->router.bank, points + i * dim, dim, &r->clusters[i], &distance, err);
  }
  free(points);
  buffer_free(&cache);
  return status;
}

/* ---- one mask ---- */

static double kl_so_far(const ss_recover_report *p) { return p->phase == SS_RECOVER_MEASURE ? 0 : p->final.kl; }

static void add_quality(json *j, const char *key, const ss_quality *q, double dense_nll) {
  if (q->nll == 0) return;
  json_open(j, key, '{');
  json_real(j, "kl", q->kl, true);
  json_real(j, "excess_nll", q->nll - dense_nll, true);
  json_close(j);
}

static void add_report(json *j, const recovering *r, const job *b) {
  const ss_recover_report *p = &b->report;
  json_real(j, "level", (double)r->router.info.levels[b->level], true);
  if (b->cluster < r->router.info.n_clusters) json_uint(j, "cluster", b->cluster);
  else json_null(j, "cluster");
  json_uint(j, "step", p->step);
  if (p->step) json_real(j, "train_kl", p->train_kl, true);
  add_quality(j, "none", &p->none, p->dense_nll);
  add_quality(j, "closed_form", &p->closed, p->dense_nll);
  add_quality(j, "trained", &p->trained, p->dense_nll);
  if (p->phase != SS_RECOVER_DONE) return;
  static const char *const without[] = {"kl_without_gains", "kl_without_scales", "kl_without_stand_ins"};
  add_quality(j, "final", &p->final, p->dense_nll);
  json_uint(j, "best_step", p->best_step);
  for (int i = 0; i < 3; i++)
    if (p->without[i] > 0) json_real(j, without[i], p->without[i], true);
  json_uint(j, "gains_bytes", b->sizes.gains);
  json_uint(j, "scales_bytes", b->sizes.scales);
  json_uint(j, "stand_ins_bytes", b->sizes.stand_ins);
}

static ss_status log_line(recovering *r, const job *b, ss_error *err) {
  json j = {.out = r->log};
  json_open(&j, NULL, '{');
  add_report(&j, r, b);
  json_done(&j);
  return fflush(r->log) == 0 ? SS_OK : ss_fail(err, SS_E_ARGUMENT, "writing the log: %s", strerror(errno));
}

static void name_job(const recovering *r, const job *b, char *name, size_t n) {
  if (b->cluster < r->router.info.n_clusters)
    snprintf(name, n, "level %.2f %%, cluster %u", 100 * (double)r->router.info.levels[b->level], b->cluster);
  else snprintf(name, n, "level %.2f %%, global mask", 100 * (double)r->router.info.levels[b->level]);
}

static void show(recovering *r, const job *b) {
  const double now = now_ms();
  const bool plain = !isatty(STDERR_FILENO) && now - r->last_said_ms > SAY_EVERY_MS;
  if (!plain && !progress_due(&r->progress)) return;
  const ss_recover_report *p = &b->report;
  char name[64];
  name_job(r, b, name, sizeof name);
  double steps_left = -(double)p->step;
  for (uint32_t k = r->current; k < r->n_jobs; k++) steps_left += steps_of(r, r->jobs[k].cluster);
  const double left = r->n_stepped ? r->worked_ms / r->n_stepped * steps_left / 1e3 : 0;
  fprintf(stderr, "%s%s (%u of %u): step %u of %u, KL %.4f -> %.4f, at most %.0f:%02.0f:%02.0f to go %s",
          plain ? "" : "\r", name, r->current + 1, r->n_jobs, p->step, p->steps, p->none.kl, kl_so_far(p),
          (double)((uint64_t)left / 3600), (double)((uint64_t)left / 60 % 60), (double)((uint64_t)left % 60),
          plain ? "\n" : "");
  r->last_said_ms = now;
}

static ss_status save(const ss_recover *fit, const char *path, ss_error *err) {
  size_t n;
  const void *bytes = ss_recover_state(fit, &n);
  return write_whole(path, bytes, n, err);
}

static ss_status load(ss_recover *fit, const char *path, ss_error *err) {
  buffer bytes = {0};
  if (access(path, F_OK) != 0) return SS_OK;
  ss_status status = read_all(&bytes, path, err);
  if (status == SS_OK) status = ss_recover_resume(fit, bytes.data, bytes.len, err);
  if (status != SS_OK) {
    const ss_error inner = *err;
    ss_fail(err, status, "%s: %s: remove it, or start without --resume", path, inner.message);
  }
  buffer_free(&bytes);
  return status;
}

static ss_status step_to_the_end(recovering *r, job *b, ss_recover *fit, const char *path, ss_error *err) {
  double start = now_ms(), saved = start;
  ss_status status = SS_MORE;
  b->report = ss_recover_progress(fit);
  while (status == SS_MORE && b->report.phase != SS_RECOVER_DONE) {
    const uint32_t before = b->report.step;
    status = ss_recover_step(fit, err);
    if (status < 0) break;
    const double now = now_ms();
    b->report = ss_recover_progress(fit);
    r->n_stepped += b->report.step - before;
    r->worked_ms += now - start;
    start = now;
    if (b->report.phase == SS_RECOVER_DONE) break;
    ss_status said = log_line(r, b, err);
    show(r, b);
    const bool stopped = interrupted();
    if (said == SS_OK && (stopped || now - saved > SAVE_EVERY_MS)) {
      said = save(fit, path, err);
      saved = now;
    }
    if (said == SS_OK && stopped) said = ss_fail(err, SS_E_STATE, "stopped");
    if (said != SS_OK) return said;
  }
  return status < 0 ? status : SS_OK;
}

static ss_status fit_mask(recovering *r, job *b, const char *folder, ss_error *err) {
  window_set train = {0}, held = {0};
  ss_recover *fit = NULL;
  buffer path = {0};
  buffer_addf(&path, "%s/mask-%u-%u.state", folder, b->level, b->cluster);
  ss_status status = draw_windows(r, b->cluster, &train, &held, err);
  const ss_windows faces[] = {window_set_face(&train), window_set_face(&held)};
  const ss_recover_data data = {r->engine.model, &b->mask, &faces[0], &faces[1],
                                b->own     ? b->own
                                : b->start ? b->start->recovery
                                           : NULL};
  ss_recover_options options = r->options;
  options.steps = steps_of(r, b->cluster);
  if (status == SS_OK) status = ss_recover_create(&fit, &data, &options, r->engine.host, err);
  if (status == SS_OK && r->args->resume) status = load(fit, path.data, err);
  if (status == SS_OK) status = step_to_the_end(r, b, fit, path.data, err);
  if (status == SS_OK) status = save(fit, path.data, err);
  const ss_recovery *result = status == SS_OK ? ss_recover_result(fit) : NULL;
  if (result) {
    b->sizes = recovery_bytes(result, &b->mask);
    status = ss_recovery_copy(&b->recovery, result, r->engine.host, err);
  }
  if (status == SS_OK) status = log_line(r, b, err);
  b->done = status == SS_OK;
  ss_recover_free(fit);
  buffer_free(&path);
  window_set_free(&train);
  window_set_free(&held);
  return status;
}

static void print_job(const recovering *r, const job *b) {
  const ss_recover_report *p = &b->report;
  char name[64];
  name_job(r, b, name, sizeof name);
  printf("%s: KL %.4f -> %.4f, NLL over dense %+.4f -> %+.4f, %u steps:%s%s%s%s, %s\n", name, p->none.kl, p->final.kl,
         p->none.nll - p->dense_nll, p->final.nll - p->dense_nll, p->step, p->parts & SS_RECOVER_GAINS ? " gains" : "",
         p->parts & SS_RECOVER_SCALES ? " scales" : "", p->parts & SS_RECOVER_STAND_INS ? " stand-ins" : "",
         p->parts ? "" : " nothing", bytes_for_people(b->sizes.gains + b->sizes.scales + b->sizes.stand_ins).text);
  fflush(stdout);
}

/* ---- the bank ---- */

static char *text_copy(ss_text text) {
  if (!text.len) return NULL;
  char *copy = take_memory(text.len + 1, 1);
  memcpy(copy, text.data, text.len);
  copy[text.len] = 0;
  return copy;
}

/* The bank's training text, a JSON object, and what was done here as its entry "recovery", or "recovery_2" and so on. */
static char *training_text(const recovering *r) {
  const ss_text before = r->router.info.training;
  char *text = NULL;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) return NULL;
  const bool goes_on = before.len > 2 && before.data[0] == '{' && before.data[before.len - 1] == '}';
  char *earlier = text_copy(before), key[32] = "recovery";
  for (uint32_t n = 2; earlier && strstr(earlier, key); n++) ss_format(key, sizeof key, "recovery_%u", n);
  free(earlier);
  if (goes_on) fprintf(out, "%.*s,\"%s\":", (int)(before.len - 1), before.data, key);
  else fprintf(out, "{\"%s\":", key);
  json j = {.out = out};
  const ss_recover_options *o = &r->options;
  json_open(&j, NULL, '{');
  if (r->args->levels) json_string(&j, "levels", r->args->levels);
  json_bool(&j, "continued", r->args->go_on);
  json_uint(&j, "parts", o->parts);
  json_uint(&j, "steps", r->args->steps);
  json_uint(&j, "global_steps", r->args->global_steps);
  json_uint(&j, "tokens_per_step", o->tokens_per_step);
  json_uint(&j, "held_tokens", r->args->held_tokens);
  json_uint(&j, "window", r->args->window);
  json_real(&j, "chat_share", (double)r->args->chat_share, true);
  json_real(&j, "rate", o->rate, true);
  json_real(&j, "ridge", o->ridge, true);
  json_uint(&j, "seed", r->args->seed);
  json_uint(&j, "samples", r->corpus.n);
  json_close(&j);
  fputc('}', out);
  fclose(out);
  return text;
}

static ss_status write_bank(const recovering *r, ss_error *err) {
  const ss_bank_info *i = &r->router.info;
  const uint32_t each = i->n_clusters + 1, n_masks = i->n_levels * each;
  ss_mask *masks = take_memory(n_masks, sizeof *masks);
  const ss_recovery **recoveries = take_memory(n_masks, sizeof *recoveries);
  ss_text *examples = take_memory(i->n_clusters, sizeof *examples);
  char *texts[] = {text_copy(i->name),         text_copy(i->model_name), text_copy(i->encoder_kind),
                   text_copy(i->encoder_name), text_copy(i->method),     text_copy(i->provenance)};
  char *training = training_text(r);
  ss_status status = training ? SS_OK : ss_fail(err, SS_E_MEMORY, "no memory for the bank's texts");
  for (uint32_t k = 0; k < n_masks; k++) {
    const double depth = 1 - (double)i->levels[k / each];
    recoveries[k] = ss_bank_recovery(r->router.bank, k % each, depth);
    if (status == SS_OK) status = ss_bank_mask(r->router.bank, k % each, depth, &masks[k], err);
  }
  for (uint32_t k = 0; k < r->n_jobs; k++)
    recoveries[r->jobs[k].level * each + r->jobs[k].cluster] = r->jobs[k].recovery;
  for (uint32_t c = 0; c < i->n_clusters; c++) examples[c] = ss_bank_example(r->router.bank, c);
  const ss_bank_parts parts = {
      .n_clusters = i->n_clusters,
      .n_levels = i->n_levels,
      .n_layers = i->n_layers,
      .dim = i->dim,
      .levels = i->levels,
      .centroids = i->centroids,
      .masks = masks,
      .recoveries = recoveries,
      .losses = i->losses,
      .dense_losses = i->dense_losses,
      .sizes = i->sizes,
      .examples = examples,
      .model = i->model,
      .encoder = i->encoder,
      .name = texts[0],
      .model_name = texts[1],
      .encoder_kind = texts[2],
      .encoder_name = texts[3],
      .method = texts[4],
      .provenance = texts[5],
      .training = training,
  };
  uint8_t *bytes = NULL;
  size_t n = 0;
  if (status == SS_OK) status = ss_bank_write(&bytes, &n, &parts, r->engine.host, err);
  if (status == SS_OK) status = write_whole(r->args->out, bytes, n, err);
  if (bytes) r->engine.host->free(r->engine.host->ctx, bytes, n);
  for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) free(texts[k]);
  free(training);
  free(masks);
  free(recoveries);
  free(examples);
  return status;
}

static void print_json(const recovering *r, double ms) {
  json j = {.out = stdout};
  json_open(&j, NULL, '{');
  json_string(&j, "out", r->args->out);
  json_open(&j, "masks", '[');
  for (uint32_t k = 0; k < r->n_jobs; k++) {
    json_open(&j, NULL, '{');
    add_report(&j, r, &r->jobs[k]);
    json_close(&j);
  }
  json_close(&j);
  json_uint(&j, "steps_taken", r->n_stepped);
  json_fixed(&j, "ms", ms, 0);
  json_done(&j);
}

/* ---- all of it ---- */

/* "gains,scales,stand-ins" */
static bool parse_parts(const char *text, uint32_t *parts) {
  static const char *const names[] = {"gains", "scales", "stand-ins"};
  *parts = 0;
  for (const char *at = text; *at;) {
    const size_t len = strcspn(at, ",");
    uint32_t i = 0;
    while (i < 3 && (strlen(names[i]) != len || memcmp(at, names[i], len) != 0)) i++;
    if (i == 3) return false;
    *parts |= 1u << i;
    at += len + (at[len] == ',');
  }
  return *parts != 0;
}

static ss_status make_jobs(recovering *r, const double *levels, uint32_t n_levels, ss_error *err) {
  const ss_bank_info *i = &r->router.info;
  const job *previous = NULL; /* the global mask of the level before */
  uint32_t n_found = 0;
  r->jobs = take_memory((size_t)i->n_levels * (i->n_clusters + 1), sizeof *r->jobs);
  for (uint32_t level = 0; level < i->n_levels; level++) {
    bool wanted = n_levels == 0;
    for (uint32_t k = 0; k < n_levels; k++) wanted = wanted || fabs(levels[k] - (double)i->levels[level]) < 1e-6;
    n_found += wanted;
    const job *global = wanted ? &r->jobs[r->n_jobs] : NULL, *before = previous;
    for (uint32_t c = 0; wanted && c <= i->n_clusters; c++) {
      job *b = &r->jobs[r->n_jobs++];
      *b = (job){.level = level, .cluster = c ? c - 1 : i->n_clusters, .start = c ? global : before};
      const double depth = 1 - (double)i->levels[level];
      if (r->args->go_on) b->own = ss_bank_recovery(r->router.bank, b->cluster, depth);
      const ss_status status = ss_bank_mask(r->router.bank, b->cluster, depth, &b->mask, err);
      if (status != SS_OK) return status;
    }
    if (wanted) previous = global;
  }
  if (n_levels && n_found != n_levels)
    return ss_fail(err, SS_E_ARGUMENT, "--levels %s: the bank has %u of these levels", r->args->levels, n_found);
  return SS_OK;
}

static ss_status prepare(recovering *r, const char *folder, const double *levels, uint32_t n_levels, ss_error *err) {
  const recover_args *a = r->args;
  const bank_options bank = {.bank = a->bank, .encoder = a->encoder, .depth = 1};
  buffer path = {0};
  ss_status status = make_folder(folder, err);
  for (size_t i = 0; status == SS_OK && i < a->corpus.n; i++) status = corpus_add(&r->corpus, a->corpus.items[i], err);
  for (size_t i = 0; status == SS_OK && i < MAX_FILES && a->operands[i]; i++)
    status = corpus_add(&r->corpus, a->operands[i], err);
  if (status == SS_OK) status = chat_samples_open(&r->chats, &r->engine, (double)a->chat_share, a->seed, err);
  if (status == SS_OK) status = router_open(&r->router, &r->engine, &bank, err);
  if (status == SS_OK) status = make_jobs(r, levels, n_levels, err);
  if (status == SS_OK) status = route_samples(r, folder, err);
  buffer_addf(&path, "%s/log.jsonl", folder);
  if (status == SS_OK) {
    r->log = fopen(path.data, a->resume ? "a" : "w");
    if (!r->log) status = ss_fail(err, SS_E_ARGUMENT, "%s: %s", path.data, strerror(errno));
  }
  buffer_free(&path);
  return status;
}

static int recover_all(recovering *r, const char *folder, const double *levels, uint32_t n_levels) {
  ss_error err = {0};
  const double start = now_ms();
  interrupt_begin();
  ss_status status = prepare(r, folder, levels, n_levels, &err);
  r->progress = progress_begin();
  r->last_said_ms = now_ms();
  for (r->current = 0; status == SS_OK && r->current < r->n_jobs; r->current++) {
    job *b = &r->jobs[r->current];
    status = fit_mask(r, b, folder, &err);
    progress_done(&r->progress);
    if (status == SS_OK && !r->args->json) print_job(r, b);
  }
  const bool stopped = interrupted();
  interrupt_end();
  if (status == SS_OK) status = write_bank(r, &err);
  if (status != SS_OK && stopped) {
    say("stopped; what was fitted is in %s: --resume goes on", folder);
    return CODE_INTERRUPTED;
  }
  if (status != SS_OK) return report_failure(&err);
  if (r->args->json) print_json(r, now_ms() - start);
  else printf("%s: %u masks in %.0f s\n", r->args->out, r->n_jobs, (now_ms() - start) / 1e3);
  return CODE_OK;
}

static int run(recovering *r) {
  const recover_args *a = r->args;
  double levels[MAX_LEVELS];
  uint32_t n_levels = 0;
  if (!a->bank || !a->out || (!a->corpus.n && !a->operands[0])) {
    say("bank recover: %s", !a->bank  ? "no bank: give --bank IN"
                            : !a->out ? "nowhere to write: give --out BANK"
                                      : "no corpus: give --corpus FILE...");
    return CODE_USAGE;
  }
  if (a->levels && !parse_levels("bank recover", a->levels, levels, MAX_LEVELS, &n_levels)) return CODE_USAGE;
  r->options = (ss_recover_options){.parts = SS_RECOVER_ALL,
                                    .tokens_per_step = a->tokens_per_step,
                                    .rate = (double)a->rate,
                                    .ridge = (double)a->ridge,
                                    .seed = a->seed,
                                    .keep_bytes = (size_t)a->memory_mb << 20};
  if (a->parts && !parse_parts(a->parts, &r->options.parts)) {
    say("bank recover: --parts %s: want some of gains, scales and stand-ins, with commas", a->parts);
    return CODE_USAGE;
  }
  int code = engine_open(&r->engine, &a->engine);
  if (code == CODE_OK) code = engine_tokenizer(&r->engine);
  if (code != CODE_OK) return code;
  buffer folder = {0};
  if (a->state) buffer_addf(&folder, "%s", a->state);
  else buffer_addf(&folder, "%s.state", a->out);
  code = recover_all(r, folder.data, levels, n_levels);
  buffer_free(&folder);
  return code;
}

static void recovering_free(recovering *r) {
  for (uint32_t i = 0; i < r->n_jobs; i++) ss_recovery_free(r->jobs[i].recovery, r->engine.host);
  free(r->jobs);
  free(r->clusters);
  if (r->log) fclose(r->log);
  router_close(&r->router);
  corpus_free(&r->corpus);
  engine_close(&r->engine);
}

int bank_recover(int argc, char **argv) {
  recover_args a = {.steps = 30,
                    .global_steps = UINT32_MAX,
                    .tokens_per_step = 1024,
                    .held_tokens = 3072,
                    .chat_share = 0.5f,
                    .window = 128,
                    .memory_mb = 512,
                    .rate = 0.02f,
                    .ridge = 0.01f};
  recovering r = {.args = &a};
  const parse_result parsed = parse(&a, argc, argv);
  if (a.global_steps == UINT32_MAX) a.global_steps = 2 * a.steps;
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = run(&r);
  recovering_free(&r);
  option_list_free(&a.corpus);
  return code;
}
