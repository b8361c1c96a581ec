#include "train_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "mask.h"
#include "train_recover.h"

#define SAY_EVERY_MS 60000 /* where no terminal is */
#define PROBE_TOKENS 512
#define PROBE_PROMPTS 8

/* ---- progress ---- */

bool train_progress_due(train_run *r, const char **start, const char **end) {
  const double now = now_ms();
  const bool plain = !isatty(STDERR_FILENO) && now - r->said_ms > SAY_EVERY_MS;
  if (r->world.rank != 0 || (!plain && !progress_due(&r->progress))) return false;
  *start = plain ? "" : "\r\033[K";
  *end = plain ? "\n" : " ";
  r->said_ms = now;
  return true;
}

static bool leads(const train_run *r, uint32_t index) { return index ? r->team.rank == 0 : r->world.rank == 0; }

static double steps_of(const train_run *r, uint32_t index) {
  const train_plan *p = r->plan;
  const double n = index ? r->team.n : r->world.n, recover = p->recover & RECOVER_GAINS ? p->recover_steps : 0;
  return ((index ? p->steps : p->global_steps) / n + (leads(r, index) ? recover : 0)) * p->windows_per_step * p->window;
}

static double losses_of(const train_run *r, uint32_t index) {
  return leads(r, index) ? train_swap_tokens(r->plan) * (index ? 1 : 2) : 0;
}

static bool is_mine(const train_run *r, uint32_t index) {
  return index == 0 || (index - 1) % r->n_teams == r->team_index;
}

static void count_work(train_run *r) {
  for (uint32_t index = 0; index <= r->plan->n_clusters; index++) {
    if (!is_mine(r, index)) continue;
    r->steps_left += steps_of(r, index) * r->plan->n_levels;
    r->losses_left += losses_of(r, index) * r->plan->n_levels;
  }
}

void train_take_work(train_run *r, uint32_t index) {
  r->steps_left -= steps_of(r, index);
  r->losses_left -= losses_of(r, index);
}

static double ms_each(const work_rate *rate, double by_trial) {
  return rate->tokens > 2 * PROBE_TOKENS ? rate->ms / rate->tokens : 1e3 / by_trial;
}

double train_seconds_left(const train_run *r, double step_tokens, double loss_tokens) {
  return ((step_tokens + r->steps_left) * ms_each(&r->steps, r->speeds.steps) +
          (loss_tokens + r->losses_left) * ms_each(&r->losses, r->speeds.losses / TRAIN_LOSS_SHARE)) /
         1e3;
}

/* ---- before the plan ---- */

ss_status train_run_shape(train_run *r, ss_error *err) {
  ss_mask dense;
  ss_status status = block_costs(&r->costs, r->engine.model, err);
  if (status == SS_OK) status = ss_budget_create(&r->budget, r->costs, r->engine.info.n_blocks, r->engine.host, err);
  if (status != SS_OK) return status;
  ss_mask_fill(&dense, r->engine.info.n_blocks);
  r->shape = (train_shape){.n_blocks = r->engine.info.n_blocks,
                           .n_samples = (uint32_t)r->data.corpus.n,
                           .n_ranks = r->world.n,
                           .units_total = r->budget.total};
  for (uint32_t i = 0; i < r->plan->n_levels; i++) {
    r->shape.units[i] = ss_budget_target(&r->budget, &dense, r->plan->levels[i]);
    if (r->shape.units[i] > (i ? r->shape.units[i - 1] : 0)) continue;
    char level[32];
    snprintf(level, sizeof level, "%g %%", 100 * r->plan->levels[i]);
    return ss_fail(err, SS_E_ARGUMENT, "level %s: the nearest that blocks of this model make is %llu of %llu units, %s",
                   level, (unsigned long long)r->shape.units[i], (unsigned long long)r->budget.total,
                   i ? "as for the level before" : "no block at all");
  }
  return SS_OK;
}

/* The pass that takes a step's windows, as many at once as are worth it: its results do not depend on that. */
static ss_status create_pass(train_run *r, ss_error *err) {
  const train_plan *p = r->plan;
  const uint32_t mine = 2 * (uint32_t)ss_ceil_div(p->windows_per_step / 2, r->world.n);
  ss_pass_options options = {.max_windows = (uint32_t)ss_max(2, ss_min(mine, ss_max(2, 2048 / p->window))),
                             .longest = p->window};
  options.max_tokens = options.max_windows * p->window;
  const size_t least = ss_pass_bytes(r->engine.model, &options, r->engine.host);
  const size_t memory = (size_t)r->options->memory_mb << 20;
  if (!least) return ss_fail(err, SS_E_ARGUMENT, "no backward pass for windows of %u tokens", p->window);
  if (memory < least)
    return ss_fail(err, SS_E_MEMORY, "--memory %u: training steps need %zu MB at least", r->options->memory_mb,
                   (least >> 20) + 1);
  options.keep_bytes = memory - least;
  return ss_pass_create(&r->pass, r->engine.model, &options, r->engine.host, err);
}

