/* Stop strings over streamed text.
 *
 * Each stop string has a Knuth-Morris-Pratt matcher that takes the text byte by byte; its state is how many bytes of
 * the stop string the text ends with. The longest state is what has to be held back, and the first matcher to become
 * complete stops the text. So the outcome does not depend on how the text was cut into pieces. */
#include "base/base.h"

typedef struct matcher {
  const uint8_t *text; /* [n] */
  uint32_t *shorter;   /* [n], by length - 1: the longest proper prefix of text[0..length) that also ends it */
  uint32_t n, state;   /* state < n */
} matcher;

struct ss_stopper {
  ss_host host;
  size_t arena_bytes, n_matchers;
  matcher *matchers;
  bool stopped;
  uint8_t *buffer;      /* what the last call gave out, then the `held` bytes from held_at on */
  size_t capacity, held_at, held;
};

#define FIRST_CAPACITY 512

static void carve(ss_stopper *s, ss_arena *arena, const ss_text *stops, size_t n_stops, size_t total) {
  ss_carve(arena, 1, sizeof *s);
  s->matchers = ss_carve(arena, n_stops, sizeof *s->matchers);
  uint8_t *text = ss_carve(arena, total, 1);
  uint32_t *shorter = ss_carve(arena, total, sizeof *shorter);
  if (!arena->base) return;
  for (size_t i = 0; i < n_stops; i++) {
    memcpy(text, stops[i].data, stops[i].len);
    s->matchers[i] = (matcher){.text = text, .shorter = shorter, .n = (uint32_t)stops[i].len};
    text += stops[i].len;
    shorter += stops[i].len;
  }
}

static void prepare(matcher *m) {
  uint32_t length = 0;
  for (uint32_t i = 1; i < m->n; i++) {
    while (length && m->text[i] != m->text[length]) length = m->shorter[length - 1];
    length += m->text[i] == m->text[length];
    m->shorter[i] = length;
  }
}

/* Takes a byte; true: the text now ends with the stop string. */
static bool advance(matcher *m, uint8_t byte) {
  while (m->state && m->text[m->state] != byte) m->state = m->shorter[m->state - 1];
  m->state += m->text[m->state] == byte;
  if (m->state < m->n) return false;
  m->state = m->shorter[m->n - 1];
  return true;
}

ss_status ss_stopper_create(ss_stopper **out, const ss_text *stops, size_t n_stops, const ss_host *host,
                            ss_error *err) {
  *out = NULL;
  size_t total = 0;
  for (size_t i = 0; i < n_stops; i++) {
    if (!stops[i].len) return ss_fail(err, SS_E_ARGUMENT, "stop string %zu is empty", i);
    if (stops[i].len > UINT32_MAX / 8 - total)
      return ss_fail(err, SS_E_ARGUMENT, "stop strings: too long at number %zu with %zu bytes", i, stops[i].len);
    total += stops[i].len;
  }
  ss_stopper counted;
  ss_arena arena = {0};
  carve(&counted, &arena, stops, n_stops, total);
  const size_t bytes = arena.used;
  ss_stopper *s = arena.overflow ? NULL : ss_host_alloc(host, bytes);
  if (!s) return ss_fail(err, SS_E_MEMORY, "stop strings: no memory for %zu bytes", bytes);
  *s = (ss_stopper){.host = *host, .arena_bytes = bytes, .n_matchers = n_stops};
  arena = (ss_arena){.base = (uint8_t *)s};
  carve(s, &arena, stops, n_stops, total);
  for (size_t i = 0; i < n_stops; i++) prepare(&s->matchers[i]);
  *out = s;
  return SS_OK;
}

void ss_stopper_free(ss_stopper *s) {
  if (!s) return;
  const ss_host host = s->host;
  ss_host_free(&host, s->buffer, s->capacity);
  ss_host_free(&host, s, s->arena_bytes);
}

/* Moves the held bytes to the front of a buffer with room for n more. */
static ss_status make_room(ss_stopper *s, size_t n, ss_error *err) {
  if (n > SIZE_MAX / 4 - s->held) return ss_fail(err, SS_E_MEMORY, "stop strings: no memory for %zu bytes of text", n);
  const size_t wanted = s->held + n;
  if (wanted <= s->capacity) {
    if (s->held) memmove(s->buffer, s->buffer + s->held_at, s->held);
  } else {
    const size_t capacity = ss_max(FIRST_CAPACITY, 2 * wanted);
    uint8_t *moved = ss_host_alloc(&s->host, capacity);
    if (!moved) return ss_fail(err, SS_E_MEMORY, "stop strings: no memory for %zu bytes of text", n);
    if (s->held) memcpy(moved, s->buffer + s->held_at, s->held);
    ss_host_free(&s->host, s->buffer, s->capacity);
    s->buffer = moved;
    s->capacity = capacity;
  }
  s->held_at = 0;
  return SS_OK;
}

bool ss_stopper_feed(ss_stopper *s, ss_text text, bool flush, ss_text *out, ss_error *err) {
  *out = (ss_text){"", 0};
  if (err) err->status = SS_OK;
  if (s->stopped) return true;
  if (make_room(s, text.len, err)) return false;
  size_t n = s->held; /* bytes in the buffer */
  for (size_t i = 0; i < text.len && !s->stopped; i++) {
    s->buffer[n++] = (uint8_t)text.data[i];
    size_t longest = 0; /* of the stop strings that end here */
    for (size_t m = 0; m < s->n_matchers; m++)
      if (advance(&s->matchers[m], (uint8_t)text.data[i])) longest = ss_max(longest, s->matchers[m].n);
    s->stopped = longest > 0;
    n -= longest;
  }
  s->held = 0;
  for (size_t m = 0; m < s->n_matchers && !s->stopped; m++) {
    if (flush) s->matchers[m].state = 0;
    s->held = ss_max(s->held, s->matchers[m].state);
  }
  s->held_at = n - s->held;
  if (s->held_at) *out = (ss_text){(const char *)s->buffer, s->held_at};
  return s->stopped;
}
