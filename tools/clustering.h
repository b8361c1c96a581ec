/* Embedding a corpus and clustering it, for `cluster` and `bank build`. */
#ifndef SS_TOOL_CLUSTERING_H
#define SS_TOOL_CLUSTERING_H

#include "corpus.h"
#include "routing.h"
#include "train/train.h"

#define SILHOUETTE_SAMPLE 2000

/* A progress line on stderr, redrawn at most ten times a second, and only on a terminal. */
typedef struct progress_line {
  double start_ms, last_ms;
  bool shown;
} progress_line;
progress_line progress_begin(void);
bool progress_due(progress_line *p); /* draw now, starting with "\r"? */
void progress_done(progress_line *p);

/* Embeddings of all prompts, [n][dim], to be freed. `cache` (may be NULL) is a file that keeps them: one of the same
 * encoder and prompts is read, another one written anew. Ctrl-C between interrupt_begin and _end gives SS_E_STATE. */
ss_status embed_corpus(float **out, text_encoder *encoder, const corpus *c, const char *cache, ss_error *err);

/* Writes the cluster report of one K: sizes, domains and the prompts nearest to the centroid. c may be NULL. */
void clusters_json(json *j, const char *key, const ss_kmeans_result *r, double silhouette, const float *points,
                   const corpus *c);
void clusters_print(const ss_kmeans_result *r, double silhouette, const float *points, const corpus *c);

/* "4,8,16" -> numbers, at most capacity. False: said what is wrong. */
bool parse_counts(const char *who, const char *name, const char *text, uint32_t *out, size_t capacity, size_t *n);
/* "0.0625,0.125" or "6.25%,12.5%": shares in (0, 1), ascending. */
bool parse_levels(const char *who, const char *text, double *out, size_t capacity, uint32_t *n);

#endif
