/* Byte-level BPE, as Hugging Face tokenizers does it: text -> special tokens | words -> bytes -> merges -> ids.
 *
 * A word (see pretokenize.h) starts as one token per byte; then the neighbours whose merge has the lowest rank become
 * one token, the leftmost first, until no neighbours merge. Short words look for that pair by a scan, long ones keep
 * all pairs in a heap: a megabyte of one letter takes O(n log n).
 *
 * Vocabulary and merges are two open-addressing tables at most half full, in one arena with everything else. Tokens are
 * kept as the bytes they stand for, not in GPT-2's printable characters, so detokenising is a copy. */
#include "model/tokenizer.h"

#include "model/model.h"
#include "model/pretokenize.h"
#include "model/unicode.h"

enum { NORMAL = 1, USER = 2, CONTROL = 4, ENDS = 8 }; /* what a token is; ENDS: an answer */

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 }; /* GGUF's numbering */

#define MAX_TOKENS (UINT32_C(1) << 28) /* ids and twice their number fit an int32 */
#define NO_RANK UINT32_MAX
#define SHORT_WORD 32 /* tokens up to which a scan beats the heap */

typedef struct merge {
  uint64_t pair; /* (left + 1) << 32 | right; 0: free */
  uint32_t rank, merged;
} merge;

struct ss_tokenizer {
  ss_host host;
  size_t arena_bytes;
  ss_pretokenizer pre;
  bool ignore_merges;    /* a word that is a token is that token, whatever the merges say */
  ss_special_tokens ids;
  uint32_t n_vocab;
  int32_t byte_token[256]; /* -1: none, the byte vanishes as in the reference */
  uint8_t starts[256];   /* USER and CONTROL: tokens of that kind start with this byte */
  uint8_t *kinds;        /* [n_vocab] */
  uint32_t *at;          /* [n_vocab + 1], token i is bytes[at[i] .. at[i + 1]) */
  uint8_t *bytes;
  uint32_t *by_bytes;    /* [1 << by_bytes_bits], id + 1; 0: free */
  merge *merges;         /* [1 << merges_bits] */
  uint32_t *added;       /* [n_added], tokens found in text as they are, in the order of their bytes */
  uint32_t n_added;
  unsigned by_bytes_bits, merges_bits;
};

static size_t token_len(const ss_tokenizer *t, uint32_t id) { return t->at[id + 1] - t->at[id]; }
static const uint8_t *token_data(const ss_tokenizer *t, uint32_t id) { return t->bytes + t->at[id]; }

/* ---- the two tables ---- */

static size_t slot_of(uint64_t key, unsigned bits) {
  return (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits));
}

static unsigned bits_for(uint64_t n) { /* at most half full, so that a free slot ends every search */
  unsigned bits = 4;
  while ((UINT64_C(1) << bits) < 2 * n) bits++;
  return bits;
}

/* The slot of the token with these bytes, or the free slot where it belongs. */
static uint32_t *find_slot(const ss_tokenizer *t, const uint8_t *bytes, size_t n) {
  const size_t mask = ((size_t)1 << t->by_bytes_bits) - 1;
  for (size_t i = slot_of(ss_fnv1a(SS_FNV_START, bytes, n), t->by_bytes_bits);; i = (i + 1) & mask) {
    uint32_t *slot = &t->by_bytes[i];
    if (!*slot || (token_len(t, *slot - 1) == n && !memcmp(token_data(t, *slot - 1), bytes, n))) return slot;
  }
}

static int32_t find_token(const ss_tokenizer *t, const uint8_t *bytes, size_t n) {
  return (int32_t)*find_slot(t, bytes, n) - 1;
}

static merge *find_merge(const ss_tokenizer *t, uint32_t left, uint32_t right) {
  const uint64_t pair = (uint64_t)(left + 1) << 32 | right;
  const size_t mask = ((size_t)1 << t->merges_bits) - 1;
  size_t i = slot_of(pair, t->merges_bits);
  while (t->merges[i].pair && t->merges[i].pair != pair) i = (i + 1) & mask;
  return &t->merges[i];
}

static uint32_t rank_of(const ss_tokenizer *t, uint32_t left, uint32_t right, uint32_t *merged) {
  const merge *m = find_merge(t, left, right);
  *merged = m->merged;
  return m->pair ? m->rank : NO_RANK;
}

