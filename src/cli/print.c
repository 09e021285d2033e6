/* Numbers as people read them. */
#include "cli/cli.h"

#include <math.h>

const char *cli_bytes(double bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (bytes >= 1023.95 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.1f %s", bytes, unit[u]);
    return out;
}

const char *cli_count(double count, char out[32])
{
    static const char *const unit[] = {"", "k", "M", "G", "T", "P"};
    int u = 0;
    while (fabs(count) >= 999.95 && u < 5) {
        count /= 1000;
        u++;
    }
    snprintf(out, 32, u == 0 && count == floor(count) ? "%.0f%s" : "%.1f%s", count, unit[u]);
    return out;
}

const char *cli_duration(double seconds, char out[32])
{
    if (seconds >= 0.0001 && seconds < 0.0995) {
        snprintf(out, 32, "%.1fms", 1000 * seconds);
        return out;
    }
    if (seconds < 9.95) {
        snprintf(out, 32, "%.1fs", seconds);
        return out;
    }
    int64_t whole = isfinite(seconds) && seconds < 1e12 ? llround(seconds) : 0;
    int hours = (int)(whole / 3600 % 24), minutes = (int)(whole / 60 % 60);
    if (whole == 0)
        snprintf(out, 32, "a long time");
    else if (whole < 60)
        snprintf(out, 32, "%ds", (int)whole);
    else if (whole < 3600)
        snprintf(out, 32, "%dm %02ds", minutes, (int)(whole % 60));
    else if (whole < 86400)
        snprintf(out, 32, "%dh %02dm", hours, minutes);
    else
        snprintf(out, 32, "%lldd %02dh", (long long)(whole / 86400), hours);
    return out;
}

const char *cli_real(double value, int decimals, char out[32])
{
    if (fabs(value) < 1e6)
        snprintf(out, 32, "%.*f", decimals, value);
    else
        snprintf(out, 32, "%.4g", value);
    return out;
}

int cli_print_json(json_t *json)
{
    mh_text text = {0};
    mh_status status =
        json ? mh_json_dump(json, true, &text)
             : mh_fail(MH_EVALUE,
                       "the result cannot be written as JSON: a name in it is not UTF-8; rename that file");
    if (status == MH_OK)
        puts(text.data);
    mh_text_release(&text);
    json_decref(json);
    return cli_report(status);
}
