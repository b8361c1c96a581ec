#include "text_measures.h"

#include <string.h>

double repeated_share(const int32_t *tokens, size_t n_tokens, size_t n) {
  if (n == 0 || n_tokens < n) return 0;
  const size_t n_runs = n_tokens - n + 1;
  size_t n_repeated = 0;
  for (size_t i = 1; i < n_runs; i++) { /* answers are short: all pairs */
    size_t k = 0;
    while (k < i && memcmp(tokens + k, tokens + i, n * sizeof *tokens) != 0) k++;
    n_repeated += k < i;
  }
  return (double)n_repeated / (double)n_runs;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

ss_text first_sentence(ss_text text) {
  while (text.len && is_space(*text.data)) text.data++, text.len--;
  size_t n = 0;
  for (; n < text.len && text.data[n] != '\n'; n++) {
    const char c = text.data[n];
    if ((c == '.' || c == '!' || c == '?') && (n + 1 == text.len || is_space(text.data[n + 1]))) {
      n++;
      break;
    }
  }
  while (n && is_space(text.data[n - 1])) n--;
  return (ss_text){text.data, n};
}

bool same_text(ss_text a, ss_text b) { return a.len == b.len && (a.len == 0 || !memcmp(a.data, b.data, a.len)); }
