#include "clustering.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generate.h"
#include "state.h"

/* ---- progress ---- */

progress_line progress_begin(void) { return (progress_line){.start_ms = now_ms()}; }

bool progress_due(progress_line *p) {
  const double now = now_ms();
  if (now - p->start_ms < 500 || now - p->last_ms < 100 || !isatty(STDERR_FILENO)) return false;
  p->last_ms = now;
  return p->shown = true;
}

void progress_done(progress_line *p) {
  if (p->shown) fputs("\r\033[K", stderr);
  p->shown = false;
}

/* ---- embeddings ---- */

typedef struct cache_head {
  char magic[8];
  uint64_t of; /* encoder and prompts */
  uint64_t n, dim;
} cache_head;

static bool read_cache(const char *path, const cache_head *want, float *out) {
  cache_head head;
  FILE *file = fopen(path, "rb");
  if (!file) return false;
  const size_t n = (size_t)(want->n * want->dim);
  const bool same = fread(&head, sizeof head, 1, file) == 1 && !memcmp(&head, want, sizeof head) &&
                    fread(out, sizeof *out, n, file) == n;
  fclose(file);
  return same;
}

static ss_status write_cache(const char *path, const cache_head *head, const float *embeddings, ss_error *err) {
  buffer file = {0};
  buffer_add(&file, head, sizeof *head);
  buffer_add(&file, embeddings, (size_t)(head->n * head->dim) * sizeof *embeddings);
  const ss_status status = write_whole(path, file.data, file.len, err);
  buffer_free(&file);
  return status;
}

ss_status embed_corpus(float **out, text_encoder *encoder, const corpus *c, const char *cache, ss_error *err) {
  cache_head head = {.magic = "ssembed1", .n = c->n, .dim = encoder->dim};
  ss_fingerprint print;
  *out = NULL;
  ss_status status = ss_model_fingerprint(encoder->of, &print, err);
  if (status != SS_OK) return status;
  head.of = ss_fnv1a(SS_FNV_START, &print, sizeof print);
  for (size_t i = 0; i < c->n; i++) {
    const ss_text prompt = c->samples[i].prompt;
    head.of = ss_fnv1a(ss_fnv1a(head.of, &prompt.len, sizeof prompt.len), prompt.data, prompt.len);
  }
  *out = take_memory(c->n * encoder->dim, sizeof **out);
  if (cache && read_cache(cache, &head, *out)) return SS_OK;
  progress_line p = progress_begin();
  for (size_t i = 0; status == SS_OK && i < c->n; i++) {
    status = ss_encode(encoder->encoder, c->samples[i].prompt, *out + i * encoder->dim, err);
    if (status == SS_OK && interrupted()) status = ss_fail(err, SS_E_STATE, "stopped while embedding");
    if (progress_due(&p))
      fprintf(stderr, "\rembedding %zu of %zu prompts, %.0f a second ", i + 1, c->n,
              1e3 * (double)(i + 1) / (now_ms() - p.start_ms));
  }
  progress_done(&p);
  if (status == SS_OK && cache) status = write_cache(cache, &head, *out, err);
  if (status != SS_OK) {
    free(*out);
    *out = NULL;
  }
  return status;
}

/* ---- reports ---- */

#define N_NEAREST 3

static double distance_to(const ss_kmeans_result *r, const float *points, uint32_t i, uint32_t cluster) {
  double sum = 0;
  for (uint32_t d = 0; d < r->dim; d++) {
    const double x = (double)points[(size_t)i * r->dim + d] - (double)r->centroids[(size_t)cluster * r->dim + d];
    sum += x * x;
  }
  return sum;
}

/* The samples nearest to a centroid; returns how many. */
static size_t nearest_samples(const ss_kmeans_result *r, const float *points, uint32_t cluster,
                              uint32_t out[N_NEAREST]) {
  double best[N_NEAREST];
  size_t n = 0;
  for (uint32_t i = 0; i < r->n; i++) {
    if (r->clusters[i] != cluster) continue;
    const double d = distance_to(r, points, i, cluster);
    size_t at = n;
    while (at > 0 && d < best[at - 1]) at--;
    if (at == N_NEAREST) continue;
    if (n < N_NEAREST) n++;
    for (size_t k = n - 1; k > at; k--) best[k] = best[k - 1], out[k] = out[k - 1];
    best[at] = d;
    out[at] = i;
  }
  return n;
}

static uint32_t *domains_of(const ss_kmeans_result *r, uint32_t cluster, const corpus *c) {
  uint32_t *counts = take_memory(c->n_domains, sizeof *counts);
  memset(counts, 0, c->n_domains * sizeof *counts);
  for (uint32_t i = 0; i < r->n; i++)
    if (r->clusters[i] == cluster) counts[c->samples[i].domain]++;
  return counts;
}

