/* Settings of a tiny MH-MoE in training, everything switched on that has a random number or a state. */
#ifndef MH_SETTINGS_H
#define MH_SETTINGS_H

#define TINY_SETTINGS                                                                                \
    "model.dim=32", "model.layers=2", "model.attention_heads=2", "model.dropout=0.1", "moe.heads=2", \
        "moe.experts=4", "moe.top_k=2", "moe.ffn_dim=16", "moe.score=sigmoid", "moe.balance=bias",   \
        "moe.second_expert=random", "moe.jitter=0.1", "data.mask_documents=true", "train.batch=4",   \
        "train.micro_batch=2"

#endif
