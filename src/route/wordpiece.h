/* BERT's tokenizer: words of the normalised text, each cut into the longest pieces of the vocabulary. */
#ifndef SS_WORDPIECE_H
#define SS_WORDPIECE_H

#include "model/model.h"

typedef struct ss_wordpiece ss_wordpiece;

/* From the metadata of a bert model, whose vocabulary it borrows. */
ss_status ss_wordpiece_create(ss_wordpiece **out, const ss_model *model, const ss_host *host, ss_error *err);
void ss_wordpiece_free(ss_wordpiece *w);
size_t ss_wordpiece_bytes(const ss_model *model);

/* [CLS], at most capacity - 2 pieces of the text, [SEP]; returns how many ids. capacity >= 2. Reads no further than it
 * needs. Text never becomes a special token. Invalid UTF-8 is dropped, as U+FFFD is. */
size_t ss_wordpiece_ids(const ss_wordpiece *w, ss_text text, int32_t *ids, size_t capacity);

#endif
