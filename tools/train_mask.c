/* One job of a training run: the masks of all text, or of one cluster, level by level.
 *
 *   start     the best known mask of the level, by its loss on held-back text: of all text, from the greedy search or the bank of
 *             --init, or what the level before would close next. A cluster has less text than all of them together: there another
 *             than the one of all text must be clearly better
 *   train     L0 steps from there; a checkpoint every so often
 *   binarise  to the exact budget; start or trained, whichever has the lower loss
 *   swap      a local search on held-back text
 *   confirm   on other held-back text, as the search has picked the luckiest of many masks: a cluster keeps another mask than the
 *             one of all text, and all text another than it started with, only where that is clearly better there too
 *
 * The team's processes share the steps, each with its part of the windows. What is measured on held-back text, and what is
 * written, is the business of the team's first process; the others are told. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "mask.h"
#include "train/gate.h"
#include "train_recover.h"

#define DENSE_BYTES \
  ((size_t)512 << 20) /* residual streams of the dense model, for KL: beyond, they are computed each time */

void train_path(buffer *path, const train_run *r, const char *format, ...) {
  char name[96];
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  path->len = 0;
  buffer_addf(path, "%s/%s", r->folder, name);
}

void train_job_name(uint32_t index, char name[32]) {
  if (index) snprintf(name, 32, "cluster-%u", index - 1);
  else snprintf(name, 32, "global");
}

static bool leads(const train_job *j) { return j->team->rank == 0; }

/* The first process's status for all; it alone has said why. */
static ss_status share_status(const train_job *j, ss_status status, ss_error *err) {
  int32_t shared = status;
  ranks_share(j->team, 0, &shared, sizeof shared);
  if (status == SS_OK && shared != SS_OK) return ss_fail(err, (ss_status)shared, "the first process stopped");
  return status;
}

/* ---- losses on held-back text ---- */

static ss_status loss_on(train_job *j, mask_losses *text, const ss_mask *mask, const ss_mask *base, double *loss,
                         ss_error *err) {
  const uint64_t tokens = text->measured_tokens;
  const double ms = text->measured_ms;
  const ss_status status = mask_losses_of(text, 0, mask, base, loss, err);
  j->run->losses.tokens += (double)(text->measured_tokens - tokens);
  j->run->losses.ms += text->measured_ms - ms;
  return status;
}

static ss_status held_loss(void *ctx, const ss_mask *mask, const ss_mask *base, double *loss, ss_error *err) {
  train_job *j = ctx;
  return loss_on(j, &j->held, mask, base, loss, err);
}

/* ---- the start ---- */

typedef struct candidates {
  ss_mask masks[4];
  uint32_t n;
} candidates;

static void add_candidate(candidates *c, const train_run *r, uint32_t level, const ss_mask *mask) {
  if (ss_budget_skipped(&r->budget, mask) == r->shape.units[level]) c->masks[c->n++] = *mask;
}

static ss_status find_candidates(train_job *j, uint32_t level, candidates *c, ss_error *err) {
  train_run *r = j->run;
  ss_status status = SS_OK;
  c->n = 0;
  if (j->index) add_candidate(c, r, level, &result_of(r, 0, level)->mask);
  if (j->index == 0 && r->has_first) add_candidate(c, r, level, &r->first[level]);
  if (r->data.init) {
    ss_bank_info info;
    ss_mask mask;
    ss_bank_info_get(r->data.init, &info);
    for (uint32_t i = 0; status == SS_OK && i < info.n_levels; i++) {
      const double difference = (double)info.levels[i] - r->plan->levels[level];
      if (difference > 1e-6 || difference < -1e-6) continue;
      const uint32_t cluster = j->index ? j->index - 1 : info.n_clusters;
      status = ss_bank_mask(r->data.init, cluster, 1.0 - (double)info.levels[i], &mask, err);
      if (status == SS_OK) add_candidate(c, r, level, &mask);
    }
  }
  if (status == SS_OK && level) {
    ss_mask mask;
    status = ss_l0_binarise(&mask, &j->state, &r->budget, r->shape.units[level], r->engine.host, err);
    if (status == SS_OK) add_candidate(c, r, level, &mask);
  }
  if (status == SS_OK && c->n == 0)
    status =
        ss_fail(err, SS_E_ARGUMENT, "the bank of --init has no mask that skips %llu units, for level %u of --levels",
                (unsigned long long)r->shape.units[level], level + 1);
  return status;
}

