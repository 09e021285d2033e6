/* bench: how near this build comes to what the processor can do, and what an MoE layer costs in time.
 *
 * A shared machine is three times slower for seconds at a time, so every figure is a ratio taken in the same
 * milliseconds: to a probe that runs right before and after each sample, and to rivals that take turns with
 * it. bench/README.md says how to read them. */
#ifndef MH_BENCH_H
#define MH_BENCH_H

#include "kernel/kernel.h"
#include "train/train.h"

/* ---- memory.c: what feeds the cores -------------------------------------------------------------------- */

typedef enum { MH_L2, MH_L3, MH_DRAM, MH_MEMORIES } mh_memory;

typedef struct {
    double holds; /* bytes, all caches of the threads in use together */
    double rate;  /* bytes a second that these threads read at most */
} mh_memory_level;

const char *mh_memory_name(mh_memory level);

/* Raises the rates to those of now where these are better: a slow spell of the machine is made good later.
 * Takes a tenth of a second, and twice the memory of the largest cache. */
mh_status mh_memory_measure(mh_memory_level level[MH_MEMORIES]);

/* The least time in which `moved` bytes come from or go to the smallest level that holds `held` bytes. */
double mh_memory_seconds(const mh_memory_level level[MH_MEMORIES], double held, double moved);

/* ---- race.c: samples taken in turns, each between two probes ------------------------------------------- */

#define MH_BENCH_KEEP 0.85 /* of the best probe: slower moments do not count */

/* One result of a benchmark: what `who` did on `subject`, in figures. */
enum { MH_FIGURES = 6 };
typedef struct {
    const char *benchmark; /* "gemm" */
    char subject[64];      /* "256x1365x512" */
    const char *type, *pass, *who;
    int kept, measured; /* samples */
    int figures;
    struct {
        char name[32]; /* "of probe", "time/oneDNN" */
        mh_spread value;
    } figure[MH_FIGURES];
} mh_bench_line;

/* What every benchmark is told, and the yardstick. */
typedef struct {
    double seconds;         /* for each comparison; 0: as the benchmark thinks fit */
    double keep;            /* MH_BENCH_KEEP */
    mh_precision precision; /* of `step` */
    const char *save; /* folder to which `step` writes what it does, so that others can do it, too; or NULL */
    const mh_progress *progress;
    mh_status (*tell)(void *context, const mh_bench_line *line); /* gets every result */
    void *context;
    int64_t rounds[MH_TYPES]; /* of a probe that takes about a millisecond */
    double best[MH_TYPES];    /* operations a second of the best probe so far, all threads together */
    mh_memory_level memory[MH_MEMORIES];
} mh_bench;

/* Sets keep and the yardstick; the other fields are the caller's. Probes run on mh_threads() threads. */
mh_status mh_bench_init(mh_bench *bench);

/* Runs `work` on all threads at once; seconds from the first start to the last end. Threads that share a core
 * would each look twice as fast if they were timed one by one and happened not to overlap. */
double mh_time_together(void (*work)(const void *context), const void *context);

enum { MH_CONTENDERS = 5, MH_ROUNDS = 256, MH_ROUNDS_LEAST = 5 };

typedef struct {
    const char *name;
    double operations;            /* of one run, multiply-adds counted twice */
    double (*run)(void *context); /* returns its seconds */
    void *context;
    int rounds;   /* takes part in the first so many; 0: all */
    double least; /* seconds that its bytes take at least */
} mh_contender;

/* seconds 0: did not take part. The two probes beside it: their mean and the slower one, operations a second.
 */
typedef struct {
    double seconds, probe, worst;
} mh_race_sample;

typedef struct {
    const char *benchmark, *subject, *pass;
    mh_type type;
    double seconds; /* for the race, unless the bench says otherwise */
    bool once;      /* a sample is a single run however short, after one to warm up */
    mh_contender contender[MH_CONTENDERS];
    int contenders, references; /* all are compared with each of the first `references` */

    int rounds;
    double least; /* a sample counts whose probes reach this */
    mh_race_sample sample[MH_ROUNDS][MH_CONTENDERS];
} mh_race;

/* Lets the contenders take turns. Fails only with MH_EINTERRUPTED. */
mh_status mh_race_run(mh_race *race, mh_bench *bench);

