/* Masks in reports: what --skip or a fraction means for this model. */
#ifndef SS_TOOL_MASK_H
#define SS_TOOL_MASK_H

#include "json.h"
#include "support.h"

typedef struct mask_report {
  char *skip; /* canonical: "attn:3,7-9;ffn:12", "" when nothing is skipped; owned */
  uint32_t blocks_run, blocks_total;
  double macs_skipped;                   /* share of the block matmuls' multiply-adds, 0 .. 1 */
  uint64_t units_skipped, units_total;   /* the same in the largest unit that all blocks are a multiple of */
} mask_report;

/* MACs of every block, [n_blocks], to be freed. */
ss_status block_costs(uint64_t **out, const ss_model *model, ss_error *err);

ss_status mask_report_make(mask_report *out, const ss_model *model, const ss_mask *mask, ss_error *err);
/* The canonical form of what a mask skips, to be freed. */
char *mask_skip_text(const ss_mask *mask, uint32_t n_layers);
void mask_report_free(mask_report *r);
void mask_report_json(json *j, const char *key, const mask_report *r);

#endif