/* ---- GPT-2's characters for bytes ---- */

/* The byte that a character stands for: printable ones of Latin-1 for themselves, the others in order from U+0100. */
static int byte_of_char(uint32_t code) {
  if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255)) return (int)code;
  if (code >= 256 && code <= 288) return (int)code - 256;
  if (code >= 289 && code <= 322) return (int)code - 289 + 127;
  return code == 323 ? 173 : -1;
}

/* Writes the bytes that a token's text stands for, at most text.len; the text itself when it is not in GPT-2's
 * characters. */
static size_t bytes_of_text(ss_text text, uint8_t *out) {
  const uint8_t *p = (const uint8_t *)text.data;
  size_t n = 0;
  for (size_t at = 0; at < text.len;) {
    const bool whole = ss_utf8_check(p + at, text.len - at) > 0;
    const int byte = whole ? byte_of_char(ss_utf8_next(p, &at)) : -1;
    if (byte < 0) {
      memcpy(out, p, text.len);
      return text.len;
    }
    out[n++] = (uint8_t)byte;
  }
  return n;
}

/* ---- building ---- */

#define NAME(text) {text, sizeof text - 1}

/* Ends of a turn or a text by the names that model makers gave them; the first four end a turn. */
static const ss_text end_names[] = {NAME("<|eot_id|>"), NAME("<|im_end|>"),    NAME("<end_of_turn>"),   NAME("<|end|>"),
                                    NAME("<|eom_id|>"), NAME("<|endoftext|>"), NAME("<|end_of_text|>"), NAME("</s>")};
enum { N_TURN_ENDS = 4 };

typedef struct sizes {
  uint32_t n_tokens, n_merges, n_added;
  size_t token_bytes, longest_merge;
} sizes;

static uint8_t kind_of_type(double type) {
  if (type == TYPE_CONTROL || type == TYPE_UNKNOWN) return CONTROL;
  if (type == TYPE_USER_DEFINED) return USER;
  return type == TYPE_NORMAL ? NORMAL : 0; /* unused ones and the like are never found in text */
}

/* Takes the next token's kind; without types all are normal. */
static uint8_t next_kind(ss_gguf_iter *types) {
  double type = TYPE_NORMAL;
  ss_gguf_next_number(types, &type);
  return kind_of_type(type);
}

static ss_status measure(const ss_vocab *vocab, sizes *out, ss_error *err) {
  ss_gguf_iter tokens = vocab->tokens, types = vocab->types, merges = vocab->merges;
  *out = (sizes){0};
  if (tokens.element != SS_META_STRING || merges.element != SS_META_STRING)
    return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.tokens and .merges: want arrays of strings");
  if (!tokens.left || tokens.left > MAX_TOKENS || merges.left > MAX_TOKENS)
    return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.tokens: %llu tokens and %llu merges, want 1 to %u tokens",
                   (unsigned long long)tokens.left, (unsigned long long)merges.left, MAX_TOKENS);
  if (types.left && types.left != tokens.left)
    return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.token_type: %llu elements, want one for each of %llu tokens",
                   (unsigned long long)types.left, (unsigned long long)tokens.left);
  out->n_tokens = (uint32_t)tokens.left;
  out->n_merges = (uint32_t)merges.left;
  ss_text text;
  while (ss_gguf_next_text(&tokens, &text)) {
    out->token_bytes += text.len;
    out->n_added += (next_kind(&types) & (USER | CONTROL)) && text.len;
  }
  if (out->token_bytes > SS_GGUF_MAX_HEADER)
    return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.tokens: %zu bytes, want at most %u", out->token_bytes,
                   SS_GGUF_MAX_HEADER);
  while (ss_gguf_next_text(&merges, &text)) out->longest_merge = ss_max(out->longest_merge, text.len);
  return SS_OK;
}

