"""TensorBoard: the events gradguard writes, and the way back."""
