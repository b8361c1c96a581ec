/* What `skipstone inspect` says about a mask bank. */
#ifndef SS_TOOL_INSPECT_BANK_H
#define SS_TOOL_INSPECT_BANK_H

#include <stdbool.h>

int inspect_bank(const char *path, bool as_json);

#endif