/* The same sequence sizes the arena and hands it out. */
static void carve(ss_tokenizer *t, ss_arena *arena, const sizes *s) {
  ss_carve(arena, 1, sizeof *t);
  t->kinds = ss_carve(arena, s->n_tokens, 1);
  t->at = ss_carve(arena, (size_t)s->n_tokens + 1, sizeof *t->at);
  t->bytes = ss_carve(arena, s->token_bytes, 1);
  t->by_bytes = ss_carve(arena, (size_t)1 << bits_for(s->n_tokens), sizeof *t->by_bytes);
  t->merges = ss_carve(arena, (size_t)1 << bits_for(s->n_merges), sizeof *t->merges);
  t->added = ss_carve(arena, s->n_added, sizeof *t->added);
}

static void add_tokens(ss_tokenizer *t, const ss_vocab *vocab) {
  ss_gguf_iter tokens = vocab->tokens, types = vocab->types;
  ss_text text;
  uint32_t at = 0;
  for (uint32_t id = 0; id < t->n_vocab && ss_gguf_next_text(&tokens, &text); id++) {
    t->kinds[id] = next_kind(&types);
    t->at[id] = at;
    if (t->kinds[id] & NORMAL) {
      at += (uint32_t)bytes_of_text(text, t->bytes + at);
    } else {
      memcpy(t->bytes + at, text.data, text.len);
      at += (uint32_t)text.len;
    }
    t->at[id + 1] = at;
  }
  /* normal tokens first: of two with the same bytes, merges mean the normal one */
  for (unsigned pass = 0; pass < 2; pass++)
    for (uint32_t id = 0; id < t->n_vocab; id++) {
      if (!(t->kinds[id] & NORMAL) != (pass == 1)) continue;
      uint32_t *slot = find_slot(t, token_data(t, id), token_len(t, id));
      if (!*slot) *slot = id + 1;
    }
  for (unsigned b = 0; b < 256; b++) {
    const uint8_t byte = (uint8_t)b;
    t->byte_token[b] = find_token(t, &byte, 1);
  }
}

static ss_status add_merges(ss_tokenizer *t, const ss_vocab *vocab, uint8_t *scratch, ss_error *err) {
  ss_gguf_iter merges = vocab->merges;
  ss_text text;
  for (uint32_t rank = 0; ss_gguf_next_text(&merges, &text); rank++) {
    size_t space = 1;
    while (space < text.len && text.data[space] != ' ') space++;
    if (space + 1 >= text.len)
      return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.merges: element %u is \"%.*s\", want two tokens", rank,
                     (int)ss_min(text.len, 80), text.data);
    const ss_text right = {text.data + space + 1, text.len - space - 1};
    const size_t n_left = bytes_of_text((ss_text){text.data, space}, scratch);
    const size_t n_right = bytes_of_text(right, scratch + n_left);
    const int32_t a = find_token(t, scratch, n_left), b = find_token(t, scratch + n_left, n_right);
    const int32_t merged = find_token(t, scratch, n_left + n_right);
    if (a < 0 || b < 0 || merged < 0)
      return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.merges: element %u is \"%.*s\", and %s is no token", rank,
                     (int)ss_min(text.len, 80), text.data,
                     a < 0   ? "its left part"
                     : b < 0 ? "its right part"
                             : "the result");
    *find_merge(t, (uint32_t)a, (uint32_t)b) =
        (merge){.pair = (uint64_t)((uint32_t)a + 1) << 32 | (uint32_t)b, .rank = rank, .merged = (uint32_t)merged};
  }
  return SS_OK;
}

/* Byte order; a token comes before those that continue it. */
static bool comes_before(const ss_tokenizer *t, uint32_t a, uint32_t b) {
  const size_t n_a = token_len(t, a), n_b = token_len(t, b);
  const int order = memcmp(token_data(t, a), token_data(t, b), ss_min(n_a, n_b));
  return order ? order < 0 : n_a < n_b;
}

static void sift_down_added(ss_tokenizer *t, size_t i, size_t n) {
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && comes_before(t, t->added[child], t->added[child + 1])) child++;
    if (!comes_before(t, t->added[i], t->added[child])) return;
    const uint32_t swapped = t->added[i];
    t->added[i] = t->added[child];
    t->added[child] = swapped;
  }
}

