#include "train_data.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "clustering.h"

/* ---- a number by the seed, for each sample ---- */

static uint64_t draw(const train_data *d, uint32_t sample_index, uint32_t what) {
  const uint64_t of[] = {d->plan->seed, sample_index, what};
  ss_rng rng = ss_rng_seed(ss_fnv1a(SS_FNV_START, of, sizeof of));
  return ss_rng_next(&rng);
}
enum { DRAW_HELD_BACK };

/* ---- clusters ---- */

ss_status train_data_init(train_data *d, const engine *e, const char *path, ss_error *err) {
  buffer file = {0};
  uint64_t n;
  ss_status status = bank_load(&d->init, path, e->host, &n, err);
  if (status == SS_OK) status = read_all(&file, path, err);
  if (status == SS_OK) d->init_hash = ss_fnv1a(SS_FNV_START, file.data, file.len);
  buffer_free(&file);
  return status;
}

static ss_status take_bank_clusters(train_data *d, const float *points, ss_error *err) {
  ss_bank_info info;
  ss_kmeans_result *r = &d->clusters;
  ss_bank_info_get(d->init, &info);
  *r = (ss_kmeans_result){.k = info.n_clusters, .n = (uint32_t)d->corpus.n, .dim = d->encoder.dim, .converged = true};
  r->centroids = ss_host_alloc(d->engine->host, (size_t)r->k * r->dim * sizeof *r->centroids);
  r->clusters = ss_host_alloc(d->engine->host, r->n * sizeof *r->clusters);
  r->sizes = ss_host_alloc(d->engine->host, r->k * sizeof *r->sizes);
  if (!r->centroids || !r->clusters || !r->sizes) return ss_fail(err, SS_E_MEMORY, "no memory for the clusters");
  ss_status status = SS_OK;
  memcpy(r->centroids, info.centroids, (size_t)r->k * r->dim * sizeof *r->centroids);
  for (uint32_t i = 0; status == SS_OK && i < r->n; i++) {
    uint32_t cluster;
    float distance;
    status = ss_bank_route(d->init, points + (size_t)i * r->dim, r->dim, &cluster, &distance, err);
    if (cluster == r->k) cluster = 0; /* a text without tokens, which no window is made of */
    r->clusters[i] = cluster;
    r->sizes[cluster]++;
    r->inertia += (double)distance * (double)distance;
  }
  return status;
}

typedef struct ranked {
  uint64_t key;
  uint32_t sample;
} ranked;

static int by_key(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  return x->sample < y->sample ? -1 : x->sample > y->sample;
}

/* In each cluster the samples with the lowest numbers: at least one, but not the last one. */
static void hold_back(train_data *d) {
  const uint32_t n = (uint32_t)d->corpus.n;
  ranked *order = take_memory(n, sizeof *order);
  d->held_back = take_memory(n, sizeof *d->held_back);
  memset(d->held_back, 0, n * sizeof *d->held_back);
  for (uint32_t c = 0; c < d->clusters.k; c++) {
    uint32_t n_here = 0;
    for (uint32_t i = 0; i < n; i++)
      if (d->clusters.clusters[i] == c) order[n_here++] = (ranked){draw(d, i, DRAW_HELD_BACK), i};
    qsort(order, n_here, sizeof *order, by_key);
    const uint32_t share = (uint32_t)(d->plan->held_back * n_here + 0.5), n_held = share ? share : 1;
    for (uint32_t i = 0; i < n_held && i + 1 < n_here; i++) d->held_back[order[i].sample] = true;
  }
  free(order);
}

static ss_status embed(train_data *d, const ranks *world, const char *cache, float **points, ss_error *err) {
  const size_t n = d->corpus.n * d->encoder.dim;
  ss_status status = SS_OK;
  if (world->rank == 0) status = embed_corpus(points, &d->encoder, &d->corpus, cache, err);
  else *points = take_memory(n, sizeof **points);
  int32_t shared = status;
  ranks_share(world, 0, &shared, sizeof shared);
  if (shared == SS_OK) ranks_share(world, 0, *points, n * sizeof **points);
  else if (status == SS_OK) status = ss_fail(err, (ss_status)shared, "the first process stopped");
  return status;
}

ss_status train_data_cluster(train_data *d, const ranks *world, const char *cache, ss_error *err) {
  float *points = NULL;
  ss_status status = embed(d, world, cache, &points, err);
  if (status == SS_OK && d->init) status = take_bank_clusters(d, points, err);
  else if (status == SS_OK) {
    const ss_kmeans_options options = {
        .k = d->plan->n_clusters, .restarts = d->plan->restarts, .cosine = !d->plan->euclidean, .seed = d->plan->seed};
    status = ss_kmeans(&d->clusters, points, (uint32_t)d->corpus.n, d->encoder.dim, &options, d->engine->host, err);
  }
  if (status == SS_OK)
    status =
        ss_silhouette(&d->silhouette, &d->clusters, points, SILHOUETTE_SAMPLE, d->plan->seed, d->engine->host, err);
  if (status == SS_OK) hold_back(d);
  free(points);
  return status;
}

