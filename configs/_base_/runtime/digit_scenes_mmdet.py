# Runs of minutes: frequent log lines, and pictures and curves at the end.
_base_ = 'mmdet.py'

default_hooks = dict(
    logger=dict(interval=25),
    gallery=dict(type='PredictionGallery'),
    curves=dict(type='CurvePlot'),
)
