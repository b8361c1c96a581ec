/* cmocka and what its header forgets to include. */
#ifndef SS_TEST_H
#define SS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
