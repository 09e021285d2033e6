/* --precision f32|bf16, as several commands take it. */
#include "cli/cli.h"

#include <string.h>

int cli_precision(const char *name, mh_precision *precision)
{
    if (strcmp(name, "f32") == 0)
        *precision = MH_PRECISION_F32;
    else if (strcmp(name, "bf16") == 0)
        *precision = MH_PRECISION_BF16;
    else
        return cli_report(mh_fail(MH_EUSAGE, "--precision takes f32 or bf16, not '%s'", name));
    return -1;
}