static ss_status choose_start(train_job *j, uint32_t level, mask_result *result, ss_error *err) {
  candidates c;
  ss_mask dense;
  ss_mask_fill(&dense, j->run->shape.n_blocks);
  ss_status status = find_candidates(j, level, &c, err);
  if (leads(j)) {
    if (status == SS_OK) status = held_loss(j, &dense, &dense, &result->dense_loss, err);
    double best = INFINITY;
    for (uint32_t i = 0; status == SS_OK && i < c.n; i++) {
      double loss;
      status = held_loss(j, &c.masks[i], &c.masks[i], &loss, err);
      const double counts = j->index && i == 0 ? loss - ss_loss_margin(j->held.windows.tokens.n) : loss;
      if (counts >= best) continue;
      best = counts;
      result->start = c.masks[i];
      result->start_loss = loss;
    }
  }
  status = share_status(j, status, err);
  ranks_share(j->team, 0, &result->start, sizeof result->start);
  return status;
}

/* ---- L0 training ---- */

typedef struct checkpoint {
  ss_l0_state state;
  uint64_t log_bytes;
  double seconds;
} checkpoint;

static ss_l0_options options_of(const train_job *j, uint32_t level) {
  const train_run *r = j->run;
  const train_plan *p = r->plan;
  const double share = (double)r->shape.units[level] / (double)r->shape.units_total;
  return (ss_l0_options){
      .n_blocks = r->shape.n_blocks,
      .costs = r->costs,
      .from = share, /* the start has the level's budget: there is nothing to warm up to */
      .to = share,
      .windows_per_step = p->windows_per_step,
      .objective = p->objective,
      .seed = p->seed + j->index * TRAIN_MAX_LEVELS + level,
      .rank = j->team->rank,
      .n_ranks = j->team->n,
      .all_reduce = j->team->n > 1 ? ranks_sum : NULL,
      .reduce_ctx = j->team,
  };
}

/* Scores that order blocks as the log alphas do that are known: those of the level before, or of all text. */
static const double *scores_for(const train_job *j, uint32_t level, double *scores) {
  const train_run *r = j->run;
  const ss_l0_state *known = level ? &j->state : j->index ? &r->states[0] : NULL;
  if (!known) return r->has_first ? r->scores : NULL;
  for (uint32_t b = 0; b < r->shape.n_blocks; b++) scores[b] = known->log_alpha[b] * (double)r->costs[b];
  return scores;
}

static void log_step(train_job *j, uint32_t level, const ss_l0_report *report, double ms) {
  json line = {.out = j->log.file};
  json_open(&line, NULL, '{');
  json_string(&line, "phase", "l0");
  if (j->index) json_uint(&line, "cluster", j->index - 1);
  else json_null(&line, "cluster");
  json_real(&line, "level", j->run->plan->levels[level], true);
  json_uint(&line, "step", j->state.step);
  json_real(&line, "loss", report->loss, true);
  json_real(&line, "nll", report->nll, true);
  if (j->run->plan->objective == SS_OBJECTIVE_KL) json_real(&line, "kl", report->kl, true);
  json_real(&line, "skipped", report->skipped, true);
  json_real(&line, "target", report->target, true);
  json_real(&line, "sampled", report->sampled, true);
  json_open(&line, "lambda", '[');
  for (int i = 0; i < 2; i++) json_real(&line, NULL, report->lambda[i], true);
  json_close(&line);
  json_uint(&line, "tokens", report->tokens);
  json_fixed(&line, "tokens_per_second", ms > 0 ? (double)report->tokens * 1e3 / ms : 0, 1);
  json_done(&line);
}

