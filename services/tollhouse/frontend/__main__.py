"""python -m tollhouse.frontend: APIs of chats beside one Triton server."""

import time
import uuid

from tollhouse.adapters import logs, metric_export
from tollhouse.adapters.http_server import serve
from tollhouse.adapters.loss_metrics import watch_lost_spans
from tollhouse.adapters.process import Process, read_settings, run
from tollhouse.adapters.tracing import Tracing
from tollhouse.adapters.triton import Patience, Triton
from tollhouse.frontend.app import Application
from tollhouse.frontend.config import ModelSection, Settings, load_models
from tollhouse.frontend.contract import CONTRACTS
from tollhouse.frontend.generation import Model
from tollhouse.frontend.release import Release
from tollhouse.frontend.service import Service


def _model(name: str, section: ModelSection, created: int) -> Model:
    return Model(
        name=name,
        triton_model=section.triton_model,
        contract=CONTRACTS[section.contract],
        release=Release.open(section.release_dir),
        context=section.context,
        created=created,
        tool_parser=section.tool_parser,
    )


async def main(process: Process) -> None:
    """Wire the parts and serve."""
    settings = read_settings(Settings)
    logs.configure(process.name, settings.log_level)
    created = int(time.time())
    models = {
        name: _model(name, section, created)
        for name, section in load_models(settings.models_file).items()
    }
    triton = Triton.connect(settings.triton_target)
    patience = Patience(
        first=settings.first_token_timeout_seconds,
        next=settings.inter_token_timeout_seconds,
    )
    instance = str(uuid.uuid4())
    tracing = Tracing.open(process.name, instance)
    export = metric_export.open_export(process.name, instance)
    watch_lost_spans(export, lambda: tracing.lost)
    application = Application(Service(models, triton, patience), tracing)
    try:
        await serve(
            process, application, settings.listen, drain_seconds=settings.drain_seconds
        )
    finally:
        await triton.close()
        tracing.close()
        metric_export.close_export(export)


if __name__ == "__main__":
    run("frontend", main)
