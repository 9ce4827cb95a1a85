# DINO with the head and temperatures of its paper. A config names the backbone
# and the channels of its last map, the number of prototypes (in the head and
# in the loss) and of classes (for the nearest neighbours).
model = dict(
    type='DINOSelfDistillation',
    base_momentum=0.004,
    neck=dict(type='NormedPooling', norm_cfg=dict(type='SyncBN')),
    head=dict(
        type='DINOProjectionHead',
        hidden_channels=2048,
        bottleneck_channels=256,
        num_prototypes=65536,
    ),
    loss=dict(
        type='DINOLoss',
        num_prototypes=65536,
        student_temp=0.1,
        teacher_temp=0.04,
        center_momentum=0.9,
    ),
    classifier=dict(
        type='NearestNeighborsHead', num_classes=1000, k=10, temperature=0.07
    ),
)
