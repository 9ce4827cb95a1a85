# The RandAugment of the CoTNet release at magnitude 15 (of 10), for 224 x 224
# crops. An operation there fires with a probability drawn from U(0.2, 0.8) at
# every call; over the two draws together that is a plain coin toss, prob=0.5.
# Levels run from 0 to 15 here, so each range ends at 1.5 times the value that
# level 10 has. Posterize, Solarize and the enhancing operations get weaker,
# not stronger, towards the end of their ranges.
crop_size = 224
policies = [
    dict(type='AutoContrast', prob=0.5),
    dict(type='Equalize', prob=0.5),
    dict(type='Invert', prob=0.5),
    dict(type='Rotate', magnitude_range=(0, 45), prob=0.5),
    dict(type='Posterize', magnitude_range=(0, 6), prob=0.5),
    dict(type='Solarize', magnitude_range=(0, 384), prob=0.5),
    dict(type='SolarizeAdd', magnitude_range=(0, 165), prob=0.5),
    dict(
        type='ColorTransform',
        magnitude_range=(-0.9, 1.8),
        prob=0.5,
        random_negative_prob=0.0,
    ),
    dict(
        type='Contrast',
        magnitude_range=(-0.9, 1.8),
        prob=0.5,
        random_negative_prob=0.0,
    ),
    dict(
        type='Brightness',
        magnitude_range=(-0.9, 1.8),
        prob=0.5,
        random_negative_prob=0.0,
    ),
    dict(
        type='Sharpness',
        magnitude_range=(-0.9, 1.8),
        prob=0.5,
        random_negative_prob=0.0,
    ),
    dict(
        type='Shear',
        magnitude_range=(0, 0.45),
        prob=0.5,
        direction='horizontal',
    ),
    dict(
        type='Shear',
        magnitude_range=(0, 0.45),
        prob=0.5,
        direction='vertical',
    ),
    # a fraction of the image: 150 pixels
    dict(
        type='Translate',
        magnitude_range=(0, 150 / crop_size),
        prob=0.5,
        direction='horizontal',
    ),
    dict(
        type='Translate',
        magnitude_range=(0, 150 / crop_size),
        prob=0.5,
        direction='vertical',
    ),
    # the side in pixels: the release cuts up to 60 on each side of a point
    dict(type='Cutout', magnitude_range=(0, 120), prob=0.5),
]