static ss_status time_losses(train_run *r, const ss_windows *windows, ss_error *err) {
  ss_loss *loss;
  ss_mask dense;
  double nll;
  ss_mask_fill(&dense, r->shape.n_blocks);
  ss_status status = ss_loss_create(&loss, r->engine.model, windows, 0, r->engine.host, err);
  if (status != SS_OK) return status;
  const double start = now_ms();
  status = ss_loss_of(loss, &dense, &nll, err);
  r->speeds.losses = windows->starts[windows->n] * 1e3 / fmax(now_ms() - start, 1e-3);
  ss_loss_free(loss);
  return status;
}

static ss_status time_steps(train_run *r, const ss_windows *windows, ss_error *err) {
  const uint32_t which[] = {0, 1};
  float *gates = take_memory((size_t)2 * r->shape.n_blocks, sizeof *gates);
  const ss_pass_input in = {.batch = {.windows = windows, .which = which, .n = 2}};
  ss_pass_output out = {.d_gates = gates};
  const double start = now_ms();
  const ss_status status = ss_pass_run(r->pass, &in, &out, err);
  r->speeds.steps = windows->starts[2] * 1e3 / fmax(now_ms() - start, 1e-3);
  free(gates);
  return status;
}

ss_status train_run_measure(train_run *r, ss_error *err) {
  train_data *d = &r->data;
  window_set set = {0};
  size_t n_added, n_prompts = 0;
  ss_status status = create_pass(r, err);
  for (uint32_t i = 0; status == SS_OK && i < d->corpus.n && (set.n < 2 || set.tokens.n + LEAST_WINDOW <= PROBE_TOKENS);
       i++)
    status = window_set_add(&set, r->engine.tokenizer, &d->corpus, i, r->plan->window,
                            set.n < 2 ? r->plan->window : PROBE_TOKENS - set.tokens.n, &n_added, err);
  if (status == SS_OK && set.n < 2)
    status =
        ss_fail(err, SS_E_ARGUMENT, "%u of the %zu samples have the %d tokens that a window needs: too little text",
                set.n, d->corpus.n, LEAST_WINDOW);
  const ss_windows windows = window_set_face(&set);
  if (status == SS_OK) status = time_losses(r, &windows, err);
  if (status == SS_OK) status = time_steps(r, &windows, err);
  float *x = take_memory(d->encoder.dim, sizeof *x);
  const double start = now_ms();
  for (; status == SS_OK && n_prompts < PROBE_PROMPTS && n_prompts < d->corpus.n; n_prompts++)
    status = ss_encode(d->encoder.encoder,
                       d->corpus.samples[n_prompts * d->corpus.n / PROBE_PROMPTS % d->corpus.n].prompt, x, err);
  r->speeds.embeddings = (double)n_prompts * 1e3 / fmax(now_ms() - start, 1e-3);
  free(x);
  window_set_free(&set);
  return status;
}

/* ---- the first masks ---- */

typedef struct greedy_search {
  train_run *run;
  mask_losses losses;
} greedy_search;

static ss_status greedy_loss(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  return mask_losses_of(&((greedy_search *)ctx)->losses, 0, mask, base, loss, err);
}

static bool watch_greedy(void *ctx, const ss_greedy_progress *p) {
  greedy_search *s = ctx;
  train_run *r = s->run;
  const char *start, *end;
  if (train_progress_due(r, &start, &end)) {
    const double guess = train_greedy_losses(r->plan, &r->shape),
                 n_left = guess > p->n_losses ? guess - p->n_losses : 0;
    const double each = s->losses.n_measured ? s->losses.measured_ms / s->losses.n_measured / 1e3 : 0;
    fprintf(stderr, "%sfirst masks: level %u of %u, %llu of %llu units, loss %.4f (dense %.4f), %u losses, %s to go%s",
            start, p->level + 1, p->n_levels, (unsigned long long)p->units, (unsigned long long)p->target, p->loss,
            p->dense_loss, p->n_losses, clock_of(n_left * each + train_seconds_left(r, 0, 0)).text, end);
  }
  return !interrupted();
}

static ss_status search_greedily(train_run *r, ss_error *err) {
  greedy_search s = {.run = r};
  ss_greedy_result found;
  buffer path = {0};
  train_path(&path, r, "greedy.losses");
  ss_status status = train_data_windows(&r->data, TRAIN_ALL, false, r->plan->greedy_tokens, &s.losses.windows, err);
  if (status == SS_OK)
    status = mask_losses_open(&s.losses, &r->engine, r->data.model_print.exact, path.data, true, err);
  const ss_greedy_options options = {.n_blocks = r->shape.n_blocks,
                                     .costs = r->costs,
                                     .levels = r->plan->levels,
                                     .n_levels = r->plan->n_levels,
                                     .loss = greedy_loss,
                                     .watch = watch_greedy,
                                     .ctx = &s,
                                     .leave_one_out = r->plan->leave_one_out};
  if (status == SS_OK) status = ss_greedy(&found, &options, r->engine.host, err);
  progress_done(&r->progress);
  if (status == SS_OK) {
    memcpy(r->first, found.masks, found.n_levels * sizeof *r->first);
    memcpy(r->scores, found.scores, found.n_blocks * sizeof *r->scores);
    r->has_first = true;
    if (s.losses.n_measured)
      fprintf(stderr, "first masks: %u losses of %zu tokens, dense %.4f, deepest %.4f; %s\n", found.n_losses,
              s.losses.windows.tokens.n, found.dense_loss, found.losses[found.n_levels - 1],
              clock_of(s.losses.measured_ms / 1e3).text);
    ss_greedy_free(&found, r->engine.host);
  }
  mask_losses_close(&s.losses);
  buffer_free(&path);
  return status;
}

