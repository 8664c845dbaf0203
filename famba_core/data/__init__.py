"""Image sets as uint8 tensors, and what is done to a batch of them before the model sees it."""
