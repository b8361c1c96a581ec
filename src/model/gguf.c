/* Reading a GGUF header. The scan takes one item at a time from the bytes that are there; an item that is cut is tried
 * again from its start when more came, which costs O(1), since long values are stepped over by their length alone. Only
 * arrays of strings and of arrays are walked, and `scan.open` remembers how far. */
#include "model/gguf.h"

#include "model/quant.h"

#define MARK_EVERY 64
#define FIRST_PIECE 16384 /* bytes; later ones double what is there, so little beyond the header is copied */

enum { STAGE_START, STAGE_ENTRIES, STAGE_ARRAY, STAGE_TENSORS, STAGE_END };

static const uint8_t scalar_bytes[] = {
                                        /* 0: varies */
    [SS_META_U8] = 1,  [SS_META_I8] = 1,  [SS_META_U16] = 2,  [SS_META_I16] = 2,    [SS_META_U32] = 4,
    [SS_META_I32] = 4, [SS_META_F32] = 4, [SS_META_BOOL] = 1, [SS_META_STRING] = 0, [SS_META_ARRAY] = 0,
    [SS_META_U64] = 8, [SS_META_I64] = 8, [SS_META_F64] = 8,
};
#define STRING_HEAD 8 /* u64 length */
#define ARRAY_HEAD 12 /* u32 element type, u64 count */

static size_t least_bytes(uint32_t type) {
  return type == SS_META_STRING ? STRING_HEAD : type == SS_META_ARRAY ? ARRAY_HEAD : scalar_bytes[type];
}

/* Messages show at most so much of a name: the arguments of %.*s. */
#define SHOWN(g, at, n) (int)ss_min((n), 80), (const char *)(g)->data + (at)

/* ---- memory ---- */

static ss_status no_memory(ss_error *err, size_t bytes) {
  return ss_fail(err, SS_E_MEMORY, "header: the host refused %zu bytes", bytes);
}

/* Room for one more item behind n: the same memory, or twice as much of it. NULL when the host refuses. */
static void *grown(const ss_host *host, void *items, size_t n, uint32_t *capacity, size_t item_bytes, ss_error *err) {
  if (n < *capacity) return items;
  const uint32_t more = *capacity ? *capacity * 2 : 32;
  void *moved = ss_host_alloc(host, more * item_bytes);
  if (!moved) {
    no_memory(err, more * item_bytes);
    return NULL;
  }
  if (n) memcpy(moved, items, n * item_bytes);
  ss_host_free(host, items, *capacity * item_bytes);
  *capacity = more;
  return moved;
}

static ss_status resize_data(ss_gguf *g, size_t capacity, ss_error *err) {
  uint8_t *moved = ss_host_alloc(&g->host, capacity);
  if (!moved) return no_memory(err, capacity);
  if (g->len) memcpy(moved, g->data, g->len);
  ss_host_free(&g->host, g->data, g->data_capacity);
  g->data = moved;
  g->data_capacity = capacity;
  return SS_OK;
}

void ss_gguf_open(ss_gguf *g, const ss_host *host) {
  memset(g, 0, sizeof *g);
  g->host = *host;
}

void ss_gguf_close(ss_gguf *g) {
  const ss_host *host = &g->host;
  ss_host_free(host, g->data, g->data_capacity);
  ss_host_free(host, g->entries, g->entries_capacity * sizeof *g->entries);
  ss_host_free(host, g->tensors, g->tensors_capacity * sizeof *g->tensors);
  ss_host_free(host, g->marks, g->marks_capacity * sizeof *g->marks);
  ss_host_free(host, g->names, g->names_bytes);
  ss_host_free(host, g->by_key, g->n_entries * sizeof *g->by_key);
  ss_host_free(host, g->by_name, g->n_tensors * sizeof *g->by_name);
  ss_host_free(host, g->by_offset, g->n_tensors * sizeof *g->by_offset);
  memset(g, 0, sizeof *g);
}

/* ---- the scan ---- */

/* Where the header must have ended. */
static uint64_t header_limit(const ss_gguf *g) {
  return g->expected_bytes && g->expected_bytes < SS_GGUF_MAX_HEADER ? g->expected_bytes : SS_GGUF_MAX_HEADER;
}

static uint64_t room_behind(const ss_gguf *g, size_t at) {
  const uint64_t limit = header_limit(g);
  return limit > at ? limit - at : 0;
}

