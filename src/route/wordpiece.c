/* BERT's tokenizer in one pass over the text, without memory of its own: each code point is decomposed, stripped of
 * accents and lowered, goes into the word or ends it, and a word that ends is cut into pieces (Wu et al.,
 * arXiv 1609.08144; greedy as in BERT). Agrees with Hugging Face tokenizers on every code point:
 * tools/make_unicode.py checks that.
 *
 * In GGUF a piece that starts a word begins with U+2581, where vocab.txt marks the others with "##". */
#include "route/wordpiece.h"

#include "model/unicode.h"
#include "route/wordpiece_tables.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAX_WORD_CHARS 100 /* a longer word is unknown, as in BERT */
#define MARK_BYTES 3       /* U+2581 */
#define MAX_WORD_BYTES (MARK_BYTES + 4 * MAX_WORD_CHARS + MARK_BYTES) /* the last for a look ahead */

_Static_assert(sizeof(class_changes) + sizeof(lower_runs) < 3 * 1024, "every web page downloads these tables");

enum { KEPT, DROPPED, SPACE, PUNCTUATION };

typedef struct piece { /* of the vocabulary, in the model's header */
  uint32_t at, len;
} piece;

struct ss_wordpiece {
  ss_host host;
  size_t bytes;
  const uint8_t *header;
  uint32_t *class_points; /* [N_CLASS_CHANGES + 1] first code point << 2 | class */
  piece *pieces;          /* [n_vocab] */
  uint32_t *slots;        /* [n_slots] id + 1, or 0: open addressing, at most half full */
  size_t n_slots, longest;
  int32_t cls, sep, unknown;
};

/* ---- the vocabulary ---- */

/* The slot of a text, or the free one where it would go. */
static uint32_t *find_slot(const ss_wordpiece *w, uint64_t hash, const uint8_t *text, size_t n) {
  size_t i = (size_t)(hash ^ hash >> 32) & (w->n_slots - 1);
  for (; w->slots[i]; i = (i + 1) & (w->n_slots - 1)) {
    const piece *p = &w->pieces[w->slots[i] - 1];
    if (p->len == n && memcmp(w->header + p->at, text, n) == 0) break;
  }
  return &w->slots[i];
}

static int32_t find_name(const ss_wordpiece *w, const char *text) {
  const size_t n = sizeof "[CLS]" - 1; /* those of interest are all that long */
  return (int32_t)*find_slot(w, ss_fnv1a(SS_FNV_START, text, n), (const uint8_t *)text, n) - 1;
}

/* The id under one of two keys, or of the text. */
static ss_status find_special(const ss_wordpiece *w, const ss_model *m, const char *const keys[2], const char *text,
                              int32_t *id, ss_error *err) {
  ss_meta meta;
  for (size_t i = 0; i < 2; i++) {
    if (!ss_gguf_meta(&m->gguf, keys[i], &meta)) continue;
    if (meta.type > SS_META_I32 || meta.u >= m->config.n_vocab)
      return ss_fail(err, SS_E_FORMAT, "%s: want the id of a token, below %u", keys[i], (unsigned)m->config.n_vocab);
    *id = (int32_t)meta.u;
    return SS_OK;
  }
  *id = find_name(w, text);
  return *id >= 0 ? SS_OK : ss_fail(err, SS_E_MISSING, "%s: the key is missing, and no token is %s", keys[0], text);
}

static ss_status find_specials(ss_wordpiece *w, const ss_model *m, ss_error *err) {
  static const char *const keys[3][2] = {
      {"tokenizer.ggml.cls_token_id", "tokenizer.ggml.bos_token_id"},
      {"tokenizer.ggml.seperator_token_id", "tokenizer.ggml.eos_token_id"}, /* GGUF's own spelling */
      {"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.unknown_token_id"},
  };
  ss_status status = find_special(w, m, keys[0], "[CLS]", &w->cls, err);
  if (status == SS_OK) status = find_special(w, m, keys[1], "[SEP]", &w->sep, err);
  if (status == SS_OK) status = find_special(w, m, keys[2], "[UNK]", &w->unknown, err);
  return status;
}

