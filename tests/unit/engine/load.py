"""The engine's own modules, which Triton loads and no package holds."""

import importlib.util
import sys
from types import ModuleType

from tollhouse.cli.engine import engine_dir


def engine_module(name: str) -> ModuleType:
    """Import deploy/engine/model/NAME.py under a name of its own."""
    path = engine_dir() / "model" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tollhouse_engine_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