/* ---- windows ---- */

/* A cluster's samples that are held back or not, in an order by the seed; the caller frees them. */
static uint32_t *draw_order(const train_data *d, uint32_t cluster, bool held_back, size_t *n) {
  uint32_t *order = take_memory(d->corpus.n, sizeof *order);
  *n = 0;
  for (uint32_t i = 0; i < d->corpus.n; i++)
    if (d->held_back[i] == held_back && (cluster == TRAIN_ALL || d->clusters.clusters[i] == cluster)) order[(*n)++] = i;
  ss_rng rng = ss_rng_seed(d->plan->seed + (cluster == TRAIN_ALL ? 0 : cluster + 1));
  for (size_t i = 0; i < *n; i++) {
    const size_t other = i + ss_rng_below(&rng, *n - i);
    const uint32_t chosen = order[other];
    order[other] = order[i];
    order[i] = chosen;
  }
  return order;
}

ss_status train_data_windows(const train_data *d, uint32_t cluster, bool held_back, size_t n_tokens, window_set *out,
                             ss_error *err) {
  size_t n;
  uint32_t *order = draw_order(d, cluster, held_back, &n);
  ss_status status = chat_samples_add(&d->chats, out, &d->corpus, order, n, d->plan->window, n_tokens, err);
  const uint32_t least = held_back ? 1 : 2; /* a pair for a step */
  if (status == SS_OK && out->n < least) {
    char name[32] = "the corpus";
    if (cluster != TRAIN_ALL) snprintf(name, sizeof name, "cluster %u", cluster);
    status = ss_fail(err, SS_E_ARGUMENT,
                     "%s: of %zu samples %s %u have the %d tokens that a window needs, want %u: more text, fewer "
                     "clusters, or another --held-back",
                     name, n, held_back ? "held back" : "to train on", out->n, LEAST_WINDOW, least);
  }
  free(order);
  return status;
}

ss_status train_data_other_windows(const train_data *d, uint32_t cluster, const window_set *but, size_t n_tokens,
                                   window_set *out, ss_error *err) {
  size_t n, n_others = 0;
  uint32_t *order = draw_order(d, cluster, true, &n);
  for (size_t i = 0; i < n; i++) {
    bool used = false;
    for (uint32_t w = 0; w < but->n && !used; w++) used = but->samples[w] == order[i];
    if (!used) order[n_others++] = order[i];
  }
  const ss_status status =
      chat_samples_add(&d->chats, out, &d->corpus, order, n_others, d->plan->window, n_tokens, err);
  free(order);
  return status;
}

/* ---- life ---- */

ss_status train_data_open(train_data *d, const train_options *o, const train_plan *plan, ss_error *err) {
  const char *encoder = o->encoder ? o->encoder : "self";
  ss_status status = SS_OK;
  d->plan = plan;
  for (size_t i = 0; status == SS_OK && i < o->corpus.n; i++) status = corpus_add(&d->corpus, o->corpus.items[i], err);
  for (size_t i = 0; status == SS_OK && i < TRAIN_MAX_FILES && o->operands[i]; i++)
    status = corpus_add(&d->corpus, o->operands[i], err);
  if (status == SS_OK && plan->max_samples) corpus_draw(&d->corpus, plan->max_samples, plan->seed);
  if (status == SS_OK && d->corpus.n < (size_t)2 * plan->n_clusters)
    status = ss_fail(err, SS_E_ARGUMENT, "%zu samples for %u clusters, want at least %u: two each", d->corpus.n,
                     plan->n_clusters, 2 * plan->n_clusters);
  if (status == SS_OK) status = text_encoder_open(&d->encoder, d->engine, encoder, err);
  if (status == SS_OK) status = ss_model_fingerprint(d->engine->model, &d->model_print, err);
  if (status == SS_OK) status = ss_model_fingerprint(d->encoder.of, &d->encoder_print, err);
  if (status == SS_OK && d->init) status = ss_bank_check(d->init, d->engine->model, d->encoder.of, NULL, 0, err);
  if (status == SS_OK) status = chat_samples_open(&d->chats, d->engine, plan->chat_share, plan->seed, err);
  return status;
}

void train_data_close(train_data *d) {
  if (d->engine) ss_kmeans_free(&d->clusters, d->engine->host);
  ss_bank_free(d->init);
  text_encoder_close(&d->encoder);
  corpus_free(&d->corpus);
  free(d->held_back);
  *d = (train_data){0};
}