bool mh_race_kept(const mh_race *race, int round, int contender);
mh_spread mh_race_share(const mh_race *race, int contender); /* of the probe */
/* Of the roofline: the least time by the probe or by `least`, whichever is longer, over the time. */
mh_spread mh_race_roofline(const mh_race *race, int contender);
/* Time of the contender over that of the other in the same round. */
mh_spread mh_race_time(const mh_race *race, int contender, int other);

/* The line of one contender with these figures. */
mh_bench_line mh_race_line(const mh_race *race, int contender);

/* Fills a matrix with numbers in [-1, 1) that are a function of `which`. */
void mh_bench_fill(mh_mat x, uint32_t which);

/* ---- packed.c: the rival, oneDNN with packed weights --------------------------------------------------- */

/* The product with its B in the layout that oneDNN likes best, into which it is brought here, outside of what
 * is timed; with `pack` false B stays as it is. Uses all threads. NULL where oneDNN lacks such a product. */
typedef struct mh_packed mh_packed;

mh_packed *mh_packed_create(const mh_product *product, bool pack);
void mh_packed_run(const mh_packed *packed);
void mh_packed_free(mh_packed *packed);

/* ---- products.c: `gemm` and `experts` ------------------------------------------------------------------ */

typedef enum { MH_LOADS_EVEN, MH_LOADS_SKEWED, MH_LOADS_SOME_EMPTY } mh_loads;

/* y [rows, out] = x [rows, in] w^T by `groups` experts that share the rows as `loads` says. */
typedef struct {
    int64_t rows, out, in;
    int groups;
    mh_loads loads;
} mh_bench_shape;

/* Linear layers: ours, oneDNN's and the portable version. shapes NULL: those of real models. Of `experts`,
 * the first reference is one dense product of the same FLOPs. */
mh_status mh_bench_gemm(mh_bench *bench, const mh_bench_shape *shapes, int count);
mh_status mh_bench_experts(mh_bench *bench, const mh_bench_shape *shapes, int count);

/* ---- layer.c: `layer` ---------------------------------------------------------------------------------- */

/* Dense, SMoE, fine-grained and MH-MoE layers of equal FLOPs and parameters, on shape.rows tokens of width
 * shape.in; the dense layer has hidden width shape.out. shapes NULL: 4096 tokens, two widths. */
mh_status mh_bench_layer(mh_bench *bench, const mh_bench_shape *shapes, int count);

/* ---- parts.c: where the time of a step goes ------------------------------------------------------------ */

#define MH_TIME_PARTS(PART)        \
    PART(EMBEDDING, "embedding")   \
    PART(ATTENTION, "attention")   \
    PART(NORM, "norm")             \
    PART(FFN, "dense ffn")         \
    PART(ROUTER, "router")         \
    PART(DISPATCH, "dispatch")     \
    PART(EXPERTS, "experts")       \
    PART(HEAD_MERGE, "head/merge") \
    PART(LOSS, "loss")             \
    PART(OPTIMIZER, "optimizer")   \
    PART(REST, "the rest")

#define MH_TIME_ENUM(name, text) MH_TIME_##name,
typedef enum { MH_TIME_PARTS(MH_TIME_ENUM) MH_TIMES } mh_time_part;
#undef MH_TIME_ENUM

const char *mh_time_name(mh_time_part part);

/* The CPU's operations, which add the seconds they take to their part of `seconds` [MH_TIMES]. A linear
 * serves the part that its weight belongs to in `params`. One table for all: a call points it elsewhere. */
const struct mh_ops *mh_timed_ops(const mh_params *params, double *seconds);

/* ---- step.c: `step` ------------------------------------------------------------------------------------ */

/* A dense model; its MoE twins differ by preset alone. */
typedef struct {
    mh_config model;             /* not resolved, without preset */
    int64_t micro_batch, micros; /* sequences of model.context tokens a pass; passes an update */
} mh_bench_training;

/* The reference model of docs/performance.md. */
mh_bench_training mh_bench_reference(void);

/* Whole training steps in bench->precision of the model as dense, SMoE top-1 and MH-MoE with two heads. Each
 * is saved as a checkpoint of its first weights, with batch.safetensors beside them: `token` and `target`,
 * what the first step gives as `nll` of each token, and `grad_norm` in the metadata. */
mh_status mh_bench_step(mh_bench *bench, const mh_bench_training *training);

#endif
