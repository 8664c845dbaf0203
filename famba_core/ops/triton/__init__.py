"""The backend of the Triton kernels, a module for each kernel and its launch."""
