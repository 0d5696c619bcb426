"""Packages the configurations and the pages of reports; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = "yolor_d2.model_zoo.configs"
PAGE = "yolor_d2.report.templates"
# Before Python 3.11 a pattern that ends with a slash matches files too.
FOLDERS = sorted(path.name for path in Path(__file__).parent.glob("configs/*") if path.is_dir())

setup(
    packages=[
        *find_packages(include=["yolor_d2", "yolor_d2.*"]),
        PAGE,
        CONFIGS,
        *(f"{CONFIGS}.{folder}" for folder in FOLDERS),
    ],
    package_dir={CONFIGS: "configs"},
    package_data={
        CONFIGS: ["*.yaml"],
        **{f"{CONFIGS}.{folder}": ["*.yaml", "*.json", "*.py"] for folder in FOLDERS},
        "yolor_d2": ["py.typed"],
        "yolor_d2._builtin": ["*.yaml", "*.txt"],
        PAGE: ["*.jinja", "*.css", "*.js"],
    },
)
