/* What a training run leaves: the bank, and the file that tells its report about the run. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "example_prompts.h"
#include "mask.h"
#include "state.h"
#include "train_run.h"

/* ---- the bank ---- */

/* The settings as JSON, to be freed. */
static char *training_text(const train_run *r) {
  const train_data *d = &r->data;
  char *text = NULL;
  size_t len = 0;
  FILE *out = open_memstream(&text, &len);
  if (!out) return NULL;
  json writer = {.out = out}, *j = &writer;
  json_open(j, NULL, '{');
  train_plan_json(r->plan, j, "plan");
  json_string(j, "first_masks", r->has_first ? (r->plan->leave_one_out ? "leave-one-out" : "greedy") : "a bank's");
  json_uint(j, "samples", d->corpus.n);
  json_bool(j, "chats", d->chats.known);
  json_real(j, "inertia", d->clusters.inertia, true);
  json_real(j, "silhouette", d->silhouette, true);
  json_string(j, "quantisation", r->engine.info.quantisation);
  json_uint(j, "processes", r->world.n);
  json_string(j, "made_by", "skipstone " SS_VERSION);
  json_done(j);
  fclose(out);
  if (len) text[len - 1] = 0; /* the end of the line */
  return text;
}

ss_status train_write_bank(train_run *r, ss_error *err) {
  const uint32_t k = r->plan->n_clusters, n_levels = r->plan->n_levels, n_masks = n_levels * (k + 1);
  const train_data *d = &r->data;
  ss_mask *masks = take_memory(n_masks, sizeof *masks);
  float *losses = take_memory(n_masks, sizeof *losses), *dense = take_memory(k + 1, sizeof *dense);
  float levels[TRAIN_MAX_LEVELS];
  ss_text *examples = take_memory(k, sizeof *examples);
  const ss_recovery **recoveries = take_memory(n_masks, sizeof *recoveries);
  char *settings = training_text(r), *provenance = corpus_provenance(&d->corpus, r->options->provenance);
  for (uint32_t c = 0; c <= k; c++)
    for (uint32_t i = 0; i < n_levels; i++) {
      const mask_result *m = result_of(r, c < k ? c + 1 : 0, i);
      const kept_recovery *recovery = &r->recoveries[m - r->results];
      masks[i * (k + 1) + c] = m->mask;
      recoveries[i * (k + 1) + c] = recovery->numbers ? &recovery->face : NULL;
      losses[i * (k + 1) + c] = (float)(recovery->numbers ? m->recovered_loss : m->loss);
      dense[c] = (float)m->dense_loss;
    }
  for (uint32_t i = 0; i < n_levels; i++) levels[i] = (float)r->plan->levels[i];
  const ss_bank_parts parts = {
      .n_clusters = k,
      .n_levels = n_levels,
      .n_layers = r->engine.info.n_layers,
      .dim = d->encoder.dim,
      .levels = levels,
      .centroids = d->clusters.centroids,
      .masks = masks,
      .recoveries = recoveries,
      .losses = losses,
      .dense_losses = dense,
      .sizes = d->clusters.sizes,
      .examples = examples,
      .model = d->model_print,
      .encoder = d->encoder_print,
      .name = r->options->name ? r->options->name : r->engine.info.name,
      .model_name = r->engine.info.name,
      .encoder_kind = ss_encoder_kind(d->encoder.encoder),
      .encoder_name = d->encoder.name,
      .method = r->plan->swap_losses ? (r->plan->recover ? "l0, swap search, recovery" : "l0, swap search")
                : r->plan->recover   ? "l0, recovery"
                                     : "l0",
      .training = settings,
      .provenance = provenance,
  };
  uint8_t *bytes = NULL;
  size_t n = 0;
  ss_status status = example_prompts_nearest(d->encoder.encoder, d->clusters.centroids, k, examples, err);
  if (status == SS_OK) status = ss_bank_write(&bytes, &n, &parts, r->engine.host, err);
  if (status == SS_OK) status = write_whole(r->options->out, bytes, n, err);
  if (bytes) r->engine.host->free(r->engine.host->ctx, bytes, n);
  free(masks);
  free(recoveries);
  free(losses);
  free(dense);
  free(examples);
  free(settings);
  free(provenance);
  return status;
}

/* ---- the log ---- */

