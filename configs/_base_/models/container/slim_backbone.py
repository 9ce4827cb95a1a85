# A slim Container-Light for small pictures and a CPU. Attention from stride
# 16 on, where a digit is 2 to 4 cells wide.
backbone = dict(
    type='Container',
    arch=dict(
        embed_dims=(48, 96, 192, 256),
        depths=(2, 2, 2, 2),
        mlp_ratios=(4, 4, 4, 4),
        aggregation=dict(
            num_heads=(2, 3, 6, 8),
            dynamic=('none', 'none', 'attention', 'attention'),
        ),
    ),
)