static ss_cursor cursor_at(const ss_gguf *g, size_t at) {
  return (ss_cursor){.data = g->data, .len = g->len, .at = at};
}

static bool printable(const uint8_t *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (text[i] < 0x20 || text[i] == 0x7f) return false;
  return true;
}

static ss_status scan_start(ss_gguf *g, ss_error *err) {
  ss_cursor c = cursor_at(g, 0);
  const uint8_t *magic = ss_take(&c, 4);
  if (!magic) return SS_MORE;
  if (memcmp(magic, "GGUF", 4) != 0)
    return ss_fail(err, SS_E_FORMAT, "not a GGUF file: it starts with bytes %x %x %x %x, want \"GGUF\"",
                   (unsigned)magic[0], (unsigned)magic[1], (unsigned)magic[2], (unsigned)magic[3]);
  g->version = ss_take_u32(&c);
  if (c.bad) return SS_MORE;
  if (g->version == 0x02000000 || g->version == 0x03000000)
    return ss_fail(err, SS_E_UNSUPPORTED, "GGUF: the file is big-endian, want little-endian");
  if (g->version != 2 && g->version != 3)
    return ss_fail(err, SS_E_UNSUPPORTED, "GGUF: version %u, want 2 or 3", (unsigned)g->version);
  g->scan.n_tensors = ss_take_u64(&c);
  g->scan.n_entries = ss_take_u64(&c);
  if (c.bad) return SS_MORE;
  if (g->scan.n_tensors > SS_GGUF_MAX_ITEMS)
    return ss_fail(err, SS_E_FORMAT, "GGUF: %llu tensors, at most %d are read", (unsigned long long)g->scan.n_tensors,
                   SS_GGUF_MAX_ITEMS);
  if (g->scan.n_entries > SS_GGUF_MAX_ITEMS)
    return ss_fail(err, SS_E_FORMAT, "GGUF: %llu metadata entries, at most %d are read",
                   (unsigned long long)g->scan.n_entries, SS_GGUF_MAX_ITEMS);
  g->scan.at = c.at;
  g->scan.stage = STAGE_ENTRIES;
  return SS_OK;
}

/* Steps over a string. */
static ss_status scan_string(const ss_gguf *g, ss_cursor *c, const ss_gguf_entry *e, ss_error *err) {
  const uint64_t n = ss_take_u64(c);
  if (c->bad) return SS_MORE;
  if (n > room_behind(g, c->at))
    return ss_fail(err, SS_E_FORMAT, "%.*s: a string of %llu bytes at %zu runs past the end of the %s",
                   SHOWN(g, e->key_at, e->key_len), (unsigned long long)n, c->at,
                   g->expected_bytes ? "file" : "header");
  return ss_take(c, (size_t)n) ? SS_OK : SS_MORE;
}

/* Reads an array's head, and steps over its elements when their size is fixed. */
static ss_status scan_array_head(const ss_gguf *g, ss_cursor *c, const ss_gguf_entry *e, uint32_t *element, uint64_t *n,
                                 ss_error *err) {
  *element = ss_take_u32(c);
  *n = ss_take_u64(c);
  if (c->bad) return SS_MORE;
  if (*element > SS_META_F64)
    return ss_fail(err, SS_E_UNSUPPORTED, "%.*s: array of unknown metadata type %u", SHOWN(g, e->key_at, e->key_len),
                   (unsigned)*element);
  if (*n > room_behind(g, c->at) / least_bytes(*element))
    return ss_fail(err, SS_E_FORMAT, "%.*s: an array of %llu elements at %zu runs past the end of the %s",
                   SHOWN(g, e->key_at, e->key_len), (unsigned long long)*n, c->at,
                   g->expected_bytes ? "file" : "header");
  if (!scalar_bytes[*element]) return SS_OK;
  return ss_take(c, (size_t)*n * scalar_bytes[*element]) ? SS_OK : SS_MORE;
}

static ss_status push_entry(ss_gguf *g, const ss_gguf_entry *e, ss_error *err) {
  if (!printable(g->data + e->key_at, e->key_len))
    return ss_fail(err, SS_E_FORMAT, "metadata entry %u: its key holds a control character", (unsigned)g->n_entries);
  ss_gguf_entry *entries = grown(&g->host, g->entries, g->n_entries, &g->entries_capacity, sizeof *entries, err);
  if (!entries) return SS_E_MEMORY;
  g->entries = entries;
  g->entries[g->n_entries++] = *e;
  return SS_OK;
}

