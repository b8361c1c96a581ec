/* Losses of masks over fixed text, each measured once: what is known comes from a state file. */
#ifndef SS_TOOL_MASK_LOSSES_H
#define SS_TOOL_MASK_LOSSES_H

#include "load.h"
#include "state.h"
#include "windows.h"

#define MASK_LOSSES_PARTS 4

typedef struct mask_losses {
  const engine *engine;
  window_set windows; /* made by the caller before mask_losses_open */
  state state;
  struct {
    uint32_t n; /* the first n windows */
    ss_loss *loss;
  } parts[MASK_LOSSES_PARTS]; /* made when a loss is not known yet */
  uint32_t n_measured, n_known;
  uint64_t measured_tokens;
  double measured_ms;
} mask_losses;

/* The state file belongs to this model (its exact fingerprint), numerics version and windows. */
ss_status mask_losses_open(mask_losses *m, const engine *e, uint64_t model, const char *path, bool resume,
                           ss_error *err);
void mask_losses_close(mask_losses *m);

/* Mean NLL in nats per token of the first n_windows windows (0: all) under mask. base: a mask that much is measured from, the
 * one that a search stands on. */
ss_status mask_losses_of(mask_losses *m, uint32_t n_windows, const ss_mask *mask, const ss_mask *base, double *loss,
                         ss_error *err);
/* The losses' own tool, for what else it can measure; over all windows. */
ss_status mask_losses_tool(mask_losses *m, uint32_t n_windows, ss_loss **out, ss_error *err);

#endif
