/* skipstone train: from a corpus to a bank of trained masks. This file reads the options and keeps the order: plan, folder,
 * run, bank, report. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "commands.h"
#include "report.h"
#include "train_run.h"

/* "tokens of a step\n(default: full 1024, fast 512)": help with the default of each profile. */
typedef struct help_text {
  char text[160];
} help_text;

static const char *with_defaults(help_text *h, const char *help, size_t offset) {
  size_t at = (size_t)snprintf(h->text, sizeof h->text, "%s\n(default:", help);
  for (const train_profile *p = train_profiles; p->name; p++) {
    uint32_t value;
    memcpy(&value, (const char *)p + offset, sizeof value);
    at +=
        (size_t)snprintf(h->text + at, sizeof h->text - at, "%s %s %u", p == train_profiles ? "" : ",", p->name, value);
  }
  snprintf(h->text + at, sizeof h->text - at, ")");
  return h->text;
}
#define OF_PROFILE(help_name, help, field) with_defaults(&help_name, help, offsetof(train_profile, field))

static parse_result parse(train_options *o, int argc, char **argv) {
  help_text clusters, window, step_tokens, global_steps, steps, greedy_tokens, swap_tokens, swap_losses, recover_steps;
  const option options[] = {
      MODEL_OPTION(o->engine),
      {.name = "corpus",
       .list = &o->corpus,
       .argument = "FILE",
       .help = "JSON Lines with \"text\" and \"prompt\", or plain text;\nmore files may follow"},
      {.name = "out", .letter = 'o', .text = &o->out, .argument = "BANK", .help = "the file to write"},
      {.name = "encoder",
       .text = &o->encoder,
       .argument = "self|ENC.gguf",
       .help = "what embeds the prompts (default: self)"},
      {.name = "clusters",
       .letter = 'k',
       .u32 = &o->clusters,
       .argument = "K",
       .min = 1,
       .max = TRAIN_MAX_CLUSTERS,
       .help = OF_PROFILE(clusters, "clusters", clusters)},
      {.name = "levels",
       .text = &o->levels,
       .argument = "LIST",
       .help = "shares of the block MACs to skip (default:\nfull 0.0625,0.125,0.1875,0.25, fast 0.125,0.25)"},
      {.name = "profile",
       .text = &o->profile,
       .argument = "full|fast",
       .help = "what the other options are by default\n(default: full)"},
      {.name = "objective",
       .text = &o->objective,
       .argument = "lm|kl",
       .help = "what the steps minimise: next-token loss, or KL to the\ndense model (default: lm)"},
      {.name = "init",
       .text = &o->init,
       .argument = "BANK",
       .help =
           "takes clusters and first masks from this bank, as of\nskipstone bank build, instead of searching for them"},
      {.name = "leave-one-out",
       .flag = &o->leave_one_out,
       .help = "first masks from leave-one-out scores alone: quick and\nrough (default: greedy removal)"},
      {.name = "window",
       .u32 = &o->window,
       .argument = "N",
       .min = LEAST_WINDOW,
       .max = 4096,
       .help = OF_PROFILE(window, "tokens of a sample at most", window)},
      {.name = "step-tokens",
       .u32 = &o->step_tokens,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = OF_PROFILE(step_tokens, "tokens of a training step, rounded to pairs of windows", step_tokens)},
      {.name = "global-steps",
       .u32 = &o->global_steps,
       .argument = "N",
       .min = 1,
       .max = 100000,
       .help = OF_PROFILE(global_steps, "steps of each level on all text", global_steps)},
      {.name = "steps",
       .u32 = &o->steps,
       .argument = "N",
       .min = 1,
       .max = 100000,
       .help = OF_PROFILE(steps, "steps of each level on a cluster's text", steps)},
      {.name = "greedy-tokens",
       .u32 = &o->greedy_tokens,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = OF_PROFILE(greedy_tokens, "text of a loss of the greedy search", greedy_tokens)},
      {.name = "held-back",
       .real = &o->held_back,
       .argument = "X",
       .min = 0.01,
       .max = 0.9,
       .help =
           "share of each cluster's samples that is kept from the\nsteps, to choose and improve masks on (default 0.2)"},
      {.name = "swap-tokens",
       .u32 = &o->swap_tokens,
       .argument = "N",
       .min = 32,
       .max = 1000000,
       .help = OF_PROFILE(
           swap_tokens,
           "of that text for a loss, twice as much for all text;\nthe mask found is confirmed on twice as much again",
           swap_tokens)},
      {.name = "swap-losses",
       .u32 = &o->swap_losses,
       .argument = "N",
       .min = 1,
       .max = 100000,
       .help = OF_PROFILE(swap_losses, "losses of a mask's swap search at most", swap_losses)},
      {.name = "no-swap", .flag = &o->no_swap, .help = "no swap search: masks as they are trained, or first masks"},
      {.name = "recover",
       .text = &o->recover,
       .argument = "WHAT",
       .help =
           "none, standin (in place of skipped blocks, closed form),\ngains (of the blocks that run, trained), or all, both\ntrained "
           "(default: " DEFAULT_RECOVER ")"},
      {.name = "recover-steps",
       .u32 = &o->recover_steps,
       .argument = "N",
       .min = 1,
       .max = 100000,
       .help = OF_PROFILE(recover_steps, "steps of training gains at most", recover_steps)},
      {.name = "chat-share",
       .real = &o->chat_share,
       .argument = "X",
       .min = 0,
       .max = 1,
       .help = "share of the samples with a prompt that is put in the\nform of the chat template (default 0.5)"},
      {.name = "max-samples",
       .u32 = &o->max_samples,
       .argument = "N",
       .min = 1,
       .max = 10000000,
       .help = "at most N samples, drawn at random (default: all)"},
      {.name = "euclidean", .flag = &o->euclidean, .help = "centroids are means (default: normalised, for cosine)"},
      {.name = "restarts",
       .u32 = &o->restarts,
       .argument = "N",
       .min = 1,
       .max = 1000,
       .help = "of k-means (default 8)"},
      {.name = "seed", .u64 = &o->seed, .argument = "S", .help = "same seed, same bank (default 0)"},
      {.name = "state",
       .text = &o->state,
       .argument = "DIR",
       .help = "where the run lives while it lasts (default: BANK.state)"},
      {.name = "resume", .flag = &o->resume, .help = "goes on where a run with the same options ended"},
      {.name = "checkpoint",
       .real = &o->checkpoint_seconds,
       .argument = "S",
       .min = 0,
       .max = 60,
       .help = "seconds of steps that a kill may cost (default 20)"},
      {.name = "dry-run", .flag = &o->dry_run, .help = "says what it would do and how long, and ends"},
      {.name = "report",
       .text = &o->report,
       .argument = "FILE",
       .help = "the HTML report (default: BANK.html, for bank.gguf\nbank.html)"},
      {.name = "log",
       .text = &o->log,
       .argument = "FILE",
       .help =
           "the log, an object a step and a mask (default: for\nbank.gguf bank.jsonl); until the end in DIR/*.jsonl"},
      {.name = "name", .text = &o->name, .argument = "TEXT", .help = "the bank's name"},
      {.name = "provenance",
       .text = &o->provenance,
       .argument = "TEXT",
       .help = "where the corpus comes from, and its licences"},
      {.name = "memory",
       .u32 = &o->memory_mb,
       .argument = "MB",
       .min = 1,
       .max = 1000000,
       .help = "for the training steps, half as much for recovery; changes\nno result (default 1024)"},
      THREADS_OPTION(o->engine),
      KERNELS_OPTION(o->engine),
      {.name = "json", .flag = &o->json, .help = "print one JSON object at the end, or of the plan"},
  };
  const command c = {
      .name = "train",
      .usage = "-m MODEL --corpus FILE... --out BANK [options]",
      .about =
          "Trains a mask bank: clusters the corpus by its prompts, and trains which blocks to skip by L0 regularisation on\n"
          "frozen weights, for all text first, then for each cluster from there, every level from the one before. Masks\n"
          "start from greedy removal, get exactly the level's budget, and are improved by swaps on held-back text.\n"
          "Whatever ends it, --resume goes on to the same bank.",
      .examples =
          "  skipstone train -m model.gguf --corpus *.train.jsonl --out bank.gguf --dry-run\n"
          "  skipstone train -m model.gguf --corpus *.train.jsonl --max-samples 2000 --profile fast --out bank.gguf\n"
          "  skipstone train -m model.gguf --corpus *.train.jsonl --init greedy.gguf --out bank.gguf --resume\n"
          "  mpirun -np 4 skipstone train -m model.gguf --corpus *.train.jsonl --out bank.gguf     (a build with MPI)",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = o->operands,
      .max_operands = TRAIN_MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

/* ---- before the work ---- */

/* Is there a folder to write the file in? Found out now, not hours later. */
static ss_status check_place(const char *path, ss_error *err) {
  const char *slash = strrchr(path, '/');
  buffer folder = {0};
  if (slash) buffer_add(&folder, path, slash == path ? 1 : (size_t)(slash - path));
  else buffer_add(&folder, ".", 1);
  const ss_status status =
      access(folder.data, W_OK) == 0 ? SS_OK : ss_fail(err, SS_E_ARGUMENT, "%s: %s", path, strerror(errno));
  buffer_free(&folder);
  return status;
}

/* What must be the same for a run to go on: to be freed. */
static char *settings_text(const train_run *r) {
  const train_data *d = &r->data;
  buffer text = {0};
  buffer_addf(&text, "skipstone-train 1\nbuild %s %d %zu %zu\nmodel %016llx\nencoder %016llx\ncorpus %016llx\n",
              SS_VERSION, SS_NUMERICS_VERSION, sizeof(ss_l0_state), sizeof(mask_result),
              (unsigned long long)d->model_print.exact, (unsigned long long)d->encoder_print.exact,
              (unsigned long long)d->corpus.hash);
  if (d->init) buffer_addf(&text, "init %016llx\n", (unsigned long long)d->init_hash);
  train_plan_settings(r->plan, &text);
  return text.data;
}

static ss_status prepare(train_run *r, train_plan *plan, ss_error *err) {
  ss_status status = train_data_open(&r->data, r->options, plan, err);
  if (status == SS_OK) status = train_run_shape(r, err);
  if (status == SS_OK) status = train_run_measure(r, err);
  if (status != SS_OK) return status;
  if (!r->options->dry_run) {
    if (r->world.rank == 0) train_plan_print(stderr, plan, &r->shape, &r->speeds);
  } else if (r->world.rank == 0 && r->options->json) {
    train_cost cost;
    json j = {.out = stdout};
    train_plan_cost(&cost, plan, &r->shape, &r->speeds);
    json_open(&j, NULL, '{');
    train_plan_json(plan, &j, "plan");
    train_cost_json(&cost, &j, "cost");
    json_done(&j);
  } else if (r->world.rank == 0) train_plan_print(stdout, plan, &r->shape, &r->speeds);
  return SS_OK;
}

/* ---- the run ---- */

static void print_result(const train_run *r, const char *report, double ms) {
  const train_options *o = r->options;
  if (!o->json) {
    printf("%s: %u clusters and %u levels in %s; report: %s\n", o->out, r->plan->n_clusters, r->plan->n_levels,
           clock_of(ms / 1e3).text, report);
    return;
  }
  json j = {.out = stdout};
  json_open(&j, NULL, '{');
  json_string(&j, "out", o->out);
  json_string(&j, "report", report);
  train_plan_json(r->plan, &j, "plan");
  json_open(&j, "masks", '[');
  for (uint32_t index = 0; index <= r->plan->n_clusters; index++)
    for (uint32_t level = 0; level < r->plan->n_levels; level++) {
      const mask_result *m = result_of(r, index, level);
      json_open(&j, NULL, '{');
      if (index) json_uint(&j, "cluster", index - 1);
      else json_null(&j, "cluster");
      json_real(&j, "level", r->plan->levels[level], true);
      json_real(&j, "dense_loss", m->dense_loss, true);
      json_real(&j, "start_loss", m->start_loss, true);
      json_real(&j, "trained_loss", m->trained_loss, true);
      json_real(&j, "loss", m->loss, true);
      json_uint(&j, "swaps", m->n_swaps);
      if (r->plan->recover) json_real(&j, "recovered_loss", m->recovered_loss, true);
      json_close(&j);
    }
  json_close(&j);
  json_uint(&j, "masks_loaded", r->n_loaded);
  json_fixed(&j, "tokens_per_second", r->steps.ms > 0 ? 1e3 * r->steps.tokens / r->steps.ms : 0, 1);
  json_fixed(&j, "ms", ms, 0);
  json_done(&j);
}

static ss_status train(train_run *r, int *lock, const char *report, const char *log, ss_error *err) {
  char *settings = settings_text(r);
  buffer cache = {0};
  const bool first = r->world.rank == 0;
  ss_status status = check_place(r->options->out, err);
  if (status == SS_OK) status = check_place(report, err);
  if (status == SS_OK) status = check_place(log, err);
  r->of = ss_fnv1a(SS_FNV_START, settings, strlen(settings));
  if (status == SS_OK && first) status = train_folder_open(r->folder, settings, r->options->resume, lock, err);
  buffer_addf(&cache, "%s/embeddings", r->folder);
  if (status == SS_OK) status = train_data_cluster(&r->data, &r->world, cache.data, err);
  if (status == SS_OK && first) status = train_write_about(r, err);
  if (status == SS_OK) status = train_run_all(r, err);
  if (status == SS_OK && first) status = train_write_bank(r, err);
  if (status == SS_OK && first) status = train_write_log(r, log, err);
  if (status == SS_OK && first) status = report_write(r->folder, report, err);
  buffer_free(&cache);
  free(settings);
  return status;
}

/* A scheduler's signal is as good as Ctrl-C. */
static void on_terminate(int signal_number) {
  (void)signal_number;
  raise(SIGINT);
}

static char *beside(const char *path, const char *ending, const char *with) {
  buffer out = {0};
  const size_t n = strlen(path), m = strlen(ending);
  buffer_add(&out, path, n > m && !strcmp(path + n - m, ending) ? n - m : n);
  buffer_addf(&out, "%s", with);
  return out.data;
}

static int run_plan(train_run *r, train_plan *plan) {
  const train_options *o = r->options;
  char *report = o->report ? beside(o->report, "", "") : beside(o->out, ".gguf", ".html");
  char *log = o->log ? beside(o->log, "", "") : beside(o->out, ".gguf", ".jsonl");
  const double start = now_ms();
  ss_error err = {0};
  int lock = -1, code = CODE_OK;
  r->folder = o->state ? beside(o->state, "", "") : beside(o->out, "", ".state");
  ss_status status = prepare(r, plan, &err);
  if (status == SS_OK && !o->dry_run) {
    interrupt_begin();
    signal(SIGTERM, on_terminate);
    status = train(r, &lock, report, log, &err);
    signal(SIGTERM, SIG_DFL);
    const bool stopped = interrupted() || (status == SS_E_STATE && r->world.n > 1); /* or another process was */
    interrupt_end();
    if (status != SS_OK && stopped) {
      if (r->world.rank == 0) say("stopped; what was done is in %s: --resume goes on", r->folder);
      code = CODE_INTERRUPTED;
    } else if (status == SS_OK && r->world.rank == 0) print_result(r, report, now_ms() - start);
  }
  if (status != SS_OK && code == CODE_OK) code = report_failure(&err);
  if (lock >= 0) close(lock);
  free(report);
  free(log);
  free(r->folder);
  return code;
}

static bool options_fit(const train_options *o) {
  if (!o->out) say("train: nowhere to write: give --out BANK");
  else if (!o->corpus.n && !o->operands[0]) say("train: no corpus: give --corpus FILE...");
  else if (!o->resume && !o->dry_run && access(o->out, F_OK) == 0)
    say("train: %s is there already: remove it, or --resume the run that made it", o->out);
  else return true;
  return false;
}

static int run(train_run *r, train_plan *plan) {
  const train_options *o = r->options;
  ss_bank_info info = {0};
  ss_error err = {0};
  if (!options_fit(o)) return CODE_USAGE;
  int code = engine_open(&r->engine, &o->engine);
  if (code == CODE_OK) code = engine_tokenizer(&r->engine);
  if (code != CODE_OK) return code;
  r->data.engine = &r->engine;
  if (o->init && train_data_init(&r->data, &r->engine, o->init, &err) != SS_OK) return report_failure(&err);
  if (r->data.init) ss_bank_info_get(r->data.init, &info);
  if (!train_plan_make(plan, o, info.n_clusters)) return CODE_USAGE;
  return run_plan(r, plan);
}

int cmd_train(int argc, char **argv) {
  train_options o = {.held_back = -1, .chat_share = -1, .checkpoint_seconds = 20, .memory_mb = 1024};
  train_plan plan;
  const parse_result parsed = parse(&o, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) {
    train_run *r = take_memory(1, sizeof *r);
    memset(r, 0, sizeof *r);
    r->options = &o;
    r->plan = &plan;
    r->world = ranks_begin();
    code = run(r, &plan);
    if (code != CODE_OK && code != CODE_INTERRUPTED) ranks_abort(&r->world, code);
    train_run_free(r);
    ranks_free(&r->world);
    ranks_end();
    free(r);
  }
  option_list_free(&o.corpus);
  return code;
}
