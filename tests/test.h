/* What every test file starts with: cmocka, and the relative error of two tensors. */
#ifndef MH_TEST_H
#define MH_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "base/base.h"

#include <string.h>

/* Expects MH_OK and shows the sentence otherwise. */
#define OK(call)                                     \
    do {                                             \
        if ((call) != MH_OK)                         \
            fail_msg("%s: %s", #call, mh_message()); \
    } while (0)

/* Expects a failure of this status whose sentence contains `part`. */
#define FAILS(status, part, call)                                                                          \
    do {                                                                                                   \
        mh_status got_ = (call);                                                                           \
        if (got_ != (status) || strstr(mh_message(), part) == NULL)                                        \
            fail_msg("%s: status %d, \"%s\", expected %s with \"%s\"", #call, got_, mh_message(), #status, \
                     part);                                                                                \
    } while (0)

/* |a - b| / |b| over n elements; NaN anywhere gives infinity. */
static inline double relative_error(const float *a, const float *b, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    double error = sqrt(difference / (norm > 0 ? norm : 1));
    return isnan(error) ? INFINITY : error;
}

#define CLOSE(got, want, n, bound)                                                                          \
    do {                                                                                                    \
        double error_ = relative_error(got, want, n);                                                       \
        if (!(error_ <= (bound)))                                                                           \
            fail_msg("%s against %s: relative error %.3g over %.3g", #got, #want, error_, (double)(bound)); \
    } while (0)

#endif
