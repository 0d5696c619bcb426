"""Packages the configurations with the code; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

CONFIGS = "yolor_d2.model_zoo.configs"

setup(
    packages=[*find_packages(include=["yolor_d2", "yolor_d2.*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},
    package_data={
        CONFIGS: ["*.yaml", "*/*.yaml", "*/*.py"],
        "yolor_d2._builtin": ["*.yaml", "*.txt"],
    },
)
