/* Samples as token windows: what losses are measured on. */
#ifndef SS_TOOL_WINDOWS_H
#define SS_TOOL_WINDOWS_H

#include "corpus.h"
#include "generate.h"
#include "train/train.h"

#define LEAST_WINDOW 16 /* tokens; a shorter text is left out */

typedef struct window_set {
  token_list tokens;
  uint32_t *starts;  /* [n + 1] */
  uint32_t *samples; /* [n] which sample each is of */
  uint32_t *score_from; /* [n] the first token whose loss counts, at least 1 */
  uint32_t n, capacity;
  uint32_t least;    /* tokens of a window; 0: LEAST_WINDOW */
  uint64_t hash;     /* of the tokens and where they are cut */
} window_set;
void window_set_free(window_set *w);
ss_windows window_set_face(const window_set *w); /* borrows */

/* Adds the first `length` tokens of `text` as a window, at most `left` of them; *n_added: how many, 0 when less than LEAST_WINDOW or
 * than n_head + 2. flags: of tokenizing; n_head: so many tokens in front are the same for every text, and not scored. */
ss_status window_set_add_text(window_set *w, const ss_tokenizer *tokenizer, ss_text text, uint32_t flags,
                              uint32_t n_head, uint32_t sample_index, uint32_t length, size_t left, size_t *n_added,
                              ss_error *err);
/* The same for a sample's text as it is. */
ss_status window_set_add(window_set *w, const ss_tokenizer *tokenizer, const corpus *c, uint32_t sample_index,
                         uint32_t length, size_t left, size_t *n_added, ss_error *err);

/* Windows of samples[0..n) in random order until there are n_tokens; fewer when the samples end before. */
ss_status window_set_draw(window_set *w, const ss_tokenizer *tokenizer, const corpus *c, const uint32_t *samples,
                          size_t n, uint32_t length, size_t n_tokens, uint64_t seed, ss_error *err);

#endif
