# A slim Contextual ResNet-14 for digits. Of 10 classes 5, 3 and 2 are
# candidates for stages 2, 3 and 4: half of them first, as on ImageNet, and in
# the end two, the fewest that leave a choice.
backbone = dict(
    type='ContextualResNet',
    depth=14,
    base_channels=16,
    stem_channels=16,
    num_classes=10,
    class_counts=(5, 3, 2),
    embedding_dims=64,
    start_scale=5.0,
)
