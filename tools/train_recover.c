#include "train_recover.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "train/recover.h"

/* ---- a recovery as numbers: for each block flags, scale, gains, a and b; then a flag and gains of the output ---- */

enum { HAS_GAINS = 1, HAS_STAND_IN = 2 };

static size_t numbers_of_block(uint32_t n_embd) { return 2 + 3 * (size_t)n_embd; }

size_t kept_numbers(uint32_t n_blocks, uint32_t n_embd) { return n_blocks * numbers_of_block(n_embd) + 1 + n_embd; }

static void put(float *to, const float *from, uint32_t n) {
  if (from) memcpy(to, from, n * sizeof *to);
}

void kept_recovery_pack(kept_recovery *out, const ss_recovery *r, uint32_t n_blocks, uint32_t n_embd) {
  const size_t n = kept_numbers(n_blocks, n_embd), each = numbers_of_block(n_embd);
  *out = (kept_recovery){0};
  if (!r) return;
  out->numbers = take_memory(n, sizeof *out->numbers);
  memset(out->numbers, 0, n * sizeof *out->numbers);
  for (uint32_t b = 0; b < n_blocks; b++) {
    const ss_recovery_block *from = &r->blocks[b];
    float *to = out->numbers + b * each;
    to[0] = (float)((from->gains ? HAS_GAINS : 0) | (from->a ? HAS_STAND_IN : 0));
    to[1] = from->scale;
    put(to + 2, from->gains, n_embd);
    put(to + 2 + n_embd, from->a, n_embd);
    put(to + 2 + 2 * (size_t)n_embd, from->b, n_embd);
  }
  out->numbers[n_blocks * each] = r->output_gains ? 1 : 0;
  put(out->numbers + n_blocks * each + 1, r->output_gains, n_embd);
  kept_recovery_open(out, n_blocks, n_embd);
}

void kept_recovery_open(kept_recovery *k, uint32_t n_blocks, uint32_t n_embd) {
  const size_t each = numbers_of_block(n_embd);
  const float *output = k->numbers + n_blocks * each;
  k->blocks = take_memory(n_blocks, sizeof *k->blocks);
  for (uint32_t b = 0; b < n_blocks; b++) {
    const float *from = k->numbers + b * each;
    const int flags = (int)from[0];
    k->blocks[b] = (ss_recovery_block){.gains = flags & HAS_GAINS ? from + 2 : NULL,
                                       .scale = from[1],
                                       .a = flags & HAS_STAND_IN ? from + 2 + n_embd : NULL,
                                       .b = flags & HAS_STAND_IN ? from + 2 + 2 * (size_t)n_embd : NULL};
  }
  k->face = (ss_recovery){
      .n_blocks = n_blocks, .n_embd = n_embd, .blocks = k->blocks, .output_gains = output[0] != 0 ? output + 1 : NULL};
}

void kept_recovery_free(kept_recovery *k) {
  free(k->blocks);
  free(k->numbers);
  *k = (kept_recovery){0};
}

/* ---- checkpoints: the log's length, seconds, and the state ---- */

static ss_status write_checkpoint(train_job *j, const char *path, const ss_recover *recover, double seconds,
                                  ss_error *err) {
  const recover_head head = {.log_bytes = train_log_bytes(&j->log), .seconds = seconds};
  buffer file = {0};
  size_t n;
  const void *numbers = ss_recover_state(recover, &n);
  ss_status status = train_log_check(&j->log, err);
  buffer_add(&file, &head, sizeof head);
  buffer_add(&file, numbers, n);
  if (status == SS_OK) status = train_file_write(path, "recover", j->run->of, file.data, file.len, err);
  buffer_free(&file);
  return status;
}

/* ---- fitting ---- */

static void log_step(train_job *j, uint32_t level, const ss_recover_report *p) {
  json line = {.out = j->log.file};
  json_open(&line, NULL, '{');
  json_string(&line, "phase", "recovery");
  if (j->index) json_uint(&line, "cluster", j->index - 1);
  else json_null(&line, "cluster");
  json_real(&line, "level", j->run->plan->levels[level], true);
  json_uint(&line, "step", p->step);
  json_real(&line, "kl", p->train_kl, true);
  json_done(&line);
}

