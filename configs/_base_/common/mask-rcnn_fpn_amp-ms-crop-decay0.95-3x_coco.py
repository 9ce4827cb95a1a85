# The same as ConvNeXt trains it: rates fall by 0.95 from layer to layer of the
# backbone, three blocks to a layer; no weight decay on norms, biases and other
# one-dimensional parameters.
_base_ = './mask-rcnn_fpn_amp-ms-crop-3x_coco.py'

optim_wrapper = dict(
    constructor='BackboneLayerDecay',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        layer_decay=dict(rate=0.95, blocks_per_layer=3),
    ),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=1000),
    _base_.param_scheduler[1],
]
