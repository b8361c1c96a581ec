/* UTF-8, character classes and normalisation form C over the generated tables. */
#include "model/unicode.h"

#include "model/unicode_tables.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

_Static_assert(sizeof(ascii_classes) + sizeof(class_changes) + sizeof(class_index) < 4 * 1024,
               "every web page downloads this table");
_Static_assert(sizeof(ccc_changes) + sizeof(ccc_index) + sizeof(pairs) + sizeof(high_pairs) + sizeof(single_runs) +
                       sizeof(single_targets) + sizeof(single_planes) <
                   11 * 1024,
               "and these");

/* ---- classes ---- */

/* The value that holds at `code`. changes: distance from the change before << bits | value, packed; index[k]: the code
 * point of the first change in block k of 32 bytes; index[0] is 0. */
static uint32_t value_at(const uint8_t *changes, size_t n, const uint32_t *index, unsigned bits, uint32_t code) {
  size_t block = 0;
  for (size_t left = ss_ceil_div(n, 32); left > 1;) { /* index[block] <= code holds throughout */
    const size_t half = left / 2;
    if (index[block + half] <= code) block += half;
    left -= half;
  }
  const uint8_t *p = changes + 32 * block, *end = changes + ss_min(32 * block + 32, n);
  uint32_t value = ss_take_packed(&p), at = index[block];
  while (p < end) {
    const uint32_t next = ss_take_packed(&p);
    if ((at += next >> bits) > code) break;
    value = next;
  }
  return value & ((1u << bits) - 1);
}

ss_char_class ss_unicode_class(uint32_t code) {
  if (code < 128) return (ss_char_class)ascii_classes[code];
  if (code - 0x4e00 < 0x5200) return SS_CHAR_LETTER; /* the Han block, most of East Asian text */
  return (ss_char_class)(value_at(class_changes, COUNT(class_changes), class_index, 4, code) & 7);
}

/* ---- UTF-8 ---- */

size_t ss_utf8_put(uint8_t *out, uint32_t code) {
  if (code < 0x80) {
    out[0] = (uint8_t)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (uint8_t)(0xc0 | code >> 6);
    out[1] = (uint8_t)(0x80 | (code & 0x3f));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = (uint8_t)(0xe0 | code >> 12);
    out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    out[2] = (uint8_t)(0x80 | (code & 0x3f));
    return 3;
  }
  out[0] = (uint8_t)(0xf0 | code >> 18);
  out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
  out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
  out[3] = (uint8_t)(0x80 | (code & 0x3f));
  return 4;
}

int ss_utf8_check(const uint8_t *p, size_t n) {
  const uint8_t lead = p[0];
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const size_t len = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  /* the second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF */
  const uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (n < 2) return 0;
  if (p[1] < least || p[1] > most) return -1;
  for (size_t i = 2; i < len; i++) {
    if (i >= n) return 0;
    if ((p[i] & 0xc0) != 0x80) return -(int)i;
  }
  return (int)len;
}

size_t ss_utf8_repair(const uint8_t *text, size_t n, uint8_t *out, bool *valid) {
  size_t n_out = 0;
  *valid = true;
  for (size_t at = 0; at < n;) {
    const int len = ss_utf8_check(text + at, n - at);
    if (len > 0) {
      if (out) memcpy(out + n_out, text + at, (size_t)len);
      n_out += (size_t)len;
      at += (size_t)len;
    } else {
      if (out) ss_utf8_put(out + n_out, 0xfffd);
      n_out += 3;
      at += len < 0 ? (size_t)-len : n - at; /* cut by the end: all that is left is one sequence */
      *valid = false;
    }
  }
  return n_out;
}

/* ---- normalisation form C: decompose, order the marks, compose (Unicode Standard Annex 15) ---- */

enum { HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7, N_L = 19, N_V = 21, N_T = 28 };

static uint8_t combining_class(uint32_t code) {
  if (code < 0x300) return 0;
  return ccc_ranks[value_at(ccc_changes, COUNT(ccc_changes), ccc_index, 6, code)];
}