static ss_status scan_entry(ss_gguf *g, ss_error *err) {
  if (g->n_entries == g->scan.n_entries) {
    g->scan.stage = STAGE_TENSORS;
    return SS_OK;
  }
  ss_cursor c = cursor_at(g, g->scan.at);
  const uint64_t key_len = ss_take_u64(&c);
  if (c.bad) return SS_MORE;
  if (key_len < 1 || key_len > UINT16_MAX)
    return ss_fail(err, SS_E_FORMAT, "metadata entry %u: a key of %llu bytes, want 1 to 65535", (unsigned)g->n_entries,
                   (unsigned long long)key_len);
  ss_gguf_entry e = {.key_at = (uint32_t)c.at, .key_len = (uint32_t)key_len, .n = 1};
  ss_take(&c, (size_t)key_len);
  const uint32_t type = ss_take_u32(&c);
  if (c.bad) return SS_MORE;
  if (type > SS_META_F64)
    return ss_fail(err, SS_E_UNSUPPORTED, "%.*s: unknown metadata type %u", SHOWN(g, e.key_at, e.key_len),
                   (unsigned)type);
  e.type = (uint8_t)type;
  e.value_at = (uint32_t)c.at;

  ss_status status = SS_OK;
  uint32_t element = 0;
  if (type == SS_META_STRING) {
    status = scan_string(g, &c, &e, err);
  } else if (type == SS_META_ARRAY) {
    status = scan_array_head(g, &c, &e, &element, &e.n, err);
    e.element = (uint8_t)element;
    e.value_at += ARRAY_HEAD;
    e.first_mark = g->n_marks;
  } else {
    const uint8_t *value = ss_take(&c, scalar_bytes[type]);
    if (!value) return SS_MORE;
    if (type == SS_META_BOOL && *value > 1)
      return ss_fail(err, SS_E_FORMAT, "%.*s: a bool of value %d, want 0 or 1", SHOWN(g, e.key_at, e.key_len), *value);
  }
  if (status != SS_OK) return status;
  if ((status = push_entry(g, &e, err)) != SS_OK) return status;
  g->scan.at = c.at;
  if (type == SS_META_ARRAY && !scalar_bytes[element]) {
    g->scan.open[0].left = e.n;
    g->scan.open[0].element = element;
    g->scan.depth = 1;
    g->scan.stage = STAGE_ARRAY;
  }
  return SS_OK;
}

/* Remembers where every 64th element of the outermost array starts. */
static ss_status mark_element(ss_gguf *g, const ss_gguf_entry *e, ss_error *err) {
  const uint64_t i = e->n - g->scan.open[0].left;
  if (i % MARK_EVERY != 0 || g->n_marks - e->first_mark > i / MARK_EVERY) return SS_OK;
  uint32_t *marks = grown(&g->host, g->marks, g->n_marks, &g->marks_capacity, sizeof *marks, err);
  if (!marks) return SS_E_MEMORY;
  g->marks = marks;
  g->marks[g->n_marks++] = (uint32_t)g->scan.at;
  return SS_OK;
}

/* One step through an array whose elements vary in size. */
static ss_status scan_element(ss_gguf *g, ss_error *err) {
  const ss_gguf_entry *e = &g->entries[g->n_entries - 1];
  if (g->scan.depth == 0) {
    g->scan.stage = STAGE_ENTRIES;
    return SS_OK;
  }
  struct ss_gguf_open_array *array = &g->scan.open[g->scan.depth - 1];
  if (array->left == 0) {
    g->scan.depth--;
    return SS_OK;
  }
  ss_status status = g->scan.depth == 1 ? mark_element(g, e, err) : SS_OK;
  if (status != SS_OK) return status;

  ss_cursor c = cursor_at(g, g->scan.at);
  uint32_t element = 0;
  uint64_t n = 0;
  if (array->element == SS_META_STRING) {
    if ((status = scan_string(g, &c, e, err)) != SS_OK) return status;
  } else {
    if ((status = scan_array_head(g, &c, e, &element, &n, err)) != SS_OK) return status;
    if (!scalar_bytes[element]) {
      if (g->scan.depth == SS_GGUF_MAX_NEST)
        return ss_fail(err, SS_E_UNSUPPORTED, "%.*s: arrays nested deeper than %d", SHOWN(g, e->key_at, e->key_len),
                       SS_GGUF_MAX_NEST);
      g->scan.open[g->scan.depth].left = n;
      g->scan.open[g->scan.depth++].element = element;
    }
  }
  array->left--;
  g->scan.at = c.at;
  return SS_OK;
}

