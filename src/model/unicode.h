/* What the tokenizer must know about Unicode: UTF-8, letters and numbers, normalisation form C.
 * The tables agree with Hugging Face tokenizers, not with one version of the standard: see tools/make_unicode.py. */
#ifndef SS_UNICODE_H
#define SS_UNICODE_H

#include "base/base.h"

typedef enum ss_char_class {
  SS_CHAR_OTHER,
  SS_CHAR_LETTER,     /* \p{L} */
  SS_CHAR_NUMBER,     /* \p{N} */
  SS_CHAR_SPACE,      /* \s */
  SS_CHAR_DIGIT_ONLY, /* a number for the pre-tokenizer Digits, "other" for the regular expressions */
} ss_char_class;

ss_char_class ss_unicode_class(uint32_t code);

/* A number of the generated tables: 7 bits a byte, the lowest first; the top bit says that more follow. */
static inline uint32_t ss_take_packed(const uint8_t **p) {
  uint32_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = *(*p)++;
    value |= (uint32_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
}

/* The code point at `at`, which must be inside valid UTF-8; *at moves behind it. */
static inline uint32_t ss_utf8_next(const uint8_t *text, size_t *at) {
  const uint8_t *p = text + *at;
  if (p[0] < 0x80) {
    *at += 1;
    return p[0];
  }
  if (p[0] < 0xe0) {
    *at += 2;
    return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
  }
  if (p[0] < 0xf0) {
    *at += 3;
    return (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
  }
  *at += 4;
  return (p[0] & 7u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Writes code as UTF-8, at most 4 bytes; returns how many. */
size_t ss_utf8_put(uint8_t *out, uint32_t code);

/* Looks at the n bytes (n > 0) that begin a character. Returns its length when it is whole and valid; 0 when it is
 * valid so far but cut by the end; and, negated, the length of an invalid sequence, which stands for one U+FFFD (the
 * maximal subpart of the Unicode standard, section 3.9: what Python and browsers do, too). */
int ss_utf8_check(const uint8_t *p, size_t n);

/* Replaces each invalid sequence by U+FFFD. out NULL: only counts. Returns the length, at most 3 * n; equal to n with
 * *valid true when there was nothing to replace. */
size_t ss_utf8_repair(const uint8_t *text, size_t n, uint8_t *out, bool *valid);

/* The full canonical decomposition of a code point; returns its length. */
#define SS_MAX_DECOMPOSED 4
size_t ss_unicode_decompose(uint32_t code, uint32_t *out); /* [SS_MAX_DECOMPOSED] */

/* The beginning of `text` that surely is in normalisation form C (a quick check, linear): n when all of it is. */
size_t ss_nfc_prefix(const uint8_t *text, size_t n);

/* Normalises valid UTF-8 to form C. out has room for 3 * n bytes. Linear in n.
 * SS_E_MEMORY when the host refuses the working memory. */
ss_status ss_nfc(const uint8_t *text, size_t n, uint8_t *out, size_t *n_out, const ss_host *host, ss_error *err);

#endif
