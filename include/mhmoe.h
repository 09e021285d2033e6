/* mhmoe: sparse mixture-of-experts language models in C. The installed interface. */
#ifndef MHMOE_H
#define MHMOE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Every function that can fail returns one of these; mh_message() then holds a full sentence. */
#define MH_STATUS_LIST(X)                                 \
    X(MH_OK, "success")                                   \
    X(MH_EUSAGE, "wrong usage")                           \
    X(MH_EVALUE, "a value is out of range")               \
    X(MH_EIO, "input or output failed")                   \
    X(MH_EFORMAT, "a file is not in the expected format") \
    X(MH_EMEMORY, "not enough memory")                    \
    X(MH_ESTATE, "not possible in this state")            \
    X(MH_EMISMATCH, "two things that must agree do not")  \
    X(MH_EINTERRUPTED, "stopped by the user")

#define MH_STATUS_ENUM(name, text) name,
typedef enum { MH_STATUS_LIST(MH_STATUS_ENUM) } mh_status;
#undef MH_STATUS_ENUM

/* The sentence of this thread's last failure; empty before the first. Valid until the next failure. */
const char *mh_message(void);

#ifdef __cplusplus
}
#endif
#endif
