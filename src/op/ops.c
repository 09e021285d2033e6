/* ops: the table of operations for CPUs. */
#include "op/op.h"

#define PAIR(name, forward, backward) .name##_fwd = mh_cpu_##name##_fwd, .name##_bwd = mh_cpu_##name##_bwd,
#define ONE(name, result, arguments)  .name = mh_cpu_##name,

const struct mh_ops *mh_cpu_ops(void)
{
    static const struct mh_ops table = {MH_OPS(PAIR, ONE)};
    return &table;
}
