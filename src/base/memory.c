/* The host's memory and threads, the byte cursor and the arena. */
#include "base/base.h"

void *ss_host_alloc(const ss_host *host, size_t bytes) {
  void *p = host->alloc(host->ctx, bytes);
  if (p) memset(p, 0, bytes);
  return p;
}

void ss_host_free(const ss_host *host, void *p, size_t bytes) {
  if (p) host->free(host->ctx, p, bytes);
}

void ss_host_parallel(const ss_host *host, uint32_t n_parts, ss_task *task, void *arg) {
  if (n_parts > 1 && host->parallel_for) {
    host->parallel_for(host->ctx, n_parts, task, arg);
    return;
  }
  for (uint32_t part = 0; part < n_parts; part++) task(arg, part, n_parts);
}

const uint8_t *ss_take(ss_cursor *c, size_t n) {
  if (c->bad || n > c->len - c->at) {
    c->bad = true;
    return NULL;
  }
  const uint8_t *p = c->data + c->at;
  c->at += n;
  return p;
}

static uint64_t take_bytes(ss_cursor *c, size_t n) {
  const uint8_t *p = ss_take(c, n);
  uint64_t value = 0;
  for (size_t i = 0; p && i < n; i++) value |= (uint64_t)p[i] << (8 * i);
  return value;
}

uint8_t ss_take_u8(ss_cursor *c) { return (uint8_t)take_bytes(c, 1); }
uint16_t ss_take_u16(ss_cursor *c) { return (uint16_t)take_bytes(c, 2); }
uint32_t ss_take_u32(ss_cursor *c) { return (uint32_t)take_bytes(c, 4); }
uint64_t ss_take_u64(ss_cursor *c) { return take_bytes(c, 8); }

void *ss_carve(ss_arena *arena, size_t n, size_t item_bytes) {
  if (item_bytes && n > (SIZE_MAX - arena->used - SS_ALIGN) / item_bytes) {
    arena->overflow = true;
    return NULL;
  }
  const size_t at = arena->used;
  arena->used += ss_align(n * item_bytes);
  return arena->base ? arena->base + at : NULL;
}