static double swap_work(const train_job *j) {
  return leads(j) ? train_swap_tokens(j->run->plan) * (j->index ? 1 : 2) : 0;
}

static void show_step(train_job *j, uint32_t level, uint32_t n_steps, const ss_l0_report *report) {
  train_run *r = j->run;
  const char *start, *end;
  if (!train_progress_due(r, &start, &end)) return;
  const double left = (n_steps - j->state.step) * (double)r->plan->windows_per_step * r->plan->window / j->team->n;
  fprintf(stderr, "%s%s, level %u of %u: step %u of %u, loss %.4f, skipped %.4f -> %.4f, %.0f tokens/s, %s to go%s",
          start, j->title, level + 1, r->plan->n_levels, j->state.step, n_steps, report->loss, report->skipped,
          report->target, r->steps.ms > 0 ? 1e3 * r->steps.tokens / r->steps.ms : 0,
          clock_of(train_seconds_left(r, left, swap_work(j))).text, end);
}

static ss_status write_checkpoint(train_job *j, const char *path, double seconds, ss_error *err) {
  if (!leads(j)) return SS_OK;
  const ss_status status = train_log_check(&j->log, err);
  if (status != SS_OK) return status;
  checkpoint c;
  memset(&c, 0, sizeof c); /* with its padding */
  c.state = j->state;
  c.log_bytes = train_log_bytes(&j->log);
  c.seconds = seconds;
  return train_file_write(path, "l0", j->run->of, &c, sizeof c, err);
}

/* The state as it was written; *found false: none. */
static ss_status read_checkpoint(train_job *j, const char *path, checkpoint *c, bool *found, ss_error *err) {
  ss_status status = SS_OK;
  *found = false;
  if (leads(j)) status = train_file_read(path, "l0", j->run->of, c, sizeof *c, found, err);
  status = share_status(j, status, err);
  ranks_share(j->team, 0, found, sizeof *found);
  ranks_share(j->team, 0, c, sizeof *c);
  return status;
}

static ss_status step_until(train_job *j, uint32_t level, uint32_t n_steps, const char *path, double seconds,
                            ss_l0_options *options, ss_error *err) {
  train_run *r = j->run;
  const ss_windows windows = window_set_face(&j->text);
  const ss_l0_data data = {.windows = &windows, .dense = j->dense, .dense_known = j->dense_known};
  const double start = now_ms();
  double written = start;
  ss_status status = SS_OK;
  while (status == SS_OK && j->state.step < n_steps) {
    ss_l0_report report;
    const double before = now_ms();
    status = ss_l0_step(&j->state, options, r->pass, &data, &report, err);
    if (status != SS_OK) return status;
    const double now = now_ms();
    r->steps.tokens += (double)report.tokens / j->team->n;
    r->steps.ms += now - before;
    if (leads(j)) log_step(j, level, &report, now - before);
    show_step(j, level, n_steps, &report);
    const bool stop = ranks_any(j->team, interrupted());
    if (stop || j->state.step == n_steps || now - written >= 1e3 * (double)r->options->checkpoint_seconds) {
      status = write_checkpoint(j, path, seconds + (now - start) / 1e3, err);
      written = now;
    }
    if (status == SS_OK && stop) status = ss_fail(err, SS_E_STATE, "stopped");
  }
  return status;
}

