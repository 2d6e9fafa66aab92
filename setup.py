"""Metadata and the layout of the package; tool settings are in pyproject.toml."""

import runpy
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path(__file__).with_name("kernels")

EXAMPLES = ["scikit-learn>=1.3", "tqdm>=4.60"]
CLI = ["click>=8.1", "rich>=13"]
SITE = ["sphinx>=8", "myst-parser>=4", "pydata-sphinx-theme>=0.16", "latex2mathml>=3.77"]
PLOT = ["matplotlib>=3.7"]
ACCURACY = ["mpmath>=1.3"]
BFLOAT16_OF_CUPY = ("ml_dtypes>=0.4", "numpy>=2.1.2")  # CuPy 14 knows bfloat16 with these alone
WITNESSES = [
    *("adabelief-pytorch==0.2.1", "lion-pytorch==0.2.5", "prodigyopt==1.1.2"),
    *("pytorch-optimizer==4.1.0", "schedulefree==1.4.1"),
    *("timm==1.0.31", "torch==2.13.0", "torch-optimi==0.3.3", "torch-optimizer==0.3.0", "torchao==0.18.0"),
    *("optax==0.2.8", "jax>=0.4.38", "keras==3.15.1", "transformers==5.24.0"),
]
MPI = ["mpi4py>=4", "mpich>=4.2; sys_platform == 'linux' or sys_platform == 'darwin'"]
NVRTC = "nvidia-cuda-nvrtc>=13; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"


def say(line: str) -> None:
    """Show what is being done at once, to those whom pip shows it (``pip install -v``)."""
    print(f"refoptim: {line}", flush=True)


class BuildHost(build_ext):
    """Builds the library of kernels for this computer, which refoptim does without where it cannot be built."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return where the library is looked for: it is no extension of Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build it or say why not, in one line."""
        host = runpy.run_path(str(KERNELS / "host/build.py"))
        source_hash = runpy.run_path(str(KERNELS / "harness/source_hash.py"))["source_hash"]()
        target = Path(self.get_ext_fullpath(ext.name))
        in_place = Path(__file__).parent / self.get_ext_filename(ext.name)
        try:
            say(host["build"](target, source_hash, say=say, earlier=[in_place]))
        except host["BuildError"] as error:
            target.unlink(missing_ok=True)
            say(f"installed without fused kernels for NumPy arrays: {error}")


class PlatformWheel(bdist_wheel):
    """Marks a wheel as one for this platform and any Python."""

    def get_tag(self) -> Any:
        """Return the tag: the library knows nothing of Python."""
        return ("py3", "none", super().get_tag()[2])


INSIDE = ["kernels", "kernels.*", "conformance", "conformance.*"]
"""Folders of the checkout whose packages are installed inside refoptim."""

setup(
    name="refoptim",
    version="0.2.0",
    description="torch.optim on NumPy and CuPy arrays: a reference that defines every update, exact to the bit",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The refoptim developers",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    keywords=["optimizer", "SGD", "Adam", "learning rate", "NumPy", "CuPy", "conformance", "reproducibility"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["refoptim", "refoptim.*"]),
        *(f"refoptim.{name}" for name in find_packages(include=INSIDE, exclude=["conformance.plugin"])),
        "refoptim_pytest",
    ],
    package_dir={
        "refoptim": "refoptim",
        "refoptim.kernels": "kernels",
        "refoptim.conformance": "conformance",
        "refoptim_pytest": "conformance/plugin",
    },
    ext_modules=[
        Extension(
            "refoptim.engines._host",
            ["kernels/host/host.cpp", "kernels/host/layouts.cpp", "kernels/host/variants.cpp"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildHost, "bdist_wheel": PlatformWheel},
    package_data={
        "refoptim": ["py.typed"],
        "refoptim.kernels": ["*.cu", "harness/*.cu", "harness/*.cuh", "host/*.h", "host/*.cpp", "host/build.py"],
        "refoptim.conformance": ["cases/*.json", "golden/**/*.json", "deviations/*.txt"],
    },
    install_requires=["numpy>=2"],
    extras_require={
        "cli": CLI,
        "plot": PLOT,
        "examples": EXAMPLES,
        "accuracy": [*CLI, *ACCURACY],
        "bfloat16": ["ml_dtypes>=0.4"],
        "cuda12": ["cupy-cuda12x[ctk]>=14", "nvidia-cuda-nvrtc-cu12", *BFLOAT16_OF_CUPY],
        "cuda13": ["cupy-cuda13x[ctk]>=14", "nvidia-cuda-nvrtc==13.*", *BFLOAT16_OF_CUPY],
        "mpi": MPI,
        "jax": ["jax>=0.4.38", "optax>=0.2"],
        "witnesses": WITNESSES,
        "docs": [*CLI, *PLOT, *SITE],
        "test": [
            *ACCURACY,
            *CLI,
            *EXAMPLES,
            *MPI,
            *PLOT,
            "clang-format>=19",
            "hypothesis>=6.100",
            "ml_dtypes>=0.4",
            "mypy>=1.14,<3",
            NVRTC,
            NVRTC.replace("nvrtc", "nvdisasm"),
            "pre-commit>=3",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9,<0.18",
            "scipy>=1.11",
            "setuptools>=77",
        ],
    },
    entry_points={
        "console_scripts": ["refoptim = refoptim.commands.main:main"],
        "pytest11": ["refoptim = refoptim_pytest"],
    },
)
