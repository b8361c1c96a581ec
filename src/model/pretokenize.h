/* Cuts text into the words that BPE merges inside of. Each form is a regular expression of a Hugging Face tokenizer,
 * written out by hand; all are linear in the text. */
#ifndef SS_PRETOKENIZE_H
#define SS_PRETOKENIZE_H

#include "base/base.h"

typedef enum ss_pretokenizer {
  SS_PRE_GPT2,
  SS_PRE_SMOLLM, /* each digit alone, GPT-2's form between them */
  SS_PRE_LLAMA3,
  SS_PRE_QWEN2, /* Llama 3's form with single digits, over text in normalisation form C */
} ss_pretokenizer;

/* By the name in tokenizer.ggml.pre; false: unknown. */
bool ss_pretokenizer_find(ss_text name, ss_pretokenizer *out);

/* The end of the word that starts at `at` < n. `text` is valid UTF-8. */
size_t ss_pretoken_end(ss_pretokenizer form, const uint8_t *text, size_t n, size_t at);

#endif
