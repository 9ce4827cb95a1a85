#!/usr/bin/env python
"""Compiles the kernels with other versions of Triton than the environment's.

Installs each beside the environment, in a temporary folder of 600 MB. With a
version that the kernels do not take, another form must stand in, with a
warning. Needs a package index and some minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROOT = Path(__file__).resolve().parents[2]
#: The last before tuples, those of PyTorch 2.7 to 2.9, and the newest tested.
VERSIONS = ['3.1.0', '3.3.1', '3.4.0', '3.5.1', '3.6.0']
CHILD = '--installed'


def networks():
    """Each with a contextual layer of every width."""
    from mmengine.registry import MODELS

    import mmctx  # noqa: F401

    arch = dict(depths=(1, 1, 1, 1), channels=(96, 192, 384, 768))
    yield MODELS.build(dict(type='CoTNet', depth=(1, 1, 1, 1)))
    yield MODELS.build(
        dict(type='ContextualConvNeXt', arch=arch, contextual_every=1)
    )


def check_installed():
    """With the Triton that this process imports."""
    import torch
    import triton

    from mmctx.ops import triton_support
    from tools.analysis_tools._gpu_kernels import Variants
    from tools.analysis_tools._gpu_trace import Network

    reason = triton_support._refuse_installation()
    print(f'Triton {triton.__version__}: {reason or "takes the kernels"}')
    variants = Variants('sm_90')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for model in networks():
            network = Network(model, torch.bfloat16, channels_last=True)
            for train in (False, True):
                network.costs((8, 3, 224, 224), train, variants)
    warned = [w for w in caught if 'fast GPU path' in str(w.message)]
    if reason is not None:
        assert not len(variants), 'kernels ran that were refused'
        assert len(warned) == 1, f'{len(warned)} warnings instead of one'
        print(f'  both networks run without kernels: {warned[0].message}')
        return
    assert not warned
    for name, variant in {v.name: v for v in variants}.items():
        print(f'  {name}: {variant.resources}, {variant.seconds:.1f} s')


def check(version):
    """Whether a version does what it should, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        install = ['install', '-q', '--no-deps', '--target', folder]
        subprocess.run(
            [sys.executable, '-m', 'pip', *install, f'triton=={version}'],
            check=True,
        )
        path = os.pathsep.join([folder, str(ROOT)])
        result = subprocess.run(
            [sys.executable, __file__, CHILD],
            env={**os.environ, 'PYTHONPATH': path},
        )
    return result.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('versions', nargs='*', default=VERSIONS)
    parser.add_argument(CHILD, action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.installed:
        return check_installed()
    failed = [v for v in args.versions if not check(v)]
    return f'failed with Triton {", ".join(failed)}' if failed else None


if __name__ == '__main__':
    sys.exit(main())
