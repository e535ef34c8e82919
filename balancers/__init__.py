"""The balancers that come with mtlkit, one per file. Importing this package registers all of them."""

from importlib import import_module
from pkgutil import iter_modules

if __name__ == "balancers":
    raise ImportError("Import mtlkit.balancers, not balancers: pyproject.toml maps the folder (make install).")

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