/* The pair that `code` decomposes into, one step. */
static bool find_pair(uint32_t code, uint32_t *first, uint32_t *second) {
  if (code > 0xffff) {
    for (size_t i = 0; i < COUNT(high_pairs); i++)
      if (high_pairs[i][0] == code) {
        *first = high_pairs[i][1];
        *second = high_pairs[i][2];
        return true;
      }
    return false;
  }
  for (int part = 0; part < 2; part++) { /* those that compose, and those that only decompose */
    size_t low = part ? n_composing : 0, n = part ? COUNT(pairs) - n_composing : n_composing;
    while (n > 1) {
      const size_t half = n / 2;
      if (pairs[low + half][0] <= code) low += half;
      n -= half;
    }
    *first = pairs[low][1];
    *second = pairs[low][2];
    if (pairs[low][0] == code) return true;
  }
  return false;
}

/* The one code point that `code` decomposes into. */
static bool find_single(uint32_t code, uint32_t *to) {
  size_t low = 0, n = COUNT(single_runs) - 1; /* the last run only ends the table */
  while (n > 1) {
    const size_t half = n / 2;
    if (single_runs[low + half][0] <= code) low += half;
    n -= half;
  }
  if (code < single_runs[low][0]) return false;
  const uint32_t i = single_runs[low][1] + (code - single_runs[low][0]);
  if (i >= single_runs[low + 1][1]) return false;
  *to = single_targets[i] | (uint32_t)(single_planes[i / 8] >> i % 8 & 1) << 17;
  return true;
}

static bool is_hangul_syllable(uint32_t code) { return code - HANGUL_S < N_L * N_V * N_T; }

size_t ss_unicode_decompose(uint32_t code, uint32_t *out) {
  if (code < 0xc0) {
    out[0] = code;
    return 1;
  }
  if (is_hangul_syllable(code)) {
    const uint32_t s = code - HANGUL_S, t = s % N_T;
    out[0] = HANGUL_L + s / (N_V * N_T);
    out[1] = HANGUL_V + s / N_T % N_V;
    if (t) out[2] = HANGUL_T + t;
    return t ? 3 : 2;
  }
  uint32_t tail[SS_MAX_DECOMPOSED], first, second; /* only the first of a pair decomposes further, but for singletons */
  size_t n_tail = 0;
  while (n_tail < SS_MAX_DECOMPOSED - 1) {
    if (find_single(code, &first)) {
      code = first;
    } else if (find_pair(code, &first, &second)) {
      if (find_single(second, &tail[n_tail])) n_tail++;
      else tail[n_tail++] = second;
      code = first;
    } else {
      break;
    }
  }
  out[0] = code;
  for (size_t i = 0; i < n_tail; i++) out[1 + i] = tail[n_tail - 1 - i];
  return n_tail + 1;
}

/* The primary composite of the pair, or 0. */
static uint32_t compose(uint32_t first, uint32_t second) {
  if (first - HANGUL_L < N_L && second - HANGUL_V < N_V)
    return HANGUL_S + ((first - HANGUL_L) * N_V + (second - HANGUL_V)) * N_T;
  if (is_hangul_syllable(first) && (first - HANGUL_S) % N_T == 0 && second - HANGUL_T - 1 < N_T - 1)
    return first + (second - HANGUL_T);
  if (first > 0xffff || second > 0xffff) {
    for (size_t i = 0; i < COUNT(high_pairs) && high_pairs[i][0] < high_excluded_first; i++)
      if (high_pairs[i][1] == first && high_pairs[i][2] == second) return high_pairs[i][0];
    return 0;
  }
  for (size_t i = 0; i < n_composing; i++) /* few texts have such a pair, and a table by pair would cost 2 KB */
    if (pairs[i][2] == second && pairs[i][1] == first) return pairs[i][0];
  return 0;
}

/* Nothing before this code point can combine with it or move behind it, and form C leaves it as it is. */
static bool is_boundary(uint32_t code) {
  if (code < 0x300 || code - 0x4e00 < 0x5200) return true;
  return !(value_at(class_changes, COUNT(class_changes), class_index, 4, code) & 8);
}

size_t ss_nfc_prefix(const uint8_t *text, size_t n) {
  size_t safe = 0; /* start of the last boundary: what follows it may still combine with it */
  for (size_t at = 0; at < n;) {
    const size_t start = at;
    if (!is_boundary(ss_utf8_next(text, &at))) return safe;
    safe = start;
  }
  return n;
}

