/* Sampling: from logits to the next token. */
#include "infer/infer.h"

#include <math.h>

/* The order of candidates: falling probability, ties by rising id. */
static bool before(mh_candidate a, mh_candidate b)
{
    return a.p > b.p || (a.p == b.p && a.id < b.id);
}

/* Restores the heap (first in order on top) below `at`. */
static void sift(mh_candidate *heap, int64_t count, int64_t at)
{
    mh_candidate moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        child += child + 1 < count && before(heap[child + 1], heap[child]);
        if (!before(heap[child], moving))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* Moves the first in order from the top of the heap to its end, which leaves the heap. Returns its p. */
static double pop(mh_candidate *heap, int64_t count)
{
    mh_candidate first = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = first;
    sift(heap, count - 1, 0);
    return first.p;
}

static int32_t most_likely(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    return (int32_t)best;
}

/* A heap instead of a sort: the few candidates that top_k or top_p ask for are all that is ever put in order.
 */
int32_t mh_sample(const mh_sampler *sampler, uint64_t index, const float *logits, int64_t vocab,
                  mh_candidate *work)
{
    int32_t best = most_likely(logits, vocab);
    if (!(sampler->temperature > 0))
        return best;

    int64_t count = 0;
    double total = 0;
    for (int64_t i = 0; i < vocab; i++) {
        float p = expf((logits[i] - logits[best]) / (float)sampler->temperature);
        if (p > 0) { /* neither underflow nor NaN can be drawn */
            work[count++] = (mh_candidate){p, (int32_t)i};
            total += p;
        }
    }
    if (count == 0)
        return best;

    /* Candidates popped so far stand at the end of work, the first of them last. */
    int64_t limit = sampler->top_k > 0 && sampler->top_k < count ? sampler->top_k : count;
    int64_t popped = 0, kept = count;
    double mass = total;
    if (limit < count || sampler->top_p < 1) {
        for (int64_t at = count / 2; at-- > 0;)
            sift(work, count, at);
        if (limit < count)
            for (total = 0; popped < limit; popped++)
                total += pop(work, count - popped);
        mass = 0;
        kept = 0;
        do {
            if (kept == popped)
                pop(work, count - popped++);
            mass += work[count - 1 - kept++].p;
        } while (mass < sampler->top_p * total && kept < limit);
    }

    double left = mass * mh_uniform(sampler->seed, mh_stream(MH_RANDOM_SAMPLE, 0, 0), index);
    int64_t drawn = count; /* falls to the candidate whose share `left` lies in */
    do
        left -= work[--drawn].p;
    while (left >= 0 && drawn > count - kept);
    return work[drawn].id;
}
