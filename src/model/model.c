/* The model as hosts see it: made empty, fed with a file's bytes, asked about its shape and sizes. gguf.c reads the
 * header, config.c checks what it says, load.c repacks the weights. */
#include "model/model.h"

#include "model/load.h"

/* ---- life ---- */

ss_status ss_model_create(ss_model **out, const ss_host *host, const ss_kernels *kernels, ss_error *err) {
  *out = NULL;
  if (!host || !host->alloc || !host->free)
    return ss_fail(err, SS_E_ARGUMENT, "model: want a host with alloc and free");
  ss_model *m = ss_host_alloc(host, sizeof *m);
  ss_load *load = ss_host_alloc(host, sizeof *load);
  if (!m || !load) {
    ss_host_free(host, m, sizeof *m);
    ss_host_free(host, load, sizeof *load);
    return ss_fail(err, SS_E_MEMORY, "model: the host refused %zu bytes", sizeof *m + sizeof *load);
  }
  m->host = *host;
  m->kernels = kernels ? kernels : ss_kernels_fastest();
  m->load = load;
  m->rope_factors = -1;
  load->architecture = load->quantisation = "";
  ss_gguf_open(&m->gguf, host);
  *out = m;
  return SS_OK;
}

void ss_model_free(ss_model *m) {
  if (!m) return;
  const ss_host host = m->host;
  ss_load *load = m->load;
  const size_t n = m->gguf.n_tensors;
  for (size_t i = 0; m->tensors && i < n; i++) ss_host_free(&host, m->tensors[i].data, m->tensors[i].data_bytes);
  ss_host_free(&host, m->tensors, n * sizeof *m->tensors);
  ss_host_free(&host, m->layers, m->config.n_layers * sizeof *m->layers);
  ss_host_free(&host, load->received, n * sizeof *load->received);
  ss_host_free(&host, load->intervals, load->intervals_capacity * sizeof *load->intervals);
  ss_host_free(&host, load->fragments, load->fragments_capacity * sizeof *load->fragments);
  ss_gguf_close(&m->gguf);
  ss_host_free(&host, load, sizeof *load);
  ss_host_free(&host, m, sizeof *m);
}

/* ---- feed ---- */

static ss_status feed(ss_model *m, uint64_t offset, const uint8_t *bytes, size_t n, ss_error *err) {
  ss_gguf *g = &m->gguf;
  const uint64_t end_of_file = g->expected_bytes ? g->expected_bytes : INT64_MAX;
  if (offset > end_of_file || n > end_of_file - offset)
    return ss_fail(err, SS_E_ARGUMENT, "feed: %zu bytes at %llu lie past the end of the file, %llu", n,
                   (unsigned long long)offset, (unsigned long long)end_of_file);
  if (!g->done) {
    if (offset > g->len)
      return ss_fail(err, SS_E_ARGUMENT, "feed: bytes from %llu on, but the header is known to %zu only",
                     (unsigned long long)offset, g->len);
    const uint64_t known = g->len - offset;
    if (known >= n) return SS_MORE;
    size_t used;
    ss_status status = ss_gguf_feed(g, bytes + known, n - (size_t)known, &used, err);
    if (status == SS_OK) status = ss_config_read(m, err);
    if (status == SS_OK) status = ss_load_know(m, 0, g->len, err);
    if (status != SS_OK) return status;
    const size_t behind = (size_t)known + used;
    offset += behind;
    bytes += behind;
    n -= behind;
  }
  return ss_load_bytes(m, offset, bytes, n, err);
}

ss_status ss_model_feed(ss_model *m, uint64_t offset, const void *bytes, size_t n, ss_error *err) {
  if (m->load->failed) return ss_fail(err, SS_E_STATE, "feed: an earlier call failed, the model can only be freed");
  const ss_status status = feed(m, offset, bytes, n, err);
  m->load->failed = status < 0;
  return status;
}

ss_status ss_model_expect_bytes(ss_model *m, uint64_t file_bytes, ss_error *err) {
  if (m->load->failed) return ss_fail(err, SS_E_STATE, "an earlier call failed, the model can only be freed");
  const ss_status status = ss_gguf_expect(&m->gguf, file_bytes, err);
  m->load->failed = status < 0;
  return status;
}

bool ss_model_header_done(const ss_model *m) { return m->gguf.done && m->load->n_intervals > 0; }

uint64_t ss_model_next_offset(const ss_model *m) {
  return ss_model_header_done(m) ? m->load->intervals[0].end : m->gguf.len;
}

uint64_t ss_model_file_bytes(const ss_model *m) { return ss_model_header_done(m) ? m->gguf.file_bytes : 0; }