/* Puts each run of marks into the order of their classes, stably. Counting sort, since a run may be a whole text. */
static void order_marks(uint32_t *codes, uint8_t *classes, size_t n, uint32_t *scratch) {
  for (size_t at = 0; at < n;) {
    if (!classes[at]) {
      at++;
      continue;
    }
    size_t end = at;
    bool sorted = true;
    for (; end < n && classes[end]; end++) sorted = sorted && (end == at || classes[end - 1] <= classes[end]);
    if (!sorted) {
      size_t place[256] = {0};
      for (size_t i = at; i < end; i++) place[classes[i]]++;
      for (size_t c = 0, sum = at; c < 256; c++) {
        const size_t count = place[c];
        place[c] = sum;
        sum += count;
      }
      memcpy(scratch + at, codes + at, (end - at) * sizeof *codes);
      size_t start[256];
      memcpy(start, place, sizeof start);
      for (size_t i = at; i < end; i++) codes[place[classes[i]]++] = scratch[i];
      for (size_t c = 0; c < 256; c++) memset(classes + start[c], (int)c, place[c] - start[c]);
    }
    at = end;
  }
}

/* Composes in place; returns the new length. */
static size_t compose_all(uint32_t *codes, const uint8_t *classes, size_t n) {
  size_t n_out = 0, starter = SIZE_MAX;
  uint8_t last_class = 0; /* of the code point before, 0 right behind the starter */
  for (size_t i = 0; i < n; i++) {
    const uint8_t c = classes[i];
    if (starter != SIZE_MAX) {
      const bool adjacent = n_out == starter + 1;
      if (adjacent || last_class < c) { /* not blocked */
        const uint32_t whole = compose(codes[starter], codes[i]);
        if (whole) {
          codes[starter] = whole;
          continue;
        }
      }
    }
    if (!c) starter = n_out;
    last_class = c;
    codes[n_out++] = codes[i];
  }
  return n_out;
}

enum { PIECE = 64 }; /* code points that are normalised at once, when there is a boundary behind them */

typedef struct piece {
  size_t start, end; /* before start and behind the last piece's end the text is as it should be */
  size_t n_codes;
} piece;

static piece next_piece(const uint8_t *text, size_t n, size_t at) {
  piece p = {.start = at + ss_nfc_prefix(text + at, n - at)};
  for (p.end = p.start; p.end < n; p.n_codes++) {
    size_t next = p.end;
    const uint32_t code = ss_utf8_next(text, &next);
    if (p.n_codes >= PIECE && is_boundary(code)) break;
    p.end = next;
  }
  return p;
}

ss_status ss_nfc(const uint8_t *text, size_t n, uint8_t *out, size_t *n_out, const ss_host *host, ss_error *err) {
  *n_out = 0;
  size_t longest = 1;
  for (size_t at = 0; at < n;) {
    const piece p = next_piece(text, n, at);
    longest = ss_max(longest, p.n_codes);
    at = p.end;
  }
  const size_t code_bytes = SS_MAX_DECOMPOSED * (2 * sizeof(uint32_t) + 1);
  if (longest > SIZE_MAX / code_bytes) return ss_fail(err, SS_E_MEMORY, "%zu bytes of text: too many to normalise", n);
  const size_t capacity = longest * SS_MAX_DECOMPOSED, bytes = longest * code_bytes;
  uint32_t *codes = ss_host_alloc(host, bytes);
  if (!codes) return ss_fail(err, SS_E_MEMORY, "no memory to normalise %zu bytes of text: %zu bytes wanted", n, bytes);
  uint32_t *scratch = codes + capacity;
  uint8_t *classes = (uint8_t *)(scratch + capacity);

  size_t len = 0;
  for (size_t at = 0; at < n;) {
    const piece p = next_piece(text, n, at);
    memcpy(out + len, text + at, p.start - at);
    len += p.start - at;
    size_t n_codes = 0;
    for (at = p.start; at < p.end;) n_codes += ss_unicode_decompose(ss_utf8_next(text, &at), codes + n_codes);
    for (size_t i = 0; i < n_codes; i++) classes[i] = combining_class(codes[i]);
    order_marks(codes, classes, n_codes, scratch);
    n_codes = compose_all(codes, classes, n_codes);
    for (size_t i = 0; i < n_codes; i++) len += ss_utf8_put(out + len, codes[i]);
  }
  *n_out = len;
  ss_host_free(host, codes, bytes);
  return SS_OK;
}