static ss_status find_first_masks(train_run *r, ss_error *err) {
  ss_status status = SS_OK;
  int32_t shared;
  if (!r->plan->greedy_tokens) return SS_OK;
  if (r->world.rank == 0) status = search_greedily(r, err);
  shared = status;
  ranks_share(&r->world, 0, &shared, sizeof shared);
  ranks_share(&r->world, 0, r->first, sizeof r->first);
  ranks_share(&r->world, 0, r->scores, sizeof r->scores);
  r->has_first = shared == SS_OK;
  return status == SS_OK && shared != SS_OK ? ss_fail(err, (ss_status)shared, "the first process stopped") : status;
}

/* ---- all of it ---- */

/* As many teams as there are clusters, if there are so many processes. */
static void form_teams(train_run *r) {
  r->n_teams = (uint32_t)ss_min(r->world.n, r->plan->n_clusters);
  r->team_index = r->world.rank % r->n_teams;
  r->team = ranks_split(&r->world, r->team_index);
}

/* A mask's result, from one process to all. */
static void share_result(train_run *r, uint32_t from, uint32_t index, uint32_t level) {
  const uint32_t n_blocks = r->shape.n_blocks, n_embd = r->engine.info.n_embd;
  mask_result *m = result_of(r, index, level);
  kept_recovery *recovery = &r->recoveries[m - r->results];
  bool some = recovery->numbers != NULL;
  ranks_share(&r->world, from, m, sizeof *m);
  ranks_share(&r->world, from, &some, sizeof some);
  if (!some) return;
  if (!recovery->numbers) recovery->numbers = take_memory(kept_numbers(n_blocks, n_embd), sizeof *recovery->numbers);
  ranks_share(&r->world, from, recovery->numbers, kept_numbers(n_blocks, n_embd) * sizeof *recovery->numbers);
  if (!recovery->blocks) kept_recovery_open(recovery, n_blocks, n_embd);
}

ss_status train_run_all(train_run *r, ss_error *err) {
  const uint32_t n_jobs = r->plan->n_clusters + 1;
  r->results = take_memory((size_t)n_jobs * r->plan->n_levels, sizeof *r->results);
  memset(r->results, 0, (size_t)n_jobs * r->plan->n_levels * sizeof *r->results);
  r->recoveries = take_memory((size_t)n_jobs * r->plan->n_levels, sizeof *r->recoveries);
  memset(r->recoveries, 0, (size_t)n_jobs * r->plan->n_levels * sizeof *r->recoveries);
  r->states = take_memory(r->plan->n_levels, sizeof *r->states);
  r->progress = progress_begin();
  r->said_ms = now_ms();
  form_teams(r);
  count_work(r);
  ss_status status = find_first_masks(r, err);
  if (status == SS_OK) status = train_job_run(r, 0, &r->world, err);
  for (uint32_t level = 0; status == SS_OK && level < r->plan->n_levels; level++) share_result(r, 0, 0, level);
  for (uint32_t index = 1; status == SS_OK && index < n_jobs; index++)
    if (is_mine(r, index)) status = train_job_run(r, index, &r->team, err);
  progress_done(&r->progress);
  if (status != SS_OK && status != SS_E_STATE) return status; /* the caller ends all processes */
  if (ranks_any(&r->world, status != SS_OK) && status == SS_OK)
    return ss_fail(err, SS_E_STATE, "stopped: another process was interrupted");
  for (uint32_t index = 1; status == SS_OK && index < n_jobs; index++) /* rank t of the world leads team t */
    for (uint32_t level = 0; level < r->plan->n_levels; level++)
      share_result(r, (index - 1) % r->n_teams, index, level);
  return status;
}

void train_run_free(train_run *r) {
  ranks_free(&r->team);
  ss_pass_free(r->pass);
  if (r->engine.host) ss_budget_free(&r->budget, r->engine.host);
  for (uint32_t i = 0; r->recoveries && i < (r->plan->n_clusters + 1) * r->plan->n_levels; i++)
    kept_recovery_free(&r->recoveries[i]);
  free(r->recoveries);
  free(r->results);
  free(r->states);
  free(r->costs);
  train_data_close(&r->data);
  engine_close(&r->engine);
}