static void add_added(ss_tokenizer *t) {
  for (uint32_t id = 0; id < t->n_vocab; id++) {
    if (!(t->kinds[id] & (USER | CONTROL)) || !token_len(t, id)) continue;
    t->added[t->n_added++] = id;
    t->starts[token_data(t, id)[0]] |= t->kinds[id] & (USER | CONTROL);
  }
  for (size_t i = t->n_added / 2; i-- > 0;) sift_down_added(t, i, t->n_added); /* heap sort */
  for (size_t n = t->n_added; n > 1; n--) {
    const uint32_t greatest = t->added[0];
    t->added[0] = t->added[n - 1];
    t->added[n - 1] = greatest;
    sift_down_added(t, 0, n - 1);
  }
}

static ss_status add_special_ids(ss_tokenizer *t, const ss_special_tokens *given, ss_error *err) {
  const struct {
    const char *key;
    int32_t id;
  } all[] = {{"bos", given->bos},
             {"eos", given->eos},
             {"eot", given->eot},
             {"unknown", given->unknown},
             {"padding", given->pad}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    if (all[i].id >= 0 && (uint32_t)all[i].id >= t->n_vocab)
      return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.%s_token_id: %d, want less than the %u tokens of the vocabulary",
                     all[i].key, (int)all[i].id, t->n_vocab);
  t->ids = *given;
  for (size_t i = 0; i < sizeof end_names / sizeof end_names[0]; i++) {
    const int32_t id = find_token(t, (const uint8_t *)end_names[i].data, end_names[i].len);
    if (id < 0 || (t->kinds[id] & NORMAL)) continue;
    t->kinds[id] |= ENDS;
    if (i < N_TURN_ENDS && t->ids.eot < 0) t->ids.eot = id;
  }
  if (t->ids.eos >= 0) t->kinds[t->ids.eos] |= ENDS;
  if (t->ids.eot >= 0) t->kinds[t->ids.eot] |= ENDS;
  return SS_OK;
}

ss_status ss_tokenizer_build(ss_tokenizer **out, const ss_vocab *vocab, const ss_host *host, ss_error *err) {
  *out = NULL;
  ss_pretokenizer pre;
  if (!ss_pretokenizer_find(vocab->pre, &pre))
    return ss_fail(err, SS_E_UNSUPPORTED, "tokenizer.ggml.pre: \"%.*s\", want smollm, gpt-2, llama-bpe or qwen2",
                   (int)ss_min(vocab->pre.len, 80), vocab->pre.data);
  sizes s;
  ss_status status = measure(vocab, &s, err);
  if (status) return status;

  ss_tokenizer counted;
  ss_arena arena = {0};
  carve(&counted, &arena, &s);
  const size_t bytes = arena.used;
  ss_tokenizer *t = arena.overflow ? NULL : ss_host_alloc(host, bytes);
  uint8_t *scratch = t ? ss_host_alloc(host, s.longest_merge + 1) : NULL;
  if (!scratch) {
    if (t) ss_host_free(host, t, bytes);
    return ss_fail(err, SS_E_MEMORY, "tokenizer: no memory for %zu bytes", bytes);
  }
  *t = (ss_tokenizer){.host = *host, .arena_bytes = bytes, .pre = pre, .n_vocab = s.n_tokens};
  arena = (ss_arena){.base = (uint8_t *)t};
  carve(t, &arena, &s);
  t->ignore_merges = pre == SS_PRE_LLAMA3;
  t->by_bytes_bits = bits_for(s.n_tokens);
  t->merges_bits = bits_for(s.n_merges);

  add_tokens(t, vocab);
  add_added(t);
  status = add_merges(t, vocab, scratch, err);
  if (!status) status = add_special_ids(t, &vocab->special, err);
  ss_host_free(host, scratch, s.longest_merge + 1);
  if (status) ss_tokenizer_free(t);
  else *out = t;
  return status;
}

/* A token id of the metadata, or -1. What is no id of a token is left to add_special_ids to reject. */
static int32_t id_of_key(const ss_gguf *gguf, const char *key) {
  ss_meta meta;
  if (!ss_gguf_meta(gguf, key, &meta) || meta.type == SS_META_STRING || meta.type == SS_META_ARRAY) return -1;
  if (meta.f < 0) return -1;
  return meta.f < INT32_MAX ? (int32_t)meta.f : INT32_MAX;
}