/* From the start, or from the checkpoint, to the last step. *seconds: what the steps took, in this run and before. */
static ss_status train_level(train_job *j, uint32_t level, const mask_result *result, const checkpoint *c, bool found,
                             const char *path, ss_error *err) {
  train_run *r = j->run;
  const uint32_t n_steps = j->index ? r->plan->steps : r->plan->global_steps;
  double scores[SS_MAX_BLOCKS];
  ss_l0_options options = options_of(j, level);
  ss_status status = SS_OK;
  if (found) j->state = c->state;
  else {
    ss_l0_state fresh;
    memset(&fresh, 0, sizeof fresh);
    status = ss_l0_begin(&fresh, &options, &result->start, scores_for(j, level, scores), 0, err);
    j->state = fresh;
  }
  if (status == SS_OK) status = step_until(j, level, n_steps, path, found ? c->seconds : 0, &options, err);
  return status;
}

/* ---- swap search ---- */

static bool watch_swap(void *ctx, const ss_swap_progress *p) {
  train_job *j = ctx;
  train_run *r = j->run;
  const char *start, *end;
  if (train_progress_due(r, &start, &end)) {
    const double left = (double)(p->max_losses - p->n_losses) * (double)j->held.windows.tokens.n;
    fprintf(stderr, "%s%s: swap search, %u of at most %u losses, %u swaps, loss %.4f -> %.4f, %s to go%s", start,
            j->title, p->n_losses, p->max_losses, p->n_swaps, p->first_loss, p->loss,
            clock_of(train_seconds_left(r, 0, left)).text, end);
  }
  return !interrupted();
}

static ss_status improve(train_job *j, uint32_t level, mask_result *result, ss_error *err) {
  train_run *r = j->run;
  ss_status status =
      ss_l0_binarise(&result->trained, &j->state, &r->budget, r->shape.units[level], r->engine.host, err);
  if (status == SS_OK) status = held_loss(j, &result->trained, &result->trained, &result->trained_loss, err);
  if (status != SS_OK) return status;
  const bool better = result->trained_loss <= result->start_loss;
  result->mask = better ? result->trained : result->start;
  result->loss = better ? result->trained_loss : result->start_loss;
  if (!r->plan->swap_losses) return SS_OK;
  double scores[SS_MAX_BLOCKS];
  for (uint32_t b = 0; b < r->shape.n_blocks; b++) scores[b] = j->state.log_alpha[b];
  const ss_swap_options options = {.budget = &r->budget,
                                   .loss = held_loss,
                                   .watch = watch_swap,
                                   .ctx = j,
                                   .max_losses = 1 + r->plan->swap_losses,
                                   .scores = scores,
                                   .margin = ss_loss_margin(j->held.windows.tokens.n)};
  ss_swap_result swap;
  status = ss_swap_search(&result->mask, &swap, &options, r->engine.host, err);
  if (status != SS_OK) return status;
  result->loss = swap.loss;
  result->n_losses = swap.n_losses;
  result->n_swaps = swap.n_swaps;
  return SS_OK;
}

static ss_status confirm(train_job *j, uint32_t level, mask_result *result, ss_error *err) {
  const ss_mask masks[TRAIN_CONFIRM_LOSSES] = {j->index ? result_of(j->run, 0, level)->mask : result->start,
                                               result->start, result->mask};
  const size_t n_tokens = j->other.windows.tokens.n;
  const bool one = !memcmp(&masks[0], &masks[1], sizeof *masks) && !memcmp(&masks[0], &masks[2], sizeof *masks);
  double best = INFINITY;
  for (int i = 0; i < TRAIN_CONFIRM_LOSSES; i++) result->other_loss[i] = NAN;
  result->kept = TRAIN_CONFIRM_LOSSES - 1;
  if (one || !n_tokens) return SS_OK;
  for (int i = 0; i < TRAIN_CONFIRM_LOSSES; i++) {
    ss_status status = loss_on(j, &j->other, &masks[i], &masks[i], &result->other_loss[i], err);
    const double counts = result->other_loss[i] - (i == 0 ? ss_loss_margin(n_tokens) : 0.0);
    if (status == SS_OK && counts < best) {
      best = counts;
      result->mask = masks[i];
      result->kept = (uint32_t)i;
      status = held_loss(j, &masks[i], &masks[i], &result->loss, err);
    }
    if (status != SS_OK) return status;
  }
  return SS_OK;
}

