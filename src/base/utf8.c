/* utf8: valid text, and where to cut it. */
#include "base/base.h"

#include <string.h>

/* The length of the sequence at s: of a character, or if that is not valid the longest part of it that could
 * have begun one (Unicode 15, table 3-7 and section 3.9, "maximal subpart"). n >= 1. */
static size_t sequence(const unsigned char *s, size_t n, bool *valid)
{
    unsigned char c = s[0], low = 0x80, high = 0xbf;
    *valid = c > 0 && c < 0x80;
    if (c < 0xc2 || c > 0xf4)
        return 1;
    size_t length = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (c == 0xe0)
        low = 0xa0; /* less would be overlong */
    else if (c == 0xed)
        high = 0x9f; /* more would be a surrogate */
    else if (c == 0xf0)
        low = 0x90;
    else if (c == 0xf4)
        high = 0x8f; /* more would be over U+10FFFF */
    for (size_t i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high)
            return i;
        low = 0x80;
        high = 0xbf;
    }
    *valid = true;
    return length;
}

bool mh_utf8_valid(const char *text, size_t length)
{
    bool valid = true;
    for (size_t at = 0; valid && at < length;)
        at += sequence((const unsigned char *)text + at, length - at, &valid);
    return valid;
}

mh_status mh_utf8_clean(const char *text, size_t length, mh_text *out, int64_t *invalid)
{
    size_t begin = 0, end = 0; /* of the valid stretch not yet added */
    while (end < length) {
        bool valid;
        size_t n = sequence((const unsigned char *)text + end, length - end, &valid);
        if (!valid) {
            MH_TRY(mh_text_add(out, text + begin, end - begin));
            MH_TRY(mh_text_add(out, "\xef\xbf\xbd", 3));
            *invalid += (int64_t)n;
            begin = end + n;
        }
        end += n;
    }
    return mh_text_add(out, text + begin, end - begin);
}

size_t mh_utf8_cut(const char *text, size_t length, size_t goal)
{
    if (goal == 0)
        goal = 1;
    if (goal >= length)
        return length;
    /* From goal - 1: a line may end just there. */
    size_t reach = length - goal < MH_CUT_REACH ? length - goal : MH_CUT_REACH;
    const char *newline = memchr(text + goal - 1, '\n', reach + 1);
    if (newline != NULL) {
        size_t cut = (size_t)(newline - text) + 1;
        while (cut < length && text[cut] == '\n')
            cut++;
        return cut;
    }
    if (reach < MH_CUT_REACH)
        return length;
    for (size_t cut = goal; cut < goal + reach; cut++)
        if (text[cut] == ' ' && text[cut - 1] != ' ')
            return cut;
    /* A character has at most three bytes after its first; text that is not yet clean may have more. */
    size_t cut = goal;
    while (cut < goal + 3 && (text[cut] & 0xc0) == 0x80)
        cut++;
    return cut;
}
