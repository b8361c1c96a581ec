/* The native ss_host: aligned malloc and a fork-join pool of pthreads. */
#ifndef SS_TOOL_HOST_H
#define SS_TOOL_HOST_H

#include "skipstone.h"

typedef struct host host;

/* Physical cores that this process may use (affinity and cgroup quota respected), 1 .. SS_MAX_THREADS. */
uint32_t host_cores(void);

/* n_threads 0: host_cores(). The caller of parallel_for is one of the threads. NULL: no memory or no threads. */
host *host_create(uint32_t n_threads);
void host_free(host *h); /* after everything that was made with it */

/* Borrowed from h. parallel_for may be called by one thread at a time, and not from inside a task. */
const ss_host *host_face(const host *h);

#endif
