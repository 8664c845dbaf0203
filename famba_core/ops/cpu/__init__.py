"""The backend of the C++ kernels: `build.py` compiles them, `bindings.py` calls them."""
