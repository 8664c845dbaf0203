"""Data sets of images as uint8 tensors, and the augmentation of a batch.

To add a data set, write a `find(config) -> FoundDataset` in a module of its own and name it in `datasets.py`.
"""
