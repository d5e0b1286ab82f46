"""The benchmark: the speed of the hot functions, beside other implementations."""
