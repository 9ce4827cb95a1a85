# A slim ConTNet with patches for small pictures and a CPU.
backbone = dict(
    type='ConTNet',
    arch=dict(
        stem_channels=32,
        depths=(2, 2, 2, 2),
        feedforward_channels=(64, 128, 256, 512),
    ),
    patch_sizes=(4, 8),
    last_patch_size=4,
)