ss_status ss_tokenizer_create(ss_tokenizer **out, const ss_model *model, const ss_host *host, ss_error *err) {
  *out = NULL;
  if (!ss_model_header_done(model))
    return ss_fail(err, SS_E_STATE, "tokenizer: the model's header is not complete yet");
  const ss_gguf *gguf = &model->gguf;
  ss_meta meta;
  if (!ss_gguf_meta(gguf, "tokenizer.ggml.model", &meta) || meta.type != SS_META_STRING)
    return ss_fail(err, SS_E_MISSING, "tokenizer.ggml.model: missing, the file has no tokenizer");
  if (meta.text.len != 4 || memcmp(meta.text.data, "gpt2", 4))
    return ss_fail(err, SS_E_UNSUPPORTED, "tokenizer.ggml.model: \"%.*s\", want \"gpt2\" (byte-level BPE)",
                   (int)ss_min(meta.text.len, 80), meta.text.data);
  if (!ss_gguf_meta(gguf, "tokenizer.ggml.pre", &meta) || meta.type != SS_META_STRING)
    return ss_fail(err, SS_E_MISSING, "tokenizer.ggml.pre: missing, want smollm, gpt-2, llama-bpe or qwen2");
  ss_vocab vocab = {.pre = meta.text};
  if (!ss_gguf_array(gguf, "tokenizer.ggml.tokens", &vocab.tokens))
    return ss_fail(err, SS_E_MISSING, "tokenizer.ggml.tokens: missing, want an array of strings");
  if (!ss_gguf_array(gguf, "tokenizer.ggml.merges", &vocab.merges))
    return ss_fail(err, SS_E_MISSING, "tokenizer.ggml.merges: missing, want an array of strings");
  if (ss_gguf_array(gguf, "tokenizer.ggml.token_type", &vocab.types) &&
      (vocab.types.element == SS_META_STRING || vocab.types.element == SS_META_ARRAY))
    return ss_fail(err, SS_E_FORMAT, "tokenizer.ggml.token_type: want an array of numbers");
  vocab.special = (ss_special_tokens){.bos = id_of_key(gguf, "tokenizer.ggml.bos_token_id"),
                                      .eos = id_of_key(gguf, "tokenizer.ggml.eos_token_id"),
                                      .eot = id_of_key(gguf, "tokenizer.ggml.eot_token_id"),
                                      .unknown = id_of_key(gguf, "tokenizer.ggml.unknown_token_id"),
                                      .pad = id_of_key(gguf, "tokenizer.ggml.padding_token_id")};
  ss_pretokenizer pre;
  vocab.special.add_bos = ss_pretokenizer_find(vocab.pre, &pre) && pre == SS_PRE_LLAMA3; /* where the file is silent */
  if (ss_gguf_meta(gguf, "tokenizer.ggml.add_bos_token", &meta)) vocab.special.add_bos = meta.u != 0;
  return ss_tokenizer_build(out, &vocab, host, err);
}

void ss_tokenizer_free(ss_tokenizer *t) {
  if (!t) return;
  const ss_host host = t->host;
  ss_host_free(&host, t, t->arena_bytes);
}

/* ---- words to tokens ---- */

typedef struct symbol { /* of a long word: a list in the order of the text */
  uint32_t id;
  uint32_t rank, merged; /* of the merge with the next one; NO_RANK: none, or this symbol is gone */
  uint32_t prev, next; /* UINT32_MAX: none */
} symbol;

typedef struct job { /* one call of ss_tokenize */
  const ss_tokenizer *t;
  int32_t *tokens;
  size_t capacity, n_tokens;
  symbol *symbols; /* [long_capacity], then the heap: uint64_t[2 * long_capacity] */
  size_t long_capacity;
  ss_error *err;
} job;

static void emit(job *j, uint32_t id) {
  if (j->n_tokens < j->capacity) j->tokens[j->n_tokens] = (int32_t)id;
  j->n_tokens++;
}

