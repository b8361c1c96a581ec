/* Measures of answers. */
#ifndef SS_TOOL_TEXT_MEASURES_H
#define SS_TOOL_TEXT_MEASURES_H

#include "support.h"

/* The share of runs of n tokens that are a copy of an earlier run, in [0, 1); 0 where there are fewer than n tokens. */
double repeated_share(const int32_t *tokens, size_t n_tokens, size_t n);

/* Up to and with the first . ! or ? before white space or the end, or up to the end of the line; without white space around it. */
ss_text first_sentence(ss_text text);

bool same_text(ss_text a, ss_text b);

#endif
