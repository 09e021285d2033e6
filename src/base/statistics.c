/* Means over seeds, and how far they can be trusted. */
#include "train/train.h"

#include <math.h>

double mh_mean(const double *value, int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += value[i];
    return sum / count;
}

double mh_standard_error(const double *value, int count)
{
    double mean = mh_mean(value, count), square = 0;
    for (int i = 0; i < count; i++)
        square += (value[i] - mean) * (value[i] - mean);
    return sqrt(square / (count - 1) / count); /* of one value 0/0: nothing is known */
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
