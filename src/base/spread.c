/* spread: median and quartiles, which a few disturbed samples do not move. */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between two values the position is interpolated. */
static double quantile(const double *sorted, int count, double share)
{
    double at = share * (count - 1);
    int below = (int)at;
    int above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

mh_spread mh_spread_of(double *value, int count)
{
    if (count == 0)
        return (mh_spread){NAN, NAN, NAN, 0};
    qsort(value, (size_t)count, sizeof *value, by_size);
    return (mh_spread){quantile(value, count, 0.5), quantile(value, count, 0.25),
                       quantile(value, count, 0.75), count};
}
