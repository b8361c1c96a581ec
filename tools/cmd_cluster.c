/* skipstone cluster: k-means over the embeddings of a corpus, for several K. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "clustering.h"
#include "commands.h"
#include "generate.h"

#define MAX_FILES 256
#define MAX_K 16

typedef struct cluster_args {
  engine_options engine;
  option_list corpus;
  const char *operands[MAX_FILES], *encoder, *clusters, *embeddings, *cache;
  uint32_t dim, restarts, max_samples, silhouette;
  uint64_t seed;
  bool euclidean, json;
} cluster_args;

static parse_result parse(cluster_args *a, int argc, char **argv) {
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
      {.name = "embeddings",
       .text = &a->embeddings,
       .argument = "FILE",
       .help = "no corpus, but raw little-endian f32 rows; wants --dim"},
      {.name = "dim",
       .u32 = &a->dim,
       .argument = "D",
       .min = 1,
       .max = 65536,
       .help = "floats of a row of --embeddings"},
      {.name = "clusters",
       .letter = 'k',
       .text = &a->clusters,
       .argument = "LIST",
       .help = "how many clusters: \"4,8,16\" (default 8)"},
      {.name = "euclidean", .flag = &a->euclidean, .help = "centroids are means (default: normalised, for cosine)"},
      {.name = "restarts",
       .u32 = &a->restarts,
       .argument = "N",
       .min = 1,
       .max = 1000,
       .help = "the best of N runs (default 8)"},
      {.name = "max-samples",
       .u32 = &a->max_samples,
       .argument = "N",
       .min = 1,
       .max = 10000000,
       .help = "at most N samples, drawn at random (default: all)"},
      {.name = "silhouette",
       .u32 = &a->silhouette,
       .argument = "N",
       .min = 2,
       .max = 100000,
       .help = "points that the silhouette is measured on (default 2000)"},
      {.name = "seed", .u64 = &a->seed, .argument = "S", .help = "same seed, same clusters (default 0)"},
      {.name = "cache", .text = &a->cache, .argument = "FILE", .help = "keeps the embeddings for the next time"},
      THREADS_OPTION(a->engine),
      KERNELS_OPTION(a->engine),
      {.name = "json", .flag = &a->json, .help = "print one JSON array"},
  };
  const command c = {
      .name = "cluster",
      .usage = "-m MODEL --corpus FILE... [options]",
      .about =
          "Embeds the prompts of a corpus and clusters them by k-means++ with restarts. Prints for each K the\n"
          "inertia, the silhouette, and for each cluster its size, its domains (labels that the clustering does not\n"
          "see) and the prompt nearest to its centre.",
      .examples =
          "  skipstone cluster -m model.gguf --corpus prompts.jsonl -k 4,8,16\n"
          "  skipstone cluster --embeddings rows.f32 --dim 384 -k 8 --json",
      .options = options,
      .n_options = sizeof options / sizeof options[0],
      .operands = a->operands,
      .max_operands = MAX_FILES,
  };
  return options_parse(&c, argc, argv);
}

typedef struct cluster_state {
  engine engine;
  host *pool; /* where there is no engine */
  const ss_host *host;
  text_encoder encoder;
  corpus corpus;
  buffer file;
  float *points;
  uint32_t n, dim;
} cluster_state;

static ss_status read_corpus(const cluster_args *a, cluster_state *s, ss_error *err) {
  ss_status status = SS_OK;
  for (size_t i = 0; status == SS_OK && i < a->corpus.n; i++) status = corpus_add(&s->corpus, a->corpus.items[i], err);
  for (size_t i = 0; status == SS_OK && i < MAX_FILES && a->operands[i]; i++)
    status = corpus_add(&s->corpus, a->operands[i], err);
  if (status == SS_OK && a->max_samples) corpus_draw(&s->corpus, a->max_samples, a->seed);
  if (status == SS_OK) status = text_encoder_open(&s->encoder, &s->engine, a->encoder ? a->encoder : "self", err);
  if (status != SS_OK) return status;
  s->n = (uint32_t)s->corpus.n;
  s->dim = s->encoder.dim;
  interrupt_begin();
  status = embed_corpus(&s->points, &s->encoder, &s->corpus, a->cache, err);
  interrupt_end();
  return status;
}

