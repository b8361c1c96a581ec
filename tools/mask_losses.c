#include "mask_losses.h"

#include "base/base.h"

#define CACHE_BYTES ((size_t)256 << 20) /* residual streams of the mask that a search stands on */

ss_status mask_losses_open(mask_losses *m, const engine *e, uint64_t model, const char *path, bool resume,
                           ss_error *err) {
  const uint64_t of[] = {model, SS_NUMERICS_VERSION, m->windows.hash};
  m->engine = e;
  return state_open(&m->state, path, ss_fnv1a(SS_FNV_START, of, sizeof of), resume, err);
}

void mask_losses_close(mask_losses *m) {
  for (uint32_t i = 0; i < MASK_LOSSES_PARTS; i++) ss_loss_free(m->parts[i].loss);
  state_close(&m->state);
  window_set_free(&m->windows);
  *m = (mask_losses){0};
}

ss_status mask_losses_tool(mask_losses *m, uint32_t n_windows, ss_loss **out, ss_error *err) {
  ss_windows windows = window_set_face(&m->windows);
  if (n_windows) windows.n = n_windows;
  for (uint32_t i = 0; i < MASK_LOSSES_PARTS; i++) {
    if (!m->parts[i].loss) {
      const ss_status status =
          ss_loss_create(&m->parts[i].loss, m->engine->model, &windows, CACHE_BYTES, m->engine->host, err);
      if (status != SS_OK) return status;
      m->parts[i].n = windows.n;
    }
    *out = m->parts[i].loss;
    if (m->parts[i].n == windows.n) return SS_OK;
  }
  return ss_fail(err, SS_E_ARGUMENT, "losses over more than %d parts of the text", MASK_LOSSES_PARTS);
}

ss_status mask_losses_of(mask_losses *m, uint32_t n_windows, const ss_mask *mask, const ss_mask *base, double *loss,
                         ss_error *err) {
  const bool all = n_windows == 0 || n_windows == m->windows.n;
  uint64_t key = ss_fnv1a(SS_FNV_START, mask->bits, sizeof mask->bits);
  if (!all) key = ss_fnv1a(key, &n_windows, sizeof n_windows);
  if (!key) key = 1;
  const double *known = state_find(&m->state, key);
  if (known) {
    *loss = known[0];
    m->n_known++;
    return SS_OK;
  }
  const double start = now_ms();
  ss_loss *tool;
  ss_status status = mask_losses_tool(m, n_windows, &tool, err);
  if (status == SS_OK) status = ss_loss_set_base(tool, base, err);
  if (status == SS_OK) status = ss_loss_of(tool, mask, loss, err);
  if (status != SS_OK) return status;
  m->measured_ms += now_ms() - start;
  m->measured_tokens += m->windows.starts[all ? m->windows.n : n_windows];
  m->n_measured++;
  return state_add(&m->state, key, (const double[STATE_VALUES]){*loss}, err);
}