static void lay_out(ss_arena *arena, ss_wordpiece *w, uint32_t n_vocab) {
  ss_carve(arena, 1, sizeof *w);
  for (w->n_slots = 16; w->n_slots < 2 * (size_t)n_vocab;) w->n_slots *= 2;
  w->class_points = ss_carve(arena, N_CLASS_CHANGES + 1, sizeof *w->class_points);
  w->pieces = ss_carve(arena, n_vocab, sizeof *w->pieces);
  w->slots = ss_carve(arena, w->n_slots, sizeof *w->slots);
}

size_t ss_wordpiece_bytes(const ss_model *m) {
  ss_arena arena = {0};
  ss_wordpiece scratch;
  lay_out(&arena, &scratch, m->config.n_vocab);
  return arena.used;
}

ss_status ss_wordpiece_create(ss_wordpiece **out, const ss_model *m, const ss_host *host, ss_error *err) {
  *out = NULL;
  ss_meta kind;
  ss_gguf_iter tokens;
  ss_text text;
  if (!ss_gguf_meta(&m->gguf, "tokenizer.ggml.model", &kind) || kind.type != SS_META_STRING || kind.text.len != 4 ||
      memcmp(kind.text.data, "bert", 4) != 0)
    return ss_fail(err, SS_E_UNSUPPORTED, "tokenizer.ggml.model: want \"bert\" in a sentence encoder");
  if (!ss_gguf_array(&m->gguf, "tokenizer.ggml.tokens", &tokens) || tokens.element != SS_META_STRING)
    return ss_fail(err, SS_E_MISSING, "tokenizer.ggml.tokens: want an array of strings");

  const size_t bytes = ss_wordpiece_bytes(m);
  ss_wordpiece *w = ss_host_alloc(host, bytes);
  if (!w) return ss_fail(err, SS_E_MEMORY, "vocabulary: the host refused %zu bytes", bytes);
  ss_arena arena = {.base = (uint8_t *)w};
  lay_out(&arena, w, m->config.n_vocab);
  w->host = *host;
  w->bytes = bytes;
  w->header = m->gguf.data;
  const uint8_t *changes = class_changes;
  for (uint32_t i = 0, at = 0; i < N_CLASS_CHANGES; i++) {
    const uint32_t change = ss_take_packed(&changes);
    at += change >> 2;
    w->class_points[i + 1] = at << 2 | (change & 3);
  }
  for (uint32_t id = 0; id < m->config.n_vocab && ss_gguf_next_text(&tokens, &text); id++) {
    const uint8_t *data = (const uint8_t *)text.data;
    w->pieces[id] = (piece){.at = (uint32_t)(data - w->header), .len = (uint32_t)text.len};
    w->longest = ss_max(w->longest, text.len);
    *find_slot(w, ss_fnv1a(SS_FNV_START, data, text.len), data, text.len) = id + 1; /* of equal ones the last */
  }
  const ss_status status = find_specials(w, m, err);
  if (status == SS_OK) *out = w;
  else ss_wordpiece_free(w);
  return status;
}

void ss_wordpiece_free(ss_wordpiece *w) {
  if (!w) return;
  const ss_host host = w->host;
  ss_host_free(&host, w, w->bytes);
}

/* ---- characters ---- */

static unsigned class_of(const ss_wordpiece *w, uint32_t code) {
  const uint32_t *points = w->class_points;
  for (size_t n = N_CLASS_CHANGES + 1; n > 1;) { /* points[0] <= code holds throughout */
    const size_t half = n / 2;
    if (points[half] >> 2 <= code) points += half;
    n -= half;
  }
  return *points & 3;
}

static uint32_t lower(uint32_t code) {
  const uint32_t (*run)[2] = lower_runs;
  for (size_t n = COUNT(lower_runs); n > 1;) {
    const size_t half = n / 2;
    if (run[half][0] >> 11 <= code) run += half;
    n -= half;
  }
  const uint32_t first = (*run)[0] >> 11, count = (*run)[0] >> 1 & 1023, two = (*run)[0] & 1, i = code - first;
  return code < first || i >> two >= count || (i & two) ? code : code + (*run)[1];
}

