# A slim CoaT-Lite for small pictures and a CPU.
backbone = dict(
    type='CoaT',
    arch=dict(
        embed_dims=(64, 128, 192, 256),
        serial_depths=(2, 2, 2, 2),
        mlp_ratios=(4, 4, 4, 4),
    ),
)