void clusters_json(json *j, const char *key, const ss_kmeans_result *r, double silhouette, const float *points,
                   const corpus *c) {
  json_open(j, key, '{');
  json_uint(j, "k", r->k);
  json_uint(j, "n", r->n);
  json_uint(j, "dim", r->dim);
  json_real(j, "inertia", r->inertia, true);
  json_real(j, "silhouette", silhouette, true);
  json_uint(j, "iterations", r->iterations);
  json_bool(j, "converged", r->converged);
  json_uint(j, "repaired", r->repaired);
  json_open(j, "clusters", '[');
  for (uint32_t k = 0; k < r->k; k++) {
    json_open(j, NULL, '{');
    json_uint(j, "cluster", k);
    json_uint(j, "size", r->sizes[k]);
    if (c) {
      uint32_t nearest[N_NEAREST], *counts = domains_of(r, k, c);
      const size_t n = nearest_samples(r, points, k, nearest);
      json_open(j, "domains", '{');
      for (uint32_t d = 0; d < c->n_domains; d++)
        if (counts[d]) json_uint(j, c->domains[d], counts[d]);
      json_close(j);
      json_open(j, "nearest", '[');
      for (size_t i = 0; i < n; i++) json_text(j, NULL, c->samples[nearest[i]].prompt);
      json_close(j);
      free(counts);
    }
    json_close(j);
  }
  json_close(j);
  json_close(j);
}

static void print_domains(const ss_kmeans_result *r, uint32_t cluster, const corpus *c) {
  uint32_t *counts = domains_of(r, cluster, c);
  for (int shown = 0; shown < 3; shown++) {
    uint32_t best = 0;
    for (uint32_t d = 1; d < c->n_domains; d++)
      if (counts[d] > counts[best]) best = d;
    if (!counts[best]) break;
    printf("%s %s %.0f %%", shown ? "," : "", c->domains[best], 100.0 * counts[best] / r->sizes[cluster]);
    counts[best] = 0;
  }
  free(counts);
}

void clusters_print(const ss_kmeans_result *r, double silhouette, const float *points, const corpus *c) {
  printf("K = %u: inertia %.4f a point, silhouette %.4f, %u iterations%s\n", r->k, r->inertia / r->n, silhouette,
         r->iterations, r->converged ? "" : " (not converged)");
  for (uint32_t k = 0; k < r->k; k++) {
    printf("  %3u  %6u", k, r->sizes[k]);
    if (c) {
      uint32_t nearest[N_NEAREST];
      print_domains(r, k, c);
      if (nearest_samples(r, points, k, nearest)) {
        ss_text prompt = c->samples[nearest[0]].prompt;
        const size_t line = prompt.len ? strcspn(prompt.data, "\r\n") : 0;
        if (prompt.len > line) prompt.len = line;
        if (prompt.len > 60)
          for (prompt.len = 60; prompt.len && ((unsigned char)prompt.data[prompt.len] & 0xc0) == 0x80;) prompt.len--;
        fputs("  ", stdout);
        json_quote(stdout, prompt);
      }
    }
    putchar('\n');
  }
}

/* ---- lists ---- */

bool parse_counts(const char *who, const char *name, const char *text, uint32_t *out, size_t capacity, size_t *n) {
  char item[24];
  *n = 0;
  for (const char *at = text;; at++) {
    const size_t len = strcspn(at, ",");
    uint64_t count;
    snprintf(item, sizeof item, "%.*s", (int)len, at);
    if (*n == capacity || !parse_number(item, 1, 4096, &count)) {
      say("%s: --%s %s: want up to %zu whole numbers from 1 to 4096: \"4,8\"", who, name, text, capacity);
      return false;
    }
    out[(*n)++] = (uint32_t)count;
    at += len;
    if (!*at) return true;
  }
}

bool parse_levels(const char *who, const char *text, double *out, size_t capacity, uint32_t *n) {
  *n = 0;
  for (const char *at = text; *n < capacity;) {
    char *end;
    double level = strtod(at, &end);
    if (end == at) break;
    if (*end == '%') level /= 100, end++;
    if (!(level > (*n ? out[*n - 1] : 0.0) && level < 1.0)) break;
    out[(*n)++] = level;
    if (!*end) return true;
    if (*end != ',') break;
    at = end + 1;
  }
  say("%s: --levels %s: want up to %zu ascending shares between 0 and 1: \"0.0625,0.125\"", who, text, capacity);
  return false;
}
