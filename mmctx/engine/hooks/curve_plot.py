from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['CurvePlot']


@register(HOOKS)
class CurvePlot(Hook):
    """Plots loss and validation figures at the end of training.

    Reads the logger's ``vis_data/scalars.json`` and writes ``curves.png`` to
    the work directory.
    """

    @master_only
    def after_train(self, runner) -> None:
        from mmctx.visualization.curves import plot_curves

        out_file = Path(runner.work_dir) / 'curves.png'
        try:
            plot_curves({'': runner.work_dir}, out_file)
        except (FileNotFoundError, ImportError) as error:
            runner.logger.warning(f'No curves were plotted: {error}')
        else:
            runner.logger.info(f'Curves: {out_file}')
