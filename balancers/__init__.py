"""The balancers that come with mtlkit, one a file; importing this package registers them."""

if __name__ == "balancers":
    raise ImportError("Import mtlkit.balancers, not balancers: pyproject.toml maps the folder (make install).")

from mtlkit.balancers import cosreg, fixed, gradnorm, rotograd, uncertainty, uniform

__all__ = ["cosreg", "fixed", "gradnorm", "rotograd", "uncertainty", "uniform"]
