/* Prompts of our own that `skipstone eval generate` has answered. */
#ifndef SS_TOOL_EVAL_PROMPTS_H
#define SS_TOOL_EVAL_PROMPTS_H

extern const char *const eval_prompts[]; /* ends with NULL */

#endif
