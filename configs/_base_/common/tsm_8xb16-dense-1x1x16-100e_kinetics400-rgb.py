# TSM on 16 frames, one after the other, of Kinetics-400. For mmaction2, and
# written out, so that it can be read without mmaction2. A config names the
# backbone, as `mmpretrain.X` where that returns a tuple of feature maps.
custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
default_scope = 'mmaction'

num_segments = 16
model = dict(
    type='Recognizer2D',
    cls_head=dict(
        type='TSMHead',
        num_segments=num_segments,
        num_classes=400,
        in_channels=2048,
        spatial_type='avg',
        consensus=dict(type='AvgConsensus', dim=1),
        dropout_ratio=0.5,
        init_std=0.001,
        # The shift is in the backbone; the head has one score per frame.
        is_shift=True,
        average_clips='prob',
    ),
    data_preprocessor=dict(
        type='ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCHW',
    ),
)

start = [
    dict(type='DecordInit'),
    dict(
        type='DenseSampleFrames',
        clip_len=1,
        frame_interval=1,
        num_clips=num_segments,
    ),
    dict(type='DecordDecode'),
    dict(type='Resize', scale=(-1, 256)),
]
end = [
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]
train_pipeline = [
    *start,
    dict(
        type='MultiScaleCrop',
        input_size=224,
        scales=(1, 0.875, 0.75, 0.66),
        random_crop=False,
        max_wh_scale_gap=1,
        num_fixed_crops=13,
    ),
    dict(type='Resize', scale=(224, 224), keep_ratio=False),
    dict(type='Flip', flip_ratio=0.5),
    *end,
]
# one clip and its centre
val_pipeline = [
    start[0],
    dict(start[1], num_sample_positions=1, test_mode=True),
    *start[2:],
    dict(type='CenterCrop', crop_size=224),
    *end,
]
# ten clips of three crops
test_pipeline = [
    start[0],
    dict(start[1], num_sample_positions=10, test_mode=True),
    *start[2:],
    dict(type='ThreeCrop', crop_size=256),
    *end,
]

data_root = 'data/kinetics400/'
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VideoDataset',
        ann_file=data_root + 'kinetics400_train_list_videos.txt',
        data_prefix=dict(video=data_root + 'videos_train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoDataset',
        ann_file=data_root + 'kinetics400_val_list_videos.txt',
        data_prefix=dict(video=data_root + 'videos_val'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader,
    batch_size=1,
    dataset=dict(val_dataloader['dataset'], pipeline=test_pipeline),
)
val_evaluator = dict(type='AccMetric')
test_evaluator = val_evaluator

# TSM's groups: biases at twice the rate, the classifier at five times (its
# bias at ten); no weight decay on norms and biases.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_lr_mult=2.0,
        bias_decay_mult=0.0,
        custom_keys={
            'cls_head.fc_cls.weight': dict(lr_mult=5.0),
            'cls_head.fc_cls.bias': dict(lr_mult=10.0, decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=20, norm_type=2),
)
param_scheduler = [
    dict(type='MultiStepLR', end=100, milestones=[40, 80], gamma=0.1)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='ResumableCheckpoint', max_keep_ckpts=3, save_best='auto'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sync_buffers=dict(type='SyncBuffersHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=True)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='ActionVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False

# 8 GPUs x 16 clips
auto_scale_lr = dict(enable=False, base_batch_size=128)