static bool is_cjk(uint32_t c) {
  return c - 0x4e00 < 0x5200 || c - 0x3400 < 0x19c0 || c - 0x20000 < 0xa6e0 || c - 0x2a700 < 0x1120 ||
         c - 0x2b920 < 0x1590 || c - 0xf900 < 0x200 || c - 0x2f800 < 0x220;
}

/* ---- words ---- */

typedef struct writer {
  const ss_wordpiece *w;
  int32_t *ids;
  size_t n, capacity;
  uint8_t word[MAX_WORD_BYTES]; /* U+2581 and the word's characters */
  size_t n_bytes, n_chars;      /* without the mark; beyond MAX_WORD_CHARS only counted */
} writer;

/* Writes the word's pieces, the longest that fits first, or [UNK] when a rest has none; and starts a new word. */
static void end_word(writer *j) {
  const ss_wordpiece *w = j->w;
  int32_t pieces[MAX_WORD_CHARS + 1];
  size_t n_pieces = 0;
  const size_t end = MARK_BYTES + j->n_bytes;
  if (!j->n_chars) return;
  for (size_t start = 0; start < end && j->n_chars <= MAX_WORD_CHARS;) {
    uint64_t hash = SS_FNV_START;
    size_t found = 0;
    if (start && memcmp(j->word + start, j->word, MARK_BYTES) == 0) break; /* the text's own U+2581 */
    for (size_t n = 1; n <= ss_min(w->longest, end - start); n++) {
      hash = ss_fnv1a(hash, j->word + start + n - 1, 1);
      const bool inside = start + n < end && (j->word[start + n] & 0xc0) == 0x80;
      if (inside || start + n == MARK_BYTES) continue; /* of a character; nor the mark alone */
      const uint32_t slot = *find_slot(w, hash, j->word + start, n);
      if (!slot) continue;
      pieces[n_pieces] = (int32_t)slot - 1;
      found = n;
    }
    if (!found) break;
    n_pieces++;
    start += found;
    if (start == end) {
      for (size_t i = 0; i < n_pieces && j->n < j->capacity; i++) j->ids[j->n++] = pieces[i];
      j->n_bytes = j->n_chars = 0;
      return;
    }
  }
  if (j->n < j->capacity) j->ids[j->n++] = w->unknown;
  j->n_bytes = j->n_chars = 0;
}

static void add_char(writer *j, uint32_t code) {
  if (++j->n_chars <= MAX_WORD_CHARS) j->n_bytes += ss_utf8_put(j->word + MARK_BYTES + j->n_bytes, code);
}

static void add_code(writer *j, uint32_t code) {
  uint32_t parts[SS_MAX_DECOMPOSED];
  const unsigned class = class_of(j->w, code);
  const bool cjk = is_cjk(code);
  if (class == DROPPED) return;
  if (class == SPACE || cjk) end_word(j);
  if (class == SPACE) return;
  const size_t n = ss_unicode_decompose(code, parts);
  for (size_t i = 0; i < n; i++) {
    const uint32_t part = lower(parts[i]);
    const unsigned part_class = class_of(j->w, part);
    if (part_class == DROPPED) continue;
    if (part_class == PUNCTUATION) end_word(j);
    add_char(j, part);
    if (part_class == PUNCTUATION) end_word(j);
  }
  if (cjk) end_word(j);
}

size_t ss_wordpiece_ids(const ss_wordpiece *w, ss_text text, int32_t *ids, size_t capacity) {
  const uint8_t *p = (const uint8_t *)text.data;
  writer j = {.w = w, .ids = ids, .capacity = capacity - 1};
  ss_utf8_put(j.word, 0x2581);
  ids[j.n++] = w->cls;
  for (size_t at = 0; at < text.len && j.n < j.capacity;) {
    const int len = ss_utf8_check(p + at, text.len - at);
    if (len > 0) {
      add_code(&j, ss_utf8_next(p, &at));
    } else {
      at += len < 0 ? (size_t)-len : text.len - at;
    }
  }
  end_word(&j);
  ids[j.n++] = w->sep;
  return j.n;
}
