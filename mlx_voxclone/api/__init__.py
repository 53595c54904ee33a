"""The Python API; its names are those of `mlx_voxclone` itself."""
