"""The entry point of the TensorBoard plugin.

TensorBoard imports this module whenever it starts and does not start if that fails, so
everything that could be missing or broken waits until `load`.
"""

from argparse import Namespace

from tensorboard.plugins.base_plugin import TBContext, TBLoader, TBPlugin

from gradguard.tensorboard.tags import PLUGIN


class GradientsLoader(TBLoader):  # type: ignore[misc]  # tensorboard ships no types
    """Load the page, and have TensorBoard keep every record it shows."""

    def fix_flags(self, flags: Namespace) -> None:
        """Keep every record, unless --samples_per_plugin says otherwise."""
        # Of a tensor TensorBoard keeps 10 events, chosen at random; 0 stands for all.
        flags.samples_per_plugin.setdefault(PLUGIN, 0)

    def load(self, context: TBContext) -> TBPlugin:
        """Return the page; if it cannot be loaded, TensorBoard does without."""
        from gradguard.tensorboard.page.app import GradientsPage  # noqa: PLC0415 (see above)

        return GradientsPage(context)
