/* Chat templates from their parts. Inside the core and its tests only: hosts use ss_chat_format. */
#ifndef SS_TEMPLATE_H
#define SS_TEMPLATE_H

#include "base/base.h"

/* ss_chat_format for the Jinja text `source` (tokenizer.chat_template); bos is the text of the BOS token, "" for none.
 * `host` gives working memory for the call. */
ss_status ss_template_format(ss_text source, ss_text bos, const ss_chat_message *messages, size_t n_messages,
                             bool add_generation_prompt, const ss_host *host, char *text, size_t capacity, size_t *len,
                             ss_error *err);

#endif