/* Elements and bytes from the dims, checked. */
static ss_status size_tensor(const ss_gguf *g, ss_gguf_tensor *t, ss_error *err) {
  t->n_elements = 1;
  for (uint32_t i = 0; i < 4; i++) {
    if (t->dims[i] == 0)
      return ss_fail(err, SS_E_FORMAT, "%.*s: dimension %u is 0", SHOWN(g, t->name_at, t->name_len), (unsigned)i);
    if (t->dims[i] > INT64_MAX / t->n_elements)
      return ss_fail(err, SS_E_FORMAT, "%.*s: its size overflows: dimensions %llu, %llu, %llu, %llu",
                     SHOWN(g, t->name_at, t->name_len), (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                     (unsigned long long)t->dims[2], (unsigned long long)t->dims[3]);
    t->n_elements *= t->dims[i];
  }
  const ss_quant_info *quant = ss_quant_find(t->type);
  if (!quant)
    return ss_fail(err, SS_E_UNSUPPORTED, "%.*s: unknown type %u", SHOWN(g, t->name_at, t->name_len),
                   (unsigned)t->type);
  if (t->dims[0] % quant->block)
    return ss_fail(err, SS_E_FORMAT, "%.*s: rows of %llu, want a multiple of %s's block of %u",
                   SHOWN(g, t->name_at, t->name_len), (unsigned long long)t->dims[0], quant->name,
                   (unsigned)quant->block);
  if (t->n_elements / quant->block > INT64_MAX / quant->bytes)
    return ss_fail(err, SS_E_FORMAT, "%.*s: its size overflows: %llu weights", SHOWN(g, t->name_at, t->name_len),
                   (unsigned long long)t->n_elements);
  t->bytes = t->n_elements / quant->block * quant->bytes;
  return SS_OK;
}

static ss_status scan_tensor(ss_gguf *g, ss_error *err) {
  if (g->n_tensors == g->scan.n_tensors) {
    g->scan.stage = STAGE_END;
    return SS_OK;
  }
  ss_cursor c = cursor_at(g, g->scan.at);
  const uint64_t name_len = ss_take_u64(&c);
  if (c.bad) return SS_MORE;
  if (name_len < 1 || name_len > SS_GGUF_MAX_NAME)
    return ss_fail(err, SS_E_FORMAT, "tensor %u: a name of %llu bytes, want 1 to %d", (unsigned)g->n_tensors,
                   (unsigned long long)name_len, SS_GGUF_MAX_NAME);
  ss_gguf_tensor t = {.name_at = (uint32_t)c.at, .name_len = (uint32_t)name_len, .dims = {1, 1, 1, 1}};
  const uint8_t *name = ss_take(&c, (size_t)name_len);
  if (name && !printable(name, (size_t)name_len))
    return ss_fail(err, SS_E_FORMAT, "tensor %u: its name holds a control character", (unsigned)g->n_tensors);
  t.n_dims = ss_take_u32(&c);
  if (c.bad) return SS_MORE;
  if (t.n_dims < 1 || t.n_dims > 4)
    return ss_fail(err, SS_E_FORMAT, "%.*s: %u dimensions, want 1 to 4", SHOWN(g, t.name_at, t.name_len),
                   (unsigned)t.n_dims);
  for (uint32_t i = 0; i < t.n_dims; i++) t.dims[i] = ss_take_u64(&c);
  t.type = ss_take_u32(&c);
  t.offset = ss_take_u64(&c); /* from data_offset, until the header is complete */
  if (c.bad) return SS_MORE;
  const ss_status status = size_tensor(g, &t, err);
  if (status != SS_OK) return status;

  ss_gguf_tensor *tensors = grown(&g->host, g->tensors, g->n_tensors, &g->tensors_capacity, sizeof *tensors, err);
  if (!tensors) return SS_E_MEMORY;
  g->tensors = tensors;
  g->tensors[g->n_tensors++] = t;
  g->scan.at = c.at;
  return SS_OK;
}

/* Goes as far as the bytes reach. SS_OK: to the header's end. */
static ss_status scan(ss_gguf *g, ss_error *err) {
  static ss_status (*const steps[])(ss_gguf *, ss_error *) = {[STAGE_START] = scan_start,
                                                              [STAGE_ENTRIES] = scan_entry,
                                                              [STAGE_ARRAY] = scan_element,
                                                              [STAGE_TENSORS] = scan_tensor};
  while (g->scan.stage != STAGE_END) {
    const ss_status status = steps[g->scan.stage](g, err);
    if (status != SS_OK) return status;
  }
  return SS_OK;
}

/* ---- the index ---- */

typedef int compare_fn(const ss_gguf *g, uint32_t a, uint32_t b);

static int compare_text(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
  const int c = memcmp(a, b, ss_min(a_len, b_len));
  return c ? c : (a_len > b_len) - (a_len < b_len);
}
static int compare_keys(const ss_gguf *g, uint32_t a, uint32_t b) {
  const ss_gguf_entry *x = &g->entries[a], *y = &g->entries[b];
  return compare_text(g->data + x->key_at, x->key_len, g->data + y->key_at, y->key_len);
}
static int compare_names(const ss_gguf *g, uint32_t a, uint32_t b) {
  const ss_gguf_tensor *x = &g->tensors[a], *y = &g->tensors[b];
  return compare_text(g->data + x->name_at, x->name_len, g->data + y->name_at, y->name_len);
}
static int compare_offsets(const ss_gguf *g, uint32_t a, uint32_t b) {
  const uint64_t x = g->tensors[a].offset, y = g->tensors[b].offset;
  return (x > y) - (x < y);
}

/* Heapsort: no memory, no bad case for a hostile file. */
static void sift(const ss_gguf *g, uint32_t *index, size_t root, size_t n, compare_fn *compare) {
  for (size_t child; (child = 2 * root + 1) < n; root = child) {
    if (child + 1 < n && compare(g, index[child], index[child + 1]) < 0) child++;
    if (compare(g, index[root], index[child]) >= 0) return;
    const uint32_t swapped = index[root];
    index[root] = index[child];
    index[child] = swapped;
  }
}

static ss_status sorted_index(const ss_gguf *g, uint32_t **out, size_t n, compare_fn *compare, ss_error *err) {
  if (n == 0) return SS_OK;
  uint32_t *index = *out = ss_host_alloc(&g->host, n * sizeof *index);
  if (!index) return no_memory(err, n * sizeof *index);
  for (size_t i = 0; i < n; i++) index[i] = (uint32_t)i;
  for (size_t i = n / 2; i-- > 0;) sift(g, index, i, n, compare);
  for (size_t end = n; end-- > 1;) {
    const uint32_t last = index[end];
    index[end] = index[0];
    index[0] = last;
    sift(g, index, 0, end, compare);
  }
  return SS_OK;
}

static ss_status index_entries(ss_gguf *g, ss_error *err) {
  const ss_status status = sorted_index(g, &g->by_key, g->n_entries, compare_keys, err);
  if (status != SS_OK) return status;
  for (uint32_t i = 1; i < g->n_entries; i++) {
    const ss_gguf_entry *e = &g->entries[g->by_key[i]];
    if (compare_keys(g, g->by_key[i - 1], g->by_key[i]) == 0)
      return ss_fail(err, SS_E_FORMAT, "%.*s: the key is there twice", SHOWN(g, e->key_at, e->key_len));
  }
  return SS_OK;
}

static ss_status index_names(ss_gguf *g, ss_error *err) {
  const ss_status status = sorted_index(g, &g->by_name, g->n_tensors, compare_names, err);
  if (status != SS_OK) return status;
  size_t bytes = 0;
  for (uint32_t i = 0; i < g->n_tensors; i++) bytes += g->tensors[i].name_len + 1;
  if (bytes) {
    g->names = ss_host_alloc(&g->host, bytes);
    if (!g->names) return no_memory(err, bytes);
    g->names_bytes = bytes;
  }
  char *name = g->names;
  for (uint32_t i = 0; i < g->n_tensors; i++) {
    ss_gguf_tensor *t = &g->tensors[i];
    memcpy(name, g->data + t->name_at, t->name_len); /* the NUL behind it is there already */
    t->name = name;
    name += t->name_len + 1;
  }
  for (uint32_t i = 1; i < g->n_tensors; i++)
    if (compare_names(g, g->by_name[i - 1], g->by_name[i]) == 0)
      return ss_fail(err, SS_E_FORMAT, "%s: the tensor is there twice", g->tensors[g->by_name[i]].name);
  return SS_OK;
}

static ss_status check_length(const ss_gguf *g, ss_error *err) {
  if (g->expected_bytes == 0 || g->file_bytes <= g->expected_bytes) return SS_OK;
  for (uint32_t i = 0; i < g->n_tensors; i++) { /* in the file's order of offsets, the first that is cut */
    const ss_gguf_tensor *t = &g->tensors[g->by_offset[i]];
    if (t->bytes > g->expected_bytes || t->offset > g->expected_bytes - t->bytes)
      return ss_fail(err, SS_E_FORMAT, "truncated file: %llu of %llu bytes; %s ends at %llu",
                     (unsigned long long)g->expected_bytes, (unsigned long long)g->file_bytes, t->name,
                     (unsigned long long)(t->offset + t->bytes));
  }
  return SS_OK;
}

static ss_status place_tensors(ss_gguf *g, ss_error *err) {
  ss_meta meta;
  g->alignment = 32;
  if (ss_gguf_meta(g, "general.alignment", &meta)) {
    if (meta.type != SS_META_U32 || meta.u < 8 || meta.u > 65536 || (meta.u & (meta.u - 1)) != 0)
      return ss_fail(err, SS_E_FORMAT,
                     "general.alignment: %llu (metadata type %d), want a u32 power of two, 8 to 65536",
                     (unsigned long long)meta.u, (int)meta.type);
    g->alignment = (uint32_t)meta.u;
  }
  const uint32_t beyond = g->alignment - 1;
  g->data_offset = ((uint64_t)g->scan.at + beyond) & ~(uint64_t)beyond;
  g->file_bytes = g->scan.at;
  for (uint32_t i = 0; i < g->n_tensors; i++) {
    ss_gguf_tensor *t = &g->tensors[i];
    if (t->offset & beyond)
      return ss_fail(err, SS_E_FORMAT, "%s: offset %llu, want a multiple of the alignment %u", t->name,
                     (unsigned long long)t->offset, (unsigned)g->alignment);
    const uint64_t room = INT64_MAX - g->data_offset;
    if (t->offset > room || t->bytes > room - t->offset)
      return ss_fail(err, SS_E_FORMAT, "%s: offset %llu and %llu bytes overflow", t->name,
                     (unsigned long long)t->offset, (unsigned long long)t->bytes);
    t->offset += g->data_offset;
    if (t->offset + t->bytes > g->file_bytes) g->file_bytes = t->offset + t->bytes;
  }
  const ss_status status = sorted_index(g, &g->by_offset, g->n_tensors, compare_offsets, err);
  if (status != SS_OK) return status;
  for (uint32_t i = 1; i < g->n_tensors; i++) {
    const ss_gguf_tensor *a = &g->tensors[g->by_offset[i - 1]], *b = &g->tensors[g->by_offset[i]];
    if (b->offset - a->offset < a->bytes)
      return ss_fail(err, SS_E_FORMAT, "%s: overlaps %s: starts at %llu, before that one's end at %llu", b->name,
                     a->name, (unsigned long long)b->offset, (unsigned long long)(a->offset + a->bytes));
  }
  return check_length(g, err);
}

static ss_status finish(ss_gguf *g, ss_error *err) {
  ss_status status = index_entries(g, err);
  if (status == SS_OK) status = index_names(g, err);
  if (status == SS_OK) status = place_tensors(g, err);
  if (status == SS_OK) status = resize_data(g, g->len, err);
  g->done = status == SS_OK;
  return status;
}

/* ---- feed ---- */

ss_status ss_gguf_expect(ss_gguf *g, uint64_t file_bytes, ss_error *err) {
  if (file_bytes == 0) return ss_fail(err, SS_E_FORMAT, "truncated file: it is empty");
  if (file_bytes < g->len)
    return ss_fail(err, SS_E_ARGUMENT, "file of %llu bytes: %zu were fed already", (unsigned long long)file_bytes,
                   g->len);
  g->expected_bytes = file_bytes;
  return g->done ? check_length(g, err) : SS_OK;
}

ss_status ss_gguf_feed(ss_gguf *g, const void *bytes, size_t n, size_t *used, ss_error *err) {
  *used = 0;
  if (g->done) return SS_OK;
  const uint64_t limit = header_limit(g);
  while (*used < n) {
    const size_t piece = ss_min(ss_min(n - *used, ss_max(g->len, FIRST_PIECE)), (size_t)(limit - g->len));
    if (piece > g->data_capacity - g->len) {
      const ss_status status = resize_data(g, ss_max(g->len + piece, 2 * g->data_capacity), err);
      if (status != SS_OK) return status;
    }
    memcpy(g->data + g->len, (const uint8_t *)bytes + *used, piece);
    g->len += piece;
    *used += piece;
    const ss_status status = scan(g, err);
    if (status == SS_OK) {
      *used -= g->len - g->scan.at; /* what lies behind the header came with this piece */
      g->len = g->scan.at;
      return finish(g, err);
    }
    if (status != SS_MORE) return status;
    if (g->len < limit) continue;
    if (g->expected_bytes == limit)
      return ss_fail(err, SS_E_FORMAT, "truncated file: its %llu bytes end inside the header",
                     (unsigned long long)limit);
    return ss_fail(err, SS_E_FORMAT, "GGUF: a header of more than %llu bytes", (unsigned long long)limit);
  }
  return SS_MORE;
}

/* ---- metadata: the bytes were checked by the scan ---- */

static uint64_t load_le(const uint8_t *p, size_t n) {
  uint64_t u = 0;
  for (size_t i = n; i-- > 0;) u = u << 8 | p[i];
  return u;
}

static double float_value(const uint8_t *p, ss_meta_type type) {
  double f;
  if (type == SS_META_F32) return (double)ss_float_of_bits((uint32_t)load_le(p, 4));
  const uint64_t u = load_le(p, 8);
  memcpy(&f, &u, sizeof f);
  return f;
}

/* Reads the value at p into the fields of *out that hold values. */
static void read_value(const uint8_t *p, ss_meta_type type, ss_meta *out) {
  out->type = type;
  out->n = 1;
  switch (type) {
    case SS_META_U8:
    case SS_META_U16:
    case SS_META_U32:
    case SS_META_U64:
    case SS_META_BOOL:
      out->u = load_le(p, scalar_bytes[type]);
      out->f = (double)out->u;
      break;
    case SS_META_I8:
      out->u = (uint64_t)(int64_t)(int8_t)load_le(p, 1);
      out->f = (double)(int64_t)out->u;
      break;
    case SS_META_I16:
      out->u = (uint64_t)(int64_t)(int16_t)load_le(p, 2);
      out->f = (double)(int64_t)out->u;
      break;
    case SS_META_I32:
      out->u = (uint64_t)(int64_t)(int32_t)load_le(p, 4);
      out->f = (double)(int64_t)out->u;
      break;
    case SS_META_I64:
      out->u = load_le(p, 8);
      out->f = (double)(int64_t)out->u;
      break;
    case SS_META_F32:
    case SS_META_F64: out->f = float_value(p, type); break;
    case SS_META_STRING: out->text = (ss_text){(const char *)p + STRING_HEAD, (size_t)load_le(p, STRING_HEAD)}; break;
    case SS_META_ARRAY:
      out->element = (ss_meta_type)load_le(p, 4);
      out->n = load_le(p + 4, 8);
      break;
  }
}

static const uint8_t *skip_value(const uint8_t *p, ss_meta_type type) {
  if (type == SS_META_STRING) return p + STRING_HEAD + (size_t)load_le(p, STRING_HEAD);
  if (type != SS_META_ARRAY) return p + scalar_bytes[type];
  const ss_meta_type element = (ss_meta_type)load_le(p, 4); /* nested SS_GGUF_MAX_NEST deep at most */
  uint64_t n = load_le(p + 4, 8);
  p += ARRAY_HEAD;
  if (scalar_bytes[element]) return p + (size_t)n * scalar_bytes[element];
  while (n-- > 0) p = skip_value(p, element);
  return p;
}

bool ss_gguf_meta_at(const ss_gguf *g, size_t i, ss_meta *out) {
  *out = (ss_meta){.n = 0};
  if (!g->by_key || i >= g->n_entries) return false;
  const ss_gguf_entry *e = &g->entries[i];
  const uint32_t head = e->type == SS_META_ARRAY ? ARRAY_HEAD : 0;
  read_value(g->data + e->value_at - head, (ss_meta_type)e->type, out);
  out->key = (ss_text){(const char *)g->data + e->key_at, e->key_len};
  return true;
}

/* compare_text for a NUL-terminated key: the header's own texts hold no NUL. */
static int compare_key(const char *key, const uint8_t *text, size_t len) {
  for (size_t i = 0; i < len; i++)
    if ((uint8_t)key[i] != text[i]) return (uint8_t)key[i] < text[i] ? -1 : 1;
  return key[len] != 0;
}

static int32_t find_entry(const ss_gguf *g, const char *key) {
  uint32_t first = 0, end = g->by_key ? g->n_entries : 0;
  while (first < end) {
    const uint32_t middle = first + (end - first) / 2;
    const ss_gguf_entry *e = &g->entries[g->by_key[middle]];
    const int c = compare_key(key, g->data + e->key_at, e->key_len);
    if (c == 0) return (int32_t)g->by_key[middle];
    if (c < 0) end = middle;
    else first = middle + 1;
  }
  return -1;
}

bool ss_gguf_meta(const ss_gguf *g, const char *key, ss_meta *out) {
  const int32_t i = find_entry(g, key);
  return ss_gguf_meta_at(g, i < 0 ? SIZE_MAX : (size_t)i, out);
}

bool ss_gguf_meta_element(const ss_gguf *g, const char *key, uint64_t i, ss_meta *out) {
  *out = (ss_meta){.n = 0};
  const int32_t at = find_entry(g, key);
  if (at < 0) return false;
  const ss_gguf_entry *e = &g->entries[at];
  if (e->type != SS_META_ARRAY || i >= e->n) return false;
  const ss_meta_type element = (ss_meta_type)e->element;
  const uint8_t *p = g->data + e->value_at;
  if (scalar_bytes[element]) {
    p += (size_t)i * scalar_bytes[element];
  } else {
    p = g->data + g->marks[e->first_mark + i / MARK_EVERY];
    for (uint64_t k = i % MARK_EVERY; k > 0; k--) p = skip_value(p, element);
  }
  read_value(p, element, out);
  return true;
}

bool ss_gguf_array(const ss_gguf *g, const char *key, ss_gguf_iter *it) {
  ss_meta meta;
  *it = (ss_gguf_iter){.left = 0};
  const int32_t i = find_entry(g, key);
  if (i < 0 || !ss_gguf_meta_at(g, (size_t)i, &meta) || meta.type != SS_META_ARRAY) return false;
  *it = (ss_gguf_iter){.at = g->data + g->entries[i].value_at, .left = meta.n, .element = meta.element};
  return true;
}

bool ss_gguf_next(ss_gguf_iter *it, ss_meta *out) {
  *out = (ss_meta){.n = 0};
  if (it->left == 0) return false;
  read_value(it->at, it->element, out);
  it->at = skip_value(it->at, it->element);
  it->left--;
  return true;
}

bool ss_gguf_next_text(ss_gguf_iter *it, ss_text *out) {
  ss_meta meta;
  *out = (ss_text){NULL, 0};
  if (it->element != SS_META_STRING || !ss_gguf_next(it, &meta)) return false;
  *out = meta.text;
  return true;
}

bool ss_gguf_next_number(ss_gguf_iter *it, double *out) {
  ss_meta meta;
  *out = 0;
  if (it->element == SS_META_STRING || it->element == SS_META_ARRAY || !ss_gguf_next(it, &meta)) return false;
  *out = meta.f;
  return true;
}

int32_t ss_gguf_find(const ss_gguf *g, const char *name) {
  uint32_t first = 0, end = g->by_name ? g->n_tensors : 0;
  while (first < end) {
    const uint32_t middle = first + (end - first) / 2;
    const ss_gguf_tensor *t = &g->tensors[g->by_name[middle]];
    const int c = compare_key(name, (const uint8_t *)t->name, t->name_len);
    if (c == 0) return (int32_t)g->by_name[middle];
    if (c < 0) end = middle;
    else first = middle + 1;
  }
  return -1;
}
