"""Products with quantized weights: which operation, in which layout, on which hardware."""
