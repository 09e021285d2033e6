/* isa: the instruction sets this processor and system offer, and the one that is used. The only file that
 * knows processors by name. */
#include "kernel/kernel.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#    include <cpuid.h>
#    include <sys/syscall.h>
#    include <unistd.h>

extern const mh_rows mh_rows_avx2, mh_rows_avx512;
#endif
extern const mh_rows mh_rows_portable;

static const char *const names[MH_ISAS] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

const char *mh_isa_name(mh_isa isa)
{
    return names[isa];
}

#ifdef __x86_64__
/* AMX must be both in the processor and granted by the system: its tiles make every thread's saved state 8
 * KiB larger, so Linux wants to be asked. */
static bool has_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) && (d & AMX_TILE) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

mh_isa mh_isa_best(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return MH_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return MH_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512bf16"))
        return MH_ISA_AVX512;
    return has_amx() ? MH_ISA_AMX : MH_ISA_AVX512_BF16;
}
#else
mh_isa mh_isa_best(void)
{
    return MH_ISA_PORTABLE;
}
#endif

const mh_rows *mh_rows_of(mh_isa isa)
{
    if (isa > mh_isa_best())
        return NULL;
#ifdef __x86_64__
    if (isa >= MH_ISA_AVX512)
        return &mh_rows_avx512;
    if (isa == MH_ISA_AVX2)
        return &mh_rows_avx2;
#endif
    return &mh_rows_portable;
}

static mh_isa chosen;
static const mh_rows *chosen_rows;
static pthread_once_t once = PTHREAD_ONCE_INIT; /* ThreadSanitizer does not know call_once */

/* The index of MHMOE_ISA's word; MH_ISAS - 1 where it is unset, MH_ISAS where it is unknown. */
static int asked(void)
{
    const char *word = getenv("MHMOE_ISA");
    if (word == NULL)
        return MH_ISAS - 1;
    int isa = 0;
    while (isa < MH_ISAS && strcmp(word, names[isa]) != 0)
        isa++;
    return isa;
}

static void choose(void)
{
    mh_isa best = mh_isa_best();
    int isa = asked();
    chosen = isa < (int)best ? (mh_isa)isa : best;
    chosen_rows = mh_rows_of(chosen);
}

mh_status mh_isa_init(void)
{
    if (asked() == MH_ISAS)
        return mh_fail(MH_EUSAGE,
                       "MHMOE_ISA is \"%s\", which is no instruction set: use portable, avx2, avx512, "
                       "avx512_bf16 or amx, or unset it",
                       getenv("MHMOE_ISA"));
    pthread_once(&once, choose);
    return MH_OK;
}

mh_isa mh_isa_now(void)
{
    pthread_once(&once, choose);
    return chosen;
}

const mh_rows *mh_rows_now(void)
{
    pthread_once(&once, choose);
    return chosen_rows;
}

void mh_gemm(const mh_product *product)
{
#ifdef MHMOE_ONEDNN
    if (mh_isa_now() != MH_ISA_PORTABLE) {
        mh_gemm_onednn(product, mh_isa_now());
        return;
    }
#endif
    mh_gemm_portable(product);
}