static void merge_short(job *j, const uint8_t *word, size_t n_bytes) {
  const ss_tokenizer *t = j->t;
  uint32_t ids[SHORT_WORD], ranks[SHORT_WORD], merged[SHORT_WORD];
  size_t n = 0;
  for (size_t i = 0; i < n_bytes; i++)
    if (t->byte_token[word[i]] >= 0) ids[n++] = (uint32_t)t->byte_token[word[i]];
  for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(t, ids[i], ids[i + 1], &merged[i]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == NO_RANK) break;
    ids[best] = merged[best];
    n--;
    for (size_t i = best + 1; i < n; i++) {
      ids[i] = ids[i + 1];
      ranks[i - 1] = ranks[i]; /* ranks[best] is computed anew below */
      merged[i - 1] = merged[i];
    }
    if (best + 1 < n) ranks[best] = rank_of(t, ids[best], ids[best + 1], &merged[best]);
    if (best > 0) ranks[best - 1] = rank_of(t, ids[best - 1], ids[best], &merged[best - 1]);
  }
  for (size_t i = 0; i < n; i++) emit(j, ids[i]);
}

static void sift_down(uint64_t *heap, size_t i, size_t n) {
  const uint64_t moved = heap[i];
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (moved <= heap[child]) break;
    heap[i] = heap[child];
  }
  heap[i] = moved;
}

static void push(uint64_t *heap, size_t *n, uint64_t key) {
  size_t i = (*n)++;
  for (; i && heap[(i - 1) / 2] > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = key;
}

/* Room for a long word. All rooms of a call together are no longer than its text. */
static ss_status reserve(job *j, size_t n) {
  if (n <= j->long_capacity) return SS_OK;
  const size_t each = sizeof(symbol) + 2 * sizeof(uint64_t);
  const ss_host *host = &j->t->host;
  if (j->symbols) ss_host_free(host, j->symbols, j->long_capacity * each);
  j->long_capacity = 0;
  j->symbols = NULL;
  const size_t wanted = (ss_max(n, 256) + 7) & ~(size_t)7; /* keeps the heap aligned */
  if (wanted < n || wanted > SIZE_MAX / each || !(j->symbols = ss_host_alloc(host, wanted * each)))
    return ss_fail(j->err, SS_E_MEMORY, "no memory to tokenize a word of %zu bytes", n);
  j->long_capacity = wanted;
  return SS_OK;
}

static ss_status merge_long(job *j, const uint8_t *word, size_t n_bytes) {
  const ss_tokenizer *t = j->t;
  const ss_status status = reserve(j, n_bytes);
  if (status) return status;
  symbol *s = j->symbols;
  uint64_t *heap =
      (uint64_t *)(void *)(s + j->long_capacity); /* rank << 32 | symbol; stale ones stay until they come up */
  size_t n = 0, n_heap = 0;
  for (size_t i = 0; i < n_bytes; i++) {
    if (t->byte_token[word[i]] < 0) continue;
    s[n] = (symbol){
        .id = (uint32_t)t->byte_token[word[i]], .rank = NO_RANK, .prev = (uint32_t)n - 1, .next = (uint32_t)n + 1};
    n++;
  }
  if (!n) return SS_OK;
  s[0].prev = s[n - 1].next = UINT32_MAX;
  for (size_t i = 0; i + 1 < n; i++) {
    s[i].rank = rank_of(t, s[i].id, s[i + 1].id, &s[i].merged);
    if (s[i].rank != NO_RANK) heap[n_heap++] = (uint64_t)s[i].rank << 32 | i;
  }
  for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, i, n_heap);
  while (n_heap) { /* each merge takes one key and adds at most two: never more than 2 * n */
    const uint64_t key = heap[0];
    heap[0] = heap[--n_heap];
    if (n_heap) sift_down(heap, 0, n_heap);
    const uint32_t at = (uint32_t)key;
    if (s[at].rank != key >> 32) continue; /* one of the two has merged since */
    const uint32_t gone = s[at].next;
    s[at].id = s[at].merged;
    s[at].next = s[gone].next;
    s[at].rank = s[gone].rank = NO_RANK;
    if (s[at].next != UINT32_MAX) {
      s[s[at].next].prev = at;
      s[at].rank = rank_of(t, s[at].id, s[s[at].next].id, &s[at].merged);
      if (s[at].rank != NO_RANK) push(heap, &n_heap, (uint64_t)s[at].rank << 32 | at);
    }
    const uint32_t before = s[at].prev;
    if (before != UINT32_MAX) {
      s[before].rank = rank_of(t, s[before].id, s[at].id, &s[before].merged);
      if (s[before].rank != NO_RANK) push(heap, &n_heap, (uint64_t)s[before].rank << 32 | before);
    }
  }
  for (uint32_t i = 0; i != UINT32_MAX; i = s[i].next) emit(j, s[i].id); /* the first symbol only grows */
  return SS_OK;
}

