"""Other people's files of weights, one file a format: each opens to a `Source`."""
