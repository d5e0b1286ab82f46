"""The benchmark: the speed of the hot functions, of other implementations and of the machine."""