ss_status train_write_log(const train_run *r, const char *path, ss_error *err) {
  buffer file = {0}, all = {0};
  char name[32];
  ss_status status = SS_OK;
  buffer_add(&all, "", 0);
  for (uint32_t index = 0; index <= r->plan->n_clusters; index++)
    for (uint32_t level = 0; status == SS_OK && level < r->plan->n_levels; level++) {
      train_job_name(index, name);
      train_path(&file, r, "%s.level-%u.jsonl", name, level);
      if (access(file.data, F_OK) == 0) status = read_all(&all, file.data, err); /* or it is on another machine */
    }
  if (status == SS_OK) status = write_whole(path, all.data, all.len, err);
  buffer_free(&file);
  buffer_free(&all);
  return status;
}

/* ---- run.json ---- */

typedef struct about_examples {
  uint32_t *clusters;
  double *distances;
} about_examples;

/* The samples of a cluster by domain: {"math": 12} */
static void domains_json(json *j, const train_run *r, uint32_t cluster) {
  const corpus *c = &r->data.corpus;
  uint32_t *counts = take_memory(c->n_domains, sizeof *counts);
  memset(counts, 0, c->n_domains * sizeof *counts);
  for (uint32_t i = 0; i < c->n; i++)
    if (r->data.clusters.clusters[i] == cluster) counts[c->samples[i].domain]++;
  json_open(j, "domains", '{');
  for (uint32_t i = 0; i < c->n_domains; i++)
    if (counts[i]) json_uint(j, c->domains[i], counts[i]);
  json_close(j);
  free(counts);
}

static void clusters_about(json *j, const train_run *r, const about_examples *examples) {
  const train_data *d = &r->data;
  json_open(j, "clusters", '[');
  for (uint32_t c = 0; c < d->clusters.k; c++) {
    uint32_t n_held = 0;
    for (uint32_t i = 0; i < d->corpus.n; i++) n_held += d->clusters.clusters[i] == c && d->held_back[i];
    json_open(j, NULL, '{');
    json_uint(j, "size", d->clusters.sizes[c]);
    json_uint(j, "held_back", n_held);
    domains_json(j, r, c);
    json_open(j, "examples", '[');
    for (uint32_t i = 0; i < example_prompts_count(); i++)
      if (examples->clusters[i] == c) json_string(j, NULL, example_prompts[i]);
    json_close(j);
    json_close(j);
  }
  json_close(j);
}

static void about(json *j, const train_run *r) {
  json_string(j, "model", r->engine.info.name);
  json_string(j, "quantisation", r->engine.info.quantisation);
  json_string(j, "encoder", r->data.encoder.model ? r->data.encoder.name : "self");
  json_uint(j, "samples", r->data.corpus.n);
  json_real(j, "silhouette", r->data.silhouette, true);
  train_plan_json(r->plan, j, "plan");
  json_open(j, "levels", '[');
  for (uint32_t i = 0; i < r->plan->n_levels; i++) json_real(j, NULL, r->plan->levels[i], true);
  json_close(j);
  json_open(j, "units", '[');
  for (uint32_t i = 0; i < r->plan->n_levels; i++) json_uint(j, NULL, r->shape.units[i]);
  json_close(j);
  json_uint(j, "units_total", r->shape.units_total);
  json_open(j, "costs", '['); /* of each block, in units */
  for (uint32_t b = 0; b < r->shape.n_blocks; b++) json_uint(j, NULL, r->budget.costs[b]);
  json_close(j);
}

ss_status train_write_about(train_run *r, ss_error *err) {
  const train_data *d = &r->data;
  about_examples examples = {take_memory(example_prompts_count(), sizeof *examples.clusters),
                             take_memory(example_prompts_count(), sizeof *examples.distances)};
  char *text = NULL;
  size_t len = 0;
  buffer path = {0};
  train_path(&path, r, "run.json");
  ss_status status = example_prompts_route(d->encoder.encoder, d->clusters.centroids, d->clusters.k, examples.clusters,
                                           examples.distances, err);
  FILE *out = open_memstream(&text, &len);
  if (status == SS_OK && out) {
    json j = {.out = out};
    json_open(&j, NULL, '{');
    about(&j, r);
    clusters_about(&j, r, &examples);
    json_done(&j);
  } else if (status == SS_OK) status = ss_fail(err, SS_E_MEMORY, "no memory for %s", path.data);
  if (out) fclose(out);
  if (status == SS_OK) status = write_whole(path.data, text, len, err);
  free(text);
  free(examples.clusters);
  free(examples.distances);
  buffer_free(&path);
  return status;
}
