"""Which samples show best what each concept of a layer stands for: lists that merge exactly."""