/* ---- one mask ---- */

static ss_status log_mask(train_job *j, uint32_t level, const mask_result *m, ss_error *err) {
  const train_run *r = j->run;
  mask_report report;
  const ss_status status = mask_report_make(&report, r->engine.model, &m->mask, err);
  if (status != SS_OK) return status;
  json line = {.out = j->log.file};
  json_open(&line, NULL, '{');
  json_string(&line, "phase", "mask");
  if (j->index) json_uint(&line, "cluster", j->index - 1);
  else json_null(&line, "cluster");
  json_real(&line, "level", r->plan->levels[level], true);
  mask_report_json(&line, "mask", &report);
  json_real(&line, "dense_loss", m->dense_loss, true);
  json_real(&line, "start_loss", m->start_loss, true);
  json_real(&line, "trained_loss", m->trained_loss, true);
  json_real(&line, "loss", m->loss, true);
  json_uint(&line, "swaps", m->n_swaps);
  json_uint(&line, "losses", m->n_losses);
  if (m->other_loss[0] >= 0) {
    const char *names[TRAIN_CONFIRM_LOSSES] = {j->index ? "all text" : "start", "start", "search"};
    json_open(&line, "other_text", '{');
    for (int i = j->index ? 0 : 1; i < TRAIN_CONFIRM_LOSSES; i++) json_real(&line, names[i], m->other_loss[i], true);
    json_string(&line, "kept", names[m->kept]);
    json_close(&line);
  }
  if (r->plan->recover) {
    json_open(&line, "recovery", '{');
    json_uint(&line, "parts", m->recovered_parts);
    json_real(&line, "kl_before", m->kl_before, true);
    json_real(&line, "kl", m->kl, true);
    json_real(&line, "loss", m->recovered_loss, true);
    json_close(&line);
  }
  json_open(&line, "open", '['); /* P(z > 0) of each block at the last step */
  for (uint32_t b = 0; b < r->shape.n_blocks; b++)
    json_fixed(&line, NULL, ss_gate_open(j->state.log_alpha[b], NULL), 4);
  json_close(&line);
  json_fixed(&line, "seconds", m->seconds, 1);
  json_done(&line);
  mask_report_free(&report);
  return train_log_check(&j->log, err);
}

static void say_mask(train_job *j, uint32_t level, const mask_result *m) {
  train_run *r = j->run;
  progress_done(&r->progress);
  fprintf(stderr, "%s, %g %%: dense %.4f, start %.4f, trained %.4f, %u swaps%s %.4f", j->title,
          100 * r->plan->levels[level], m->dense_loss, m->start_loss, m->trained_loss, m->n_swaps,
          m->kept + 1 == TRAIN_CONFIRM_LOSSES ? "" : ", not confirmed", m->loss);
  if (r->plan->recover) fprintf(stderr, ", recovered %.4f (KL %.4f -> %.4f)", m->recovered_loss, m->kl_before, m->kl);
  fprintf(stderr, "; %llu of %llu units, %s\n", (unsigned long long)r->shape.units[level],
          (unsigned long long)r->shape.units_total, clock_of(m->seconds).text);
}

typedef struct mask_paths {
  buffer mask, log, l0, recover;
} mask_paths;

static void name_paths(mask_paths *p, const train_job *j, uint32_t level) {
  *p = (mask_paths){0};
  train_path(&p->mask, j->run, "%s.level-%u.mask", j->name, level);
  train_path(&p->log, j->run, "%s.level-%u.jsonl", j->name, level);
  train_path(&p->l0, j->run, "%s.level-%u.l0", j->name, level);
  train_path(&p->recover, j->run, "%s.level-%u.recover", j->name, level);
}

static void free_paths(mask_paths *p) {
  buffer_free(&p->mask);
  buffer_free(&p->log);
  buffer_free(&p->l0);
  buffer_free(&p->recover);
}

