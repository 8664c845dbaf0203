"""The selective scan and the convolution of a Vision Mamba layer, with the kernels of its fused block, on each backend.

A new backend is a module with a `BACKEND` record, registered in `registry.py`: differentiable functions, or the
`Kernels` of a device, of which `autograd.kernel_backend` makes them.
"""
