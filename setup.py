"""Metadata and the layout of the package; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import setup

EXAMPLES = ["scikit-learn>=1.3", "tqdm>=4.60"]
CLI = ["click>=8.1", "rich>=13"]
PLOT = ["matplotlib>=3.7"]

setup(
    name="refoptim",
    version="0.1.0",
    description="torch.optim on NumPy and CuPy arrays: a reference that defines every update, exact to the bit",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=[
        "refoptim",
        "refoptim.optimizers",
        "refoptim.engines",
        "refoptim.lr_scheduler",
        "refoptim.kernels",
        "refoptim.conformance",
        "refoptim.conformance.adapters",
        "refoptim_pytest",
    ],
    package_dir={
        "refoptim": "refoptim",
        "refoptim.kernels": "kernels",
        "refoptim.conformance": "conformance",
        "refoptim_pytest": "conformance/plugin",
    },
    package_data={
        "refoptim": ["py.typed"],
        "refoptim.conformance": ["cases/*.json", "golden/**/*.json", "deviations/*.txt"],
    },
    install_requires=["numpy>=2"],
    extras_require={
        "cli": CLI,
        "plot": PLOT,
        "examples": EXAMPLES,
        "bfloat16": ["ml_dtypes>=0.4"],
        "cuda12": ["cupy-cuda12x[ctk]>=14"],
        "cuda13": ["cupy-cuda13x[ctk]>=14"],
        "docs": PLOT,
        "test": [
            *CLI,
            *EXAMPLES,
            *PLOT,
            "hypothesis>=6.100",
            "ml_dtypes>=0.4",
            "mypy>=1.14,<3",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9,<0.18",
            "scipy>=1.11",
        ],
    },
    entry_points={"console_scripts": ["refoptim = refoptim.cli:main"], "pytest11": ["refoptim = refoptim_pytest"]},
)