/* The first process's part behind the steps, up to the mask's own file. seconds: until now. */
static ss_status finish_mask(train_job *j, uint32_t level, const mask_paths *paths, const buffer *recover,
                             double seconds, mask_result *result, ss_error *err) {
  train_run *r = j->run;
  kept_recovery *recovery = &r->recoveries[result - r->results];
  const double start = now_ms();
  ss_status status = improve(j, level, result, err);
  if (status == SS_OK) status = confirm(j, level, result, err);
  if (status == SS_OK) result->seconds = seconds + (now_ms() - start) / 1e3;
  if (status == SS_OK && r->plan->recover) {
    status = train_recover(j, level, recover, result, recovery, err);
    result->seconds += result->recover_seconds;
  }
  if (status == SS_OK) status = log_mask(j, level, result, err);
  if (status != SS_OK) return status;
  buffer file = {0};
  buffer_add(&file, result, sizeof *result);
  if (recovery->numbers)
    buffer_add(&file, recovery->numbers,
               kept_numbers(r->shape.n_blocks, r->engine.info.n_embd) * sizeof *recovery->numbers);
  status = train_file_write(paths->mask.data, "mask", r->of, file.data, file.len, err);
  buffer_free(&file);
  if (status == SS_OK) unlink(paths->recover.data); /* its result is in the mask's file */
  if (status == SS_OK) say_mask(j, level, result);
  return status;
}

/* The finished mask, where it is there. */
static ss_status read_mask(train_job *j, const char *path, mask_result *result, bool *found, ss_error *err) {
  train_run *r = j->run;
  kept_recovery *recovery = &r->recoveries[result - r->results];
  const size_t n_numbers = kept_numbers(r->shape.n_blocks, r->engine.info.n_embd);
  buffer file = {0};
  ss_status status = train_file_load(path, "mask", r->of, &file, found, err);
  if (status == SS_OK && *found) {
    const size_t more = file.len < sizeof *result ? SIZE_MAX : file.len - sizeof *result;
    if (more != 0 && more != n_numbers * sizeof *recovery->numbers)
      status = ss_fail(err, SS_E_FORMAT, "%s: %zu bytes are no mask: remove it to take it again", path, file.len);
    else memcpy(result, file.data, sizeof *result);
    if (status == SS_OK && more) {
      recovery->numbers = take_memory(n_numbers, sizeof *recovery->numbers);
      memcpy(recovery->numbers, file.data + sizeof *result, more);
      kept_recovery_open(recovery, r->shape.n_blocks, r->engine.info.n_embd);
    }
  }
  buffer_free(&file);
  return status;
}

/* Steps and what follows, from the start or the last checkpoint. */
static ss_status make_mask(train_job *j, uint32_t level, const mask_paths *paths, checkpoint *c, bool started,
                           mask_result *result, ss_error *err) {
  const double start = now_ms(), earlier = started ? c->seconds : 0;
  buffer recover = {0};
  ss_status status = SS_OK;
  if (leads(j)) {
    uint64_t log_bytes = started ? c->log_bytes : 0;
    bool found;
    status = train_file_load(paths->recover.data, "recover", j->run->of, &recover, &found, err);
    if (status == SS_OK && found && recover.len >= sizeof(recover_head))
      memcpy(&log_bytes, recover.data, sizeof log_bytes);
    if (status == SS_OK) status = train_log_open(&j->log, paths->log.data, log_bytes, err);
  }
  status = share_status(j, status, err);
  if (status == SS_OK) status = choose_start(j, level, result, err);
  if (status == SS_OK) status = train_level(j, level, result, c, started, paths->l0.data, err);
  if (status == SS_OK && leads(j))
    status = finish_mask(j, level, paths, &recover, earlier + (now_ms() - start) / 1e3, result, err);
  status = share_status(j, status, err);
  train_log_close(&j->log);
  buffer_free(&recover);
  return status;
}

