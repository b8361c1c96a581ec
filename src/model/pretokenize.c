/* Pre-tokenizers: regular expressions as code.
 *
 * GPT-2:    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * smollm:   each digit is a text of its own, and GPT-2 runs on those and on what stands between them
 * Llama 3:  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
 *           |\s+(?!\S)|\s+
 * Qwen 2:   the same with \p{N} for \p{N}{1,3}
 *
 * An expression takes its first alternative that matches, and each alternative is greedy. That makes all of them a
 * look at one or two characters and then a run of one class; only white space needs to know where its run ends. */
#include "model/pretokenize.h"

#include "model/unicode.h"

typedef enum kind { OTHER, LETTER, NUMBER, SPACE, END } kind; /* END: of the text, or for smollm a digit ahead */

typedef struct scan {
  const uint8_t *text;
  size_t n;
  bool digits_apart; /* smollm */
} scan;

/* The class of the character at `at`; *next is behind it. */
static kind look(const scan *s, size_t at, size_t *next) {
  if (at >= s->n) {
    *next = at;
    return END;
  }
  *next = at;
  switch (ss_unicode_class(ss_utf8_next(s->text, next))) {
    case SS_CHAR_LETTER: return LETTER;
    case SS_CHAR_SPACE: return SPACE;
    case SS_CHAR_NUMBER: return s->digits_apart ? END : NUMBER;
    case SS_CHAR_DIGIT_ONLY: return s->digits_apart ? END : OTHER;
    case SS_CHAR_OTHER: break;
  }
  return OTHER;
}

static size_t run_end(const scan *s, size_t at, kind wanted) {
  size_t next;
  while (look(s, at, &next) == wanted) at = next;
  return at;
}

static bool is_newline(uint8_t c) { return c == '\r' || c == '\n'; }

/* Length of an English contraction at `at`, which holds an apostrophe; or 0. */
static size_t contraction(const scan *s, size_t at, bool any_case) {
  const uint8_t *p = s->text + at;
  const size_t left = s->n - at, fold = any_case ? 0x20 : 0;
  if (left < 2) return 0;
  const uint8_t a = (uint8_t)(p[1] | fold);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (left < 3) return 0;
  if (any_case && p[1] == 0xc5 && p[2] == 0xbf) return 3; /* U+017F, the long s, folds to s */
  const uint8_t b = (uint8_t)(p[2] | fold);
  return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ on the run [at, end): all of it before the text's end; else all but its last character, which may lead
 * the next word, or that character when it is the only one. */
static size_t space_end(const scan *s, size_t at, size_t end) {
  size_t next, last = at;
  if (look(s, end, &next) == END) return end;
  for (size_t i = at; i < end;) {
    last = i;
    ss_utf8_next(s->text, &i);
  }
  return last > at ? last : end;
}

static size_t gpt2_end(const scan *s, size_t at) {
  if (s->text[at] == '\'') {
    const size_t len = contraction(s, at, false);
    if (len) return at + len;
  }
  size_t next, behind;
  const kind first = look(s, at, &next);
  if (first == END) return next; /* smollm: a digit */
  if (s->text[at] == ' ') {
    const kind second = look(s, next, &behind);
    if (second != SPACE && second != END) return run_end(s, behind, second);
  }
  if (first == SPACE) return space_end(s, at, run_end(s, next, SPACE));
  return run_end(s, next, first);
}

static size_t llama3_end(const scan *s, size_t at, unsigned max_digits) {
  const uint8_t c = s->text[at];
  if (c == '\'') {
    const size_t len = contraction(s, at, true);
    if (len) return at + len;
  }
  size_t next, behind;
  const kind first = look(s, at, &next);
  if (first == LETTER) return run_end(s, next, LETTER);
  if (first == NUMBER) {
    for (unsigned i = 1; i < max_digits && look(s, next, &behind) == NUMBER; i++) next = behind;
    return next;
  }
  const kind second = look(s, next, &behind);
  if (second == LETTER && !is_newline(c)) return run_end(s, behind, LETTER);
  if (first == OTHER || (c == ' ' && second == OTHER)) {
    size_t end = run_end(s, next, OTHER);
    while (end < s->n && is_newline(s->text[end])) end++;
    return end;
  }
  const size_t end = run_end(s, next, SPACE); /* white space: up to its last line break, if it has one */
  for (size_t i = end; i > at; i--)
    if (is_newline(s->text[i - 1])) return i;
  return space_end(s, at, end);
}

size_t ss_pretoken_end(ss_pretokenizer form, const uint8_t *text, size_t n, size_t at) {
  const scan s = {.text = text, .n = n, .digits_apart = form == SS_PRE_SMOLLM};
  if (form == SS_PRE_GPT2 || form == SS_PRE_SMOLLM) return gpt2_end(&s, at);
  return llama3_end(&s, at, form == SS_PRE_LLAMA3 ? 3 : 1);
}

#define NAME(text) {text, sizeof text - 1}

bool ss_pretokenizer_find(ss_text name, ss_pretokenizer *out) {
  static const struct {
    ss_text name;
    ss_pretokenizer form;
  } names[] = {{NAME("smollm"), SS_PRE_SMOLLM}, {NAME("gpt-2"), SS_PRE_GPT2},      {NAME("llama-bpe"), SS_PRE_LLAMA3},
               {NAME("llama3"), SS_PRE_LLAMA3}, {NAME("llama-v3"), SS_PRE_LLAMA3}, {NAME("qwen2"), SS_PRE_QWEN2}};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (names[i].name.len == name.len && !memcmp(names[i].name.data, name.data, name.len)) {
      *out = names[i].form;
      return true;
    }
  return false;
}