static void show(train_job *j, const ss_recover_report *p) {
  static const char *const doing[] = {[SS_RECOVER_MEASURE] = "measuring",
                                      [SS_RECOVER_FIT] = "fitting stand-ins",
                                      [SS_RECOVER_TRAIN] = "training",
                                      [SS_RECOVER_CHOOSE] = "choosing parts",
                                      [SS_RECOVER_DONE] = "done"};
  train_run *r = j->run;
  const char *start, *end;
  if (!train_progress_due(r, &start, &end)) return;
  const double left = (p->steps - p->step) * (double)r->plan->windows_per_step * r->plan->window;
  fprintf(stderr, "%s%s: recovery, %s, step %u of at most %u, KL %.4f of %.4f, %s to go%s", start, j->title,
          doing[p->phase], p->step, p->steps, p->trained.kl > 0 ? p->trained.kl : p->closed.kl, p->none.kl,
          clock_of(train_seconds_left(r, left, 0)).text, end);
}

static ss_status fit(train_job *j, uint32_t level, ss_recover *recover, const char *path, double *seconds,
                     ss_error *err) {
  const double start = now_ms(), before = *seconds;
  double written = start;
  ss_status status = SS_MORE;
  while (status == SS_MORE) {
    const uint32_t step = ss_recover_progress(recover).step;
    status = ss_recover_step(recover, err);
    if (status != SS_OK && status != SS_MORE) return status;
    const ss_recover_report p = ss_recover_progress(recover);
    if (p.step != step) log_step(j, level, &p);
    show(j, &p);
    const double now = now_ms();
    const bool stop = interrupted() && status == SS_MORE;
    *seconds = before + (now - start) / 1e3;
    if (stop || status == SS_OK || now - written >= 1e3 * (double)j->run->options->checkpoint_seconds) {
      const ss_status wrote = write_checkpoint(j, path, recover, *seconds, err);
      if (wrote != SS_OK) return wrote;
      written = now;
    }
    if (stop) return ss_fail(err, SS_E_STATE, "stopped");
  }
  return status;
}

ss_status train_recover(train_job *j, uint32_t level, const buffer *saved, mask_result *m, kept_recovery *out,
                        ss_error *err) {
  static const uint32_t parts[] = {[RECOVER_GAINS] = SS_RECOVER_GAINS | SS_RECOVER_SCALES,
                                   [RECOVER_STANDIN] = SS_RECOVER_STAND_INS,
                                   [RECOVER_GAINS | RECOVER_STANDIN] = SS_RECOVER_ALL};
  const train_run *r = j->run;
  const train_plan *p = r->plan;
  const ss_windows train = window_set_face(&j->text), held = window_set_face(&j->held.windows);
  const kept_recovery *start = j->index ? &r->recoveries[level] : level ? &r->recoveries[level - 1] : NULL;
  const ss_recover_data data = {.model = r->engine.model,
                                .mask = &m->mask,
                                .train = &train,
                                .held = &held,
                                .start = start && start->numbers ? &start->face : NULL};
  const ss_recover_options options = {.parts = parts[p->recover],
                                      .steps = p->recover & RECOVER_GAINS ? p->recover_steps : 0,
                                      .tokens_per_step = p->windows_per_step * p->window,
                                      .seed = p->seed,
                                      .keep_bytes = ((size_t)r->options->memory_mb << 20) / 2};
  buffer path = {0};
  ss_recover *recover = NULL;
  double seconds = 0;
  train_path(&path, r, "%s.level-%u.recover", j->name, level);
  ss_status status = ss_recover_create(&recover, &data, &options, r->engine.host, err);
  if (status == SS_OK && saved->len) {
    recover_head head;
    memcpy(&head, saved->data, sizeof head);
    seconds = head.seconds;
    status = ss_recover_resume(recover, saved->data + sizeof head, saved->len - sizeof head, err);
  }
  if (status == SS_OK) status = fit(j, level, recover, path.data, &seconds, err);
  if (status == SS_OK) {
    const ss_recover_report done = ss_recover_progress(recover);
    m->kl_before = done.none.kl;
    m->kl = done.final.kl;
    m->recovered_loss = done.final.nll;
    m->recovered_parts = done.parts;
    m->recover_seconds = seconds;
    kept_recovery_pack(out, ss_recover_result(recover), r->shape.n_blocks, r->engine.info.n_embd);
  }
  ss_recover_free(recover);
  buffer_free(&path);
  return status;
}
