/* The HTML report of a training run: one file, no request to anywhere. */
#ifndef SS_TOOL_REPORT_H
#define SS_TOOL_REPORT_H

#include "support.h"

/* From the run's folder (train_state.h), finished or not, to `path`. Steps are thinned out to a few hundred a mask. */
ss_status report_write(const char *folder, const char *path, ss_error *err);

#endif
