"""The version of the package: in the records of what it makes, and in `voxclone --version`."""

__version__ = "0.1.0"
