"""How fast the hot functions are, beside other implementations and beside the machine's limits."""
