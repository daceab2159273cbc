"""The Gradients page: its files and its numbers, over HTTP."""

import gzip
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend.http_util import Respond
from tensorboard.plugins.base_plugin import FrontendMetadata, TBContext, TBPlugin
from typing_extensions import override
from werkzeug import Request, Response

from gradguard.output import as_json
from gradguard.records.bins import bin_starts
from gradguard.tensorboard.page import constants, query
from gradguard.tensorboard.page.heat import cell, heat, peak
from gradguard.tensorboard.page.library import Library, LoadedRun, Source
from gradguard.tensorboard.page.lines import CHARTS, Chart, summary
from gradguard.tensorboard.page.query import MOMENTS, SCALES
from gradguard.tensorboard.tags import PLUGIN

App = Callable[..., Any]

# No other file is ever read for a request.
_FOLDER = files("gradguard.tensorboard.page").joinpath("static")
_MIMES = {".js": "text/javascript", ".css": "text/css"}
STATIC = {file.name: _MIMES[Path(file.name).suffix] for file in _FOLDER.iterdir()}


class GradientsPage(TBPlugin):  # type: ignore[misc]  # tensorboard ships no types
    """Serve the page and what it draws.

    Args:
        context: Has the data provider; nothing else of it is used, so that the page
            works wherever TensorBoard's own do.
    """

    plugin_name = PLUGIN

    def __init__(self, context: TBContext) -> None:
        self._library = Library(context.data_provider)

    @override
    def is_active(self) -> bool:
        # TensorBoard asks only where it knows of no data of this plugin.
        return False

    @override
    def frontend_metadata(self) -> FrontendMetadata:
        return FrontendMetadata(es_module_path="/index.js", tab_name="Gradients")

    @override
    def get_plugin_apps(self) -> dict[str, App]:
        static = {
            f"/{name}": _app(partial(_static, name, mime))
            for name, mime in STATIC.items()
        }
        charts = {
            f"/{name}": _app(partial(self._chart, numbers))
            for name, numbers in CHARTS.items()
        }
        return (
            static
            | charts
            | {
                "/constants.js": _app(_constants),
                "/plotly.min.js": _app(_plotly),
                "/sources": _app(self._sources),
                "/summary": _app(self._summary),
                "/heat": _app(self._heat),
                "/peak": _app(self._peak),
            }
        )

    def _sources(self, request: Request) -> Response:
        """Serve which runs there are, and when they last grew."""
        updated = self._library.updated(
            plugin_util.context(request.environ),
            experiment=plugin_util.experiment_id(request.environ),
        )
        sources = [
            {**source._asdict(), "updated": seconds}
            for source, seconds in sorted(updated.items())
        ]
        return _json(request, {"sources": sources})

    def _summary(self, request: Request) -> Response:
        return _json(request, summary(self._run(request)))

    def _heat(self, request: Request) -> Response:
        """Serve one float64 per bin, its first step, then the cells, row by row."""
        run = self._run(request)
        rows = query.window(request.args, run.records)
        bins = query.bins(request.args)
        cells = heat(
            run,
            rows,
            query.groups(request.args, run.records),
            moment=query.choice(request.args, "moment", MOMENTS),
            scale=query.choice(request.args, "scale", SCALES),
            bins=bins,
        )
        steps = run.records.steps[rows][bin_starts(rows.stop - rows.start, bins)]
        content = steps.astype("<f8").tobytes() + cells.astype("<i2").tobytes()
        return _send(request, content, "application/octet-stream")

    def _peak(self, request: Request) -> Response:
        """Serve the largest norm behind a cell of the heatmap, and what became of it."""
        run = self._run(request)
        row, column = peak(
            run,
            query.window(request.args, run.records),
            [
                column
                for group in query.groups(request.args, run.records)
                for column in group
            ],
            moment=query.choice(request.args, "moment", MOMENTS),
            scale=query.choice(request.args, "scale", SCALES),
        )
        return _json(request, cell(run, row, column))

    def _chart(self, numbers: Chart, request: Request) -> Response:
        return _json(request, numbers(self._run(request), request.args))

    def _run(self, request: Request) -> LoadedRun:
        source = Source(request.args.get("run", ""), request.args.get("optimizer", ""))
        return self._library.read(
            plugin_util.context(request.environ),
            source,
            experiment=plugin_util.experiment_id(request.environ),
        )


def _app(serve: Callable[[Request], Response]) -> App:
    """Return the WSGI application that reads, and refuses to be written to."""

    @Request.application
    def application(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            sentence = f"the page is read with GET, got {request.method}."
            return _send(request, sentence, "text/plain", code=405)
        return serve(request)

    return application


def _send(request: Request, content: object, mime: str, **options: Any) -> Response:
    response: Response = Respond(request, content, mime, **options)
    return response


def _json(request: Request, content: dict[str, Any]) -> Response:
    return _send(request, as_json(content), "application/json")


def _static(name: str, mime: str, request: Request) -> Response:
    return _send(request, _FOLDER.joinpath(name).read_bytes(), mime)


def _constants(request: Request) -> Response:
    return _send(request, constants.script(), "text/javascript")


def _plotly(request: Request) -> Response:
    """Serve Plotly as it is installed; the browser may keep it for a day."""
    return _send(
        request,
        _plotly_gzipped(),
        "text/javascript",
        content_encoding="gzip",
        expires=24 * 3600,
    )


@cache
def _plotly_gzipped() -> bytes:
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return gzip.compress(script, 4)
