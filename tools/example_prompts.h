/* Prompts of our own that a bank may show as examples of its clusters; each goes to the cluster that it is routed to. */
#ifndef SS_TOOL_EXAMPLE_PROMPTS_H
#define SS_TOOL_EXAMPLE_PROMPTS_H

extern const char *const example_prompts[]; /* ends with NULL */

#endif