static ss_status run_level(train_job *j, uint32_t level, ss_error *err) {
  train_run *r = j->run;
  mask_result *result = result_of(r, j->index, level);
  mask_paths paths;
  checkpoint c;
  bool found = false, started = false;
  ss_status status = SS_OK;
  memset(&c, 0, sizeof c);
  name_paths(&paths, j, level);
  train_take_work(r, j->index);
  if (leads(j)) status = read_mask(j, paths.mask.data, result, &found, err);
  status = share_status(j, status, err);
  ranks_share(j->team, 0, &found, sizeof found);
  if (status == SS_OK) status = read_checkpoint(j, paths.l0.data, &c, &started, err);
  if (status == SS_OK && found && !started)
    status = ss_fail(err, SS_E_FORMAT, "%s is there, but not %s: remove it to take that mask again", paths.mask.data,
                     paths.l0.data);
  if (status == SS_OK && found) {
    j->state = c.state;
    r->n_loaded++;
  } else if (status == SS_OK) status = make_mask(j, level, &paths, &c, started, result, err);
  ranks_share(j->team, 0, result, sizeof *result);
  free_paths(&paths);
  if (status == SS_OK && j->index == 0) r->states[level] = j->state;
  if (status == SS_OK) r->n_done++;
  return status;
}

/* ---- a job ---- */

static ss_status open_text(train_job *j, ss_error *err) {
  train_run *r = j->run;
  const train_plan *p = r->plan;
  const uint32_t cluster = job_cluster(j->index), n_steps = j->index ? p->steps : p->global_steps;
  const size_t row = (size_t)r->engine.info.n_embd * sizeof *j->dense;
  /* as much text as the steps of a level can see, and as the dense streams of which fit */
  size_t n_tokens = (size_t)n_steps * p->windows_per_step * p->window;
  if (p->objective == SS_OBJECTIVE_KL) n_tokens = ss_min(n_tokens, DENSE_BYTES / row);
  ss_status status = train_data_windows(&r->data, cluster, false, n_tokens, &j->text, err);
  if (status != SS_OK) return status;
  if (p->objective == SS_OBJECTIVE_KL) {
    j->dense = take_memory(j->text.tokens.n, row);
    j->dense_known = take_memory(j->text.n, sizeof *j->dense_known);
    memset(j->dense_known, 0, j->text.n * sizeof *j->dense_known);
  }
  if (!leads(j)) return SS_OK;
  buffer path = {0};
  train_path(&path, r, "%s.losses", j->name);
  const size_t n_held = (size_t)p->swap_tokens * (j->index ? 1 : 2);
  status = train_data_windows(&r->data, cluster, true, n_held, &j->held.windows, err);
  if (status == SS_OK) status = mask_losses_open(&j->held, &r->engine, r->data.model_print.exact, path.data, true, err);
  if (status == SS_OK)
    status = train_data_other_windows(&r->data, cluster, &j->held.windows, TRAIN_CONFIRM_TEXT * n_held,
                                      &j->other.windows, err);
  train_path(&path, r, "%s.other.losses", j->name);
  if (status == SS_OK && j->other.windows.n)
    status = mask_losses_open(&j->other, &r->engine, r->data.model_print.exact, path.data, true, err);
  buffer_free(&path);
  return status;
}

ss_status train_job_run(train_run *r, uint32_t index, ranks *team, ss_error *err) {
  train_job j = {.run = r, .index = index, .team = team};
  train_job_name(index, j.name);
  if (index) snprintf(j.title, sizeof j.title, "cluster %u", index - 1);
  else snprintf(j.title, sizeof j.title, "all text");
  ss_status status = share_status(&j, open_text(&j, err), err);
  for (uint32_t level = 0; status == SS_OK && level < r->plan->n_levels; level++) status = run_level(&j, level, err);
  mask_losses_close(&j.held);
  mask_losses_close(&j.other);
  window_set_free(&j.text);
  free(j.dense);
  free(j.dense_known);
  return status;
}
