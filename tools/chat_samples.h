/* Samples in the form that a chat has: instruction data is what people send to a model as chat turns. */
#ifndef SS_TOOL_CHAT_SAMPLES_H
#define SS_TOOL_CHAT_SAMPLES_H

#include "corpus.h"
#include "load.h"
#include "windows.h"

typedef struct chat_samples {
  const engine *engine; /* borrowed */
  double share;         /* of the samples with a prompt that become chats */
  uint64_t seed;
  bool known;    /* the model's chat template is */
  uint32_t head; /* tokens in front of every chat's first message */
} chat_samples;

ss_status chat_samples_open(chat_samples *c, const engine *e, double share, uint64_t seed, ss_error *err);
/* Is sample i a chat? By the seed and i alone. */
bool chat_samples_has(const chat_samples *c, const corpus *of, uint32_t i);
/* Windows of samples[0..n), in that order, until there are n_tokens: of a chat its turns, else the text as it is. */
ss_status chat_samples_add(const chat_samples *c, window_set *out, const corpus *of, const uint32_t *samples, size_t n,
                           uint32_t window, size_t n_tokens, ss_error *err);

#endif
