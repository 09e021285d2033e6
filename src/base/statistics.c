/* Means, and how far they can be trusted. */
#include "base/base.h"

#include <math.h>

void mh_mean_add(mh_mean *m, double value)
{
    double away = m->count > 0 ? value - mh_mean_value(m) : 0;
    m->sum += value;
    m->count++;
    m->squares += away * away * (m->count - 1) / m->count; /* Welford's sum, never below 0 */
}

double mh_mean_value(const mh_mean *m)
{
    return m->sum / m->count;
}

double mh_mean_error(const mh_mean *m)
{
    return sqrt(m->squares / (m->count - 1) / m->count); /* of one value 0/0: nothing is known */
}

/* P(|T| <= tan(angle) sqrt(freedom)), a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4). */
static double within(double angle, int freedom)
{
    bool odd = freedom % 2 == 1;
    double c = cos(angle), term = odd ? c : 1, sum = 0;
    for (int n = odd ? 3 : 2; n <= freedom; n += 2) {
        sum += term;
        term *= c * c * (n - 1) / n;
    }
    return odd ? 2 / M_PI * (angle + sin(angle) * sum) : sin(angle) * sum;
}

double mh_student(int freedom, double confidence)
{
    double low = 0, high = M_PI_2;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (within(middle, freedom) < confidence)
            low = middle;
        else
            high = middle;
    }
    return tan(low) * sqrt(freedom);
}