/* Text without special tokens. */
static ss_status tokenize_words(job *j, const uint8_t *text, size_t n) {
  const ss_tokenizer *t = j->t;
  for (size_t at = 0, end; at < n; at = end) {
    end = ss_pretoken_end(t->pre, text, n, at);
    const uint8_t *word = text + at;
    const size_t len = end - at;
    if (t->ignore_merges) {
      const int32_t whole = find_token(t, word, len);
      if (whole >= 0 && (t->kinds[whole] & NORMAL)) {
        emit(j, (uint32_t)whole);
        continue;
      }
    }
    if (len <= SHORT_WORD) {
      merge_short(j, word, len);
    } else {
      const ss_status status = merge_long(j, word, len);
      if (status) return status;
    }
  }
  return SS_OK;
}

/* The same in normalisation form C first, where the model's tokenizer asks for it. */
static ss_status tokenize_text(job *j, const uint8_t *text, size_t n) {
  const size_t same = j->t->pre == SS_PRE_QWEN2 ? ss_nfc_prefix(text, n) : n;
  if (same == n) return tokenize_words(j, text, n);
  const ss_host *host = &j->t->host;
  const size_t capacity = same + 3 * (n - same);
  uint8_t *form_c = ss_host_alloc(host, capacity);
  if (!form_c) return ss_fail(j->err, SS_E_MEMORY, "no memory to normalise %zu bytes of text", n);
  memcpy(form_c, text, same);
  size_t len;
  ss_status status = ss_nfc(text + same, n - same, form_c + same, &len, host, j->err);
  if (!status) status = tokenize_words(j, form_c, same + len);
  ss_host_free(host, form_c, capacity);
  return status;
}

/* ---- special tokens in text ---- */

/* The longest added token of the wanted kinds that the n bytes at p begin with, or -1. Narrows the sorted list by one
 * byte after the other. */
static int32_t match_added(const ss_tokenizer *t, const uint8_t *p, size_t n, uint8_t wanted) {
  int32_t found = -1;
  size_t low = 0, high = t->n_added; /* those that agree with p so far */
  for (size_t depth = 0;; depth++) {
    for (; low < high && token_len(t, t->added[low]) == depth; low++) /* complete; equal ones follow each other */
      if (t->kinds[t->added[low]] & wanted) found = (int32_t)t->added[low];
    if (low == high || depth == n) return found;
    size_t bounds[2];
    for (unsigned side = 0; side < 2; side++) { /* first token with a byte >= p[depth], then > p[depth] */
      size_t a = low, b = high;
      while (a < b) {
        const size_t mid = a + (b - a) / 2;
        if (token_data(t, t->added[mid])[depth] < p[depth] + side) a = mid + 1;
        else b = mid;
      }
      bounds[side] = a;
    }
    low = bounds[0];
    high = bounds[1];
  }
}

static ss_status tokenize_all(job *j, const uint8_t *text, size_t n, uint8_t wanted) {
  const ss_tokenizer *t = j->t;
  size_t from = 0, at = 0;
  while (at < n) {
    const int32_t id = t->starts[text[at]] & wanted ? match_added(t, text + at, n - at, wanted) : -1;
    if (id < 0) {
      at++;
      continue;
    }
    const ss_status status = tokenize_text(j, text + from, at - from);
    if (status) return status;
    emit(j, (uint32_t)id);
    at += token_len(t, (uint32_t)id);
    from = at;
  }
  return tokenize_text(j, text + from, n - from);
}

