/* Block masks: which attention and feed-forward blocks run. */
#include "base/base.h"

void ss_mask_fill(ss_mask *m, uint32_t n_blocks) {
  memset(m, 0, sizeof *m);
  for (uint32_t b = 0; b < n_blocks && b < SS_MAX_BLOCKS; b++) ss_mask_set(m, b, true);
}

uint32_t ss_mask_count(const ss_mask *m, uint32_t n_blocks) {
  uint32_t n = 0;
  for (uint32_t b = 0; b < n_blocks && b < SS_MAX_BLOCKS; b++) n += ss_mask_has(m, b);
  return n;
}

bool ss_mask_within(const ss_mask *inner, const ss_mask *outer) {
  for (size_t i = 0; i < SS_MAX_BLOCKS / 64; i++)
    if (inner->bits[i] & ~outer->bits[i]) return false;
  return true;
}

/* Reads a decimal number at *text. */
static bool read_number(const char **text, uint32_t *n) {
  const char *p = *text;
  uint64_t value = 0;
  while (*p >= '0' && *p <= '9' && value < UINT32_MAX) value = value * 10 + (uint64_t)(*p++ - '0');
  if (p == *text || value > UINT32_MAX) return false;
  *text = p;
  *n = (uint32_t)value;
  return true;
}

static bool read_word(const char **text, const char *word) {
  const char *p = *text;
  while (*word && *p == *word) p++, word++;
  if (*word) return false;
  *text = p;
  return true;
}

ss_status ss_mask_parse_skip(ss_mask *m, uint32_t n_layers, const char *text, ss_error *err) {
  if (n_layers > SS_MAX_BLOCKS / 2) return ss_fail(err, SS_E_ARGUMENT, "skip: %u layers are too many", n_layers);
  ss_mask_fill(m, 2 * n_layers);
  const char *p = text;
  while (*p) {
    uint32_t feed_forward;
    if (read_word(&p, "attn:")) feed_forward = 0;
    else if (read_word(&p, "ffn:")) feed_forward = 1;
    else
      return ss_fail(err, SS_E_ARGUMENT, "skip: found '%s', want 'attn:' or 'ffn:' and layers, as in attn:3,7-9;ffn:12",
                     p);
    do {
      uint32_t first, last;
      if (!read_number(&p, &first)) return ss_fail(err, SS_E_ARGUMENT, "skip: found '%s', want a layer number", p);
      last = first;
      if (*p == '-') {
        p++;
        if (!read_number(&p, &last) || last < first)
          return ss_fail(err, SS_E_ARGUMENT, "skip: a range must end at or after its first layer %u", first);
      }
      if (last >= n_layers)
        return ss_fail(err, SS_E_ARGUMENT, "skip: layer %u does not exist, the model has layers 0 to %u", last,
                       n_layers - 1);
      for (uint32_t l = first; l <= last; l++) ss_mask_set(m, 2 * l + feed_forward, false);
    } while (*p == ',' && *++p);
    if (*p == ';') p++;
    else if (*p) return ss_fail(err, SS_E_ARGUMENT, "skip: found '%s', want ',' or ';'", p);
  }
  return SS_OK;
}

/* Skips n of the feed-forward (1) or attention (0) blocks, evenly over the layers but the first and the last. */
static void skip_evenly(ss_mask *m, uint32_t n_layers, uint32_t n, uint32_t feed_forward) {
  if (n_layers < 3) return;
  if (n > n_layers - 2) n = n_layers - 2;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t layer = 1 + (2 * i + 1) * (n_layers - 2) / (2 * n);
    ss_mask_set(m, 2 * layer + feed_forward, false);
  }
}

void ss_mask_proportional(ss_mask *m, uint32_t n_layers, double fraction) {
  ss_mask_fill(m, 2 * n_layers);
  const double n = fraction * n_layers;
  const uint32_t half_down = (uint32_t)n + (n - (uint32_t)n > 0.5), half_up = (uint32_t)(n + 0.5);
  skip_evenly(m, n_layers, half_down, 0);
  skip_evenly(m, n_layers, half_up, 1);
}
