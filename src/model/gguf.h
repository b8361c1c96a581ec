/* The GGUF container: a header that says everything, then the tensors' bytes. Reads versions 2 and 3, little-endian.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * The header is fed in pieces of any size and kept as it is in the file: keys, strings and arrays point into that
 * copy, and only the index over it is built. The scan remembers where it stopped, also inside an array, so a header
 * fed byte by byte costs no more than one fed whole. Nothing is allocated for a count or length that the file merely
 * claims: buffers grow as items really arrive, and a length is compared with what can still follow.
 *
 * Until `done`, only `len` and `done` may be read. */
#ifndef SS_GGUF_H
#define SS_GGUF_H

#include "base/base.h"

#define SS_GGUF_MAX_HEADER (UINT32_C(1) << 30) /* bytes; positions in the header are 32 bit */
#define SS_GGUF_MAX_ITEMS 65536                /* metadata entries, and tensors */
#define SS_GGUF_MAX_NAME 255                   /* bytes of a tensor's name (ggml: 63) */
#define SS_GGUF_MAX_NEST 4                     /* arrays of arrays */

typedef struct ss_gguf_entry { /* one metadata entry; positions are in the header */
  uint32_t key_at, key_len;
  uint32_t value_at;     /* the value, or the first element of an array */
  uint32_t first_mark;   /* arrays of strings or arrays: the first of its marks */
  uint64_t n;            /* elements of an array, else 1 */
  uint8_t type, element; /* ss_meta_type */
} ss_gguf_entry;

typedef struct ss_gguf_tensor {
  const char *name;          /* NUL-terminated printable text, unique */
  uint32_t name_at, name_len;
  uint32_t type;             /* ss_gguf_type; its size is known, the model may still not support it */
  uint32_t n_dims;           /* 1..4 */
  uint64_t dims[4];          /* dims[0] runs fastest; unused ones are 1; none is 0 */
  uint64_t n_elements;
  uint64_t offset, bytes;    /* in the file, absolute; tensors do not overlap */
} ss_gguf_tensor;

typedef struct ss_gguf {
  ss_host host;
  uint8_t *data;             /* [len], the header as in the file */
  size_t len, data_capacity; /* len: bytes known; exactly the header once done */
  bool done;
  uint32_t version, alignment;
  uint64_t data_offset;      /* first byte of the tensors */
  uint64_t file_bytes;       /* end of the last tensor */
  uint64_t expected_bytes;   /* how long the file is, when the host knows; else 0 */
  ss_gguf_entry *entries;    /* [n_entries], in the file's order */
  ss_gguf_tensor *tensors;   /* [n_tensors], in the file's order */
  uint32_t n_entries, n_tensors;
  uint32_t *by_key;          /* [n_entries], sorted */
  uint32_t *by_name;         /* [n_tensors], sorted */
  uint32_t *by_offset;       /* [n_tensors], sorted */

  /* the scan */
  struct ss_gguf_scan {
    uint8_t stage;
    size_t at;               /* everything before is understood */
    uint64_t n_entries, n_tensors; /* as the file claims */
    uint32_t depth;          /* open arrays of the entry being read */
    struct ss_gguf_open_array {
      uint64_t left;
      uint32_t element;
    } open[SS_GGUF_MAX_NEST];
  } scan;
  uint32_t entries_capacity, tensors_capacity;
  uint32_t *marks;           /* position of every 64th element of arrays whose elements vary in size */
  uint32_t n_marks, marks_capacity;
  char *names;               /* the tensors' names, NUL-terminated */
  size_t names_bytes;
} ss_gguf;

/* Prepares an empty *g; nothing can fail yet. Close it whatever happens later. */
void ss_gguf_open(ss_gguf *g, const ss_host *host);
void ss_gguf_close(ss_gguf *g);

/* Takes the file's next bytes, those at g->len. Consumes no more than it needs to find the header's end: *used says
 * how many belong to the header. SS_OK: the header is complete and `done` set; SS_MORE: it goes on.
 * After an error only close is allowed. */
ss_status ss_gguf_feed(ss_gguf *g, const void *bytes, size_t n, size_t *used, ss_error *err);

/* Says how long the file is, before or after the header: lengths past its end are then errors at once. */
ss_status ss_gguf_expect(ss_gguf *g, uint64_t file_bytes, ss_error *err);

/* Metadata, once done. O(log n_entries). False: no such key or element; *out is then zero. */
bool ss_gguf_meta(const ss_gguf *g, const char *key, ss_meta *out);
bool ss_gguf_meta_at(const ss_gguf *g, size_t i, ss_meta *out);
bool ss_gguf_meta_element(const ss_gguf *g, const char *key, uint64_t i, ss_meta *out); /* O(1) */

/* Walks an array in order, O(1) a step:
 *     ss_gguf_iter it; ss_text token;
 *     if (!ss_gguf_array(g, "tokenizer.ggml.tokens", &it) || it.element != SS_META_STRING) return ...;
 *     while (ss_gguf_next_text(&it, &token)) ...                       it.left elements are still to come */
typedef struct ss_gguf_iter {
  const uint8_t *at;
  uint64_t left;
  ss_meta_type element;
} ss_gguf_iter;
bool ss_gguf_array(const ss_gguf *g, const char *key, ss_gguf_iter *it); /* false: no such key, or no array */
bool ss_gguf_next(ss_gguf_iter *it, ss_meta *out);          /* out->key is empty; of a nested array only its size */
bool ss_gguf_next_text(ss_gguf_iter *it, ss_text *out);     /* false at the end, and when elements are no strings */
bool ss_gguf_next_number(ss_gguf_iter *it, double *out);    /* false at the end, and when they are no numbers */

/* The tensor's index, or -1. O(log n_tensors). */
int32_t ss_gguf_find(const ss_gguf *g, const char *name);

#endif
