/* A training run's text: the corpus, its clusters, which samples are held back, and windows of tokens of each part. */
#ifndef SS_TOOL_TRAIN_DATA_H
#define SS_TOOL_TRAIN_DATA_H

#include "chat_samples.h"
#include "corpus.h"
#include "ranks.h"
#include "routing.h"
#include "train_plan.h"
#include "windows.h"

typedef struct train_data {
  const engine *engine; /* borrowed, as the plan */
  const train_plan *plan;
  corpus corpus;
  text_encoder encoder;
  ss_fingerprint model_print, encoder_print;
  ss_bank *init; /* the bank that clusters and first masks come from, or NULL */
  uint64_t init_hash;
  ss_kmeans_result clusters; /* with a bank: centroids are its own, the rest is counted */
  double silhouette;
  bool *held_back; /* [samples] */
  chat_samples chats;
} train_data;

/* Reads the bank of --init, for its clusters. */
ss_status train_data_init(train_data *d, const engine *e, const char *path, ss_error *err);
/* Reads the corpus and opens the encoder: all that the plan needs to know. */
ss_status train_data_open(train_data *d, const train_options *options, const train_plan *plan, ss_error *err);
/* Embeds (the first process for all), clusters and holds back. cache: the file for embeddings. */
ss_status train_data_cluster(train_data *d, const ranks *world, const char *cache, ss_error *err);
void train_data_close(train_data *d);

#define TRAIN_ALL UINT32_MAX /* all clusters together */

/* Windows of a cluster's samples, or of all, in an order by the seed, up to n_tokens of them: of those held back or of the
 * others. A share of the samples with a prompt are chats (chat_samples.h). */
ss_status train_data_windows(const train_data *d, uint32_t cluster, bool held_back, size_t n_tokens, window_set *out,
                             ss_error *err);
/* The same of the samples held back that are not in `but`: perhaps none. */
ss_status train_data_other_windows(const train_data *d, uint32_t cluster, const window_set *but, size_t n_tokens,
                                   window_set *out, ss_error *err);
#endif