/* ---- what it is ---- */

static ss_status need_header(const ss_model *m, ss_error *err) {
  return ss_model_header_done(m) ? SS_OK : ss_fail(err, SS_E_STATE, "the model's header is not complete");
}

size_t ss_model_bytes(const ss_model *m, const ss_mask *mask) {
  size_t bytes = 0;
  for (size_t i = 0; i < ss_model_n_tensors(m); i++) {
    const ss_tensor *t = &m->tensors[i];
    if (!mask || t->block < 0 || ss_mask_has(mask, (uint32_t)t->block)) bytes += t->data_bytes;
  }
  return bytes;
}

ss_status ss_model_info_get(const ss_model *m, ss_model_info *out, ss_error *err) {
  *out = (ss_model_info){.architecture = "", .name = "", .quantisation = "", .kernels = ss_kernels_name(m->kernels)};
  const ss_status status = need_header(m, err);
  if (status != SS_OK) return status;
  const ss_config *c = &m->config;
  *out = (ss_model_info){
      .architecture = m->load->architecture,
      .name = m->load->name,
      .quantisation = m->load->quantisation,
      .n_layers = c->n_layers,
      .n_blocks = 2 * c->n_layers,
      .n_embd = c->n_embd,
      .n_ff = c->n_ff,
      .n_heads = c->n_heads,
      .n_kv_heads = c->n_kv_heads,
      .head_dim = c->head_dim,
      .n_vocab = c->n_vocab,
      .context_train = c->context_train,
      .n_parameters = m->load->n_parameters,
      .packed_bytes = m->load->packed_bytes,
      .rope_theta = c->rope_theta,
      .norm_eps = c->norm_eps,
      .tied_head = m->head == m->embedding,
      .kernels = ss_kernels_name(m->kernels),
  };
  return SS_OK;
}

ss_status ss_model_block_cost(const ss_model *m, uint32_t block, ss_block_cost *out, ss_error *err) {
  *out = (ss_block_cost){0};
  const ss_status status = need_header(m, err);
  if (status != SS_OK) return status;
  const ss_config *c = &m->config;
  if (block >= 2 * c->n_layers)
    return ss_fail(err, SS_E_ARGUMENT, "block %u: the model has blocks 0 to %u", (unsigned)block,
                   (unsigned)(2 * c->n_layers - 1));
  for (size_t i = 0; i < m->gguf.n_tensors; i++) {
    const ss_tensor *t = &m->tensors[i];
    if (t->block != (int32_t)block) continue;
    if (!t->vector) out->macs += (uint64_t)t->rows * t->cols;
    out->file_bytes += t->file->bytes;
    out->packed_bytes += t->data_bytes;
  }
  const uint64_t scales = 2 * (c->head_dim / SS_COLS) * sizeof(float); /* K and V: int8 in 32-blocks, f32 scales */
  if (block % 2 == 0) out->kv_bytes = c->n_kv_heads * (2 * c->head_dim + scales);
  return SS_OK;
}

size_t ss_model_n_tensors(const ss_model *m) { return ss_model_header_done(m) ? m->gguf.n_tensors : 0; }

ss_status ss_model_tensor(const ss_model *m, size_t i, ss_tensor_info *out, ss_error *err) {
  *out = (ss_tensor_info){.name = "", .type = "", .block = -1};
  if (i >= ss_model_n_tensors(m))
    return ss_fail(err, SS_E_ARGUMENT, "tensor %zu: the model has %zu", i, ss_model_n_tensors(m));
  const ss_tensor *t = &m->tensors[i];
  *out = (ss_tensor_info){
      .name = t->file->name,
      .type = ss_quant_find(t->file->type)->name,
      .n_dims = t->file->n_dims,
      .offset = t->file->offset,
      .bytes = t->file->bytes,
      .block = t->block,
      .present = t->present,
  };
  memcpy(out->dims, t->file->dims, sizeof out->dims);
  return SS_OK;
}

size_t ss_model_n_meta(const ss_model *m) { return ss_model_header_done(m) ? m->gguf.n_entries : 0; }
bool ss_model_meta_at(const ss_model *m, size_t i, ss_meta *out) { return ss_gguf_meta_at(&m->gguf, i, out); }
bool ss_model_meta(const ss_model *m, const char *key, ss_meta *out) { return ss_gguf_meta(&m->gguf, key, out); }
bool ss_model_meta_element(const ss_model *m, const char *key, uint64_t i, ss_meta *out) {
  return ss_gguf_meta_element(&m->gguf, key, i, out);
}