ss_status ss_tokenize(const ss_tokenizer *t, ss_text text, uint32_t flags, int32_t *tokens, size_t capacity,
                      size_t *n_tokens, ss_error *err) {
  *n_tokens = 0;
  if (text.len > INT32_MAX)
    return ss_fail(err, SS_E_ARGUMENT, "text of %zu bytes, want at most %d", text.len, INT32_MAX);
  if (flags & ~(uint32_t)(SS_TOKENIZE_SPECIAL | SS_TOKENIZE_BOS))
    return ss_fail(err, SS_E_ARGUMENT, "tokenize flags 0x%x: unknown", flags);
  job j = {.t = t, .tokens = tokens, .capacity = tokens ? capacity : 0, .err = err};
  if ((flags & SS_TOKENIZE_BOS) && t->ids.add_bos && t->ids.bos >= 0) emit(&j, (uint32_t)t->ids.bos);

  const uint8_t *data = (const uint8_t *)(text.len ? text.data : "");
  size_t n = text.len;
  bool valid;
  const size_t repaired_bytes = ss_utf8_repair(data, n, NULL, &valid);
  uint8_t *repaired = NULL;
  if (!valid) {
    repaired = ss_host_alloc(&t->host, repaired_bytes);
    if (!repaired) return ss_fail(err, SS_E_MEMORY, "no memory for %zu bytes of text", repaired_bytes);
    data = repaired;
    n = ss_utf8_repair((const uint8_t *)text.data, text.len, repaired, &valid);
  }
  const ss_status status = tokenize_all(&j, data, n, flags & SS_TOKENIZE_SPECIAL ? USER | CONTROL : USER);
  if (repaired) ss_host_free(&t->host, repaired, repaired_bytes);
  if (j.symbols) ss_host_free(&t->host, j.symbols, j.long_capacity * (sizeof(symbol) + 2 * sizeof(uint64_t)));
  if (!status) *n_tokens = j.n_tokens;
  return status;
}

/* ---- tokens to text ---- */

size_t ss_token_bytes(const ss_tokenizer *t, int32_t token, char *bytes, size_t capacity) {
  if (token < 0 || (uint32_t)token >= t->n_vocab) return 0;
  const size_t n = token_len(t, (uint32_t)token);
  if (bytes) memcpy(bytes, token_data(t, (uint32_t)token), ss_min(n, capacity));
  return n;
}

size_t ss_detokenize(ss_detokenizer *state, const ss_tokenizer *t, int32_t token, char *text, size_t capacity) {
  const uint8_t *bytes = NULL;
  size_t n_bytes = 0;
  if (token >= 0 && (uint32_t)token < t->n_vocab && !(t->kinds[token] & CONTROL)) {
    bytes = token_data(t, (uint32_t)token);
    n_bytes = token_len(t, (uint32_t)token);
  }
  const size_t n_tail = state->n_tail, n = n_tail + n_bytes;
  size_t at = 0, len = 0;
  uint8_t window[4]; /* of the tail and the token's bytes behind it */
  size_t n_window = 0;
  while (at < n) {
    n_window = ss_min(4, n - at);
    for (size_t i = 0; i < n_window; i++) window[i] = at + i < n_tail ? state->tail[at + i] : bytes[at + i - n_tail];
    int step = ss_utf8_check(window, n_window);
    if (step == 0 && token >= 0) break; /* to be continued */
    uint8_t whole[4];
    size_t n_whole;
    if (step > 0) memcpy(whole, window, n_whole = (size_t)step);
    else n_whole = ss_utf8_put(whole, 0xfffd);
    for (size_t i = 0; i < n_whole; i++, len++)
      if (len < capacity) text[len] = (char)whole[i];
    at += step > 0 ? (size_t)step : step < 0 ? (size_t)-step : n_window;
  }
  if (len > capacity) return len;
  state->n_tail = (uint8_t)(n - at);
  memcpy(state->tail, window, n - at);
  return len;
}

/* ---- what tokens are ---- */

ss_special_tokens ss_tokenizer_special(const ss_tokenizer *t) { return t->ids; }
uint32_t ss_tokenizer_n_vocab(const ss_tokenizer *t) { return t->n_vocab; }

static bool has_kind(const ss_tokenizer *t, int32_t token, uint8_t kind) {
  return token >= 0 && (uint32_t)token < t->n_vocab && (t->kinds[token] & kind);
}
bool ss_token_is_end(const ss_tokenizer *t, int32_t token) { return has_kind(t, token, ENDS); }
bool ss_token_is_special(const ss_tokenizer *t, int32_t token) { return has_kind(t, token, CONTROL); }
