/* Weights as they arrive: pieces of the file in any order, cut anywhere, also twice. What was fed before is left out,
 * so that every byte is taken once; whole quantisation blocks are repacked at once, and a block that a border cuts waits
 * among the fragments until its rest arrives. The file is never held: memory is the packed weights, and at most one
 * block for each end of each interval. */
#include "model/load.h"

/* ---- fragments: open addressing, at most half full ---- */

static size_t home_slot(const ss_load *load, uint64_t offset) {
  return (size_t)((offset * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (load->fragments_capacity - 1);
}

/* The slot of the block at `offset`, or the free one where it would go. */
static ss_fragment *find_slot(const ss_load *load, uint64_t offset) {
  size_t i = home_slot(load, offset);
  while (load->fragments[i].offset && load->fragments[i].offset != offset) i = (i + 1) & (load->fragments_capacity - 1);
  return &load->fragments[i];
}

static ss_status reserve_fragment(ss_model *m, ss_error *err) {
  ss_load *load = m->load;
  if (load->n_fragments < load->fragments_capacity / 2) return SS_OK;
  const size_t old_capacity = load->fragments_capacity, capacity = old_capacity ? 2 * old_capacity : 16;
  ss_fragment *old = load->fragments, *moved = ss_host_alloc(&m->host, capacity * sizeof *moved);
  if (!moved) return ss_fail(err, SS_E_MEMORY, "cut blocks: the host refused %zu bytes", capacity * sizeof *moved);
  load->fragments = moved;
  load->fragments_capacity = capacity;
  for (size_t i = 0; i < old_capacity; i++)
    if (old[i].offset) *find_slot(load, old[i].offset) = old[i];
  ss_host_free(&m->host, old, old_capacity * sizeof *old);
  return SS_OK;
}

/* Frees a slot and moves up those behind it that were pushed on by it. */
static void drop_fragment(ss_load *load, ss_fragment *slot) {
  const size_t last = load->fragments_capacity - 1;
  size_t hole = (size_t)(slot - load->fragments);
  for (size_t i = (hole + 1) & last; load->fragments[i].offset; i = (i + 1) & last) {
    const size_t home = home_slot(load, load->fragments[i].offset);
    if (((i - home) & last) < ((i - hole) & last)) continue; /* its home lies behind the hole */
    load->fragments[hole] = load->fragments[i];
    hole = i;
  }
  memset(&load->fragments[hole], 0, sizeof *slot);
  load->n_fragments--;
}

/* ---- one tensor ---- */

/* Whole blocks of the tensor, from its block i on. */
static ss_status take_blocks(const ss_tensor *t, uint64_t i, uint64_t n, const uint8_t *blocks, ss_error *err) {
  const ss_gguf_type type = (ss_gguf_type)t->file->type;
  const ss_quant_info *quant = ss_quant_find(type);
  const uint64_t per_row = t->cols / quant->block;
  while (n > 0) {
    const uint64_t row = i / per_row, first = i % per_row, run = n < per_row - first ? n : per_row - first;
    size_t bad;
    if (!t->vector) {
      bad = ss_quant_repack(t->data, type, (uint32_t)row, t->cols, (size_t)first, (size_t)run, blocks);
    } else {
      bad = ss_quant_floats((float *)t->data + first, type, (size_t)run, blocks);
      if (bad != SS_QUANT_FINITE) bad += first;
    }
    if (bad != SS_QUANT_FINITE)
      return ss_fail(err, SS_E_FORMAT, "%s: element %llu (row %llu, column %zu) is not finite", t->file->name,
                     (unsigned long long)(row * t->cols + bad), (unsigned long long)row, bad);
    blocks += run * quant->bytes;
    i += run;
    n -= run;
  }
  return SS_OK;
}

/* n bytes inside block i, from the block's byte `within` on. */
static ss_status take_fragment(ss_model *m, const ss_tensor *t, uint64_t i, size_t within, size_t n,
                               const uint8_t *bytes, ss_error *err) {
  ss_load *load = m->load;
  const size_t block_bytes = ss_quant_find(t->file->type)->bytes;
  const uint64_t offset = t->file->offset + i * block_bytes;
  ss_status status = reserve_fragment(m, err);
  if (status != SS_OK) return status;
  ss_fragment *f = find_slot(load, offset);
  load->n_fragments += f->offset == 0;
  f->offset = offset;
  memcpy(f->bytes + within, bytes, n);
  f->filled += (uint32_t)n;
  if (f->filled < block_bytes) return SS_OK;
  status = take_blocks(t, i, 1, f->bytes, err);
  drop_fragment(load, f);
  return status;
}

/* Bytes [from, end) of the tensor. */
static ss_status take_tensor(ss_model *m, size_t index, uint64_t from, uint64_t end, const uint8_t *bytes,
                             ss_error *err) {
  ss_tensor *t = &m->tensors[index];
  const size_t block_bytes = ss_quant_find(t->file->type)->bytes;
  if (!t->data && !(t->data = ss_host_alloc(&m->host, t->data_bytes)))
    return ss_fail(err, SS_E_MEMORY, "%s: the host refused %zu bytes", t->file->name, t->data_bytes);
  for (uint64_t at = from; at < end;) {
    const uint64_t i = at / block_bytes, left = end - at;
    const size_t within = (size_t)(at % block_bytes);
    uint64_t taken = left / block_bytes * block_bytes;
    ss_status status;
    if (within || !taken) {
      taken = left < block_bytes - within ? left : block_bytes - within;
      status = take_fragment(m, t, i, within, (size_t)taken, bytes, err);
    } else {
      status = take_blocks(t, i, taken / block_bytes, bytes, err);
    }
    if (status != SS_OK) return status;
    bytes += taken;
    at += taken;
  }
  m->load->received[index] += end - from;
  t->present = m->load->received[index] == t->file->bytes;
  m->load->n_absent -= t->present;
  return SS_OK;
}

/* Bytes [begin, end) of the file, all of them new: to the tensors that they touch. */
static ss_status take_new(ss_model *m, uint64_t begin, uint64_t end, const uint8_t *bytes, ss_error *err) {
  const ss_gguf *g = &m->gguf;
  size_t first = 0, last = g->n_tensors; /* the first tensor that ends behind begin */
  while (first < last) {
    const size_t middle = first + (last - first) / 2;
    const ss_gguf_tensor *t = &g->tensors[g->by_offset[middle]];
    if (t->offset + t->bytes > begin) last = middle;
    else first = middle + 1;
  }
  for (size_t i = first; i < g->n_tensors; i++) {
    const ss_gguf_tensor *t = &g->tensors[g->by_offset[i]];
    if (t->offset >= end) break;
    if (!m->tensors[g->by_offset[i]].wanted) continue;
    const uint64_t from = begin > t->offset ? begin : t->offset;
    const uint64_t to = end < t->offset + t->bytes ? end : t->offset + t->bytes;
    const ss_status status =
        take_tensor(m, g->by_offset[i], from - t->offset, to - t->offset, bytes + (from - begin), err);
    if (status != SS_OK) return status;
  }
  return SS_OK;
}

/* ---- what was fed ---- */

static ss_status reserve_interval(ss_model *m, ss_error *err) {
  ss_load *load = m->load;
  if (load->n_intervals < load->intervals_capacity) return SS_OK;
  const size_t capacity = load->intervals_capacity ? 2 * load->intervals_capacity : 16;
  ss_interval *moved = ss_host_alloc(&m->host, capacity * sizeof *moved);
  if (!moved) return ss_fail(err, SS_E_MEMORY, "list of pieces: the host refused %zu bytes", capacity * sizeof *moved);
  if (load->n_intervals) memcpy(moved, load->intervals, load->n_intervals * sizeof *moved);
  ss_host_free(&m->host, load->intervals, load->intervals_capacity * sizeof *moved);
  load->intervals = moved;
  load->intervals_capacity = capacity;
  return SS_OK;
}

/* The first interval that ends at `offset` or behind it: it may hold or touch what starts there. */
static size_t first_touching(const ss_load *load, uint64_t offset) {
  size_t first = 0, end = load->n_intervals;
  while (first < end) {
    const size_t middle = first + (end - first) / 2;
    if (load->intervals[middle].end >= offset) end = middle;
    else first = middle + 1;
  }
  return first;
}

ss_status ss_load_know(ss_model *m, uint64_t begin, uint64_t end, ss_error *err) {
  ss_load *load = m->load;
  const ss_status status = reserve_interval(m, err);
  if (status != SS_OK) return status;
  const size_t first = first_touching(load, begin);
  size_t last = first; /* intervals [first, last) become one with [begin, end) */
  for (; last < load->n_intervals && load->intervals[last].begin <= end; last++) {
    if (load->intervals[last].begin < begin) begin = load->intervals[last].begin;
    if (load->intervals[last].end > end) end = load->intervals[last].end;
  }
  memmove(&load->intervals[first + 1], &load->intervals[last], (load->n_intervals - last) * sizeof *load->intervals);
  load->intervals[first] = (ss_interval){begin, end};
  load->n_intervals = load->n_intervals - last + first + 1;
  return SS_OK;
}

ss_status ss_load_bytes(ss_model *m, uint64_t offset, const uint8_t *bytes, size_t n, ss_error *err) {
  ss_load *load = m->load;
  const uint64_t file_bytes = m->gguf.file_bytes; /* what lies behind the last tensor does not matter */
  const uint64_t end = offset >= file_bytes ? offset : n < file_bytes - offset ? offset + n : file_bytes;
  size_t i = first_touching(load, offset);
  for (uint64_t at = offset; at < end;) {
    if (i < load->n_intervals && load->intervals[i].begin <= at) {
      if (load->intervals[i].end > at) at = load->intervals[i].end;
      i++;
      continue;
    }
    const uint64_t stop = i < load->n_intervals && load->intervals[i].begin < end ? load->intervals[i].begin : end;
    const ss_status status = take_new(m, at, stop, bytes + (at - offset), err);
    if (status != SS_OK) return status;
    at = stop;
  }
  if (end > offset) {
    const ss_status status = ss_load_know(m, offset, end, err);
    if (status != SS_OK) return status;
  }
  if (load->n_absent > 0) return SS_MORE;
  ss_host_free(&m->host, load->fragments, load->fragments_capacity * sizeof *load->fragments);
  load->fragments = NULL;
  load->fragments_capacity = 0;
  return SS_OK;
}
