# A slim Contextual ConvNeXt for digits. Of 10 classes 5, 3 and 2 are
# candidates for stages 2, 3 and 4: half of them first, as on ImageNet, and in
# the end two, the fewest that leave a choice.
backbone = dict(
    type='ContextualConvNeXt',
    arch=dict(depths=(1, 1, 2, 1), channels=(24, 48, 96, 192)),
    contextual_every=2,
    layer_scale_init_value=1.0,
    num_classes=10,
    class_counts=(5, 3, 2),
    embedding_dims=64,
)