static ss_status read_rows(const cluster_args *a, cluster_state *s, ss_error *err) {
  const size_t row = a->dim * sizeof(float);
  ss_status status = read_all(&s->file, a->embeddings, err);
  if (status == SS_OK && (s->file.len == 0 || s->file.len % row))
    status = ss_fail(err, SS_E_FORMAT, "%s: %zu bytes, want a multiple of %zu: rows of %u f32", a->embeddings,
                     s->file.len, row, a->dim);
  if (status != SS_OK) return status;
  s->dim = a->dim;
  s->n = (uint32_t)(s->file.len / row);
  s->points = take_memory(s->n * (size_t)s->dim, sizeof *s->points);
  memcpy(s->points, s->file.data, s->file.len);
  return SS_OK;
}

static ss_status cluster_once(const cluster_args *a, cluster_state *s, uint32_t k, json *j, ss_error *err) {
  ss_kmeans_result r;
  double silhouette = 0;
  const ss_kmeans_options options = {.k = k, .restarts = a->restarts, .cosine = !a->euclidean, .seed = a->seed};
  const double start = now_ms();
  ss_status status = ss_kmeans(&r, s->points, s->n, s->dim, &options, s->host, err);
  if (status != SS_OK) return status;
  const double ms = now_ms() - start;
  status = ss_silhouette(&silhouette, &r, s->points, a->silhouette, a->seed, s->host, err);
  const corpus *c = a->embeddings ? NULL : &s->corpus;
  if (status == SS_OK && j) clusters_json(j, NULL, &r, silhouette, s->points, c);
  else if (status == SS_OK) {
    clusters_print(&r, silhouette, s->points, c);
    printf("  %.2f s\n", ms / 1e3);
  }
  ss_kmeans_free(&r, s->host);
  return status;
}

static int cluster(const cluster_args *a, cluster_state *s) {
  ss_error err = {0};
  uint32_t counts[MAX_K];
  size_t n_counts;
  if (!parse_counts("cluster", "clusters", a->clusters ? a->clusters : "8", counts, MAX_K, &n_counts))
    return CODE_USAGE;
  const bool files = a->corpus.n || a->operands[0];
  if (files == (a->embeddings != NULL) || (a->embeddings && !a->dim)) {
    say("cluster: want --corpus FILE..., or --embeddings FILE with --dim D");
    return CODE_USAGE;
  }
  ss_status status;
  if (a->embeddings) {
    s->pool = host_create(a->engine.threads);
    if (!s->pool) {
      say("could not start %u threads", a->engine.threads);
      return CODE_FAIL;
    }
    s->host = host_face(s->pool);
    status = read_rows(a, s, &err);
  } else {
    const int code = engine_open(&s->engine, &a->engine);
    if (code != CODE_OK) return code;
    s->host = s->engine.host;
    status = read_corpus(a, s, &err);
  }
  json j = {.out = stdout};
  for (size_t i = 0; status == SS_OK && i < n_counts; i++) {
    if (i == 0 && a->json) json_open(&j, NULL, '[');
    status = cluster_once(a, s, counts[i], a->json ? &j : NULL, &err);
  }
  if (status != SS_OK) return report_failure(&err);
  if (a->json) json_done(&j);
  return CODE_OK;
}

int cmd_cluster(int argc, char **argv) {
  cluster_args a = {.silhouette = SILHOUETTE_SAMPLE};
  cluster_state s = {0};
  const parse_result parsed = parse(&a, argc, argv);
  int code = parsed == PARSE_HELP ? CODE_OK : CODE_USAGE;
  if (parsed == PARSE_OK) code = cluster(&a, &s);
  free(s.points);
  buffer_free(&s.file);
  text_encoder_close(&s.encoder);
  corpus_free(&s.corpus);
  engine_close(&s.engine);
  host_free(s.pool);
  option_list_free(&a.corpus);
  return code;
}
